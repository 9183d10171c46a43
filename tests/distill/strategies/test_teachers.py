"""Ensembles of teachers: the identity that holds for averaged probabilities, and not for averaged logits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from refimpl.distill import (
    DistillationTrainer,
    MultiTeacher,
    average_logits,
    average_probabilities,
    kd_loss,
    soft_cross_entropy,
)
from tests.distill.train_small import arguments, lm, texts


def randn(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


cases = given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 4),
    size=st.integers(2, 9),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 7.0]),
)


def drawn(seed, count, size):
    teachers = [randn(3, size, seed=seed + k) for k in range(count)]
    weights = torch.rand(count, generator=torch.Generator().manual_seed(seed)) + 0.1
    return teachers, weights.tolist(), randn(3, size, seed=seed + 99)


def test_by_hand():
    """Two teachers of weights 3 and 1: (.8, .2) and (.4, .6) average to (.7, .3)."""
    a, b = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.4, 0.6]).log()
    torch.testing.assert_close(average_probabilities([a, b], [3, 1]), torch.tensor([0.7, 0.3]))
    torch.testing.assert_close(average_probabilities([a, b]), torch.tensor([0.6, 0.4]))
    geometric = torch.tensor([0.8**0.75 * 0.4**0.25, 0.2**0.75 * 0.6**0.25])
    torch.testing.assert_close(average_logits([a, b], [3, 1]).exp(), geometric)


@settings(deadline=None, max_examples=40)
@cases
def test_every_teacher_at_once_is_their_average(seed, count, size, temperature):
    """sum_k w_k CE(p_k, q) = CE(sum_k w_k p_k, q)."""
    teachers, weights, student = drawn(seed, count, size)
    total = sum(weights)
    each = sum(
        w / total * soft_cross_entropy(student, (z / temperature).softmax(-1), temperature)
        for w, z in zip(weights, teachers, strict=True)
    )
    once = soft_cross_entropy(student, average_probabilities(teachers, weights, temperature), temperature)
    torch.testing.assert_close(each, once)


@settings(deadline=None, max_examples=40)
@cases
def test_averaged_logits_are_the_geometric_mean(seed, count, size, temperature):
    teachers, weights, _ = drawn(seed, count, size)
    product = torch.ones(3, size, dtype=torch.float64)
    for w, z in zip(weights, teachers, strict=True):
        product *= (z / temperature).softmax(-1) ** (w / sum(weights))
    found = (average_logits(teachers, weights) / temperature).softmax(-1)
    torch.testing.assert_close(found, product / product.sum(-1, keepdim=True))


def test_the_identity_does_not_hold_for_averaged_logits():
    teachers, weights, student = drawn(0, 3, 6)
    each = sum(
        w / sum(weights) * soft_cross_entropy(student, z.softmax(-1))
        for w, z in zip(weights, teachers, strict=True)
    )
    other = soft_cross_entropy(student, average_logits(teachers, weights).softmax(-1))
    assert abs(each - other) > 0.05


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_which_divergence_each_average_minimises(direction):
    """Descend on q from nowhere: the forward KLs end at the mean of p, the reverse ones at that of the logits."""
    teachers, weights, _ = drawn(1, 3, 5)
    q = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([q], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = sum(w * kd_loss(q, z, direction=direction) for w, z in zip(weights, teachers, strict=True))
        value.backward()
        return value

    optimizer.step(loss)
    arithmetic = average_probabilities(teachers, weights)
    geometric = average_logits(teachers, weights).softmax(-1)
    right, wrong = (arithmetic, geometric) if direction == "forward" else (geometric, arithmetic)
    found = q.detach().softmax(-1)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert (found - wrong).abs().max() > 1e-2


def test_excluded_tiny_and_unread():
    a = torch.tensor([0.0, -math.inf, 1.0])
    b = torch.tensor([-math.inf, -math.inf, 1.0])
    torch.testing.assert_close(
        average_probabilities([a, b])[1:], torch.tensor([0.0, 0.5 + 0.5 * a.softmax(-1)[2]])
    )
    assert average_logits([a, b])[0] == -math.inf
    far = torch.tensor([0.0, -1000.0])
    assert MultiTeacher([Fixed(far), Fixed(far)], 1.0)().logits[1] == pytest.approx(-1000)  # not log 0
    nan = torch.full((3,), math.nan)
    assert torch.equal(average_probabilities([a, nan], [1, 0]), a.softmax(-1))
    assert not average_probabilities([a.requires_grad_(), b]).requires_grad


class Fixed(nn.Module):
    """Gives the same logits whatever comes in, and keeps what came."""

    def __init__(self, logits):
        super().__init__()
        self.fixed = nn.Parameter(logits)
        self.seen = None

    def forward(self, input_ids=None, **_):
        self.seen = input_ids
        return SequenceClassifierOutput(logits=self.fixed)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kd_loss_is_exact_at_the_temperature_of_the_teacher(temperature):
    """T**2 KL(mean of p_T || q_T), and at another temperature something else."""
    teachers, weights, student = drawn(2, 3, 6)
    logits = MultiTeacher([Fixed(z) for z in teachers], temperature, weights)().logits
    p = sum(w / sum(weights) * (z / temperature).softmax(-1) for w, z in zip(weights, teachers, strict=True))
    log_q = (student / temperature).log_softmax(-1)
    expected = temperature**2 * (p * (p.log() - log_q)).sum(-1).mean()
    torch.testing.assert_close(kd_loss(student, logits, temperature), expected)
    assert torch.equal(logits.argmax(-1), p.argmax(-1))
    other = temperature + 1
    torch.testing.assert_close(
        (logits / other).softmax(-1), F.normalize(p ** (temperature / other), p=1, dim=-1)
    )
    both = MultiTeacher([Fixed(z) for z in teachers], temperature, weights, "logits")().logits
    for t in (1.0, temperature, other):
        expected = sum(w / sum(weights) * z for w, z in zip(weights, teachers, strict=True)) / t
        torch.testing.assert_close((both / t).softmax(-1), expected.softmax(-1))


def test_each_teacher_gets_what_it_takes():
    class Typed(Fixed):
        def forward(self, input_ids, token_type_ids):
            return SequenceClassifierOutput(logits=self.fixed + token_type_ids.sum())

    plain, typed = Fixed(torch.zeros(2)), Typed(torch.tensor([1.0, 0.0]))
    batch = {"input_ids": torch.ones(1), "token_type_ids": torch.ones(1)}
    found = MultiTeacher([plain, typed], 1.0)(**batch)
    assert plain.seen is batch["input_ids"]
    assert torch.equal(found.members[1].logits, torch.tensor([2.0, 1.0]))


def test_the_trainer_takes_them_as_its_teacher(tmp_path):
    """The loss of a batch by hand; two copies of one teacher train what the teacher trains."""
    first, second, student = lm(2), lm(3, n_embd=24), lm(1)
    batch = {k: torch.stack([row[k] for row in texts(5)]) for k in texts(1)[0]}
    teacher = MultiTeacher([first, second], 2.0, [0.7, 0.3])
    trainer = DistillationTrainer(student, teacher, arguments(tmp_path), alpha=1.0, temperature=2.0)
    with torch.no_grad():
        ours = trainer.compute_loss(student, batch)
        given = {k: batch[k] for k in ("input_ids", "attention_mask")}
        keep = batch["labels"][:, 1:] != -100
        logits = [m(**given).logits[:, :-1][keep] for m in (first, second, student)]
    p = 0.7 * (logits[0] / 2).softmax(-1) + 0.3 * (logits[1] / 2).softmax(-1)
    expected = 4 * (p * (p.log() - (logits[2] / 2).log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(ours, expected)

    def after(teacher):
        model = lm(1)
        args = arguments(tmp_path, max_steps=3)
        DistillationTrainer(model, teacher, args, alpha=1.0, train_dataset=texts()).train()
        return model.lm_head.weight.detach()

    torch.testing.assert_close(after(MultiTeacher([lm(2), lm(2)], 2.0)), after(lm(2)), rtol=1e-3, atol=1e-4)


def test_the_teachers_are_left_alone(tmp_path):
    first, second = lm(2, dropout=0.5).train(), lm(3)
    args = arguments(tmp_path, max_steps=2)
    DistillationTrainer(lm(1), MultiTeacher([first, second], 2.0), args, train_dataset=texts(8)).train()
    assert first.training and not second.training
    assert all(p.grad is None for m in (first, second) for p in m.parameters())
    assert torch.equal(first.lm_head.weight, lm(2).lm_head.weight)


def test_bad_ensembles_are_refused():
    z = torch.zeros(2, 3)
    for weights in ([1.0], [0, 0], [1, -1], [1, 1, 1]):
        with pytest.raises(ValueError, match="weights: got"):
            average_probabilities([z, z], weights)
    with pytest.raises(ValueError, match="teacher_logits: got shape"):
        average_logits([z, z[:, :2]])
    with pytest.raises(ValueError, match="teacher_logits: got no list"):
        average_probabilities(z)
    with pytest.raises(ValueError, match="temperature: got 0"):
        average_probabilities([z], None, 0)
    with pytest.raises(ValueError, match="average: got 'median'"):
        MultiTeacher([nn.Linear(1, 1)], 1.0, average="median")
    with pytest.raises(ValueError, match="teachers: got none"):
        MultiTeacher([], 1.0)
