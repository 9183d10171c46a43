"""The checks of the exercises on indexes take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from book_kit.checks import retrieval_indexes as checks


def found(cosine, bits, tables, turn=math.pi):
    return 1 - (1 - (1 - math.acos(cosine) / turn) ** bits) ** tables


def best_cells(n, nprobe, root=True):
    cells = round(math.sqrt(nprobe * n)) if root else round(math.sqrt(n))
    return cells, cells + nprobe * n / cells


def dimension(vectors, first=1, log=np.log):
    vectors = vectors.astype(float)
    square = np.square(vectors).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * vectors @ vectors.T, 0))
    if first:
        np.fill_diagonal(distance, 0)
    nearest = np.sort(distance, axis=1)[:, first : first + 2]
    with np.errstate(divide="ignore"):
        return float(1 / log(nearest[:, 1] / np.maximum(nearest[:, 0], 1e-300)).mean())


def adc(query, codebooks, codes):
    table = np.einsum("mcd,md->mc", codebooks, query.reshape(len(codebooks), -1))
    return table[np.arange(len(table)), codes].sum(1)


def choose(vector, candidates, most, rule=True, least=False):
    chosen = []
    order = np.argsort(-(candidates @ vector))
    for i in order[::-1] if least else order:
        near = candidates[i] @ vector
        if len(chosen) < most and (not rule or all(candidates[i] @ candidates[j] < near for j in chosen)):
            chosen.append(int(i))
    return chosen


def queries_to_pay(build, exact, index):
    return build / (exact - index) if exact > index else math.inf


def test_right_answers_are_taken(capsys):
    checks.check_found(found)
    checks.check_best_cells(best_cells)
    checks.check_dimension(dimension)
    checks.check_adc(adc)
    checks.check_choose(choose)
    checks.check_queries_to_pay(queries_to_pay)
    assert capsys.readouterr().out == "ok\n" * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checks.check_found(lambda c, b, t: found(c, b, t, 2 * math.pi)), "right angle"),
        (lambda: checks.check_found(lambda c, b, t: (1 - math.acos(c) / math.pi) ** b), "three tables"),
        (lambda: checks.check_found(lambda c, b, t: found(c, t, b)), "1/8|7/8"),
        (lambda: checks.check_found(lambda c, b, t: 1 - (1 - ((1 + c) / 2) ** b) ** t), "drawn planes"),
        (lambda: checks.check_found(lambda c, b, t: 0.5), "its double"),
        (lambda: checks.check_best_cells(lambda n, p: best_cells(n, p, root=False)), "another number"),
        (lambda: checks.check_best_cells(lambda n, p: (best_cells(n, p)[0], n / 10)), "comparisons, not"),
        (lambda: checks.check_best_cells(lambda n, p: (math.sqrt(n * p), 2 * math.sqrt(n * p))), "whole"),
        (lambda: checks.check_best_cells(lambda n, p: (n + 1, 2.0)), "cells"),
        (lambda: checks.check_dimension(lambda v: dimension(v, first=0)), "patch|leave it out"),
        (lambda: checks.check_dimension(lambda v: dimension(v, log=np.log2)), "patch"),
        (lambda: checks.check_dimension(lambda v: float(v.shape[1])), "patch"),
        (lambda: checks.check_dimension(lambda v: math.nan), "leave it out"),
        (lambda: checks.check_adc(lambda q, b, c: adc(q, b[::-1], c)), "codebook j"),
        (lambda: checks.check_adc(lambda q, b, c: adc(q, b, c)[:2]), "shape"),
        (lambda: checks.check_adc(lambda q, b, c: -adc(q, b, c)), "inner products"),
        (lambda: checks.check_choose(lambda v, c, m: choose(v, c, m, rule=False)), "nearer to 0"),
        (lambda: checks.check_choose(lambda v, c, m: choose(v, c, m, least=True)), "chosen first"),
        (lambda: checks.check_choose(lambda v, c, m: choose(v, c, 99)), "no more than"),
        (lambda: checks.check_choose(lambda v, c, m: []), "chosen first"),
        (lambda: checks.check_queries_to_pay(lambda b, e, i: b / e), "10 queries"),
        (lambda: checks.check_queries_to_pay(lambda b, e, i: b / (e - i) if e != i else 0.0), "never pays"),
        (lambda: checks.check_queries_to_pay(lambda b, e, i: abs(b / (e - i)) if e != i else math.inf), "never"),
        (lambda: checks.check_queries_to_pay(lambda b, e, i: queries_to_pay(b or 1.0, e, i)), "at once"),
    ],
)  # fmt: skip
def test_wrong_answers_are_refused(call, message):
    with pytest.raises(AssertionError, match=message):
        call()
