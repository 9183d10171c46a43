"""Break the package's formulas one at a time and see whether a test notices.

    python -m tests.mutation                       # every formula file
    python -m tests.mutation refimpl/distill/losses.py --workers 2

Each mutant changes one operator, constant, comparison, condition or reduction of one file. It is compiled
in memory in a forked child, which then runs the tests named for that file; nothing on disk is changed.
Survivors are printed: each is either a missing test or an equivalent program.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# file -> the tests that must notice
TARGETS = {
    "refimpl/modules.py": ["tests/test_modules.py", "tests/test_bad_input.py"],
    "refimpl/calibration.py": ["tests/test_calibration.py", "tests/contracts"],
    "refimpl/distill": ["tests/distill", "tests/contracts", "tests/test_bad_input.py"],
    "refimpl/prune": ["tests/prune", "tests/contracts", "tests/test_bad_input.py"],
    "refimpl/quantize": ["tests/quantize", "tests/contracts", "tests/test_bad_input.py"],
    "refimpl/lowrank": ["tests/lowrank", "tests/contracts", "tests/test_bad_input.py"],
    "refimpl/retrieve": ["tests/retrieve", "tests/contracts", "tests/test_bad_input.py"],
    "refimpl/measure": ["tests/measure", "tests/contracts", "tests/test_bad_input.py"],
}

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.MatMult: ast.Add,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "maximum": "minimum",
    "minimum": "maximum",
    "floor": "ceil",
    "ceil": "floor",
    "sum": "mean",
    "mean": "sum",
    "abs": "neg",
    "square": "abs",
    "sqrt": "abs",
    "log2": "log",
}


class Finder(ast.NodeVisitor):
    """Collect ``(node path, description, mutate)`` for every place that can be broken."""

    def __init__(self) -> None:
        self.sites: list[tuple[ast.AST, str, str]] = []

    def generic_visit(self, node: ast.AST) -> None:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages are not formulas."""

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Nor are other texts."""

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not (isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)):
            self.sites.append((node, "op", ""))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.sites.append((node, "op", ""))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        self.sites.append((node, "compare", ""))
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.sites.append((node, "drop unary", ""))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool | int | float) and not isinstance(node.value, complex):
            self.sites.append((node, "constant", ""))

    def visit_If(self, node: ast.If) -> None:
        self.sites.append((node, "negate", ""))
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.sites.append((node, "negate", ""))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr.removesuffix("_") in NAMES:
            self.sites.append((node, "name", ""))
        self.generic_visit(node)


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """``(line, what changed, tree)`` for every mutant of ``source``."""
    tree = ast.parse(source)
    finder = Finder()
    finder.visit(tree)
    for index, (node, kind, _) in enumerate(finder.sites):
        twin = copy.deepcopy(tree)
        other = Finder()
        other.visit(twin)
        target = other.sites[index][0]
        before = ast.unparse(node)
        if not _mutate(target, kind):
            continue
        ast.fix_missing_locations(twin)
        after = ast.unparse(target)
        if kind == "negate":
            before, after = (ast.unparse(n.test) for n in (node, target))  # type: ignore[attr-defined]
        yield getattr(node, "lineno", 0), f"{before[:70]}  ->  {after[:70]}", twin


def _mutate(node: ast.AST, kind: str) -> bool:
    if kind == "op":
        swap = SWAPS.get(type(node.op))  # type: ignore[attr-defined]
        if swap is None:
            return False
        node.op = swap()  # type: ignore[attr-defined]
    elif kind == "compare":
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[attr-defined]
    elif kind == "drop unary":
        if isinstance(node.operand, ast.Constant):  # type: ignore[attr-defined]
            node.operand = ast.Constant(node.operand.value + 1)  # type: ignore[attr-defined]
        else:
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else node.op  # type: ignore[attr-defined]
            if not isinstance(node.op, ast.UAdd):  # type: ignore[attr-defined]
                # not x -> bool(x); ~x -> x
                operand = node.operand  # type: ignore[attr-defined]
                node.op, node.operand = ast.Invert(), ast.UnaryOp(ast.Invert(), operand)  # type: ignore[attr-defined]
    elif kind == "constant":
        value = node.value  # type: ignore[attr-defined]
        node.value = (not value) if isinstance(value, bool) else value + 1  # type: ignore[attr-defined]
    elif kind == "negate":
        node.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]
    elif kind == "name":
        stem = node.attr.removesuffix("_")  # type: ignore[attr-defined]
        node.attr = NAMES[stem] + node.attr[len(stem) :]  # type: ignore[attr-defined]
    return True


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import one module from a given tree, everything else as usual."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self.module, self.path, self.tree = module, path, tree

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return None

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def start(path: Path, tree: ast.Module, tests: list[str]) -> int:
    """Fork a child that runs ``tests`` with the mutant; its exit status is pytest's."""
    child = os.fork()
    if child:
        return child
    code = 99
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    with contextlib.suppress(BaseException):
        import pytest

        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        sys.meta_path.insert(0, Loader(module, path, tree))
        code = int(
            pytest.main(
                ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-k", "not complete", *tests]
            )
        )
    os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="formula files; all of them when none is given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--limit", type=float, default=90.0, help="seconds for one mutant (then it is killed)"
    )
    parser.add_argument("--at-least", type=float, default=0.9, help="fail below this fraction killed")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
    import hypothesis  # noqa: F401  imported once here, inherited by every child
    import pytest  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    chosen: list[tuple[Path, list[str]]] = []
    for target, tests in TARGETS.items():
        whole = ROOT / target
        for path in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
            relative = str(path.relative_to(ROOT))
            asked = not arguments.files or any(relative.startswith(f) for f in arguments.files)
            if asked and path.is_file() and path.name != "__init__.py":
                # the file's own tests first: most mutants die there, in a second
                own = [t for t in tests if (ROOT / t / f"test_{path.stem}.py").exists()]
                first = [f"{t}/test_{path.stem}.py" for t in own]
                chosen.append((path, [*first, *(t for t in tests if (ROOT / t).exists())]))
    total_killed = total = 0
    for path, tests in chosen:
        source = path.read_text()
        status = os.waitpid(start(path, ast.parse(source), tests), 0)[1]
        if status:
            print(f"{path.relative_to(ROOT)}: the tests fail without any mutation: {tests}")
            return 1
        killed, survivors = _run(path, list(mutants(source)), tests, arguments.workers, arguments.limit)
        count = killed + len(survivors)
        total, total_killed = total + count, total_killed + killed
        print(f"{path.relative_to(ROOT)}: {killed} of {count} mutants killed", flush=True)
        for line, what in sorted(survivors):
            print(f"  survived, line {line}: {what}", flush=True)
    share = total_killed / max(total, 1)
    print(f"all: {total_killed} of {total} mutants killed ({share:.1%})")
    return 0 if share >= arguments.at_least else 1


def _run(
    path: Path, todo: list[tuple[int, str, ast.Module]], tests: list[str], workers: int, limit: float
) -> tuple[int, list[tuple[int, str]]]:
    running: dict[int, tuple[float, int, str]] = {}
    killed, survivors = 0, []
    todo = todo[::-1]
    while todo or running:
        while todo and len(running) < workers:
            line, what, tree = todo.pop()
            running[start(path, tree, tests)] = (time.monotonic(), line, what)
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            _, line, what = running.pop(child)
            if status == 0:
                survivors.append((line, what))
            else:
                killed += 1
            continue
        for pid, (begun, _, _) in running.items():
            if time.monotonic() - begun > limit:  # an endless loop is noticed, too
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return killed, survivors


if __name__ == "__main__":
    sys.exit(main())
