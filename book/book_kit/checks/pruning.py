"""Checks of the exercises on pruning: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

__all__ = ["check_coo", "check_mask", "check_shrink", "check_two_four", "check_wanda"]


def _is_mask(got: object, shape: Sequence[int]) -> Tensor:
    assert isinstance(got, Tensor), f"got {type(got).__name__}: return a tensor"
    assert got.dtype == torch.bool, f"got dtype {got.dtype}: a mask is boolean, True where kept"
    assert tuple(got.shape) == tuple(shape), f"got shape {tuple(got.shape)}: a mask has the weight's shape"
    return got


def check_mask(answer: Callable[[Tensor, float], Tensor]) -> None:
    """``answer(scores, sparsity)``: True where kept, exactly the floor removed."""
    draw = torch.Generator().manual_seed(0)
    for scores in (torch.ones(10, 10), torch.rand(10, 10, generator=draw), torch.rand(7, 3, generator=draw)):
        for sparsity in (0, 0.1, 0.29, 0.5, 0.58, 0.9, 1):
            got = int((~_is_mask(answer(scores.clone(), sparsity), scores.shape)).sum())
            wanted = int(Fraction(str(sparsity)) * scores.numel())
            assert got == wanted, (
                f"sparsity {sparsity} of {scores.numel()} removes {got}, not {wanted}: "
                "fix the number first (and 0.29 * 100 is a little under 29), then choose which"
            )
    kept = answer(torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0]), 0.4)
    assert kept.tolist() == [True, False, True, True, False], (
        f"got {kept.tolist()} for [3, 1, 1, 1, 0] at 0.4: the lowest goes, then the first of the equal ones"
    )
    print("ok")


def check_coo(answer: Callable[[int, int], float]) -> None:
    """``answer(value_bytes, index_bytes)``: the density at which COO takes as much as dense."""
    for v in (1, 2, 4, 8):
        for i in (2, 4, 8):
            d = float(answer(v, i))
            per_entry = d * (v + 2 * i)
            assert abs(per_entry - v) < 1e-9 * v, (
                f"at density {d:.3f} COO takes {per_entry:.3f} bytes for each entry of the matrix, dense {v}: "
                "each stored value brings two indices"
            )
    print("ok")


def check_shrink(answer: Callable[[nn.Linear, nn.Linear, list[int]], tuple[nn.Linear, nn.Linear]]) -> None:
    """``answer(first, second, keep)``: two new layers with only the neurons ``keep``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(5, 6)
        for bias in (True, False):
            first, second = nn.Linear(6, 8, bias=bias), nn.Linear(8, 4, bias=bias)
            before = copy.deepcopy([first.state_dict(), second.state_dict()])
            keep = [6, 0, 3]
            small = answer(first, second, keep)
            assert [tuple(layer.weight.shape) for layer in small] == [(3, 6), (4, 3)], (
                f"got shapes {[tuple(layer.weight.shape) for layer in small]}: "
                "rows of the first, columns of the second"
            )
            gate = torch.zeros(8).index_fill_(0, torch.tensor(keep), 1)
            wanted = second(torch.tanh(first(x)) * gate)
            got = small[1](torch.tanh(small[0](x)))
            assert torch.allclose(got, wanted, atol=1e-5), (
                f"outputs differ by {float((got - wanted).detach().abs().max()):.2g} (bias={bias}): "
                "the first bias goes with the rows, the second bias stays"
            )
            for old, layer in zip(before, (first, second), strict=True):
                assert all(torch.equal(v, layer.state_dict()[k]) for k, v in old.items()), (
                    "the old layers changed"
                )
    print("ok")


def check_two_four(answer: Callable[[Tensor], Tensor]) -> None:
    """``answer(weight)``: the mask that keeps the two largest magnitudes of every four in a row."""
    hand = torch.tensor([[1.0, -4, 2, -3, 5, 0, 0, -6]])
    kept = _is_mask(answer(hand.clone()), hand.shape)
    assert kept.int().tolist() == [[0, 1, 0, 1, 1, 0, 0, 1]], (
        f"got {kept.int().tolist()} for {hand.tolist()}: magnitudes, in groups of four along the row"
    )
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    groups = _is_mask(answer(weight.clone()), weight.shape).reshape(-1, 4)
    assert bool((groups.sum(1) == 2).all()), "some groups of four do not keep exactly two"
    lost = weight.reshape(-1, 4).abs().masked_fill(groups, 0).amax(1)
    least = weight.reshape(-1, 4).abs().masked_fill(~groups, torch.inf).amin(1)
    assert bool((lost <= least).all()), "a weight was removed that is larger than one that was kept"
    same = _is_mask(answer(torch.ones(2, 4)), (2, 4))
    assert int(same.sum()) == 4, (
        f"of eight equal weights {int(same.sum())} stay, not 4: count, do not compare"
    )
    print("ok")


def check_wanda(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """``answer(weight, gram, sparsity)``: per row, the smallest |w|·sqrt(G_jj) go."""
    hand, gram = torch.tensor([[5.0, 3, 2, -1], [1, 1, 1, 1]]), torch.diag(torch.tensor([1.0, 1, 4, 36]))
    kept = _is_mask(answer(hand.clone(), gram, 0.5), hand.shape)
    assert kept.int().tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]], (
        f"got {kept.int().tolist()} for {hand.tolist()} with feature norms 1, 1, 2, 6 at 0.5: "
        "compare |w| times the norm, which is sqrt(G_jj), within each row"
    )
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 10, generator=draw), torch.randn(40, 10, generator=draw)
    kept = _is_mask(answer(weight.clone(), x.T @ x, 0.3), weight.shape)
    assert (~kept).sum(1).tolist() == [3] * 5, f"rows lose {(~kept).sum(1).tolist()}: compare within each row"
    score = weight.abs() * x.norm(dim=0)
    assert torch.equal(kept, score >= score.sort(1).values[:, 3:4]), "other weights go than the lowest scores"
    print("ok")
