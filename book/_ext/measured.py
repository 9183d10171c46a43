"""The role ``{measured}`path/of/notebook:key` ``: a number from the cell that measured it, with a link there.

It reads the committed output that `book_kit.glue` left in the notebook. A key that is not there is a
warning, and so fails the build with ``-W``.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole

MIME = "application/papermill.record/text/plain"


@cache
def glued(path: Path, modified: float) -> dict[str, str]:
    """Every glued value of a notebook; ``modified`` renews the cache when the file changes."""
    found = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name and MIME in output.get("data", {}):
                text = output["data"][MIME]
                # quoted as `book_kit.glue` writes it
                found[name] = ast.literal_eval("".join(text))
    return found


class Measured(SphinxRole):
    """See the module."""

    def run(self):
        document, _, key = self.text.rpartition(":")
        path = Path(self.env.srcdir) / f"{document}.ipynb"
        self.env.note_dependency(str(path))
        values = glued(path, path.stat().st_mtime) if path.exists() else {}
        if key not in values:
            message = self.inliner.reporter.warning(
                f"measured: {self.text!r} is not glued by {document}.ipynb", line=self.lineno
            )
            return [nodes.literal(text=self.text)], [message]
        reference = addnodes.pending_xref(
            "",
            nodes.inline(text=values[key]),
            reftype="doc",
            refdomain="std",
            refexplicit=True,
            reftarget=f"/{document}",
            refdoc=self.env.docname,
            refwarn=True,
        )
        return [reference], []


def setup(app):
    app.add_role("measured", Measured())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
