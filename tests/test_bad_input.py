"""Bad input to every public function: it raises, names the argument, and says what is taken.

One row: (the public name, a call with one wrong argument, the exception, a pattern of its message). The
last test holds the table complete: every public callable of refimpl is in it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import refimpl
from refimpl import calibration, checkpoint, checks, distill, modules
from tests.contracts import models

Row = tuple[str, Callable[[], Any], type[Exception], str]

nan = float("nan")
linear = nn.Linear(3, 2)


def _nothing() -> None:
    """What a test of a context manager's entry does inside it."""


def record(**arguments: Any) -> None:
    with calibration.record(models.make("bert"), **arguments):
        _nothing()


GROUND: list[Row] = [
    ("checks.check_tensor", lambda: checks.check_tensor("x", [1]), TypeError, "x: got list"),
    (
        "checks.check_tensor",
        lambda: checks.check_tensor("x", torch.ones(2), ndim=2),
        ValueError,
        "1 dimensions",
    ),
    (
        "checks.check_tensor",
        lambda: checks.check_tensor("x", torch.ones(2), ndim=(2, 3)),
        ValueError,
        "2 or 3",
    ),
    ("checks.check_tensor", lambda: checks.check_tensor("x", torch.ones(2), shape=(3,)), ValueError, "shape"),
    (
        "checks.check_tensor",
        lambda: checks.check_tensor("x", torch.ones(2), shape=(None, 2)),
        ValueError,
        "any",
    ),
    (
        "checks.check_tensor",
        lambda: checks.check_tensor("x", torch.ones(2).int(), floating=True),
        TypeError,
        "int32",
    ),
    (
        "checks.check_tensor",
        lambda: checks.check_tensor("x", torch.tensor(nan), finite=True),
        ValueError,
        "NaN",
    ),
    ("checks.check_number", lambda: checks.check_number("x", "1", 0, 1), TypeError, "x: got str"),
    ("checks.check_number", lambda: checks.check_number("x", True, 0, 1), TypeError, "bool"),
    ("checks.check_number", lambda: checks.check_number("x", nan, 0, 1), ValueError, "finite"),
    ("checks.check_number", lambda: checks.check_number("x", 2, 0, 1), ValueError, r"\[0, 1\]"),
    (
        "checks.check_number",
        lambda: checks.check_number("x", 0, 0, 1, low_open=True),
        ValueError,
        r"\(0, 1\]",
    ),
    (
        "checks.check_number",
        lambda: checks.check_number("x", 1, 0, 1, high_open=True),
        ValueError,
        r"\[0, 1\)",
    ),
    ("checks.check_int", lambda: checks.check_int("x", 1.0), TypeError, "float"),
    ("checks.check_int", lambda: checks.check_int("x", 0, 1), ValueError, "from 1 to inf"),
    ("checks.check_int", lambda: checks.check_int("x", 9, 1, 8), ValueError, "from 1 to 8"),
    ("checks.check_choice", lambda: checks.check_choice("x", "c", ("a", "b")), ValueError, "'a', 'b'"),
    ("modules.weight_of", lambda: modules.weight_of(nn.LayerNorm(3)), TypeError, "layer: got LayerNorm"),
    ("modules.features", lambda: modules.features(nn.LayerNorm(3)), TypeError, "layer: got LayerNorm"),
    (
        "modules.set_weight_",
        lambda: modules.set_weight_(linear, torch.ones(3, 2)),
        ValueError,
        "weight: got shape",
    ),
    (
        "modules.set_weight_",
        lambda: modules.set_weight_(linear, torch.full((2, 3), nan)),
        ValueError,
        "weight: got NaN",
    ),
    (
        "modules.set_weight_",
        lambda: modules.set_weight_(nn.Linear(3, 2, bias=False), torch.ones(2, 3), torch.ones(2)),
        ValueError,
        "bias: got a tensor",
    ),
    (
        "modules.set_weight_",
        lambda: modules.set_weight_(linear, torch.ones(2, 3), torch.ones(3)),
        ValueError,
        "bias: got shape",
    ),
    ("modules.resized_linear", lambda: modules.resized_linear(nn.ReLU(), 1, 1), TypeError, "layer: got ReLU"),
    (
        "modules.resized_linear",
        lambda: modules.resized_linear(linear, 0, 1),
        ValueError,
        "in_features: got 0",
    ),
    (
        "modules.resized_linear",
        lambda: modules.resized_linear(linear, 1, 0),
        ValueError,
        "out_features: got 0",
    ),
    (
        "modules.get",
        lambda: modules.get(models.make("bert"), "encoder.layer.9.output"),
        KeyError,
        "name: got",
    ),
    (
        "modules.replace_",
        lambda: modules.replace_(models.make("mlp"), "", linear),
        ValueError,
        "name: got ''",
    ),
    (
        "modules.replace_",
        lambda: modules.replace_(models.make("mlp"), "middle", linear),
        KeyError,
        "'middle'",
    ),
    ("modules.linear_layers", lambda: modules.linear_layers(nn.ReLU()), ValueError, "model: got ReLU"),
    (
        "modules.linear_layers",
        lambda: modules.linear_layers(models.make("mlp"), "x.*"),
        ValueError,
        "include: got 'x",
    ),
    (
        "modules.linear_layers",
        lambda: modules.linear_layers(models.make("mlp"), [3]),
        TypeError,
        "include: got int",
    ),
    (
        "modules.linear_layers",
        lambda: modules.linear_layers(models.make("mlp"), exclude="q"),
        ValueError,
        "exclude: got 'q'",
    ),
    (
        "modules.untie_",
        lambda: modules.untie_(models.make("gpt2"), "lm_head.bias"),
        ValueError,
        "name: got 'lm_head",
    ),
    ("calibration.record", lambda: record(collect=("grams",)), ValueError, "collect: got 'grams'"),
    ("calibration.record", lambda: record(collect=()), ValueError, "collect: got nothing"),
    ("calibration.record", lambda: record(layers="x"), ValueError, "include: got 'x'"),
    ("calibration.record", record, ValueError, "batches: got no data"),
    ("calibration.calibrate", lambda: calibration.calibrate(models.make("bert"), []), ValueError, "no data"),
    (
        "calibration.calibrate",
        lambda: calibration.calibrate(models.make("gpt2"), [models.batch()], collect=("grad_sq",)),
        ValueError,
        "loss: got None",
    ),
    (
        "calibration.calibrate",
        lambda: calibration.calibrate(models.make("bert").requires_grad_(False), [], collect=("grad_sq",)),
        ValueError,
        "frozen",
    ),
    (
        "checkpoint.load",
        lambda: checkpoint.load("/nonexistent/folder"),
        checkpoint.CheckpointError,
        "folder: got",
    ),
]

