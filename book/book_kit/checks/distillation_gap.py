"""Checks of the exercises on bridging the gap: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from book_kit.checks.distillation import _close, _logits, _softmax

__all__ = ["check_assistant", "check_mixed_target", "check_peer_losses", "check_projected"]


def _cross_entropy(target: Tensor, logits: Tensor) -> float:
    """Mean over the rows, in loops, so that a mistake in the package cannot hide one in the answer."""
    rows = zip(target.tolist(), logits.tolist(), strict=True)
    total = [
        -sum(a * math.log(b) for a, b in zip(p, _softmax(z, 1.0), strict=True) if a > 0) for p, z in rows
    ]
    return sum(total) / len(total)


def check_projected(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """``answer(p, seen)``: in each row the mean of ``p`` over the rows with the same ``seen``."""
    logits, _ = _logits(12, 4)
    p = logits.softmax(-1)
    seen = torch.tensor([7, 0, 7, 2, 0, 7, 2, 2, 9, 0, 7, 2])
    kept = p.clone()
    got = answer(p, seen)
    assert torch.equal(p, kept), "the probabilities that were given have been changed: work on a copy"
    assert got.shape == p.shape, f"got shape {tuple(got.shape)}; takes one row for each row of p, {(12, 4)}"
    wanted = torch.stack([torch.stack([p[j] for j in range(12) if seen[j] == k]).mean(0) for k in seen])
    if torch.allclose(got, p.mean(0).expand_as(p)):
        raise AssertionError("that is the mean over all rows: only rows that look the same are averaged")
    assert torch.allclose(got, wanted), "differs from the mean over the rows that look the same"
    # a student that is a function of what it sees cannot tell the two targets apart
    student = _logits(10, 4, seed=1)[0][seen]
    _close(
        _cross_entropy(got, student), _cross_entropy(p, student), "the mean loss of such a student changes"
    )
    print("ok")


def check_mixed_target(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """``answer(labels, teacher_logits, alpha)``: the target whose cross-entropy is the whole loss."""
    student, teacher = _logits(6, 5)
    labels = torch.tensor([0, 3, 4, 1, 1, 2])
    one_hot = torch.eye(5, dtype=torch.float64)[labels]
    soft = torch.tensor([_softmax(row, 1.0) for row in teacher.tolist()], dtype=torch.float64)
    for alpha in (0.0, 0.25, 1.0):
        got = answer(labels, teacher, alpha)
        assert got.shape == (6, 5), f"got shape {tuple(got.shape)}; takes (6, 5), a distribution for each row"
        got = got.double()
        sums = got.sum(-1)
        assert torch.allclose(sums, torch.ones_like(sums)), "the rows do not sum to 1"
        if alpha in (0.0, 1.0) and torch.allclose(got, soft if alpha == 0 else one_hot, atol=1e-6):
            raise AssertionError("α is the teacher's weight: at 1 the target is the teacher, at 0 the label")
        wanted = (1 - alpha) * _cross_entropy(one_hot, student) + alpha * _cross_entropy(soft, student)
        _close(_cross_entropy(got, student), wanted, f"at α = {alpha:g}: not the loss of the two terms")
    print("ok")


def check_peer_losses(answer: Callable[[Sequence[Tensor], Tensor, float, float], Sequence[Tensor]]) -> None:
    """``answer(logits, labels, alpha, T)``: a loss for each student, which trains that student alone."""
    both = (*_logits(4, 3), _logits(4, 3, seed=1)[0])
    labels = torch.tensor([0, 2, 1, 1])
    for alpha, temperature in ((0.5, 1.0), (0.25, 2.0), (1.0, 3.0)):
        logits = [z.clone().requires_grad_() for z in both]
        losses = answer(logits, labels, alpha, temperature)
        assert len(losses) == 3, f"got {len(losses)} losses; takes one for each of the 3 students"
        soft = [[_softmax(row, temperature) for row in z.tolist()] for z in both]
        for k, (loss, z) in enumerate(zip(losses, both, strict=True)):
            peers = [p for j, p in enumerate(soft) if j != k]
            one_hot = torch.eye(3, dtype=torch.float64)[labels]
            total = 0.0
            for n in range(4):
                mean = [sum(p[n][c] for p in peers) / 2 for c in range(3)]
                total += sum(a * math.log(a / b) for a, b in zip(mean, soft[k][n], strict=True)) / 4
            wanted = (1 - alpha) * _cross_entropy(one_hot, z) + alpha * temperature**2 * total
            assert loss.ndim == 0, f"got shape {tuple(loss.shape)}; takes one number a student"
            assert loss.requires_grad, "a student's loss does not train the student"
            value = float(loss.detach())
            hint = f"student {k + 1} at α = {alpha:g}, T = {temperature:g}"
            without = wanted - alpha * (temperature**2 - 1) * total
            if temperature != 1 and math.isclose(value, without, rel_tol=1e-6):
                hint = "T² is missing"
            _close(value, wanted, hint)
            gradients = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
            for j, gradient in enumerate(gradients):
                reached = gradient is not None and bool(gradient.abs().max() > 1e-12)
                assert not (reached and j != k), "a student's loss trains its peers: detach their outputs"
                assert reached or j != k, "a student's loss does not train the student"
    print("ok")


def check_assistant(answer: Callable[[int], Tensor]) -> None:
    """``answer(words)`` gives ten students' accuracies in per cent; 100 words teach better than 1,000."""
    scores = {}
    for words in (100, 1000):
        values = answer(words)
        assert values.shape == (10,), f"got shape {tuple(values.shape)}; takes ten accuracies"
        mean = float(values.mean())
        assert 40 < mean < 100, f"{words} words: mean accuracy {mean:.1f} %; takes per cent, on validation"
        scores[words] = mean
    assert scores[100] > scores[1000] + 1, (
        f"100 words give {scores[100]:.1f} %, 1,000 words {scores[1000]:.1f} %: "
        "is the assistant trained on all texts, and the student on its few, on the assistant's outputs?"
    )
    print("ok")
