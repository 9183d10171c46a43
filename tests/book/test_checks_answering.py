"""The checks of the exercises on answering by retrieval take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import math

import pytest
import torch
from book_kit.checks import retrieval_answering as checks


def datastore(tokens, width, key_bytes, token_bytes, parameters, unit=1e9, each=4):
    size = tokens * (width * key_bytes + token_bytes)
    return size / unit, size / (each * parameters)


def best_weight(p, q, steps=40):
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        slope = ((q - p) / (middle * p + (1 - middle) * q)).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low + high) / 2


def pays_from(encode, search, answer, damage, wrong):
    saved = answer - wrong * damage
    return (encode + search) / saved if saved > 0 else math.inf


def threshold(other, share):
    allowed = int(share * (len(other) + 1) + 1e-9) - 1
    if allowed < 0:
        return 1.01
    value = other.double().sort(descending=True).values[allowed]
    return float(torch.nextafter(value, torch.tensor(torch.inf, dtype=torch.double)))


def fused(cosines, present, weights, renormalise=True, replace=True, nothing=-math.inf):
    own = weights[:, None] * present
    values = torch.where(present[:, None], cosines, 0.0) if replace else cosines * present[:, None]
    total = own.sum(0) if renormalise else weights.sum().expand(present.shape[1])
    scores = (own[:, None] * values).sum(0) / total.clamp(min=1e-9)
    return torch.where(present.any(0), scores, nothing)


def test_right_answers_are_taken(capsys):
    checks.check_datastore(datastore)
    checks.check_weight(best_weight)
    checks.check_wrong_answers(pays_from)
    checks.check_promise(threshold)
    checks.check_missing(fused)
    assert capsys.readouterr().out == "ok\n" * 5


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.check_datastore, lambda *x: datastore(*x, unit=2**30), "10⁹"),
        (checks.check_datastore, lambda n, w, k, t, p: datastore(n, w, k, 0, p), "a token of 2"),
        (checks.check_datastore, lambda *x: datastore(*x, each=2), "4 bytes a parameter"),
        (checks.check_weight, lambda p, q: 0.25, "although the mean|smallest mean"),
        (checks.check_weight, lambda p, q: best_weight(q, p), "smallest mean"),
        (checks.check_weight, lambda p, q: -1.0, "between 0 and 1"),
        (checks.check_weight, lambda p, q: max(best_weight(p, q), 0.01), "although the mean"),
        (checks.check_wrong_answers, lambda e, s, a, d, w: (e + s) / a, "takes equal costs"),
        (checks.check_wrong_answers, lambda e, s, a, d, w: (e + s) / (a - d), "takes equal costs"),
        (
            checks.check_wrong_answers,
            lambda e, s, a, d, w: (e + s) / (a - w * d) if a != w * d else math.inf,
            "saves nothing",
        ),
        (checks.check_promise, lambda other, share: float(other.quantile(1 - share)), "allows"),
        (
            checks.check_promise,
            lambda other, share: threshold(other, share / 2),
            "no higher than needed|just above",
        ),
        (checks.check_promise, lambda other, share: min(threshold(other, share), 1.0), "cannot promise"),
        (checks.check_missing, lambda *x: fused(*x, renormalise=False), "not by all weights"),
        (checks.check_missing, lambda *x: fused(*x, replace=False), "replace"),
        (checks.check_missing, lambda *x: fused(*x, nothing=0.0), "-inf"),
        (checks.check_missing, lambda *x: fused(*x).T, "shape"),
    ],
)
def test_wrong_answers_are_refused(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)
