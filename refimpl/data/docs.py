"""Docstrings of installed packages, read from their source files: real text that every machine has.

Nothing is imported or run: the files are parsed (`ast`), so that reading torch's docstrings does not
start torch. The same files give the same list on every Python, in the same order. So what is printed
from *pinned* PyPI packages is the same everywhere, while ``"stdlib"`` differs a little from one Python
to the next, patch releases included.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["LIBRARIES", "SPLITS", "Doc", "docstrings", "split_of", "topics"]

LIBRARIES = ("numpy", "scipy", "scikit-learn", "matplotlib", "networkx")
SPLITS = ("train", "validation", "test")

IMPORT_NAMES = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml"}
# Folders that are not documentation for users: tests, copies of other packages, generated code.
SKIPPED = {"tests", "test", "testing", "conftest", "_vendor", "_internal", "externals", "__pycache__"}
SKIPPED |= {"site-packages", "dist-packages", "idlelib", "turtledemo", "lib2to3", "ensurepip", "pydoc_data"}


@dataclass(frozen=True)
class Doc:
    """One docstring: its ``library``, dotted ``module``, ``name`` in it ("" is the module) and ``text``."""

    library: str
    module: str
    name: str
    text: str

    @property
    def id(self) -> str:
        """Dotted full name, e.g. ``"numpy.linalg._linalg.norm"``."""
        return f"{self.module}.{self.name}" if self.name else self.module


def docstrings(libraries: str | Iterable[str] = LIBRARIES) -> list[Doc]:
    """The docstrings of the public classes, functions, methods and modules of installed packages.

    Names that start with an underscore are left out (files that do are not: libraries define public
    functions there), test folders too, and of equal texts all but the first. Texts are cleaned as by
    `inspect.cleandoc`. Order: libraries as given, files by path, then as in the file.

    Args:
        libraries: names of installed packages as pip or import has them (``"scikit-learn"`` or
            ``"sklearn"``), ``"stdlib"`` for Python's standard library and ``"topics"`` for its language
            reference (`topics`), both of which depend on the Python, patch release included. The
            default packages take about 4 seconds, once a process.

    Raises:
        TypeError: a name that is no string.
        ValueError: no names, a name with a dot, a package without Python source.
        ModuleNotFoundError: a package that is not installed.
    """
    names = [libraries] if isinstance(libraries, str) else list(libraries)
    if not names:
        raise ValueError("libraries: got nothing; takes at least one package name")
    found: dict[str, Doc] = {}
    for name in names:
        for doc in _read(name):
            found.setdefault(doc.text, doc)
    return list(found.values())


def topics() -> dict[str, str]:
    """Python's language reference by topic (``pydoc_data.topics``): about 80 texts, 0.5 MB.

    They belong to the running Python and differ a little from one release to the next.
    """
    from pydoc_data.topics import topics as texts

    return {name: texts[name].strip() for name in sorted(texts)}


def split_of(module: str) -> str:
    """The side of a module's texts: ``"train"`` (70 %), ``"validation"`` (10 %) or ``"test"`` (20 %).

    Decided by the SHA-256 of the module's dotted name alone, so it never changes, whatever else is
    installed or chosen, and no module is on two sides.

    Raises:
        TypeError: no string.
    """
    if not isinstance(module, str):
        raise TypeError(f"module: got {type(module).__name__}; takes a dotted name (str)")
    part = int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "big") / 2**64
    return "test" if part < 0.2 else "validation" if part < 0.3 else "train"


@cache
def _read(library: str) -> tuple[Doc, ...]:
    if library == "topics":
        return tuple(Doc(library, f"topics.{name}", "", text) for name, text in topics().items())
    root, package = source_of(library)
    found = []
    for path in [root] if root.is_file() else sorted(root.rglob("*.py"), key=lambda p: p.parts):
        parts = () if root.is_file() else path.relative_to(root).with_suffix("").parts
        if SKIPPED.isdisjoint(parts):
            module = ".".join([*package, *(parts[:-1] if parts[-1:] == ("__init__",) else parts)])
            found += [Doc(library, module, name, text) for name, text in _parse(path)]
    return tuple(found)


def source_of(library: str) -> tuple[Path, tuple[str, ...]]:
    """Folder or file of a package's source, and the start of its modules' names."""
    if not isinstance(library, str):
        raise TypeError(f"libraries: got {type(library).__name__}; takes names of packages (str)")
    if library == "stdlib":
        return Path(sysconfig.get_paths()["stdlib"]), ()
    name = IMPORT_NAMES.get(library.lower(), library)
    if not name.isidentifier():
        raise ValueError(f"libraries: got {library!r}; takes the name of a whole package")
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(
            f"libraries: got {library!r}, not installed; run: pip install {library}", name=name
        )
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))), (name,)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"libraries: got {library!r}; takes a package with Python source")
    return Path(spec.origin), (name,)


def _parse(path: Path) -> list[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's escape sequences
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template, or syntax of a later Python
            return []
    return [(name, text) for name, raw in _documented(tree, "") if (text := inspect.cleandoc(raw).strip())]


def _documented(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
    """``(name, docstring)`` of a module or class and of what is public in it, in the file's order."""
    own = ast.get_docstring(node, clean=False)
    if own is not None:
        yield prefix.removesuffix("."), own
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _documented(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            text = ast.get_docstring(child, clean=False)
            if text is not None:
                yield prefix + child.name, text
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _added(child.value)


def _added(call: ast.Call) -> Iterator[tuple[str, str]]:
    """How numpy and scipy document what is written in C: ``add_newdoc([module,] name, [(method,] text)``."""
    if not (isinstance(call.func, ast.Name) and call.func.id == "add_newdoc"):
        return
    flat = [e for a in call.args for e in (a.elts if isinstance(a, ast.Tuple) else [a])]
    strings = [e.value for e in flat if isinstance(e, ast.Constant) and isinstance(e.value, str)]
    if len(strings) == len(flat) >= 2:
        start = 1 if len(strings) > 2 else 0  # the module comes first, if it is there
        if not any(name.startswith("_") for name in strings[start:-1]):
            # a signature for `inspect` may come first; it ends in a line "--"
            yield ".".join(strings[start:-1]), re.split(r"\n *--\n\n", strings[-1], maxsplit=1)[-1]
