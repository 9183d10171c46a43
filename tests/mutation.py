"""Break the package's formulas one at a time and see whether a test notices.

    python -m tests.mutation                       # every formula file
    python -m tests.mutation refimpl/distill/losses.py --workers 2
    python -m tests.mutation refimpl/prune --list  # what would be tried

Each mutant changes one operator, constant, comparison, condition or reduction of one file. The family's tests
are collected once and run once, to see which of them call which function. Then for each mutant a forked child
takes the new code into the imported module and runs the tests that call the changed function; nothing in the
repository is changed. A change outside functions that no test notices so is tried again in a fresh process.
Survivors are printed: each is a missing test or an equivalent program, and both count against the share that
has to be reached.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import copy
import gc
import importlib.abc
import importlib.util
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

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
        for name in ("prune", "quantize", "lowrank", "retrieve", "measure")
    },
    # without the tests that train in processes of their own: they do not see a mutant that lives in memory
    "distill": (
        "refimpl/distill",
        [
            f"tests/distill/test_{name}.py"
            for name in (
                "losses",
                "hidden",
                "attention",
                "capture",
                "schedules",
                "students",
                "vocabulary",
                "targets",
            )
        ],
    ),
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
    function: int  # first line of the outermost function around the place, 0 outside of functions


def mutants(source: str) -> list[Mutant]:
    """Every mutant of ``source``, each program once."""
    tree = ast.parse(source)
    seen, found = {ast.dump(tree)}, []
    spans = functions(tree)
    for node in formulas(tree):
        for new in changes(node):
            twin = copy.deepcopy(tree, {id(node): new})  # a copy, with ``new`` in the place of ``node``
            if ast.dump(twin) not in seen:
                seen.add(ast.dump(twin))
                ast.fix_missing_locations(twin)
                before, after = (ast.unparse(getattr(n, "test", n)) for n in (node, new))
                line = getattr(node, "lineno", None) or node.target.lineno  # type: ignore[attr-defined]
                where = next((low for low, high in spans if low <= line <= high), 0)
                found.append(Mutant(line, f"{before[:80]}  ->  {after[:80]}", twin, where))
    return found


def functions(tree: ast.Module) -> list[tuple[int, int]]:
    """First line (of the decorators) and last line of every function and method."""
    spans = []
    for node in tree.body:
        for one in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(one, ast.FunctionDef):
                spans.append(
                    (min([one.lineno, *(d.lineno for d in one.decorator_list)]), one.end_lineno or 0)
                )
    return spans


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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def put_in_place(path: Path, tree: ast.Module) -> bool:
    """Give the functions of the imported module the code, and the constants the values, of ``tree``.

    Functions and classes stay the same objects, so whoever imported them sees the change. Returns whether a
    constant was changed: one that is made of the module's own classes is not, nor is what was made from it.
    """
    module = sys.modules[module_name(path)]
    fresh = types.ModuleType(module.__name__)
    fresh.__dict__.update(__file__=str(path), __package__=module.__package__)
    exec(compile(tree, str(path), "exec"), fresh.__dict__)
    return _take_over(module, vars(module), vars(fresh), str(path))


def _take_over(owner: Any, old: Any, new: dict[str, Any], path: str) -> bool:
    changed = False
    for name, value in list(new.items()):
        was = old.get(name)
        if isinstance(value, type) and value is not was:
            if isinstance(was, type) and value.__module__ == was.__module__ == new.get("__name__"):
                changed |= _take_over(was, vars(was), dict(vars(value)), path)
        elif (function := _function(value)) is not None and (twin := _function(was)) is not None:
            if function.__code__.co_filename == path:
                twin.__code__ = function.__code__
            # of defaults only numbers and texts: an instance would be one of another class
            if twin.__defaults__ is not None and len(twin.__defaults__) == len(function.__defaults__ or ()):
                pairs = zip(twin.__defaults__, function.__defaults__ or (), strict=True)
                defaults = tuple(b if _plain(a) and _plain(b) else a for a, b in pairs)
                changed |= twin.__defaults__ != defaults
                twin.__defaults__ = defaults
            for key, default in (function.__kwdefaults__ or {}).items():
                if _plain(default):
                    twin.__kwdefaults__[key] = default
            if hasattr(was, "cache_clear"):
                was.cache_clear()
        elif _plain(value) and _plain(was) and not name.startswith("__") and value != was:
            setattr(owner, name, value)
            changed = True
            for other in list(sys.modules.values()):  # who imported the constant by its name
                if getattr(other, "__dict__", {}).get(name) is was and isinstance(owner, types.ModuleType):
                    setattr(other, name, value)
    return changed


def _function(value: Any) -> types.FunctionType | None:
    """The function inside a method, a property or a decorated function."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        value = value.fget
    if callable(value) and not isinstance(value, type):
        value = inspect.unwrap(value)
    return value if isinstance(value, types.FunctionType) else None


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(_plain(k) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str)


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import one module from a given tree, everything else as usual."""

    def __init__(self, path: Path, tree: ast.Module) -> None:
        self.path, self.tree = path, tree

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != module_name(self.path):
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return None

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


@dataclass
class Family:
    """Files whose mutants the same tests must notice; the plug-in of pytest that tries them."""

    name: str
    files: list[Path]
    tests: list[str]
    options: argparse.Namespace
    folder: Path  # for notes between processes
    killed: int = 0
    total: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # of each test
    calls: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # file and line of what it calls
    noticed: list[str] = field(default_factory=list)  # tests that noticed a mutant, the last one first
    anew: bool | None = None  # whether the tests pass in a fresh process
    failed: str = ""  # in a child: the first test that did

    def arguments(self) -> list[str]:
        """Of pytest. Downloads of other libraries' models and the like are left out: too slow for survivors."""
        chosen = f"({self.name}) and not complete and not sentence_transformers"
        return ["-qq", "-s", "-p", "no:cacheprovider", "-k", chosen, *self.tests]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):  # type: ignore[no-untyped-def]
        if report.failed and not self.failed:
            self.failed = report.nodeid

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):  # type: ignore[no-untyped-def]
        if session.testsfailed:  # while they were collected: pytest says which
            return None
        gc.collect()
        gc.freeze()  # a child's collector would copy every page that the parent shares with it
        note = self.folder / "unchanged"
        if self._fork(note, lambda: self._watch(session.items)) == 0:
            status = os.wait()[1]
        seen = json.loads(note.read_text()) if status == 0 else {"failed": "a crash"}
        if seen["failed"]:
            print(f"{self.name}: the tests fail without any mutation: {seen['failed']}", flush=True)
            return True
        self.seconds, self.calls = seen["seconds"], seen["calls"]
        print(f"{self.name}: {len(session.items)} tests in {sum(self.seconds.values()):.1f} s", flush=True)
        for path in self.files:
            self._try_all(path, session.items)
        return True

    def _fork(self, note: Path, work: Any) -> int:
        """0 in the parent, whose child writes what ``work`` returns into ``note``; see `children`."""
        child = os.fork()
        if child:
            self.child = child
            return 0
        code = 1
        with contextlib.suppress(BaseException):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            note.write_text(json.dumps(work()))
            code = 0
        os._exit(code)

    def _run(self, items: list[Any]) -> Iterator[Any]:
        """Run tests one after another, until one fails."""
        for i, item in enumerate(items):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=(*items, None)[i + 1])
            yield item
            if self.failed:
                return

    def _watch(self, items: list[Any]) -> dict[str, Any]:
        """Run all tests without a change, with the functions that each calls and its time."""
        names = {str(path) for path in self.files}
        called: set[tuple[str, int]] = set()

        def trace(frame: types.FrameType, event: str, argument: Any) -> None:
            if frame.f_code.co_filename in names:
                called.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

        for path in self.files:  # what does not survive this would not survive any mutant
            put_in_place(path, ast.parse(path.read_text()))
        threading.settrace(trace)
        sys.settrace(trace)
        begun = time.monotonic()
        for item in self._run(items):
            self.seconds[item.nodeid] = time.monotonic() - begun
            self.calls[item.nodeid] = sorted(called)
            called.clear()
            begun = time.monotonic()
        sys.settrace(None)
        return {"failed": self.failed, "seconds": self.seconds, "calls": self.calls}

    def _try_all(self, path: Path, items: list[Any]) -> None:
        begun, relative, spans = (
            time.monotonic(),
            path.relative_to(ROOT),
            functions(ast.parse(path.read_text())),
        )
        lines = self.options.lines
        todo = [(i, m) for i, m in enumerate(mutants(path.read_text())) if not lines or m.line in lines][::-1]
        running: dict[int, tuple[float, int, Mutant, Path]] = {}
        ends, survivors = dict(spans), 0
        users: dict[int, set[str]] = {low: set() for low in ends}  # of each function: the tests that call it
        for test, calls in self.calls.items():
            for file, line in calls:
                for low, high in spans:
                    if file == str(path) and low <= line <= high:
                        users[low].add(test)
        self.total += len(todo)
        count = len(todo)
        while todo or running:
            while todo and len(running) < self.options.workers:
                number, mutant = todo.pop()
                # what stands outside functions may matter to any test of the family
                chosen = [t for t in items if not mutant.function or t.nodeid in users[mutant.function]]
                rank = {name: i - 99 for i, name in enumerate(self.noticed[:99])}
                chosen.sort(key=lambda t: (rank.get(t.nodeid, 0), self.seconds[t.nodeid]))
                note = self.folder / str(number)
                limit = int(20 + 5 * sum(self.seconds[t.nodeid] for t in chosen))
                self._fork(note, lambda m=mutant, c=chosen, s=limit: self._notices(path, m, c, s))
                # on a busy machine only the child's own limit, of processor seconds, says something
                running[self.child] = (time.monotonic() + 20 * limit, number, mutant, note)
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                for pid, (until, *_) in running.items():
                    if time.monotonic() > until:  # an endless loop is noticed, too
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                time.sleep(0.01)
                continue
            _, number, mutant, note = running.pop(child)
            by = json.loads(note.read_text()) if status == 0 else "a crash, or the time it took"
            note.unlink(missing_ok=True)
            if not by and not mutant.function:
                by = self._notices_anew(path, number)
            if by in self.seconds:
                self.noticed = [by, *(name for name in self.noticed if name != by)]
            survivors += not by
            if not by or self.options.verbose:
                what = f"killed by {by}," if by else "survived,"
                print(f"  {what} line {mutant.line}: {mutant.what}", flush=True)
        self.killed += count - survivors
        took = time.monotonic() - begun
        print(f"{relative}: {count - survivors} of {count} mutants killed in {took:.0f} s", flush=True)

    def _notices(self, path: Path, mutant: Mutant, items: list[Any], limit: int) -> str:
        """Which test fails with the mutant; none: ``""``. Ended by the system after ``limit`` seconds of work."""
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        try:
            if not put_in_place(path, mutant.tree) and not mutant.function:
                return ""  # left to a fresh process
        except Exception as error:
            return f"import ({type(error).__name__})"
        for _ in self._run(items):
            pass
        return self.failed

    def _notices_anew(self, path: Path, number: int) -> str:
        """The same in a fresh process, where the module is imported from the mutant's tree."""
        if self.anew is None:  # a process that fails without a mutant, too, says nothing
            self.anew = True
            self.anew = not self._notices_anew(path, -1)
        relative = str(path.relative_to(ROOT))
        command = [sys.executable, "-m", "tests.mutation", relative, "--one", str(number)]
        status = subprocess.run(command, capture_output=True, check=False).returncode
        return "a fresh process" if status and self.anew else ""


