"""The checks of the exercises on low rank: the solution passes, each likely mistake is told apart."""

from __future__ import annotations

import pytest
import torch
from book_kit.checks import low_rank


def truncate(weight, rank):
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def test_best_rank(capsys):
    low_rank.check_best_rank(lambda m, n: (m * n - 1) // (m + n))
    assert capsys.readouterr().out == "ok\n"
    for wrong, hint in (
        (lambda m, n: m * n // (m + n), "strict"),
        (lambda m, n: min(m, n) // 2 - 2, "still be smaller"),
        (lambda m, n: (m * n - 1) / (m + n), "takes an int"),
    ):
        with pytest.raises(AssertionError, match=hint):
            low_rank.check_best_rank(wrong)


def test_rank_for_error(capsys):
    def right(s, tolerance):
        return next(r for r in range(len(s) + 1) if s[r:].norm() <= tolerance * s.norm())

    low_rank.check_rank_for_error(right)
    assert capsys.readouterr().out == "ok\n"
    for wrong in (
        lambda s, t: right(s, t**0.5),
        lambda s, t: next(r for r in range(len(s) + 1) if s[:r].norm() >= t * s.norm()),
        lambda s, t: max(1, right(s, t)),
    ):
        with pytest.raises(AssertionError, match="got rank"):
            low_rank.check_rank_for_error(wrong)


def test_truncate_product(capsys):
    def right(up, down, rank):
        q1, r1 = torch.linalg.qr(up)
        q2, r2 = torch.linalg.qr(down.T)
        u, s, vh = torch.linalg.svd(r1 @ r2.T)
        return q1 @ (u[:, :rank] * s[:rank]), vh[:rank] @ q2.T

    def formed(up, down, rank):
        u, s, vh = torch.linalg.svd(up @ down, full_matrices=False)
        return u[:, :rank] * s[:rank], vh[:rank]

    low_rank.check_truncate_product(right)
    assert capsys.readouterr().out == "ok\n"
    with pytest.raises(AssertionError, match="do not form the product"):
        low_rank.check_truncate_product(formed)
    with pytest.raises(AssertionError, match="error .* the best is"):
        low_rank.check_truncate_product(lambda up, down, rank: (up[:, :rank], down[:rank]))
    with pytest.raises(AssertionError, match="shapes"):
        low_rank.check_truncate_product(lambda up, down, rank: (up, down))


def greedy(spectra, shapes, budget, price=lambda m, n: m + n):
    offers = sorted(
        (-(float(s) ** 2) / price(m, n), i)
        for i, ((m, n), values) in enumerate(zip(shapes, spectra, strict=True))
        for s in values
    )
    ranks = [0] * len(spectra)
    for _, i in offers:
        if sum(shapes[i]) <= budget:
            ranks[i] += 1
            budget -= sum(shapes[i])
    return ranks


def test_allocate(capsys):
    low_rank.check_allocate(greedy)
    assert capsys.readouterr().out == "ok\n"
    with pytest.raises(AssertionError, match="divide the energy"):
        low_rank.check_allocate(lambda *a: greedy(*a, price=lambda m, n: 1))
    with pytest.raises(AssertionError, match="the budget is"):
        low_rank.check_allocate(lambda spectra, shapes, budget: [len(s) for s in spectra])
    with pytest.raises(AssertionError, match="of at most"):
        low_rank.check_allocate(lambda spectra, shapes, budget: [0 for _ in spectra])


def test_weighted_svd(capsys):
    def right(weight, gram, rank):
        root = torch.linalg.cholesky(gram)
        return truncate(weight @ root, rank) @ torch.linalg.inv(root)

    low_rank.check_weighted_svd(right)
    assert capsys.readouterr().out == "ok\n"

    def diagonal(weight, gram, rank):
        scale = gram.diagonal().sqrt()
        return truncate(weight * scale, rank) / scale

    for wrong, hint in (
        (lambda w, g, r: truncate(w, r), "plain SVD"),
        (diagonal, "output error"),
        (lambda w, g, r: w.clone(), "rank is more"),
        (lambda w, g, r: w.T, "shape"),
    ):
        with pytest.raises(AssertionError, match=hint):
            low_rank.check_weighted_svd(wrong)
