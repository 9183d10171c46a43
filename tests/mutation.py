"""Break the package's formulas one at a time and see whether a test notices.

    python -m tests.mutation                       # every formula file
    python -m tests.mutation refimpl/distill/losses.py --workers 2
    python -m tests.mutation refimpl/prune --list  # what would be tried

Each mutant changes one operator, constant, comparison, condition or reduction of one file. It is compiled
in memory in a forked child, which then runs the tests that the file's family has for it; nothing in the
repository is changed. Survivors are printed: each is a missing test or an equivalent program, and both count
against the share that has to be reached.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import copy
import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# family -> the files with its formulas, and the tests that must notice; of the tables that all families
# share only the entries with the family's name are run
SHARED = ["tests/contracts", "tests/test_bad_input.py"]
FAMILIES = {
    "modules": ("refimpl/modules.py", ["tests/test_modules.py"]),
    "blocks or prune": ("refimpl/blocks.py", ["tests/test_blocks.py", "tests/prune"]),
    "calibration": ("refimpl/calibration.py", ["tests/test_calibration.py"]),
    **{
        name: (f"refimpl/{name}", [f"tests/{name}"])
        for name in ("distill", "prune", "quantize", "lowrank", "retrieve", "measure")
    },
}

OPERATORS: dict[type, type] = {
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
    ast.BitXor: ast.BitOr,
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
EITHER_OR = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)


@dataclass(frozen=True)
class Mutant:
    """One program that differs in one place."""

    line: int
    what: str
    tree: ast.Module


def mutants(source: str) -> list[Mutant]:
    """Every mutant of ``source``, each program once."""
    tree = ast.parse(source)
    seen, found = {ast.dump(tree)}, []
    for node in formulas(tree):
        for new in changes(node):
            twin = copy.deepcopy(tree, {id(node): new})  # a copy, with ``new`` in the place of ``node``
            if ast.dump(twin) not in seen:
                seen.add(ast.dump(twin))
                ast.fix_missing_locations(twin)
                before, after = (ast.unparse(getattr(n, "test", n)) for n in (node, new))
                line = getattr(node, "lineno", None) or node.target.lineno  # type: ignore[attr-defined]
                found.append(Mutant(line, f"{before[:80]}  ->  {after[:80]}", twin))
    return found


def formulas(node: ast.AST) -> Iterator[ast.AST]:
    """Every node, but those of messages, texts and types."""
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    if isinstance(node, ast.Assign) and any(ast.unparse(t) == "__all__" for t in node.targets):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list", "type_params"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from formulas(child)


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of ``node``: the same with one thing broken."""
    match node:
        case ast.BinOp(left, op, right) if not (_no_number(left) or _no_number(right)):
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], OPERATORS[type(op)](), *ops[i + 1 :]], comparators)
        case ast.UnaryOp(_, operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.If(test, body, orelse) if _has_own_negation(test):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, body, orelse) if _has_own_negation(test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target, over, conditions, is_async):
            for i, test in enumerate(conditions):
                if _has_own_negation(test):
                    negated = [*conditions[:i], ast.UnaryOp(ast.Not(), test), *conditions[i + 1 :]]
                    yield ast.comprehension(target, over, negated, is_async)
        case ast.Attribute(value, name, ctx) if name.removesuffix("_") in NAMES:
            stem = name.removesuffix("_")
            # a name that the module does not have would be noticed at once and prove nothing
            if not (ast.unparse(value) in ("math", "np") and NAMES[stem] in ("abs", "neg")):
                yield ast.Attribute(value, NAMES[stem] + name[len(stem) :], ctx)
        case ast.Call(ast.Name("max" | "min" as name, ctx), args, keywords):
            yield ast.Call(ast.Name(NAMES[name], ctx), args, keywords)


def _has_own_negation(test: ast.expr) -> bool:
    """Whether ``not test`` is a mutant of its own: ``a == b`` and ``not a`` have theirs already."""
    either_or = isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], EITHER_OR)
    return not either_or and not isinstance(test, ast.UnaryOp)


def _no_number(node: ast.expr) -> bool:
    """A text, a list or a type: ``+`` and ``|`` of these are no formulas."""
    if isinstance(node, ast.Attribute | ast.Name):
        name = node.attr if isinstance(node, ast.Attribute) else node.id
        return (name[:1].isupper() and not name.isupper()) or name in vars(builtins)
    if isinstance(node, ast.Subscript):
        return _no_number(node.value)
    return isinstance(node, ast.JoinedStr | ast.List | ast.Dict) or (
        isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str))
    )


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import one module from a given tree, everything else as usual."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        self.path, self.tree = path, tree

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != self.module:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return None

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


class Watch:
    """Plug-in of pytest: the tests that noticed the last mutants go first, and which one notices is written down."""

    def __init__(self, first: list[str], note: Path) -> None:
        self.first, self.note = first, note

    def pytest_collection_modifyitems(self, items):  # type: ignore[no-untyped-def]
        rank = {name: i for i, name in enumerate(self.first)}
        items.sort(key=lambda item: rank.get(item.nodeid, len(rank)))

    def pytest_runtest_logreport(self, report):  # type: ignore[no-untyped-def]
        if report.failed and not self.note.exists():
            self.note.write_text(report.nodeid)