def families(options: argparse.Namespace, folder: Path) -> list[Family]:
    """The families with those files whose path begins with one of those asked for; all when none is."""
    found = []
    for name, (where, tests) in FAMILIES.items():
        whole = ROOT / where
        files = [
            path
            for path in (sorted(whole.rglob("*.py")) if whole.is_dir() else [whole])
            if path.name != "__init__.py"
            and (not options.files or any(str(path.relative_to(ROOT)).startswith(a) for a in options.files))
        ]
        if files:
            found.append(Family(name, files, [*tests, *SHARED], options, folder))
    return found


def prepare() -> None:
    """The same examples in every process, none of them kept, and no time spent on making a failure small."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    import torch
    from hypothesis import Phase, settings

    torch.set_num_threads(1)
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutation", derandomize=True, database=None, phases=phases)
    settings.load_profile("mutation")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="formula files or folders; all of them when none is given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.9, help="fail below this fraction killed")
    parser.add_argument("--lines", type=int, nargs="*", default=[], help="only mutants of these lines")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--verbose", action="store_true", help="print which test noticed each mutant")
    parser.add_argument(
        "--one", type=int, help="run the tests with one file imported as its mutant of this number"
    )
    options = parser.parse_args()
    killed = total = 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = families(options, Path(folder))
        if options.list:
            for path in (path for family in chosen for path in family.files):
                for mutant in mutants(path.read_text()):
                    print(f"{path.relative_to(ROOT)}:{mutant.line}: {mutant.what}")
            return 0
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        prepare()
        if options.one is not None:
            path = chosen[0].files[0]
            source = path.read_text()
            tree = mutants(source)[options.one].tree if options.one >= 0 else ast.parse(source)
            sys.meta_path.insert(0, Loader(path, tree))
            return int(pytest.main(["-x", *chosen[0].arguments()]))
        for family in chosen:
            pytest.main(family.arguments(), plugins=[family])
            if not family.total:
                return 1
            killed, total = killed + family.killed, total + family.total
    share = killed / max(total, 1)
    print(f"all: {killed} of {total} mutants killed ({share:.1%})")
    return 0 if share >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
