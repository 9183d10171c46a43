"""`refimpl.data.functions`: the right body beside the right words, and none of the texts within another."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

from refimpl.data import code, functions, retrieval_pairs

SOURCE = '''"""The module."""
import os\x0c

class Thing:
    """A class."""

    def plain(self, a, b=2, *, key: int = 3) -> str:
        """Do it.

        Long words.
        """
    # why

        x = a + b
        return str(x)  # done

    def empty(self):
        """Nothing of its own."""

    def short(self):
        """One line."""
        return 1

    def nothing_said(self):
        a = 1
        return a

    class Inner:
        def deep(self):
            """Within."""
            b = 2
            return b


async def later(x):
    """Wait."""
    y = await x
    return y


def later(x):
    """The same name again."""
    z = 3
    return z
'''


def test_bodies_by_hand(tmp_path, monkeypatch):
    """Without docstring and empty lines, from the left margin; a form feed is no line for `ast`."""
    file = tmp_path / "module.py"
    file.write_bytes(SOURCE.encode())
    monkeypatch.setattr(code, "_file", lambda library, module: file)
    code._bodies.cache_clear()
    assert code._bodies("made", "made.up") == {
        "Thing.plain": (
            "# why\nx = a + b\nreturn str(x)  # done",
            "plain(self, a, b=2, *, key: int=3) -> str",
        ),
        "Thing.Inner.deep": ("b = 2\nreturn b", "deep(self)"),
        "later": ("y = await x\nreturn y", "later(x)"),
    }
    code._bodies.cache_clear()


def test_every_line_ending_gives_the_same(tmp_path, monkeypatch):
    found = []
    for ending in ("\n", "\r\n", "\r"):
        file = tmp_path / "module.py"
        file.write_bytes(SOURCE.replace("\n", ending).encode())
        monkeypatch.setattr(code, "_file", lambda library, module: file)  # noqa: B023
        code._bodies.cache_clear()
        found.append(code._bodies("made", "made.up"))
    code._bodies.cache_clear()
    assert found[0] == found[1] == found[2]


def test_functions_are_what_python_imports():
    """The source and the signature of `inspect`, which imports the module."""
    checked = 0
    for f in functions("test", "networkx"):
        found = importlib.import_module(f.module)
        for name in f.id[len(f.module) + 1 :].split("."):
            found = getattr(found, name, None)
        found = inspect.unwrap(getattr(found, "orig_func", found)) if found is not None else None
        if not inspect.isfunction(found) or found.__module__ != f.module:
            continue
        source = " ".join(inspect.getsource(found).split())
        assert " ".join(f.code.split()) in source
        assert f.signature.startswith(f"{found.__name__}(")
        assert list(inspect.signature(found).parameters) == [p.arg for p in _arguments(f.signature)], f.id
        checked += 1
    assert checked > 40


def _arguments(signature):
    node = ast.parse(f"def {signature}: ...").body[0].args
    rest = [node.vararg] if node.vararg else []
    return [*node.posonlyargs, *node.args, *rest, *node.kwonlyargs, *([node.kwarg] if node.kwarg else [])]


def test_views_are_apart():
    found = functions("test")
    assert len({f.id for f in found}) == len(found) > 500
    pairs = {p.id: p for p in retrieval_pairs("test")}
    for f in found:
        pair = pairs[f.id]
        assert (f.library, f.module, f.query, f.document) == (
            pair.library,
            pair.module,
            pair.query,
            pair.document,
        )
        assert f.query not in f.code and f.query not in f.signature
        assert len(f.code.splitlines()) >= 2 and not f.code.startswith((" ", '"""'))
        assert "\n" not in f.signature and f.signature.startswith(f.id.rpartition(".")[2] + "(")


def test_limits_are_nested_and_in_order():
    every = functions("validation")
    few, more = functions("validation", limit=20), functions("validation", limit=80)
    assert len(few) == 20 and set(few) < set(more) < set(every)
    assert [f for f in every if f in set(few)] == few
    assert functions("validation", limit=20, seed=1) != few


def test_modules_that_are_one_file():
    assert code._file("typing_extensions", "typing_extensions").name == "typing_extensions.py"
    assert code._file("numpy", "numpy.linalg").parts[-2:] == ("linalg", "__init__.py")
    assert code._file("numpy", "numpy.linalg._linalg").name == "_linalg.py"


@pytest.mark.parametrize("library", ["numpy", "matplotlib"])
def test_all_libraries_have_some(library):
    assert len(functions(None, library)) > 100


def test_frozen_modules_have_files_too():
    """`os` and the like: the interpreter says "frozen" of where they come from."""
    found = functions(libraries="stdlib")
    assert {"os", "posixpath", "abc"} & {f.module for f in found} and all(
        f.code and f.signature for f in found
    )
    assert code._file("stdlib", "os").name == "os.py"
