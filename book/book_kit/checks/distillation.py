"""Checks of the exercises on distillation: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "check_bias",
    "check_born_again",
    "check_kl",
    "check_masked_kd",
    "check_reverse_gradient",
    "check_torch_kd",
]


def _softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    weights = [math.exp((x - top) / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def _kd(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Loops, so that a mistake in the package cannot hide one in the answer."""
    rows = zip(student.flatten(0, -2).tolist(), teacher.flatten(0, -2).tolist(), strict=True)
    total = [
        sum(
            a * math.log(a / b)
            for a, b in zip(_softmax(t, temperature), _softmax(s, temperature), strict=True)
        )
        for s, t in rows
    ]
    return temperature**2 * sum(total) / len(total)


def _logits(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))


def _close(got: object, wanted: float, hint: str) -> None:
    value = float(got)
    assert math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-9), (
        f"got {value:.6g}, not {wanted:.6g}: {hint}"
    )


def check_kl(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """``answer(p, q)``: divergence of probability vectors along the last dimension."""
    p, q = torch.tensor([0.8, 0.1, 0.1]).double(), torch.tensor([0.7, 0.2, 0.1]).double()
    p, q = p / p.sum(), q / q.sum()
    _close(
        answer(p, q), 0.8 * math.log(8 / 7) - 0.1 * math.log(2), "KL(p‖q) weighs with p, the first argument"
    )
    one = torch.tensor([1.0, 0.0, 0.0]).double()
    spread = torch.tensor([0.5, 0.25, 0.25]).double()
    value = answer(one, spread)
    assert not torch.isnan(value), "got NaN for p with zeros: 0 log 0 is 0, not 0 · (−∞)"
    _close(value, math.log(2), "entries with p = 0 add nothing")
    assert float(answer(spread, one)) == math.inf, "q = 0 where p > 0 makes the divergence infinite"
    _close(answer(one, one), 0.0, "p and q both 0 in a place: that place adds nothing")
    batch = answer(torch.stack([p, one]), torch.stack([q, spread]))
    assert batch.shape == (2,), f"got shape {tuple(batch.shape)} for two rows; takes one value a row"
    print("ok")


def check_torch_kd(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """``answer(student_logits, teacher_logits, T)`` equals the loss for any leading dimensions."""
    for shape in ((6, 5), (2, 3, 5), (2, 3, 50), (2, 2, 2, 7)):
        student, teacher = _logits(*shape)
        for temperature in (1.0, 4.0):
            wanted = _kd(student, teacher, temperature)
            got = float(answer(student, teacher, temperature))
            swapped = _kd(teacher, student, temperature)
            hint = "look again at reduction, shape and T²"
            if math.isclose(got * temperature**2, wanted, rel_tol=1e-6) and temperature != 1:
                hint = "T² is missing"
            elif math.isclose(got * shape[-1], wanted, rel_tol=1e-6):
                hint = "'mean' divides by the vocabulary too"
            elif math.isclose(got, swapped, rel_tol=1e-6):
                hint = "that is the reverse divergence: F.kl_div takes log q first, then p"
            elif len(shape) > 2 and math.isclose(
                got * math.prod(shape[1:-1]), wanted * math.prod(shape[1:-1]) ** 2
            ):
                hint = "'batchmean' divides by the first dimension only: flatten the positions"
            assert math.isclose(got, wanted, rel_tol=1e-6), f"shape {shape}, T={temperature}: {hint}"
    print("ok")


def check_masked_kd(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """``answer(student_logits, teacher_logits, mask, T)``: mean over unmasked positions, safe from NaN."""
    student, teacher = _logits(3, 4, 5)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    keep = mask.bool()
    wanted = _kd(student[keep], teacher[keep], 2.0)
    _close(answer(student, teacher, mask, 2.0), wanted, "average over the unmasked positions only")
    for garbage in (float("inf"), float("nan")):
        dirty, dirty_teacher = student.clone(), teacher.clone()
        dirty[~keep], dirty_teacher[~keep] = garbage, garbage
        dirty.requires_grad_()
        value = answer(dirty, dirty_teacher, mask, 2.0)
        assert torch.isfinite(value), f"{garbage} in the padding reaches the value"
        _close(value.detach(), wanted, "garbage in the padding changes the value")
        (gradient,) = torch.autograd.grad(value, dirty)
        assert torch.isfinite(gradient).all(), f"{garbage} in the padding reaches the gradient"
        assert not gradient[~keep].any(), "the gradient in the padding is 0"
        assert gradient[keep].abs().sum() > 0, "the gradient of the real positions is lost"
    print("ok")


def check_reverse_gradient(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """``answer(student_logits, teacher_logits, T)`` against central differences of a loop."""
    student, teacher = _logits(3, 4)
    step = 1e-5
    for temperature in (1.0, 3.0):
        got = answer(student, teacher, temperature)
        assert got.shape == student.shape, f"got shape {tuple(got.shape)}; takes that of the logits"
        wanted = torch.empty_like(student)
        for n, k in ((n, k) for n in range(3) for k in range(4)):
            high, low = student.clone(), student.clone()
            high[n, k] += step
            low[n, k] -= step
            # reverse: the student's distribution is the first argument of the divergence
            wanted[n, k] = (_kd(teacher, high, temperature) - _kd(teacher, low, temperature)) / (2 * step)
        if torch.allclose(got, 3 * wanted, atol=1e-6):
            raise AssertionError("3 times too large: the loss is the mean over the rows")
        if temperature != 1 and torch.allclose(got / temperature, wanted * temperature, atol=1e-6):
            raise AssertionError("T² of the loss meets 1/T of the chain rule: T is left")
        assert torch.allclose(got, wanted, atol=1e-6), (
            f"differs from the numerical gradient at T={temperature}"
        )
    print("ok")


def check_bias(answer: Callable[[Tensor, int, float], float]) -> None:
    """``answer(logits, missing, share)``: after the raise, that share of the rows is predicted as ``missing``."""
    for seed, (missing, share) in enumerate(((3, 0.1), (0, 0.25), (5, 0.5))):
        logits, _ = _logits(200, 6, seed=seed)
        logits[:, missing] -= 9
        kept = logits.clone()
        raised = logits.clone()
        raised[:, missing] += answer(logits, missing, share)
        assert torch.equal(logits, kept), "the logits that were given have been changed: work on a copy"
        predicted = int((raised.argmax(-1) == missing).sum())
        assert predicted == round(share * 200), (
            f"class {missing}: {predicted} of 200 rows predicted, not {share * 200:.0f}"
        )
    print("ok")


def check_born_again(answer: Callable[[float], tuple[Tensor, Tensor]]) -> None:
    """``answer(T)`` gives ten teachers' and ten students' accuracies in per cent."""
    parents, children = answer(2)
    for name, values in (("teachers", parents), ("students", children)):
        assert values.shape == (10,), f"{name}: got shape {tuple(values.shape)}; takes ten accuracies"
        assert 60 < float(values.mean()) < 100, (
            f"{name}: mean accuracy {float(values.mean()):.1f} %; takes per cent"
        )
    assert not torch.equal(parents, children), "students and teachers are the same networks"
    print("ok")
