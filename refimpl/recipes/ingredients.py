"""What each ingredient of a distilled student is worth: ``python -m refimpl.recipes.ingredients masked-lm``.

12 to 6 layers of a teacher of the course, one student for each of the `ARMS` and each seed: the same batches in
the same order, the same number of steps, the learning rate chosen on the validation texts. About an hour of processor
time for each kind, which ``--workers 2`` halves; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refimpl.checks import check_choice, check_int
from refimpl.files import replace_file
from refimpl.recipes.arms import ARMS, Arm
from refimpl.recipes.release import KINDS
from refimpl.recipes.students import Study, compare_with_teacher, distil, teacher_of
from refimpl.recipes.task import fine_tune

__all__ = ["compare", "main"]


def compare(
    kind: str,
    output: str | Path,
    study: Study | None = None,
    arms: Mapping[str, Arm] | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Train and judge every arm with every seed, and write what was found to the file ``output`` as JSON.

    The learning rate of a family of arms (`Arm.family`) is the one with the least validation cross-entropy of
    its first arm, with a seed of its own. The file is replaced after each student; called again with the same
    settings, what it has is kept. ``workers`` processes train side by side, which changes no result but the seconds.

    Returns:
        What the file holds: ``settings``, ``rates`` (tried), ``runs`` (one for each arm and seed), ``teacher``.

    Raises:
        ValueError: unknown kind; ``output`` is from other settings; no workers.
        ModuleNotFoundError: accelerate is not installed.
    """
    check_choice("kind", kind, KINDS)
    check_int("workers", workers, 1)
    study, arms = study or Study(), ARMS[kind] if arms is None else arms
    settings = json.loads(
        json.dumps({"kind": kind, **asdict(study), "arms": {n: asdict(a) for n, a in arms.items()}})
    )
    target = Path(output)
    versions = {name: version(name) for name in ("torch", "transformers", "accelerate")}
    found: dict[str, Any] = {
        "settings": settings,
        "versions": {"python": platform.python_version(), **versions},
        "rates": [],
        "runs": [],
    }
    if target.exists():
        found = json.loads(target.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            raise ValueError(
                f"output: got a file of other settings, {target.name}; takes one of the same, or none"
            )
    first: dict[str, Arm] = {}
    for arm in arms.values():
        first.setdefault(_family_name(arm), arm)
    tried = [(kind, family, arm, peak, study) for family, arm in first.items() for peak in study.peaks]
    _fill(found, "rates", _try_rate, tried, ("family", "peak"), (1, 3), target, workers)
    rates = _best_rates(found["rates"])
    students = [
        (kind, name, arm, seed, rates[_family_name(arm)], study)
        for seed in range(study.seeds)
        for name, arm in arms.items()
    ]
    _fill(found, "runs", _try_arm, students, ("arm", "seed"), (1, 3), target, workers)
    if kind == "masked-lm" and "teacher" not in found:
        teacher, tokenizer = teacher_of(kind)
        own = [fine_tune(teacher, tokenizer, study.examples, seed) for seed in range(study.seeds)]
        found["teacher"] = {"task_accuracy": own}
        _write(target, found)
    return found


def _try_rate(kind: str, family: str, arm: Arm, peak: float, study: Study) -> dict[str, Any]:
    """The validation loss of a learning rate, with a seed that no run of the table has."""
    student = distil(kind, arm, 1000, peak, study)
    blocks = max(1, study.held_blocks // 3)
    scores = compare_with_teacher(kind, student, "validation", blocks, study.length)
    return {"family": family, "peak": peak, "cross_entropy": scores["cross_entropy"]}


def _try_arm(kind: str, name: str, arm: Arm, seed: int, peak: float, study: Study) -> dict[str, Any]:
    """One row of the table with one seed."""
    start = time.process_time()
    student = distil(kind, arm, seed, peak, study)
    seconds = time.process_time() - start
    scores = compare_with_teacher(kind, student, "test", study.held_blocks, study.length)
    run = {"arm": name, "seed": seed, "peak": peak, "core_seconds": round(seconds, 1), **scores}
    if kind == "masked-lm":
        run["task_accuracy"] = fine_tune(student, teacher_of(kind)[1], study.examples, seed)
    return run


def _fill(
    found: dict[str, Any],
    into: str,
    run: Callable[..., dict[str, Any]],
    jobs: Sequence[tuple[Any, ...]],
    keys: tuple[str, str],
    places: tuple[int, int],
    target: Path,
    workers: int,
) -> None:
    """Append ``run(*job)`` of each job that ``found[into]`` lacks, each written at once; at the end in order."""
    wanted = [tuple(job[place] for place in places) for job in jobs]
    have = {tuple(entry[key] for key in keys) for entry in found[into]}
    missing = [job for job, name in zip(jobs, wanted, strict=True) if name not in have]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc=into, unit="student")
    with ExitStack() as stack:
        stack.enter_context(bar)
        if workers > 1 and len(missing) > 1:
            # spawned, not forked: torch's threads do not survive a fork
            pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
            futures = [pool.submit(run, *job) for job in missing]
            results = (future.result() for future in as_completed(futures))
        else:
            results = (run(*job) for job in missing)
        for result in results:
            found[into].append(result)
            _write(target, found)
            bar.update()
    found[into].sort(key=lambda entry: wanted.index(tuple(entry[key] for key in keys)))
    _write(target, found)


def _family_name(arm: Arm) -> str:
    random, taught = arm.family
    return f"{'distilled' if taught else 'labels only'}, {'random' if random else 'copied'} start"


def _best_rates(tried: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    best: dict[str, Mapping[str, Any]] = {}
    for rate in tried:
        if rate["cross_entropy"] < best.get(rate["family"], {"cross_entropy": float("inf")})["cross_entropy"]:
            best[rate["family"]] = rate
    return {family: rate["peak"] for family, rate in best.items()}


def _write(target: Path, found: Mapping[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, (json.dumps(found, indent=1) + "\n").encode())


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m refimpl.recipes.ingredients", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--output", type=Path, help="file to write; <kind>-ingredients.json when not given")
    for name in ("steps", "seeds", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Study(), name))
    parser.add_argument("--workers", type=int, default=1, help="processes that train side by side")
    given = parser.parse_args(arguments)
    study = Study(steps=given.steps, seeds=given.seeds, threads=given.threads)
    compare(given.kind, given.output or Path(f"{given.kind}-ingredients.json"), study, workers=given.workers)


if __name__ == "__main__":
    main()
