"""The contracts that everything public keeps, each once, over all that has registered."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from refimpl import calibration, checkpoint, modules
from tests.contracts import models, registry

LOSSES = pytest.mark.parametrize("loss", registry.LOSSES, ids=lambda e: e.name)
POOLERS = pytest.mark.parametrize("pooler", registry.POOLERS, ids=lambda e: e.name)
RUNNERS = pytest.mark.parametrize("runner", registry.RUNNERS, ids=lambda e: e.name)
SPARSIFIERS = pytest.mark.parametrize("sparsifier", registry.SPARSIFIERS, ids=lambda e: e.name)
PURE = pytest.mark.parametrize("pure", registry.PURE, ids=lambda e: e.name)
ON = [(verb, on) for verb in registry.VERBS for on in verb.on]
VERBS = pytest.mark.parametrize(("verb", "on"), ON, ids=[f"{v.name}-{on}" for v, on in ON])
CONV = [verb for verb in registry.VERBS if "gpt2" in verb.on]
CONV1D = pytest.mark.parametrize("verb", CONV, ids=lambda e: e.name)


def logits() -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    mask[2, 1:] = False
    return registry.randn(3, 5, 7, seed=1), registry.randn(3, 5, 7, seed=2), mask


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same_state(model: torch.nn.Module, before: dict[str, Tensor]) -> None:
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)


# 1. Garbage in padded positions changes nothing.


@LOSSES
@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
def test_1_padding_does_not_reach_a_loss(loss, garbage):
    student, teacher, mask = logits()
    clean = loss.call(student, teacher, mask)
    student[~mask], teacher[~mask] = garbage, -garbage
    student.requires_grad_()
    dirty = loss.call(student, teacher, mask)
    dirty.backward()
    assert torch.equal(clean, dirty.detach())
    assert torch.equal(student.grad[~mask], torch.zeros_like(student.grad[~mask]))
    assert bool(torch.isfinite(student.grad).all())


@POOLERS
@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
def test_1_padding_does_not_reach_a_pooler(pooler, garbage):
    hidden, _, mask = logits()
    clean = pooler.call(hidden, mask)
    hidden[~mask] = garbage
    assert torch.equal(clean, pooler.call(hidden, mask))


@pytest.mark.parametrize("collect", calibration.COLLECTORS)
def test_1_padding_does_not_reach_calibration(collect):
    """Other token ids behind the mask: attention hides them, the statistics leave them out."""
    model, clean = models.make("bert"), models.batch()
    dirty = copy.deepcopy(clean)
    dirty["input_ids"][clean["attention_mask"] == 0] = 3
    assert not torch.equal(clean["input_ids"], dirty["input_ids"])
    real = clean["attention_mask"].bool()

    def loss(out, _):
        return out.last_hidden_state[real].square().mean()

    a, b = (
        calibration.calibrate(model, [x], "encoder.*", collect=(collect,), loss=loss) for x in (clean, dirty)
    )
    for name, seen in a.items():
        assert seen.count == b[name].count == int(real.sum())
        for field in ("gram", "sum_sq", "low", "high", "grad_sq"):
            left, right = getattr(seen, field), getattr(b[name], field)
            assert (left is None) == (right is None)
            if left is not None:
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


# 2. The teacher gets no gradient and leaves in the mode it came in; so does every model that is only run.


@LOSSES
def test_2_teacher_gets_no_gradient(loss):
    student, teacher, mask = logits()
    student.requires_grad_()
    teacher.requires_grad_()
    loss.call(student, teacher, mask).backward()
    assert teacher.grad is None
    assert student.grad is not None and float(student.grad.abs().sum()) > 0


@RUNNERS
@pytest.mark.parametrize("training", [True, False])
def test_2_a_model_that_is_run_keeps_mode_and_gradients(runner, training):
    model = models.make("bert")
    model.train(training)
    model.encoder.layer[0].eval()  # a frozen part must stay as it was, too
    modes = [m.training for m in model.modules()]
    before = state(model)
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    runner.call(model, models.batch())
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooks
    assert_same_state(model, before)  # contract 8


# 3. One batch of B equals B batches of one.


@LOSSES
def test_3_a_loss_accumulates(loss):
    student, teacher, mask = logits()
    whole = loss.call(student, teacher, mask)
    parts = [loss.call(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1]) for i in range(3)]
    weights = mask.sum(1) / mask.sum()
    torch.testing.assert_close(whole, sum(w * p for w, p in zip(weights, parts, strict=True)))


@POOLERS
def test_3_a_pooler_accumulates(pooler):
    hidden, _, mask = logits()
    parts = [pooler.call(hidden[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(pooler.call(hidden, mask), torch.cat(parts))


@pytest.mark.parametrize("collect", ["gram", "norm", "range"])
def test_3_calibration_accumulates(collect):
    model, whole = models.make("bert"), models.batch()
    parts = [{k: v[i : i + 1] for k, v in whole.items()} for i in range(2)]
    a = calibration.calibrate(model, [whole], collect=(collect,))
    b = calibration.calibrate(model, parts, collect=(collect,))
    for name, seen in a.items():
        assert seen.count == b[name].count
        for field in ("gram", "sum_sq", "low", "high"):
            if getattr(seen, field) is not None:
                torch.testing.assert_close(
                    getattr(seen, field), getattr(b[name], field), rtol=1e-4, atol=1e-5
                )


# 4. Sparsity is exact, also with ties, at 0 and at 1.


@SPARSIFIERS
@pytest.mark.parametrize(
    "scores",
    [registry.randn(7, 13), torch.zeros(7, 13), torch.ones(91).reshape(7, 13), registry.randn(7, 13).sign()],
    ids=["distinct", "all zero", "all equal", "two values"],
)
@pytest.mark.parametrize("sparsity", [0, 0.0, 0.1, 0.29, 0.5, 0.7, 0.999, 1.0])
def test_4_sparsity_is_exact(sparsifier, scores, sparsity):
    from fractions import Fraction

    mask = sparsifier.call(scores, sparsity)
    assert mask.dtype == torch.bool and mask.shape == scores.shape
    removed = int(Fraction(str(sparsity)) * scores.numel())  # floor(s·n) of the decimal that was written
    assert int((~mask).sum()) == removed


# 5. Conv1D gives what the transposed Linear gives.


@CONV1D
def test_5_conv1d_is_the_transposed_linear(verb):
    conv = verb.apply(models.make("gpt2"))
    linear = verb.apply(models.linearised(models.make("gpt2")))
    torch.testing.assert_close(models.run(conv), models.run(linear), rtol=verb.tolerance, atol=verb.tolerance)
    assert modules.parameters_once(conv) == modules.parameters_once(linear)


@pytest.mark.parametrize("collect", ["gram", "norm", "range", "grad_sq"])
def test_5_calibration_sees_conv1d_as_linear(collect):
    def stats(model):
        return calibration.calibrate(
            model, [models.batch()], collect=(collect,), loss=lambda out, _: out.logits.square().mean()
        )

    a, b = stats(models.make("gpt2")), stats(models.linearised(models.make("gpt2")))
    assert list(a) == list(b)
    for name, seen in a.items():
        for field in ("gram", "sum_sq", "low", "high", "grad_sq"):
            if getattr(seen, field) is not None:
                torch.testing.assert_close(
                    getattr(seen, field), getattr(b[name], field), rtol=1e-4, atol=1e-5
                )


# 6. Tied weights stay tied, or are untied by a named choice; they are counted once.


@CONV1D
def test_6_ties_survive_a_verb(verb):
    model = models.make("gpt2")
    ties = modules.tied_parameters(model)
    assert ties
    verb.apply(model)
    assert modules.tied_parameters(model) == ties


def test_6_untying_is_named_counted_and_saved(tmp_path: Path):
    model = models.make("gpt2")
    before = modules.parameters_once(model)
    modules.untie_(model, "lm_head.weight")
    assert modules.tied_parameters(model) == []
    assert modules.parameters_once(model) == before + model.lm_head.weight.numel()
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    assert modules.tied_parameters(again) == []
    assert again.config.tie_word_embeddings is False


# 7. save -> load -> the same logits bit for bit, and the bytes on disk that the report said.


@VERBS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_7_round_trip(verb, on, dtype, tmp_path: Path):
    model = models.make(on).to(dtype)
    verb.apply(model)
    said = checkpoint.size(model)
    wrote = checkpoint.save(model, tmp_path)
    on_disk = sum(entry.stat().st_size for entry in os.scandir(tmp_path))
    assert said == wrote and wrote.total == on_disk
    again = checkpoint.load(tmp_path, factory=models.MAKERS[on] if on == "mlp" else None)
    assert torch.equal(models.run(model), models.run(again))
    assert modules.steps_of(again) == modules.steps_of(model) != []
    # a second generation is the same again, and a copy is independent
    assert checkpoint.size(again) == said
    twin = copy.deepcopy(model)
    assert torch.equal(models.run(model), models.run(twin))


@VERBS
def test_7_twice_then_round_trip(verb, on, tmp_path: Path):
    """A verb on a model that a verb has changed, or a clear refusal that leaves the model as it was."""
    model = verb.apply(models.make(on))
    before = state(model)
    try:
        verb.apply(model)
    except ValueError:
        assert_same_state(model, before)
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path, factory=models.MAKERS[on] if on == "mlp" else None)
    assert torch.equal(models.run(model), models.run(again))


# 8. The input is untouched unless the name ends in "_" (models: contract 2 above).


@PURE
def test_8_arguments_are_untouched(pure):
    arguments = pure.make()
    before = copy.deepcopy(arguments)
    pure.call(*arguments)
    for got, was in zip(arguments, before, strict=True):
        if isinstance(got, Tensor):
            assert torch.equal(got, was) and got.dtype == was.dtype and got.grad is None


@LOSSES
def test_8_logits_are_untouched(loss):
    student, teacher, mask = logits()
    loss.call(student, teacher, mask)
    assert all(torch.equal(a, b) for a, b in zip((student, teacher, mask), logits(), strict=True))


# 9. Half precision in does not mean half precision arithmetic.


def tensors(result) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list):
        return [t for item in result for t in tensors(item)]
    return [torch.tensor(float(result))] if isinstance(result, int | float) else []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pure", [p for p in registry.PURE if p.half], ids=lambda e: e.name)
def test_9_half_precision_in_fp32_arithmetic(pure, dtype):
    arguments = pure.make()
    halves = tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)
    expected, got = tensors(pure.call(*arguments)), tensors(pure.call(*halves))
    assert len(expected) == len(got) > 0
    for e, g in zip(expected, got, strict=True):
        if e.is_floating_point():
            assert g.dtype in (torch.float32, torch.float64)
        torch.testing.assert_close(g, e.to(g.dtype), rtol=1e-5, atol=1e-6)


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_9_a_loss_in_half_precision(loss, dtype):
    student, teacher, mask = logits()
    expected = loss.call(student, teacher, mask)
    got = loss.call(student.to(dtype), teacher.to(dtype), mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


# 10. Bad input: tests/test_bad_input.py, the table of all of it. Here: a refusal changes nothing.


@VERBS
def test_10_a_refusal_changes_nothing(verb, on):
    """NaN in the second half of the layers: every verb refuses, and the first half has not been touched."""
    model = models.make(on)
    layers = list(modules.linear_layers(model).values())
    with torch.no_grad():
        for layer in layers[len(layers) // 2 :]:
            modules.weight_of(layer)[0, 0] = float("nan")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="NaN"):
        verb.apply(model)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k].nan_to_num(7.0), before[k].nan_to_num(7.0)) for k in before)
    assert modules.steps_of(model) == []