@dataclass
class Family:
    """Files whose mutants the same tests must notice."""

    name: str
    files: list[Path]
    tests: list[str]
    limit: float = 0.0  # seconds that a child may run
    noticed: list[str] = field(default_factory=list)  # by which tests, the last one first

    def start(self, path: Path, tree: ast.Module, note: Path) -> int:
        """Fork a child that runs the tests with ``tree`` for the file; its exit status is pytest's."""
        child = os.fork()
        if child:
            return child
        code = 99
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        with contextlib.suppress(BaseException):
            import pytest
            from hypothesis import Phase, settings

            # the same examples for every mutant, and no time spent on making a failure small
            phases = (Phase.explicit, Phase.generate)
            settings.register_profile("mutation", derandomize=True, database=None, phases=phases)
            settings.load_profile("mutation")
            sys.meta_path.insert(0, Loader(path, tree))
            chosen = ["-k", f"({self.name}) and not complete", *self.tests]
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
            code = int(pytest.main([*options, *chosen], plugins=[Watch(self.noticed, note)]))
            if code == 0:
                note.write_text("\n".join(sys.modules))
        os._exit(code)

    def check(self, folder: Path) -> bool:
        """Whether the tests pass without a mutant; import here, for all children, what they import."""
        note = folder / "unchanged"
        for _ in range(2):  # the second time as fast as the children will be
            note.unlink(missing_ok=True)
            begun, path = time.monotonic(), self.files[0]
            if os.waitpid(self.start(path, ast.parse(path.read_text()), note), 0)[1]:
                failed = note.read_text() if note.exists() else "at import"
                print(f"{self.name}: the tests fail without any mutation: {failed}")
                return False
            seconds = time.monotonic() - begun
            for name in note.read_text().splitlines():
                if name not in sys.modules and name.partition(".")[0] not in ("refimpl", "tests", "conftest"):
                    with contextlib.suppress(BaseException):
                        importlib.import_module(name)
        print(f"{self.name}: the tests take {seconds:.1f} s", flush=True)
        self.limit = 20 + 5 * seconds
        note.unlink()
        return True

    def run(self, path: Path, options: argparse.Namespace, folder: Path) -> tuple[int, int]:
        """Try every mutant of one file: how many were killed, of how many."""
        begun, relative = time.monotonic(), path.relative_to(ROOT)
        todo = [m for m in mutants(path.read_text()) if not options.lines or m.line in options.lines][::-1]
        count, survivors, by_import, by_time = len(todo), 0, 0, 0
        running: dict[int, tuple[float, Mutant, Path]] = {}
        while todo or running:
            while todo and len(running) < options.workers:
                mutant, note = todo.pop(), folder / str(len(todo))
                running[self.start(path, mutant.tree, note)] = (time.monotonic(), mutant, note)
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                for pid, (since, _, _) in running.items():
                    if time.monotonic() - since > self.limit:  # an endless loop is noticed, too
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
                continue
            _, mutant, note = running.pop(child)
            by = (
                note.read_text()
                if note.exists() and status
                else "time"
                if os.WIFSIGNALED(status)
                else "import"
            )
            note.unlink(missing_ok=True)
            if status == 0:
                survivors += 1
            elif by == "time":
                by_time += 1
            elif by == "import":
                by_import += 1
            else:
                self.noticed = [by, *(name for name in self.noticed if name != by)][:40]
            if status == 0 or options.verbose:
                what = f"killed by {by}," if status else "survived,"
                print(f"  {what} line {mutant.line}: {mutant.what}", flush=True)
        print(
            f"{relative}: {count - survivors} of {count} mutants killed "
            f"({by_import} at import, {by_time} by time) in {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        return count - survivors, count


def families(asked: list[str]) -> list[Family]:
    """The families with those files whose path begins with one of ``asked``; all when nothing is."""
    found = []
    for name, (where, tests) in FAMILIES.items():
        whole = ROOT / where
        files = [
            path
            for path in (sorted(whole.rglob("*.py")) if whole.is_dir() else [whole])
            if path.name != "__init__.py"
            and (not asked or any(str(path.relative_to(ROOT)).startswith(a) for a in asked))
        ]
        if files:
            found.append(Family(name, files, [*tests, *SHARED]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="formula files or folders; all of them when none is given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.9, help="fail below this fraction killed")
    parser.add_argument("--lines", type=int, nargs="*", default=[], help="only mutants of these lines")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--verbose", action="store_true", help="print which test noticed each mutant")
    options = parser.parse_args()
    chosen = families(options.files)
    if options.list:
        for path in (path for family in chosen for path in family.files):
            for mutant in mutants(path.read_text()):
                print(f"{path.relative_to(ROOT)}:{mutant.line}: {mutant.what}")
        return 0
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    import torch

    torch.set_num_threads(1)
    killed = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for family in chosen:
            if not family.check(Path(folder)):
                return 1
            for path in family.files:
                dead, count = family.run(path, options, Path(folder))
                killed, total = killed + dead, total + count
    share = killed / max(total, 1)
    print(f"all: {killed} of {total} mutants killed ({share:.1%})")
    return 0 if share >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
