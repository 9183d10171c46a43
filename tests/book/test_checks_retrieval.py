"""The checks of the retrieval exercises take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import math

import pytest
import torch
from book_kit.checks import retrieval as checks


def masked_mean(hidden, mask, fill=0.0, least=1, over=None):
    real = mask.bool().unsqueeze(-1)
    total = torch.where(real, hidden, fill).sum(1)
    return total / (real.sum(1).clamp(min=least) if over is None else over)


def level(u, m):
    return math.floor(-math.log(u) / math.log(m))


def share(level, m):
    return m**-level - m ** -(level + 1)


def fits(memory, dim, m, size=4, bottom=2, upper=True):
    links = 4 * (bottom * m + (m / (m - 1) if upper else 0))
    return int(memory // (size * dim + links)), int(memory // (dim + links))


def fuse(a, b, first=1, constant=60, descending=True):
    def one(scores):
        return 1 / (constant + scores.argsort(1, descending=descending).argsort(1) + first)

    return one(a) + one(b)


def rescored(queries, documents, k, candidates, rank=True, signs=True):
    rough = queries.sign() @ documents.sign().T if signs else queries @ documents.T
    chosen = rough.topk(candidates, dim=1).indices
    if not rank:
        return chosen[:, :k]
    exact = torch.einsum("qd,qcd->qc", queries, documents[chosen])
    return chosen.gather(1, exact.topk(k, dim=1).indices)


def test_right_answers_are_taken(capsys):
    checks.check_masked_mean(masked_mean)
    checks.check_level(level, share)
    checks.check_bytes(fits)
    checks.check_fusion(fuse)
    checks.check_rescoring(rescored)
    assert capsys.readouterr().out == "ok\n" * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: checks.check_masked_mean(lambda h, m: h.mean(1)),
            "a text without a real position|real positions",
        ),
        (lambda: checks.check_masked_mean(lambda h, m: masked_mean(h, m, over=6)), "not by L"),
        (lambda: checks.check_masked_mean(lambda h, m: masked_mean(h, m, least=0)), "divide by at least 1"),
        (
            lambda: checks.check_masked_mean(
                lambda h, m: (h * m.unsqueeze(-1)).sum(1) / m.sum(1, keepdim=True).clamp(min=1)
            ),
            "NaN behind the mask",
        ),
        (lambda: checks.check_masked_mean(lambda h, m: h), "one vector a text"),
        (lambda: checks.check_level(lambda u, m: round(-math.log(u) / math.log(m)), share), "floor"),
        (lambda: checks.check_level(lambda u, m: math.floor(-math.log(u)), share), "floor"),
        (lambda: checks.check_level(level, lambda at, m: m**-at), "15 of 16"),
        (lambda: checks.check_bytes(lambda *a: fits(*a, bottom=1)), "float32"),
        (lambda: checks.check_bytes(lambda *a: fits(*a, size=8)), "float32"),
        (lambda: checks.check_bytes(lambda *a: fits(*a, upper=False)), "float32"),
        (lambda: checks.check_bytes(lambda *a: (fits(*a)[0], 4 * fits(*a)[0])), "int8"),
        (lambda: checks.check_fusion(lambda a, b: fuse(a, b, first=0)), "the best has rank 1"),
        (lambda: checks.check_fusion(lambda a, b: fuse(a, b, descending=False)), "the best has rank 1"),
        (lambda: checks.check_fusion(lambda a, b: a + b), "the best has rank 1"),
        (lambda: checks.check_fusion(lambda a, b: fuse(a, b)[0]), "shape"),
        (lambda: checks.check_rescoring(lambda *a: rescored(*a, rank=False)), "exact one"),
        (lambda: checks.check_rescoring(lambda *a: rescored(*a, signs=False)), "most equal signs"),
        (lambda: checks.check_rescoring(lambda *a: rescored(*a)[:, :2]), "shape"),
    ],
)
def test_wrong_answers_are_refused(call, message):
    with pytest.raises(AssertionError, match=message):
        call()
