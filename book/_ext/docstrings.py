"""Docstrings are written to be read in the source: |W|, [*, in], prune_ mean what they say, not markup."""

from __future__ import annotations

import re

LITERAL = re.compile(r"(``.+?``|`[^`\n]+`)")


def escape(line: str) -> str:
    """``line`` with bars, stars and trailing underscores escaped, outside of backticks."""
    pieces = LITERAL.split(line)
    pieces[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"([|*])", r"\\\1", p)) for p in pieces[::2]]
    return "".join(pieces)


def process(app, what, name, obj, options, lines):
    indented = False
    for number, line in enumerate(lines):
        # leave literal blocks (after "::") as they are
        if lines[number - 1].rstrip().endswith("::") if number else False:
            indented = True
        elif line and not line.startswith(" "):
            indented = False
        if not indented:
            # after napoleon: ":param x: ..." keeps its stars only where they are escaped already
            lines[number] = line if "\\*" in line else escape(line)


def setup(app):
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon (500)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
