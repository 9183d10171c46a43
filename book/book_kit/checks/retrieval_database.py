"""Checks of the exercises on vector databases: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

__all__ = [
    "check_expected",
    "check_front",
    "check_merge",
    "check_pack",
    "check_scores",
    "check_servers",
]

Answer = tuple[float, str]


def check_pack(pack: Callable[[np.ndarray], bytes], unpack: Callable[[bytes, int], np.ndarray]) -> None:
    """There and back from every dtype and byte order; what has no meaning is refused on both ways."""
    vector = np.array([0.5, -2.0, 1e-3])
    expected = np.array([0.5, -2.0, 1e-3], "<f4")
    for dtype in ("<f4", "<f8", ">f4", ">f8", "<f2"):
        got = pack(vector.astype(dtype))
        assert isinstance(got, bytes), f"got {type(got).__name__}; takes bytes"
        assert got == vector.astype(dtype).astype("<f4").tobytes(), (
            f"pack of {dtype}: got {len(got)} bytes {got[:4].hex()}...; takes little-endian float32, {expected.tobytes()[:4].hex()}..."
        )
    back = unpack(expected.tobytes(), 3)
    assert back.dtype == np.float32 and np.array_equal(back, expected), f"unpack: got {back}"
    for what, call in {
        "NaN": lambda: pack(np.array([1.0, math.nan])),
        "infinity": lambda: pack(np.array([1.0, math.inf])),
        "a number that float32 cannot hold": lambda: pack(np.array([1.0, 1e300])),
        "zeros": lambda: pack(np.zeros(3)),
        "a matrix": lambda: pack(np.ones((2, 3))),
        "float64 bytes": lambda: unpack(np.ones(3).tobytes(), 3),
        "too few bytes": lambda: unpack(np.ones(2, "<f4").tobytes(), 3),
    }.items():
        try:
            with np.errstate(all="ignore"):
                call()
        except ValueError:
            continue
        raise AssertionError(f"{what}: taken without an error; raise ValueError")
    print("ok")


def check_servers(servers: Callable[[int, int, int, float, float], int]) -> None:
    """By hand at and beside a border."""
    for rows, dim, other, memory, share, expected in (
        (1000, 1, 0, 4000.0, 1.0, 1),
        (1001, 1, 0, 4000.0, 1.0, 2),
        (1_000_000, 384, 1024, 64e9, 0.5, 1),
        (100_000_000, 384, 1024, 64e9, 0.5, 8),
        (1, 384, 1024, 64e9, 0.5, 1),
    ):
        got = servers(rows, dim, other, memory, share)
        assert got == expected, (
            f"servers({rows:,}, {dim}, {other}, {memory:g}, {share}): got {got}; it is {expected}: "
            "4 bytes a number and the rest, for the share of the memory that may be filled, rounded up"
        )
    print("ok")


def check_merge(merge: Callable[[Sequence[Sequence[Answer]], int], list[Answer]]) -> None:
    """Against a sort of everything, with few answers, ties, and an id that two shards have."""
    generator = np.random.default_rng(0)
    for shards, each, k in ((3, 5, 5), (1, 4, 2), (4, 2, 5), (2, 3, 10), (3, 0, 2)):
        answers = [
            sorted(((float(s), f"{i}-{j}") for j, s in enumerate(generator.random(each))), reverse=True)
            for i in range(shards)
        ]
        expected = sorted((a for own in answers for a in own), reverse=True)[:k]
        got = list(merge(answers, k))
        assert len(got) == len(expected), f"got {len(got)} answers; there are {len(expected)}"
        assert got == expected, "the best scores of all shards first"
    moved = [[(0.9, "a"), (0.4, "b")], [(0.9, "a"), (0.5, "c")], [(0.7, "a")]]
    got = list(merge(moved, 3))
    assert [one for _, one in got] == ["a", "c", "b"], (
        f"got {got}: a row that is being moved is in two shards; name it once, with its best score"
    )
    assert list(merge([[(0.5, "b")], [(0.5, "a")]], 2)) == list(merge([[(0.5, "a")], [(0.5, "b")]], 2)), (
        "equal scores: the order must not depend on which shard answered first"
    )
    print("ok")


def check_expected(expected: Callable[[int, int, int], float]) -> None:
    """Against all ways in which k answers can lie in the shards."""
    for k, shards, each in ((1, 1, 1), (3, 2, 1), (3, 2, 2), (4, 3, 2), (5, 3, 5), (6, 2, 3)):
        ways = list(product(range(shards), repeat=k))
        mean = sum(sum(min(where.count(shard), each) for shard in range(shards)) for where in ways) / len(
            ways
        )
        got = expected(k, shards, each)
        assert abs(got - mean / k) < 1e-9, (
            f"expected({k}, {shards}, {each}): got {got:.4f}; over all {len(ways)} ways it is {mean / k:.4f}"
        )
    print("ok")


def check_scores(
    scores: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> None:
    """Equal to the inner products with decoded vectors; the codes are not turned into floats of all rows."""
    generator = np.random.default_rng(0)
    low = generator.normal(size=6).astype("f4")
    step = generator.uniform(0.01, 0.5, 6).astype("f4")
    codes = generator.integers(-128, 128, (40, 6)).astype(np.int8)
    queries = generator.normal(size=(3, 6)).astype("f4")
    decoded = low + step * (codes.astype("f8") + 128)
    got = np.asarray(scores(queries, codes, low, step))
    assert got.shape == (3, 40), f"got shape {got.shape}; takes one score for each question and row, (3, 40)"
    assert not np.allclose(got, queries @ codes.T.astype("f4"), atol=1e-3), "these are products of integers"
    wrong = got - queries @ decoded.T
    assert np.abs(wrong - wrong.mean(1, keepdims=True)).max() < 1e-3, (
        "the order is not that of the inner products: the step of a number belongs to the question's number"
    )
    assert np.abs(wrong).max() < 1e-3, (
        "the order is right; what all rows have in common is missing from the score"
    )
    print("ok")


def check_front(front: Callable[[Sequence[tuple[float, ...]]], list[int]]) -> None:
    """Quality first, then costs; against a comparison of all with all; equal ones stay together."""
    hand = [(0.75, 1536, 15), (0.75, 384, 12), (0.74, 48, 12), (0.63, 384, 18), (0.75, 384, 12)]
    got = sorted(front(hand))
    assert 0 not in got, f"got {got}: 0 is no better than 1 and costs more"
    assert 3 not in got, f"got {got}: 3 is worse than 1 in two things and equal in one"
    assert {1, 4} <= set(got), f"got {got}: 1 and 4 are equal, so neither is better in anything: both stay"
    assert got == [1, 2, 4], f"got {got}; it is [1, 2, 4]"
    generator = np.random.default_rng(0)
    rows = [tuple(map(float, row)) for row in generator.integers(0, 4, (40, 3))]

    def better(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and a[0] >= b[0] and all(x <= y for x, y in zip(a[1:], b[1:], strict=True))

    expected = [i for i, row in enumerate(rows) if not any(better(other, row) for other in rows)]
    assert sorted(front(rows)) == expected, "quality: the higher the better; every cost: the lower the better"
    print("ok")
