"""The checks of the exercises on the gap take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from book_kit.checks import distillation_gap as checks

from refimpl.distill import average_probabilities, mutual_losses


def projected(p, seen):
    result = torch.empty_like(p)
    for value in seen.unique():
        result[seen == value] = p[seen == value].mean(0)
    return result


def projected_in_place(p, seen):
    p[:] = projected(p, seen)
    return p


def mixed(labels, teacher_logits, alpha, swap=False, scale=1.0):
    alpha = 1 - alpha if swap else alpha
    p = teacher_logits.softmax(-1)
    return scale * ((1 - alpha) * F.one_hot(labels, p.shape[-1]) + alpha * p)


def peer_losses(logits, labels, alpha, T, power=2, detach=True, own=False, reverse=False):
    losses = []
    for k, z in enumerate(logits):
        peers = [p.detach() if detach else p for j, p in enumerate(logits) if own or j != k]
        p = torch.stack([(x / T).softmax(-1) for x in peers]).mean(0)
        q = (z / T).softmax(-1)
        divergence = (q * (q / p).log() if reverse else p * (p / q).log()).sum(-1).mean()
        losses.append((1 - alpha) * F.cross_entropy(z, labels) + alpha * T**power * divergence)
    return losses


def accuracies(low=56.0, high=63.0, count=10):
    return lambda words: torch.full((count,), high if words == 100 else low)


def test_right_answers_are_taken(capsys):
    checks.check_projected(projected)
    checks.check_mixed_target(mixed)
    checks.check_peer_losses(peer_losses)
    checks.check_assistant(accuracies())
    assert capsys.readouterr().out == "ok\n" * 4


def test_the_solution_with_the_package_is_taken(capsys):
    def solution(logits, labels, alpha, T):
        losses = []
        for k, z in enumerate(logits):
            target = average_probabilities([p for j, p in enumerate(logits) if j != k], temperature=T)
            divergence = (target * (target.log() - (z / T).log_softmax(-1))).sum(-1).mean()
            losses.append((1 - alpha) * F.cross_entropy(z, labels) + alpha * T**2 * divergence)
        return losses

    checks.check_peer_losses(solution)
    assert capsys.readouterr().out == "ok\n"


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.check_projected, lambda p, seen: p, "mean over the rows"),
        (checks.check_projected, lambda p, seen: p.mean(0).expand_as(p), "all rows"),
        (checks.check_projected, projected_in_place, "copy"),
        (checks.check_projected, lambda p, seen: projected(p, seen)[:4], "shape"),
        (checks.check_mixed_target, lambda y, v, a: mixed(y, v, a, swap=True), "teacher's weight"),
        (checks.check_mixed_target, lambda y, v, a: mixed(y, v, a, scale=0.5), "sum to 1"),
        (checks.check_mixed_target, lambda y, v, a: mixed(y, v / 2, a), "two terms"),
        (checks.check_mixed_target, lambda y, v, a: mixed(y, v, a)[0], "shape"),
        (checks.check_peer_losses, lambda *x: peer_losses(*x, power=0), "T² is missing"),
        (checks.check_peer_losses, lambda *x: peer_losses(*x, detach=False), "detach"),
        (checks.check_peer_losses, lambda *x: peer_losses(*x, own=True), "student 1"),
        (checks.check_peer_losses, lambda *x: peer_losses(*x, reverse=True), "student 1"),
        (checks.check_peer_losses, lambda *x: [loss.detach() for loss in peer_losses(*x)], "not train"),
        (checks.check_peer_losses, lambda *x: peer_losses(*x)[:2], "one for each"),
        # the mean of the divergences is another number than the divergence from the mean
        (checks.check_peer_losses, mutual_losses, "student 1"),
        (checks.check_assistant, accuracies(low=0.56, high=0.63), "per cent"),
        (checks.check_assistant, accuracies(count=5), "shape"),
        (checks.check_assistant, accuracies(low=62.5), "trained on all texts"),
    ],
)
def test_wrong_answers_are_refused(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)