student, teacher, labels = torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0, 1])

DISTILL: list[Row] = [  # the long list is in tests/distill/test_losses.py
    (
        "distill.kd_loss",
        lambda: distill.kd_loss(student, torch.ones(2, 4)),
        ValueError,
        "teacher_logits: got a vocabulary of 4; takes the student's 3",
    ),
    ("distill.kd_loss", lambda: distill.kd_loss(student, teacher, 0.0), ValueError, "temperature: got 0"),
    (
        "distill.kd_loss",
        lambda: distill.kd_loss(student, teacher, mask=torch.zeros(2)),
        ValueError,
        "mask: got no position",
    ),
    ("distill.kd_loss", lambda: distill.kd_loss(student * nan, teacher), ValueError, "student_logits: got NaN"),
    ("distill.jsd_loss", lambda: distill.jsd_loss(student, teacher, beta=0.0), ValueError, "beta: got 0"),
    (
        "distill.soft_cross_entropy",
        lambda: distill.soft_cross_entropy(student, teacher),
        ValueError,
        "target: got rows",
    ),
    (
        "distill.distillation_loss",
        lambda: distill.distillation_loss(student, teacher, labels + 2, 0.5, 2.0),
        ValueError,
        "labels: got a label outside 0 to 2",
    ),
]

PRUNE: list[Row] = []

QUANTIZE: list[Row] = []

LOWRANK: list[Row] = []

RETRIEVE: list[Row] = []

DATA_AND_MODELS: list[Row] = []

MEASURE: list[Row] = []

ROWS = [*GROUND, *DISTILL, *PRUNE, *QUANTIZE, *LOWRANK, *RETRIEVE, *DATA_AND_MODELS, *MEASURE]

# Takes anything of its type, or is a record that other functions fill in.
NO_BAD_INPUT = {
    "calibration.LayerStats",
    "checkpoint.CheckpointError",
    "checkpoint.Size",
    "checkpoint.save",  # bad state: tests/test_checkpoint.py
    "checkpoint.size",
    "modules.Resized",
    "modules.is_linear",
    "modules.parameters_once",
    "modules.record_step_",
    "modules.steps_of",
    "modules.tied_parameters",
}


@pytest.mark.parametrize(
    ("name", "call", "exception", "message"), ROWS, ids=[f"{i}-{r[0]}" for i, r in enumerate(ROWS)]
)
def test_bad_input_raises(name, call, exception, message):
    with pytest.raises(exception) as caught:
        call()
    assert re.search(message, str(caught.value)), str(caught.value)
    # the message names what was wrong: "<argument>: got <this>; takes <that>", or says it in a sentence
    assert len(str(caught.value)) > 15


def public() -> set[str]:
    """Every public callable: `__all__` of the ground floor's modules and of each family's face."""
    found = set()
    for info in pkgutil.iter_modules(refimpl.__path__):
        module = importlib.import_module(f"refimpl.{info.name}")
        for name in getattr(module, "__all__", ()):
            if callable(getattr(module, name)) and not inspect.ismodule(getattr(module, name)):
                found.add(f"{info.name}.{name}")
    return found


def test_the_table_is_complete():
    tested = {row[0] for row in ROWS}
    assert tested - public() == set(), "rows for names that are not public"
    assert NO_BAD_INPUT - public() == set(), "exceptions for names that are not public"
    assert tested & NO_BAD_INPUT == set(), "both tested and excepted"
    assert public() - tested - NO_BAD_INPUT == set(), "public, but no row here"
