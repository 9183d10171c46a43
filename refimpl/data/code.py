"""Functions as several modalities: what the documentation says, the source code, and the signature.

As in `refimpl.data.docs` files are parsed and nothing is imported, so that pinned packages give the same list
everywhere.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from refimpl.data.docs import LIBRARIES, source_of
from refimpl.data.text import check_draw, draw, retrieval_pairs

__all__ = ["Function", "functions"]

CODE_LINES = 2  # a function whose body has fewer lines passes its arguments on, or does nothing


@dataclass(frozen=True)
class Function:
    """One function or method, ``id`` its dotted name, in four texts.

    Attributes:
        query: the summary line of its docstring.
        document: the rest of the docstring.
        code: its body without the docstring, comments included, moved to the left margin.
        signature: ``name(arguments) -> type``, as `ast` writes it.
    """

    id: str
    library: str
    module: str
    query: str
    document: str
    code: str
    signature: str


def functions(
    split: str | None = None,
    libraries: str | Iterable[str] = LIBRARIES,
    limit: int | None = None,
    seed: int = 0,
) -> list[Function]:
    """The `refimpl.data.retrieval_pairs` that are functions or methods with a body in Python, and that body.

    Left out are classes, what is written in C, and functions whose body has under two lines beside its
    docstring. Where a name is defined twice in a file the first definition with a docstring counts.

    Args:
        split: ``"train"``, ``"validation"``, ``"test"`` (by module: `refimpl.data.split_of`), or ``None`` for all.
        libraries: as in `refimpl.data.docstrings`.
        limit: at most so many functions, drawn by ``seed``; a smaller limit gives a subset of a larger one's.
        seed: of that draw.

    Raises:
        ValueError: unknown split, a limit below 1; and as `refimpl.data.docstrings`.
    """
    check_draw(limit, seed)
    found = []
    for pair in retrieval_pairs(split, libraries):
        body = _bodies(pair.library, pair.module).get(pair.id[len(pair.module) + 1 :])
        if body is not None:
            found.append(Function(pair.id, pair.library, pair.module, pair.query, pair.document, *body))
    return draw(found, [f.id for f in found], limit, seed)


@cache
def _bodies(library: str, module: str) -> dict[str, tuple[str, str]]:
    """``{name in the module: (code, signature)}`` of the documented functions of a module."""
    text = _file(library, module).read_bytes().decode("utf-8-sig", "replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's escape sequences
        tree = ast.parse(text)
    lines = re.split(r"\r\n|\r|\n", text)  # as `ast` counts; splitlines knows more breaks
    found: dict[str, tuple[str, str]] = {}
    for name, node in _defined(tree, ""):
        inner = [line for line in lines[node.body[0].end_lineno or 0 : node.end_lineno] if line.strip()]
        if len(inner) >= CODE_LINES and name not in found:
            result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            margin = node.body[0].col_offset  # a comment or a string may stand left of it
            code = "\n".join(line.lstrip() if line[:margin].strip() else line[margin:] for line in inner)
            found[name] = code, f"{node.name}({ast.unparse(node.args)}){result}"
    return found


def _defined(
    node: ast.Module | ast.ClassDef, prefix: str
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Dotted names and definitions of the functions with a docstring, in the file's order."""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _defined(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(child):
            yield prefix + child.name, child


def _file(library: str, module: str) -> Path:
    """The file of a module whose docstrings were read."""
    root, package = source_of(library)
    if root.is_file():
        return root
    folder = root.joinpath(*module.split(".")[len(package) :])
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
