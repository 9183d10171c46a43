"""The checks of the exercises on vector databases take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from book_kit.checks import retrieval_database as checks


def pack(vector, finite=True, zero=True, shape=True, dtype="<f4"):
    with np.errstate(over="ignore"):
        row = np.ascontiguousarray(vector, dtype=dtype)
    if shape and row.ndim != 1:
        raise ValueError("shape")
    if finite and not np.isfinite(row).all():
        raise ValueError("finite")
    if zero and not row.any():
        raise ValueError("zero")
    return row.tobytes()


def unpack(payload, dim, length=True):
    if length and len(payload) != 4 * dim:
        raise ValueError("length")
    return np.frombuffer(payload, "<f4")


def servers(rows, dim, other, memory, share):
    return math.ceil(rows * (4 * dim + other) / (share * memory))


def merge(answers, k):
    best = {}
    for own in answers:
        for score, one in own:
            best[one] = max(score, best.get(one, -math.inf))
    return sorted(((score, one) for one, score in best.items()), reverse=True)[:k]


def expected(k, shards, each):
    p = 1 / shards
    return shards / k * sum(math.comb(k, b) * p**b * (1 - p) ** (k - b) * min(b, each) for b in range(k + 1))


def scores(queries, codes, low, step):
    return (queries * step) @ codes.T.astype("f4") + (queries @ (low + 128 * step))[:, None]


def front(rows):
    def better(a, b):
        return a != b and a[0] >= b[0] and all(x <= y for x, y in zip(a[1:], b[1:], strict=True))

    return [i for i, row in enumerate(rows) if not any(better(other, row) for other in rows)]


def test_right_answers_are_taken(capsys):
    checks.check_pack(pack, unpack)
    checks.check_servers(servers)
    checks.check_merge(merge)
    checks.check_expected(expected)
    checks.check_scores(scores)
    checks.check_front(front)
    assert capsys.readouterr().out == "ok\n" * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.check_pack(lambda v: v.tobytes(), unpack), "little-endian float32"),
        (lambda: checks.check_pack(lambda v: pack(v, dtype=">f4"), unpack), "little-endian float32"),
        (lambda: checks.check_pack(lambda v: pack(v).hex(), unpack), "takes bytes"),
        (lambda: checks.check_pack(lambda v: pack(v, finite=False), unpack), "NaN: taken"),
        (lambda: checks.check_pack(lambda v: pack(v, zero=False), unpack), "zeros: taken"),
        (lambda: checks.check_pack(lambda v: pack(v, shape=False), unpack), "a matrix: taken"),
        (lambda: checks.check_pack(pack, lambda p, d: unpack(p, d, length=False)), "float64 bytes: taken"),
        (lambda: checks.check_pack(pack, lambda p, d: unpack(p, d)[::-1]), "unpack: got"),
        (
            lambda: checks.check_servers(lambda n, d, o, m, s: int(n * (4 * d + o) / (s * m))),
            "rounded up",
        ),
        (lambda: checks.check_servers(lambda n, d, o, m, s: servers(n, d, o, m, 1)), "share of the memory"),
        (lambda: checks.check_servers(lambda n, d, o, m, s: servers(n, d, 0, m, s)), "and the rest"),
        (lambda: checks.check_merge(lambda a, k: [x for own in a for x in own][:k]), "best scores"),
        (lambda: checks.check_merge(lambda a, k: merge(a, k)[: k - 1]), "got"),
        (
            lambda: checks.check_merge(lambda a, k: sorted((x for own in a for x in own), reverse=True)[:k]),
            "name it once",
        ),
        (
            lambda: checks.check_merge(
                lambda a, k: sorted(
                    {o: (s, o) for own in reversed(a) for s, o in reversed(own)}.values(), key=lambda x: -x[0]
                )[:k]
            ),
            "must not depend",
        ),
        (lambda: checks.check_expected(lambda k, s, j: min(1.0, s * j / k)), "over all"),
        (lambda: checks.check_expected(lambda k, s, j: expected(k, s, j) / s), "over all"),
        (lambda: checks.check_scores(lambda q, c, low, step: q @ c.T.astype("f4")), "products of integers"),
        (lambda: checks.check_scores(lambda q, c, low, step: (q / step) @ c.T.astype("f4")), "order is not"),
        (lambda: checks.check_scores(lambda q, c, low, step: (q * step) @ c.T.astype("f4")), "in common"),
        (lambda: checks.check_scores(lambda *a: scores(*a)[0]), "shape"),
        (lambda: checks.check_front(lambda rows: list(range(len(rows)))), "0 is no better"),
        (
            lambda: checks.check_front(lambda rows: [i for i in front(rows) if i != 4]),
            "both stay",
        ),
        (lambda: checks.check_front(lambda rows: front([(-q, *c) for q, *c in rows])), "got"),
    ],
)
def test_wrong_answers_are_refused(call, message):
    with pytest.raises(AssertionError, match=message):
        call()
