"""The checks of the pruning exercises take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import pytest
import torch
from book_kit.checks import pruning as checks
from torch import nn

from refimpl.prune import mask_from_scores, mask_n_of_m


def coo(v, i, indices=2):
    return v / (v + indices * i)


def shrink(first, second, keep, first_bias=True, second_bias="whole", scatter=False):
    a = nn.Linear(first.in_features, len(keep), bias=first.bias is not None)
    b = nn.Linear(len(keep), second.out_features, bias=second.bias is not None)
    kept = sorted(keep) if scatter else keep
    with torch.no_grad():
        a.weight.copy_(first.weight[kept])
        b.weight.copy_(second.weight[:, keep])
        if first.bias is not None:
            a.bias.copy_(first.bias[kept] if first_bias else torch.zeros(len(keep)))
            b.bias.copy_(second.bias if second_bias == "whole" else torch.zeros_like(second.bias))
    return a, b


def wanda(weight, gram, sparsity, root=True, whole=False, data=True):
    norm = gram.diagonal().sqrt() if root else gram.diagonal()
    score = weight.abs() * (norm if data else 1)
    if whole:
        return mask_from_scores(score, sparsity)
    return torch.stack([mask_from_scores(row, sparsity) for row in score])


def test_right_answers_pass(capsys):
    checks.check_mask(mask_from_scores)
    checks.check_coo(coo)
    checks.check_shrink(shrink)
    checks.check_two_four(lambda w: mask_n_of_m(w.abs()))
    checks.check_wanda(wanda)
    assert capsys.readouterr().out == "ok\n" * 5


def threshold(scores, sparsity):
    count = int(sparsity * scores.numel() + 1e-9)
    return scores > scores.flatten().sort().values[count - 1] if count else scores > -1


def floats(scores, sparsity):
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[scores.flatten().argsort(stable=True)[: int(sparsity * scores.numel())]] = False
    return kept.reshape(scores.shape)


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.check_mask, threshold, "fix the number first"),
        (checks.check_mask, floats, "a little under 29"),
        (checks.check_mask, lambda s, x: ~mask_from_scores(s, x), "removes 100, not 0"),
        (checks.check_mask, lambda s, x: mask_from_scores(s, x).float(), "a mask is boolean"),
        (checks.check_mask, lambda s, x: mask_from_scores(s, x).flatten(), "the weight's shape"),
        (checks.check_mask, lambda s, x: mask_from_scores(s.flip(-1), x).flip(-1), "first of the equal"),
        (checks.check_mask, lambda s, x: None, "return a tensor"),
        (checks.check_coo, lambda v, i: coo(v, i, 1), "two indices"),
        (checks.check_shrink, lambda a, b, k: shrink(a, b, k, first_bias=False), "first bias goes"),
        (checks.check_shrink, lambda a, b, k: shrink(a, b, k, second_bias="none"), "second bias stays"),
        (checks.check_shrink, lambda a, b, k: shrink(a, b, k, scatter=True), "outputs differ"),
        (checks.check_shrink, lambda a, b, k: (a, b), "rows of the first"),
        (checks.check_two_four, mask_n_of_m, "magnitudes"),
        (checks.check_two_four, lambda w: mask_from_scores(w.abs(), 0.5), "exactly two"),
        (checks.check_two_four, lambda w: mask_n_of_m(w.abs(), 1), "for"),
        (checks.check_wanda, lambda w, g, s: wanda(w, g, s, data=False), "feature norms"),
        (checks.check_wanda, lambda w, g, s: wanda(w, g, s, whole=True), "within each row"),
        (checks.check_wanda, lambda w, g, s: wanda(w, g, s, root=False), "sqrt"),
    ],
)
def test_wrong_answers_get_a_hint(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)


def test_an_answer_that_changes_the_old_layers_is_refused():
    def destroy(first, second, keep):
        new = shrink(first, second, keep)
        with torch.no_grad():
            first.weight.zero_()
        return new

    with pytest.raises(AssertionError, match="old layers changed|outputs differ"):
        checks.check_shrink(destroy)
