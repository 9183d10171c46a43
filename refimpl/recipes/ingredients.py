"""What each ingredient of a distilled student is worth: ``python -m refimpl.recipes.ingredients masked-lm``.

12 to 6 layers of a teacher of the course, one student for each of the `ARMS` and each seed: the same batches in
the same order, the same number of steps, the learning rate chosen on the validation texts. About an hour on one
thread for each kind; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from refimpl.checks import check_choice
from refimpl.files import replace_file
from refimpl.recipes.arms import ARMS, Arm
from refimpl.recipes.release import KINDS
from refimpl.recipes.students import Study, compare_with_teacher, distil, teacher_of
from refimpl.recipes.task import fine_tune

__all__ = ["compare", "main"]


def compare(
    kind: str, output: str | Path, study: Study | None = None, arms: Mapping[str, Arm] | None = None
) -> dict[str, Any]:
    """Train and judge every arm with every seed, and write what was found to the file ``output`` as JSON.

    The learning rate of a family of arms (`Arm.family`) is the one with the least validation cross-entropy of
    its first arm, with a seed of its own. The file is replaced after each student; called again with the same
    settings, what it has is kept.

    Returns:
        What the file holds: ``settings``, ``rates`` (tried), ``runs`` (one for each arm and seed), ``teacher``.

    Raises:
        ValueError: unknown kind; ``output`` is from other settings.
        ModuleNotFoundError: accelerate is not installed.
    """
    check_choice("kind", kind, KINDS)
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
    _choose_rates(kind, arms, study, found, target)
    rates = _best_rates(found["rates"])
    pending = [(seed, name) for seed in range(study.seeds) for name in arms]
    for seed, name in tqdm(pending, desc=kind, unit="student"):
        if any((run["arm"], run["seed"]) == (name, seed) for run in found["runs"]):
            continue
        arm, peak = arms[name], rates[_family_name(arms[name])]
        start = time.process_time()
        student = distil(kind, arm, seed, peak, study)
        seconds = time.process_time() - start
        scores = compare_with_teacher(kind, student, "test", study.held_blocks, study.length)
        run = {"arm": name, "seed": seed, "peak": peak, "core_seconds": round(seconds, 1), **scores}
        if kind == "masked-lm":
            run["task_accuracy"] = fine_tune(student, teacher_of(kind)[1], study.examples, seed)
        found["runs"].append(run)
        _write(target, found)
    if kind == "masked-lm" and "teacher" not in found:
        teacher, tokenizer = teacher_of(kind)
        own = [fine_tune(teacher, tokenizer, study.examples, seed) for seed in range(study.seeds)]
        found["teacher"] = {"task_accuracy": own}
        _write(target, found)
    return found


def _choose_rates(
    kind: str, arms: Mapping[str, Arm], study: Study, found: dict[str, Any], target: Path
) -> None:
    first: dict[str, Arm] = {}
    for arm in arms.values():
        first.setdefault(_family_name(arm), arm)
    pending = [(family, arm, peak) for family, arm in first.items() for peak in study.peaks]
    for family, arm, peak in tqdm(pending, desc="learning rates", unit="student"):
        if any((rate["family"], rate["peak"]) == (family, peak) for rate in found["rates"]):
            continue
        student = distil(kind, arm, 1000, peak, study)  # a seed that no run of the table has
        blocks = max(1, study.held_blocks // 3)
        scores = compare_with_teacher(kind, student, "validation", blocks, study.length)
        found["rates"].append({"family": family, "peak": peak, "cross_entropy": scores["cross_entropy"]})
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
    given = parser.parse_args(arguments)
    study = Study(steps=given.steps, seeds=given.seeds, threads=given.threads)
    compare(given.kind, given.output or Path(f"{given.kind}-ingredients.json"), study)


if __name__ == "__main__":
    main()
