"""Checks of the exercises on low rank: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "check_allocate",
    "check_best_rank",
    "check_rank_for_error",
    "check_truncate_product",
    "check_weighted_svd",
]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_best_rank(answer: Callable[[int, int], int]) -> None:
    """``answer(m, n)``: the largest rank whose factors have fewer entries than the matrix."""
    for m, n in ((768, 768), (768, 3072), (4096, 11008), (20, 30), (7, 5), (2, 2), (1, 9)):
        got = answer(m, n)
        assert isinstance(got, int), f"got {type(got).__name__} for {m} x {n}; takes an int"
        assert got * (m + n) < m * n, f"rank {got} of {m} x {n} saves nothing: r(m + n) < mn is strict"
        assert (got + 1) * (m + n) >= m * n, f"rank {got + 1} of {m} x {n} would still be smaller"
    print("ok")


def check_rank_for_error(answer: Callable[[Tensor, float], int]) -> None:
    """``answer(singular_values, tolerance)``: smallest rank with ‖W − W_r‖_F ≤ tolerance · ‖W‖_F."""
    s = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)  # squares 16 + 9 + 4 + 1 = 30
    for tolerance, rank in ((0.1, 4), (0.2, 3), (0.41, 2), (0.5, 2), (0.7, 1), (1.0, 0)):
        got = int(answer(s, tolerance))
        hint = "compare errors, not squared errors" if tolerance == 0.2 else "sum what is dropped, not kept"
        assert got == rank, f"got rank {got} for tolerance {tolerance}, not {rank}: {hint}"
    print("ok")


class _Largest(TorchDispatchMode):
    """Remembers the number of entries of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else [result]:
            if isinstance(item, Tensor):
                self.entries = max(self.entries, item.numel())
        return result


def check_truncate_product(answer: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """``answer(up, down, rank)``: the best factors of lower rank for up @ down, without forming it."""
    m, n, r = 200, 150, 12
    up, down = _random(m, r), _random(r, n, seed=1) * torch.arange(1, r + 1)[:, None]
    with _Largest() as seen:
        new_up, new_down = answer(up, down, 5)
    assert new_up.shape == (m, 5) and new_down.shape == (5, n), "factors have shapes [m, rank] and [rank, n]"
    assert seen.entries < m * n, f"a tensor of {seen.entries:,} entries was made: do not form the product"
    s = torch.linalg.svdvals(up @ down)
    wanted, got = s[5:].norm(), (up @ down - new_up @ new_down).norm()
    assert got <= wanted * (1 + 1e-6), f"error {got:.4g}, the best is {wanted:.4g}"
    print("ok")


def check_allocate(answer: Callable[[Sequence[Tensor], Sequence[tuple[int, int]], int], list[int]]) -> None:
    """``answer(spectra, shapes, budget)``: ranks that keep most energy for so many parameters."""
    spectra = [torch.tensor([5.0, 1.0, 0.5]), torch.tensor([3.0, 2.9, 2.8]), torch.tensor([0.2, 0.1, 0.1])]
    square = [(10, 10)] * 3
    for count in range(1, 9):
        ranks = list(answer(spectra, square, 20 * count))
        assert sum(ranks) <= count, f"ranks {ranks} cost {20 * sum(ranks)}; the budget is {20 * count}"
        kept = sum(float(s[:r].square().sum()) for s, r in zip(spectra, ranks, strict=True))
        choices = [c for c in itertools.product(range(4), repeat=3) if sum(c) <= count]
        best = max(sum(float(s[:r].square().sum()) for s, r in zip(spectra, c, strict=True)) for c in choices)
        assert kept >= best * (1 - 1e-9), (
            f"budget {20 * count}: ranks {ranks} keep {kept:.3f} of at most {best:.3f}"
        )
    wide = list(answer([torch.tensor([2.0, 1.0]), torch.tensor([2.1, 1.0])], [(10, 10), (10, 40)], 20))
    assert wide == [1, 0], f"got {wide}: a rank of the 10 x 40 layer costs 50, more than the budget of 20"
    dear = list(answer([torch.tensor([2.0, 1.9]), torch.tensor([2.1, 0.1])], [(10, 10), (10, 40)], 50))
    assert dear == [2, 0], f"got {dear}: divide the energy of a rank by what it costs, m + n"
    print("ok")


def check_weighted_svd(answer: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """``answer(weight, gram, rank)``: the matrix A of that rank with the smallest ‖X(W − A)ᵀ‖_F."""
    weight = _random(8, 6)
    x = _random(50, 6, seed=1) * torch.tensor([10.0, 3, 1, 1, 0.3, 0.1])
    gram = x.T @ x
    root = torch.linalg.cholesky(gram)
    for rank in (1, 3, 5):
        a = answer(weight, gram, rank)
        assert a.shape == weight.shape, f"got shape {tuple(a.shape)}; takes W's, {tuple(weight.shape)}"
        assert int(torch.linalg.matrix_rank(a, rtol=1e-8)) <= rank, f"the rank is more than {rank}"
        wanted = torch.linalg.svdvals(weight @ root)[rank:].norm()
        got = (x @ (weight - a).T).norm()
        plain = torch.linalg.svd(weight)
        truncated = (plain.U[:, :rank] * plain.S[:rank]) @ plain.Vh[:rank]
        if torch.allclose(a, truncated):
            raise AssertionError("that is the plain SVD: it does not look at the inputs")
        assert got <= wanted * (1 + 1e-6), f"output error {got:.4g}, the best is {wanted:.4g}"
    print("ok")
