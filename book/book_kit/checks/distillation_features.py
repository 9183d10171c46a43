"""Checks of the exercises on features: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from book_kit.checks.distillation import _close, _logits

__all__ = ["check_centred_scores", "check_cosine_gradient", "check_masked_hidden", "check_rotation"]


def _mask() -> Tensor:
    return torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def _random(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def check_masked_hidden(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """``answer(student, teacher, mask)``: squared error, mean over the width and the real positions."""
    mask = _mask()
    student, teacher = _logits(3, 5, 4)
    total, count, all_of_it = 0.0, 0, 0.0
    for i in range(3):
        for j in range(5):
            row = zip(student[i, j].tolist(), teacher[i, j].tolist(), strict=True)
            error = sum((a - b) ** 2 for a, b in row) / 4
            all_of_it += error
            if mask[i, j]:
                total, count = total + error, count + 1
    got = answer(student, teacher, mask)
    assert got.ndim == 0, f"got shape {tuple(got.shape)}; takes one number"
    value = float(got)
    if math.isclose(value, all_of_it / 15, rel_tol=1e-6):
        raise AssertionError("padding is in the mean: take the real positions only")
    if math.isclose(value, total / 15, rel_tol=1e-6):
        raise AssertionError(
            "divided by all positions: the mean is over the real ones, and longer padding lowers it"
        )
    if math.isclose(value, 4 * total / count, rel_tol=1e-6):
        raise AssertionError("summed over the width: take the mean over it")
    _close(value, total / count, "the mean over the width and the real positions")
    dirty = student.masked_fill(mask[..., None] == 0, math.nan).requires_grad_()
    loss = answer(dirty, teacher, mask)
    assert bool(loss.isfinite()), "NaN in padding reaches the loss: cut the rows out, NaN * 0 is NaN"
    (gradient,) = torch.autograd.grad(loss, dirty)
    assert bool(gradient[mask == 1].isfinite().all()), "NaN in padding reaches the gradient"
    print("ok")


def check_cosine_gradient(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """``answer(a, b)``: the gradient of ``mean_i [1 - cos(a_i, b_i)]`` with respect to ``a`` ``[N, D]``."""
    a, b = 3 * _random(6, 5), _random(6, 5, seed=1)
    with torch.no_grad():
        got = answer(a, b)
    assert got.shape == a.shape, f"got shape {tuple(got.shape)}; takes a's, {tuple(a.shape)}"
    wanted = torch.empty_like(a)
    step = 1e-6
    for i in range(6):  # central differences: independent of any formula
        for k in range(5):
            up, down = (_cosine_loss(a, b, i, k, h) for h in (step, -step))
            wanted[i, k] = (up - down) / (2 * step)
    if torch.allclose(got, -wanted, atol=1e-6):
        raise AssertionError("the sign: that is the direction that lowers the loss, the gradient raises it")
    if torch.allclose(got, 6 * wanted, atol=1e-6):
        raise AssertionError("the loss is a mean over the rows: divide by their number")
    along = (got * a).sum(-1).abs().max()
    assert along < 1e-6, "the gradient has a part along a: the length of a does not change the loss"
    assert torch.allclose(got, wanted, atol=1e-6), "differs from central differences: is 1/|a| in it?"
    print("ok")


def _cosine_loss(a: Tensor, b: Tensor, i: int, k: int, step: float) -> float:
    total = 0.0
    for n, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        x = [value + step if (n, j) == (i, k) else value for j, value in enumerate(x)]
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        total += 1 - dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))
    return total / len(a)


def check_centred_scores(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """``answer(student, teacher, mask)``: squared error of scores, blind to a constant a query."""
    mask = _mask()
    student, teacher = _random(3, 2, 5, 5), _random(3, 2, 5, 5, seed=1)
    got = answer(student, teacher, mask)
    assert got.ndim == 0, f"got shape {tuple(got.shape)}; takes one number"
    moved = student + _random(3, 2, 5, 1, seed=2)
    _close(answer(moved, teacher, mask), float(got), "a constant added to a query's scores changes it")
    garbage = student.masked_fill(mask[:, None, None, :] == 0, 1e3)
    _close(
        answer(garbage, teacher, mask), float(got), "a padded key changes it, or is in the mean of the scores"
    )
    garbage = student.masked_fill(mask[:, None, :, None] == 0, 1e3)
    garbage = garbage + torch.arange(5).double() * (mask[:, None, :, None] == 0)
    _close(answer(garbage, teacher, mask), float(got), "a padded query changes it")
    total, count = 0.0, 0
    for i in range(3):
        keys = [k for k in range(5) if mask[i, k]]
        for q in keys:
            for h in range(2):
                gap = [float(student[i, h, q, k] - teacher[i, h, q, k]) for k in keys]
                middle = sum(gap) / len(gap)
                total += sum((g - middle) ** 2 for g in gap) / len(gap)
                count += 1
    _close(got, total / count, "the mean over the real keys, then over the heads and the real queries")
    print("ok")


def check_rotation(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """``answer(student, teacher)``: the orthogonal ``W`` with the smallest squared error of ``student @ W``."""
    student = _random(40, 6)
    turn = torch.linalg.qr(_random(6, 6, seed=1))[0]
    for noise in (0.0, 0.3):
        teacher = 2 * student @ turn + noise * _random(40, 6, seed=2)
        W = answer(student, teacher)
        assert W.shape == (6, 6), f"got shape {tuple(W.shape)}; takes (6, 6)"
        assert torch.allclose(W.T @ W, torch.eye(6, dtype=W.dtype), atol=1e-6), "W'W is not the identity"
        if noise == 0:
            assert torch.allclose(W, turn, atol=1e-6), (
                "the teacher is the student turned and doubled; that turn is not found (is W transposed?)"
            )
        error = float((student @ W - teacher).square().sum())
        gains = torch.linalg.matrix_norm(student.T @ teacher, "nuc")  # of the best rotation: tr(W'S'T)
        least = float(student.square().sum() + teacher.square().sum() - 2 * gains)
        assert error <= least + 1e-6, f"squared error {error:.3f}, and a rotation with {least:.3f} exists"
    print("ok")
