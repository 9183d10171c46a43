"""Checks of the exercises on indexes: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = [
    "check_adc",
    "check_best_cells",
    "check_choose",
    "check_dimension",
    "check_found",
    "check_queries_to_pay",
]


def check_found(found: Callable[[float, int, int], float]) -> None:
    """Probabilities by hand, and against drawn planes."""
    assert abs(found(1.0, 10, 1) - 1) < 1e-9, "a vector always shares the key of its double"
    assert abs(found(0.0, 3, 1) - 1 / 8) < 1e-9, (
        f"found(0, 3, 1): got {found(0.0, 3, 1):.4f}; at a right angle each bit agrees with probability 1/2: 1/8"
    )
    assert abs(found(0.0, 1, 3) - 7 / 8) < 1e-9, (
        f"found(0, 1, 3): got {found(0.0, 1, 3):.4f}; missed by three tables of one bit is 1/8, so 7/8"
    )
    generator = np.random.default_rng(0)
    one, two = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    planes = generator.standard_normal((20_000, 4, 3, 2))  # trials, tables, bits, numbers
    same = (planes @ one > 0) == (planes @ two > 0)
    drawn = same.all(2).any(1).mean()
    assert abs(found(0.6, 3, 4) - drawn) < 0.02, (
        f"found(0.6, 3, 4): got {found(0.6, 3, 4):.3f}; drawn planes give {drawn:.3f}: "
        "all bits of a key, at least one table, the angle in radians"
    )
    print("ok")


def check_best_cells(best_cells: Callable[[int, int], tuple[int, float]]) -> None:
    """The minimum by trying every number of cells."""
    for n, nprobe in ((10_000, 1), (12_000, 8), (1_000_000, 16)):
        cells, cost = best_cells(n, nprobe)
        tried = range(nprobe, min(n, 20_000) + 1)
        least = min(c + nprobe * n / c for c in tried)
        assert isinstance(cells, int), f"cells: got {type(cells).__name__}; takes a whole number"
        assert nprobe <= cells <= n, f"{n} vectors, nprobe {nprobe}: got {cells} cells"
        own = cells + nprobe * n / cells
        assert abs(cost - own) < 1e-3 * own, (
            f"{cells} cells cost {own:.1f} comparisons, not {cost:.1f}: one for each centroid and the vectors of nprobe cells"
        )
        assert own < 1.001 * least, (
            f"{n} vectors, nprobe {nprobe}: {cells} cells cost {own:.1f}; another number costs {least:.1f}"
        )
    print("ok")


def check_dimension(dimension: Callable[[np.ndarray], float]) -> None:
    """Flat patches of known dimension, turned into a space of more dimensions; a scale that must not matter."""
    generator = np.random.default_rng(0)
    for d in (2, 3, 6):
        patch = generator.uniform(size=(1500, d))
        turned = np.linalg.qr(generator.standard_normal((20, 20)))[0][:d]
        vectors = (patch @ turned).astype(np.float32)
        got = dimension(vectors)
        assert math.isfinite(got), "a vector is its own nearest neighbour at distance 0: leave it out"
        assert abs(got - d) < 0.12 * d + 0.1, (
            f"points of a patch of {d} dimensions in 20: got {got:.2f}; N divided by the sum of ln(second / first)"
        )
        assert abs(dimension(3 * vectors) - got) < 0.05 * got, "a larger scale is not a larger dimension"
    print("ok")


def check_adc(adc: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Against the inner products with the decoded vectors, on pieces of different length."""
    generator = np.random.default_rng(0)
    for parts, codes, width, n in ((4, 8, 2, 30), (3, 16, 5, 7)):
        codebooks = generator.standard_normal((parts, codes, width))
        stored = generator.integers(0, codes, (n, parts)).astype(np.uint8)
        query = generator.standard_normal(parts * width)
        decoded = np.concatenate([codebooks[j][stored[:, j]] for j in range(parts)], axis=1)
        got = adc(query, codebooks, stored)
        assert np.shape(got) == (n,), f"got shape {np.shape(got)}; takes a score for each code, ({n},)"
        assert np.allclose(got, decoded @ query), (
            "the scores are not the inner products with the decoded vectors: piece j of the query belongs to codebook j"
        )
    print("ok")


def check_choose(choose: Callable[[np.ndarray, np.ndarray, int], list[int]]) -> None:
    """Points on a circle by hand, a cluster beside a lone point, and a loop over the rule."""
    circle = {0: 0.1, 1: 0.2, 2: 0.3, 3: -0.15}
    points = np.array([[math.cos(a), math.sin(a)] for a in circle.values()])
    centre = np.array([1.0, 0.0])
    got = [int(i) for i in choose(centre, points, 4)]
    assert got and got[0] == 0, f"got {got}; the nearest candidate, 0, is chosen first"
    assert got == [0, 3], (
        f"got {got}; it is [0, 3]: 1 and 2 are nearer to 0, which was chosen, than to the new vector"
    )
    assert [int(i) for i in choose(centre, points, 1)] == [0], "no more than `most`"
    generator = np.random.default_rng(0)
    for _ in range(20):
        points = generator.standard_normal((12, 4))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        vector, others = points[0], points[1:]
        expected: list[int] = []
        for i in np.argsort(-(others @ vector)):
            if len(expected) < 3 and all(others[i] @ others[j] < others[i] @ vector for j in expected):
                expected.append(int(i))
        got = [int(i) for i in choose(vector, others, 3)]
        assert got == expected, f"got {got}; it is {expected}, the nearest first"
    print("ok")


def check_queries_to_pay(queries_to_pay: Callable[[float, float, float], float]) -> None:
    """By hand; an index that is not faster never pays."""
    assert abs(queries_to_pay(3.0, 0.5, 0.2) - 10) < 1e-9, (
        f"got {queries_to_pay(3.0, 0.5, 0.2)}; 3 s of building at 0.3 s saved a query are 10 queries"
    )
    assert queries_to_pay(0.0, 0.5, 0.2) == 0, "what costs nothing to build pays at once"
    for slower in (0.5, 0.9):
        assert queries_to_pay(3.0, 0.5, slower) == math.inf, (
            "an index that saves nothing never pays: infinity"
        )
    print("ok")
