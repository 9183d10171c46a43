"""Measured numbers enter the prose by name, from the cell that measured them."""

from __future__ import annotations

from typing import Any

from IPython.display import display

PREFIX = "application/papermill.record/"


def glue(key: str, value: Any, fmt: str = "{}") -> None:
    """Keep ``fmt.format(value)`` under ``key`` for the role ``{glue:text}`key` `` in the same notebook.

    Other pages fetch it by ``{measured}`path/of/notebook:key` ``. The cell shows nothing.
    """
    text = fmt.format(value)
    # The format that MyST-NB's glue writes; written here so that running a chapter does not need Sphinx. Quoted,
    # because MyST-NB evaluates what it finds: "2,984" would be shown as (2, 984), and "0.70" as 0.7.
    display(
        {f"{PREFIX}text/plain": repr(text)},
        raw=True,
        metadata={"scrapbook": {"name": key, "mime_prefix": PREFIX}},
    )
