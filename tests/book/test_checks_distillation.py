"""The checks of the distillation exercises take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from book_kit.checks import distillation as checks

from refimpl.distill import kd_loss


def kl(p, q):
    return torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum(-1)


def torch_kd(s, t, T, reduction="batchmean", power=2, flat=True, swap=False):
    log_q, log_p = F.log_softmax(s / T, -1), F.log_softmax(t / T, -1)
    if flat:
        log_q, log_p = log_q.flatten(0, -2), log_p.flatten(0, -2)
    if swap:
        log_q, log_p = log_p, log_q
    return T**power * F.kl_div(log_q, log_p, reduction=reduction, log_target=True)


def reverse_gradient(s, t, T, power=1, rows=True):
    log_q, log_p = F.log_softmax(s / T, -1), F.log_softmax(t / T, -1)
    gap = log_q - log_p
    gradient = T**power * log_q.exp() * (gap - (log_q.exp() * gap).sum(-1, keepdim=True))
    return gradient / len(s) if rows else gradient


def bias_for(logits, missing, share):
    others = logits.clone()
    others[:, missing] = -torch.inf
    margins = (others.max(-1).values - logits[:, missing]).sort().values
    k = round(share * len(logits))
    return ((margins[k - 1] + margins[k]) / 2).item()


def bias_in_place(logits, missing, share):
    raised = bias_for(logits, missing, share)
    logits[:, missing] += raised
    return raised


def by_where(s, t, mask, T):
    divergence = torch.where(mask.bool(), T**2 * kl((t / T).softmax(-1), (s / T).softmax(-1)), 0.0)
    return divergence.sum() / mask.sum()


def test_right_answers_are_taken(capsys):
    checks.check_kl(kl)
    checks.check_torch_kd(torch_kd)
    checks.check_masked_kd(lambda s, t, mask, T: kd_loss(s, t, T, mask))
    checks.check_reverse_gradient(reverse_gradient)
    checks.check_bias(bias_for)
    checks.check_born_again(lambda T: (torch.full((10,), 84.0), torch.full((10,), 85.0)))
    assert capsys.readouterr().out == "ok\n" * 6


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.check_kl, lambda p, q: kl(q, p), "weighs with p"),
        (checks.check_kl, lambda p, q: (p * (p / q).log()).sum(-1), "NaN"),
        (checks.check_kl, lambda p, q: kl(p, q + 1e-9), "infinite"),
        (checks.check_kl, lambda p, q: kl(p, q).sum(), "shape"),
        (checks.check_torch_kd, lambda s, t, T: torch_kd(s, t, T, power=0), "T² is missing"),
        (checks.check_torch_kd, lambda s, t, T: torch_kd(s, t, T, swap=True), "reverse"),
        (checks.check_torch_kd, lambda s, t, T: torch_kd(s, t, T, flat=False), "flatten"),
        (checks.check_masked_kd, lambda s, t, mask, T: kd_loss(s, t, T), "unmasked"),
        (checks.check_masked_kd, by_where, "gradient"),
        (checks.check_reverse_gradient, lambda s, t, T: reverse_gradient(s, t, T, rows=False), "mean over"),
        (checks.check_reverse_gradient, lambda s, t, T: reverse_gradient(s, t, T, power=3), "T is left"),
        (checks.check_reverse_gradient, lambda s, t, T: -reverse_gradient(s, t, T), "numerical"),
        (checks.check_reverse_gradient, lambda s, t, T: reverse_gradient(s, t, T)[0], "shape"),
        (checks.check_bias, lambda z, c, share: 0.0, "predicted"),
        (checks.check_bias, bias_in_place, "copy"),
        (checks.check_born_again, lambda T: (torch.full((10,), 0.8), torch.full((10,), 0.8)), "per cent"),
        (checks.check_born_again, lambda T: (torch.full((10,), 84.0),) * 2, "same networks"),
        (checks.check_born_again, lambda T: (torch.full((5,), 84.0),) * 2, "shape"),
    ],
)
def test_wrong_answers_are_refused(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)
