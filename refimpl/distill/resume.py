"""Checkpoints of a distillation: which one is whole, and the training-only modules beside the student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn
from transformers import Trainer

NAME = "training_only"  # the student's attribute while it trains, and the file in a checkpoint


class ResumableTrainer(Trainer):
    """A Trainer whose checkpoints hold what trains beside the student: modules and schedules with a state.

    The modules are part of the student while it trains, so that its optimizer, clipping and DDP have them too,
    and never part of what is saved as the student.
    """

    training_only: nn.ModuleList
    model: Any

    @property
    def schedules(self) -> list[Any]:
        """Those whose state a checkpoint keeps, in a fixed order."""
        return []

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; ``True`` resumes from the last checkpoint that was written to its end."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete(str(self.args.output_dir), self.args.world_size)
        with attached(self.model, self.training_only):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with detached(self.model, self.training_only):
            super()._save(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the student alone; a checkpoint (the Trainer's own call) gets the rest too."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None and self.args.should_save:
            save_modules(self.training_only, output_dir)
            save_schedules(self.schedules, output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with detached(self.model, self.training_only):  # the student's file has the student only
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_modules(self.training_only, resume_from_checkpoint)
        load_schedules(self.schedules, resume_from_checkpoint)


@contextmanager
def attached(student: nn.Module, modules: nn.ModuleList) -> Iterator[None]:
    """Make the modules part of the student, so that its optimizer, clipping and DDP have them too."""
    if len(modules):
        student.add_module(NAME, modules)
    try:
        yield
    finally:
        student._modules.pop(NAME, None)


@contextmanager
def detached(student: nn.Module, modules: nn.ModuleList) -> Iterator[None]:
    """The student alone, while it is saved or loaded."""
    had = student._modules.pop(NAME, None)
    try:
        yield
    finally:
        if had is not None:
            student.add_module(NAME, modules)


def save_modules(modules: nn.ModuleList, folder: str) -> None:
    """Write the training-only modules to a checkpoint, if there are any."""
    if len(modules):
        # not save_file: peers of mutual learning may have tied weights, which are saved once
        safetensors.torch.save_model(modules, str(Path(folder) / f"{NAME}.safetensors"))


def load_modules(modules: nn.ModuleList, folder: str) -> None:
    """Read them back.

    Raises:
        ValueError: the checkpoint has none.
    """
    if not len(modules):
        return
    path = Path(folder) / f"{NAME}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"resume_from_checkpoint: got a folder without {path.name}; takes one of these losses"
        )
    safetensors.torch.load_model(modules, path)


def save_schedules(schedules: list[Any], folder: str) -> None:
    """Write the state of the schedules that have one, e.g. `Feedback`."""
    states = [s.state_dict() for s in schedules if hasattr(s, "state_dict")]
    if states:
        (Path(folder) / "schedules.json").write_text(json.dumps(states))


def load_schedules(schedules: list[Any], folder: str) -> None:
    """Read it back.

    Raises:
        ValueError: the checkpoint has the states of other schedules.
    """
    stateful = [s for s in schedules if hasattr(s, "state_dict")]
    path = Path(folder) / "schedules.json"
    states = json.loads(path.read_text()) if path.is_file() else []
    if len(states) != len(stateful):
        raise ValueError(
            f"resume_from_checkpoint: got the states of {len(states)} schedules; takes {len(stateful)}"
        )
    for schedule, state in zip(stateful, states, strict=True):
        schedule.load_state_dict(state)


def last_complete(folder: str, processes: int = 1) -> str:
    """The last checkpoint that was written to its end.

    The Trainer writes ``trainer_state.json`` last; a process that is killed before leaves a folder without it
    (or with half of it), from which it would resume with a fresh optimizer. Of several processes each writes its random state, in no order.

    Raises:
        ValueError: no checkpoint is complete.
    """
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda p: -_step(p))
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_bytes())
        except (OSError, ValueError):
            continue
        if processes == 1 or all((checkpoint / f"rng_state_{i}.pth").is_file() for i in range(processes)):
            return str(checkpoint)
    raise ValueError(f"resume_from_checkpoint: got no complete checkpoint among {len(found)} in output_dir")


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else -1
