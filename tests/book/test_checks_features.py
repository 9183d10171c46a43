"""The checks of the exercises on features take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from book_kit.checks import distillation_features as checks

from refimpl.distill import cosine_loss, hidden_loss


def masked_hidden(student, teacher, mask):
    real = mask.bool()
    return (student[real] - teacher[real]).square().mean()


def cosine_gradient(a, b, sign=-1, mean=True, length=True, tangent=True):
    u, v = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    g = v - (u * v).sum(-1, keepdim=True) * u if tangent else v
    g = g / a.norm(dim=-1, keepdim=True) if length else g
    return sign * (g / len(a) if mean else g)


def centred(student, teacher, mask, keys_only=True, queries_only=True, centre=True):
    gap = student - teacher
    keys = mask.bool()[:, None, None, :] if keys_only else torch.ones_like(gap, dtype=torch.bool)[:, :1, :1]
    count = keys.sum(-1, keepdim=True)
    gap = gap.masked_fill(~keys, 0)
    if centre:
        gap = (gap - gap.sum(-1, keepdim=True) / count).masked_fill(~keys, 0)
    rows = (gap.square().sum(-1, keepdim=True) / count)[..., 0].mean(1)  # over heads: [B, L]
    return rows[mask.bool()].mean() if queries_only else rows.mean()


def rotation(student, teacher):
    U, _, Vh = torch.linalg.svd(student.T @ teacher)
    return U @ Vh


def test_right_answers_are_taken(capsys):
    checks.check_masked_hidden(masked_hidden)
    checks.check_masked_hidden(lambda s, t, m: hidden_loss([s], [t], {0: 0}, m))
    checks.check_cosine_gradient(cosine_gradient)
    checks.check_centred_scores(centred)
    checks.check_rotation(rotation)
    assert capsys.readouterr().out == "ok\n" * 5


def test_the_gradient_by_autograd_is_taken(capsys):
    def by_autograd(a, b):
        with torch.enable_grad():
            a = a.clone().requires_grad_()
            return torch.autograd.grad(cosine_loss(a, b), a)[0]

    checks.check_cosine_gradient(by_autograd)
    assert capsys.readouterr().out == "ok\n"


def multiplied(student, teacher, mask):
    per = (student - teacher).square().mean(-1) * mask
    return per.sum() / mask.sum()


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.check_masked_hidden, lambda s, t, m: (s - t).square().mean(), "padding is in the mean"),
        (
            checks.check_masked_hidden,
            lambda s, t, m: (s * m[..., None] - t * m[..., None]).square().mean(),
            "all pos",
        ),
        (checks.check_masked_hidden, lambda s, t, m: 4 * masked_hidden(s, t, m), "summed over the width"),
        (checks.check_masked_hidden, lambda s, t, m: masked_hidden(s, t, m) ** 0.5, "mean over the width"),
        (checks.check_masked_hidden, multiplied, "NaN"),
        (checks.check_masked_hidden, lambda s, t, m: (s - t).square().mean(-1), "shape"),
        (checks.check_cosine_gradient, lambda a, b: cosine_gradient(a, b, sign=1), "sign"),
        (checks.check_cosine_gradient, lambda a, b: cosine_gradient(a, b, mean=False), "mean over the rows"),
        (checks.check_cosine_gradient, lambda a, b: cosine_gradient(a, b, length=False), "1/|a|"),
        (checks.check_cosine_gradient, lambda a, b: cosine_gradient(a, b, tangent=False), "along a"),
        (checks.check_cosine_gradient, lambda a, b: cosine_gradient(a, b)[0], "shape"),
        (checks.check_centred_scores, lambda s, t, m: centred(s, t, m, centre=False), "constant"),
        (checks.check_centred_scores, lambda s, t, m: centred(s, t, m, keys_only=False), "padded key"),
        (checks.check_centred_scores, lambda s, t, m: centred(s, t, m, queries_only=False), "padded query"),
        (checks.check_centred_scores, lambda s, t, m: 2 * centred(s, t, m), "real keys"),
        (checks.check_rotation, lambda s, t: torch.linalg.lstsq(s, t).solution, "identity"),
        (checks.check_rotation, lambda s, t: rotation(s, t).T, "transposed"),
        (checks.check_rotation, lambda s, t: torch.eye(6, dtype=s.dtype), "not found"),
        (checks.check_rotation, lambda s, t: rotation(s, t)[:, :5], "shape"),
        (checks.check_rotation, lambda s, t: rotation(s[:8], t[:8]), "a rotation with"),
    ],
)
def test_wrong_answers_are_refused(check, answer, hint):
    with pytest.raises(AssertionError, match=hint.replace("|", r"\|")):
        check(answer)
