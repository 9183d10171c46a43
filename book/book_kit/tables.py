"""Tables of results, as HTML in the book and as text elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from IPython.display import display


def show_table(
    rows: Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]],
    headers: Sequence[str] | None = None,
    caption: str | None = None,
) -> None:
    """Show ``rows`` (mappings, or sequences with ``headers``); cells are printed as given.

    Format numbers before (``f"{x:.2f}"``): what is shown is what is compared when the notebook is tested.
    """
    if not rows:
        raise ValueError("rows: got none; takes at least one")
    first = rows[0]
    names = list(headers) if headers is not None else list(first) if isinstance(first, Mapping) else []
    if not names:
        raise ValueError("headers: got None; takes the column names when rows are sequences")
    body = [
        [str(r.get(n, "")) for n in names] if isinstance(r, Mapping) else [str(c) for c in r] for r in rows
    ]
    wrong = [i for i, cells in enumerate(body) if len(cells) != len(names)]
    if wrong:
        raise ValueError(f"rows: got {len(body[wrong[0]])} cells in row {wrong[0]}; takes {len(names)}")
    # pandoc's and Jupyter's mimetype order: HTML where it can be shown
    display({"text/html": _html(names, body, caption), "text/plain": _text(names, body, caption)}, raw=True)


def _numeric(cell: str) -> bool:
    return bool(cell) and cell.lstrip("-+−±≈<>~ ")[:1].isdigit()


def _html(names: list[str], body: list[list[str]], caption: str | None) -> str:
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    head = "".join(f'<th scope="col">{html.escape(n)}</th>' for n in names)
    lines = []
    for cells in body:
        tds = "".join(
            f'<td class="{"text-right" if _numeric(c) and i else "text-left"}">{html.escape(c)}</td>'
            for i, c in enumerate(cells)
        )
        lines.append(f"<tr>{tds}</tr>")
    label = html.escape(caption or "table of results", quote=True)
    return (
        # a wide table scrolls inside its own box; the box can be reached with the keyboard
        f'<div class="table-scroll" role="region" aria-label="{label}" tabindex="0"><table class="table">'
        f"{title}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _text(names: list[str], body: list[list[str]], caption: str | None) -> str:
    widths = [max(len(r[i]) for r in [names, *body]) for i in range(len(names))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [names, *body]]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(([caption] if caption else []) + lines)
