"""Checks of the exercises on retrieval: each takes the reader's functions and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["check_bytes", "check_fusion", "check_level", "check_masked_mean", "check_rescoring"]


def check_masked_mean(masked_mean: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Means over real positions, by loops; NaN behind the mask; a text of padding only; integer and bool masks."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 6, 3, generator=generator)
    mask = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0] * 6])
    expected = torch.stack(
        [h[m.bool()].mean(0) if m.any() else torch.zeros(3) for h, m in zip(hidden, mask, strict=True)]
    )
    got = masked_mean(hidden.clone(), mask)
    assert got.shape == (4, 3), f"got shape {tuple(got.shape)}; takes one vector a text, (4, 3)"
    assert not got[3].isnan().any(), "a text without a real position: divide by at least 1"
    assert torch.allclose(got, expected, atol=1e-6), "divide by the number of real positions, not by L"
    dirty = hidden.masked_fill(mask.unsqueeze(-1) == 0, math.nan)
    for kind in (mask, mask.bool()):
        again = masked_mean(dirty.clone(), kind)
        assert not again.isnan().any(), (
            "NaN behind the mask came through: 0 * NaN is NaN; replace, do not multiply"
        )
        assert torch.allclose(again, expected, atol=1e-6)
    print("ok")


def check_level(level: Callable[[float, int], int], share: Callable[[int, int], float]) -> None:
    """The level by hand at and beside the borders; shares that add up to 1 and fit the level."""
    for u, m, expected in (
        (1.0, 16, 0),
        (0.07, 16, 0),
        (0.06, 16, 1),
        (0.003, 16, 2),
        (0.3, 4, 0),
        (0.2, 4, 1),
    ):
        got = level(u, m)
        assert got == expected, f"level({u}, {m}): got {got}; it is {expected}: floor(-ln u / ln M)"
    assert abs(share(0, 16) - 15 / 16) < 1e-12, "15 of 16 nodes are on level 0 only"
    assert abs(sum(share(level_, 8) for level_ in range(40)) - 1) < 1e-9, (
        "every node has exactly one level: the shares add up to 1"
    )
    draws = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.double).tolist()
    seen = sum(level(1 - u, 8) == 1 for u in draws) / len(draws)
    assert abs(seen - share(1, 8)) < 0.01, (
        f"of drawn nodes {seen:.3f} have level 1; share(1, 8) says {share(1, 8):.3f}"
    )
    print("ok")


def check_bytes(vectors_that_fit: Callable[[float, int, int], tuple[int, int]]) -> None:
    """Counts by hand for M = 16 (132.27 bytes of links) and M = 32."""
    for memory, dim, m in ((1e9, 384, 16), (8e9, 768, 32), (1e6, 2, 2)):
        links = 8 * m + 4 * m / (m - 1)
        for got, size, what in zip(
            vectors_that_fit(memory, dim, m), (4 * dim, dim), ("float32", "int8"), strict=True
        ):
            fits = int(memory // (size + links))
            assert abs(got - fits) <= 1, (
                f"{what}, dim {dim}, M {m}: got {got}; {fits} fit, with {size} bytes of vector and {links:.1f} of links"
            )
    print("ok")


def check_fusion(fuse: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Against ranks counted in a loop; only the order of the scores may matter."""
    a = torch.tensor([[0.9, 0.1, 0.5], [3.0, 2.0, 1.0]])
    b = torch.tensor([[10.0, 30.0, 20.0], [0.1, 0.3, 0.2]])
    ranks = [[(1, 3), (3, 1), (2, 2)], [(1, 3), (2, 1), (3, 2)]]
    expected = torch.tensor([[1 / (60 + i) + 1 / (60 + j) for i, j in row] for row in ranks])
    got = fuse(a, b)
    assert got.shape == (2, 3), f"got shape {tuple(got.shape)}; takes a fused score for each entry, (2, 3)"
    assert torch.allclose(got.double(), expected.double(), atol=1e-6), (
        f"got {got.tolist()}; it is {expected.tolist()}: the best has rank 1"
    )
    assert torch.allclose(fuse(a * 100, b), got), "only ranks count, not the size of scores"
    print("ok")


def check_rescoring(rescored: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
    """All candidates give the exact result; few give results from among the best by signs, in exact order."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(5, 32, generator=generator), dim=1)
    documents = torch.nn.functional.normalize(torch.randn(60, 32, generator=generator), dim=1)
    exact = (queries @ documents.T).topk(4, dim=1).indices
    got = rescored(queries, documents, 4, 60)
    assert got.shape == (5, 4), f"got shape {tuple(got.shape)}; takes (5, 4)"
    assert torch.equal(got, exact), "with all documents as candidates the result is the exact one"
    for q, line in zip(queries, rescored(queries, documents, 4, 8), strict=True):
        same = ((q > 0) == (documents > 0)).sum(1)
        assert int(same[line].min()) >= int(same.sort(descending=True).values[7]), (
            "candidates: the most equal signs"
        )
        cosines = documents[line] @ q
        assert torch.equal(cosines, cosines.sort(descending=True).values), (
            "order the candidates by the exact cosine"
        )
    print("ok")
