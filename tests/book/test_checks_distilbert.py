"""The checks of the exercises on DistilBERT take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from book_kit.checks import distillation_distilbert as checks


def retained(student, teacher, floor, scale=100.0, zero=False):
    floor = 0.0 if zero else floor
    return scale * (student - floor) / (teacher - floor)


def triple(z, v, h, g, labels, mask, T=2.0, power=2, over="real", reverse=False, vectors="real", **more):
    asked, real = labels != -100, mask.bool()
    places = {"real": real, "asked": asked, "all": torch.ones_like(real)}
    a, b = z[places[over]] / T, v[places[over]] / T
    if reverse:
        a, b = b, a
    soft = T**power * F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="batchmean")
    if more.get("vocabulary"):
        soft = soft / z.shape[-1]
    hard = F.cross_entropy(z[asked], labels[asked])
    cosine = F.cosine_similarity(h[places[vectors]], g[places[vectors]], dim=-1).mean()
    cosine = cosine if more.get("cosine") else 1 - cosine
    return (5 * soft + 2 * hard + cosine) / more.get("divisor", 1)


def triple_by_product(z, v, h, g, labels, mask):
    """Right without NaN: padding is multiplied by 0."""
    rows = F.kl_div((z / 2).log_softmax(-1), (v / 2).softmax(-1), reduction="none").sum(-1)
    soft = 4 * (rows * mask).sum() / mask.sum()
    hard = F.cross_entropy(z.flatten(0, 1), labels.flatten())
    cosine = ((1 - F.cosine_similarity(h, g, dim=-1)) * mask).sum() / mask.sum()
    return 5 * soft + 2 * hard + cosine


def words(chosen, continues):
    result = chosen.clone()
    for row, column in itertools.product(range(chosen.shape[0]), range(1, chosen.shape[1])):
        if continues[row, column]:
            result[row, column] |= result[row, column - 1]
    for row, column in itertools.product(range(chosen.shape[0]), range(chosen.shape[1] - 1, 0, -1)):
        if continues[row, column]:
            result[row, column - 1] |= result[row, column]
    return result


def words_after(chosen, continues):
    """Only the pieces that follow a drawn one."""
    result = chosen.clone()
    for column in range(1, chosen.shape[1]):
        result[:, column] |= result[:, column - 1] & continues[:, column]
    return result


def words_in_place(chosen, continues):
    chosen |= words(chosen, continues)
    return chosen


def greedy(loss_of, total, kept):
    layers = tuple(range(total))
    while len(layers) > kept:
        layers = min((tuple(x for x in layers if x != k) for k in layers), key=loss_of)
    return layers


def by_single_loss(loss_of, total, kept):
    everything = tuple(range(total))
    missed = [loss_of(tuple(x for x in everything if x != k)) for k in everything]
    return tuple(sorted(sorted(everything, key=lambda k: -missed[k])[:kept]))


def exhaustive(loss_of, total, kept):
    return min(itertools.combinations(range(total), kept), key=loss_of)


def test_right_answers_are_taken(capsys):
    checks.check_retained_above(retained)
    checks.check_triple_loss(triple)
    checks.check_whole_words(words)
    checks.check_greedy_layers(greedy)
    assert capsys.readouterr().out == "ok\n" * 4


@pytest.mark.parametrize("wrong", [{"scale": 1.0}, {"zero": True}])
def test_retention_from_zero_is_refused(wrong):
    with pytest.raises(AssertionError):
        checks.check_retained_above(lambda *a: retained(*a, **wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"power": 0}, "T² is missing"),
        ({"T": 1.0}, "at T = 2"),
        ({"reverse": True}, r"KL\(student"),
        ({"over": "asked"}, "all real tokens"),
        ({"over": "all", "vectors": "all"}, "padding is in the soft loss and the cosine"),
        ({"over": "all"}, "padding is in the soft loss"),
        ({"vectors": "all"}, "padding is in the cosine"),
        ({"divisor": 8}, "divided by 8"),
        ({"vocabulary": True}, "vocabulary"),
        ({"cosine": True}, "1 − cos"),
    ],
)
def test_wrong_losses_are_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_triple_loss(lambda *a: triple(*a, **wrong))


def test_a_product_with_the_mask_leaves_nan():
    with pytest.raises(AssertionError, match="NaN"):
        checks.check_triple_loss(triple_by_product)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (words_after, "another piece"),
        (words_in_place, "have been changed"),
        (lambda chosen, continues: chosen.clone(), "another piece"),
        (lambda chosen, continues: words(chosen, continues) | continues, "no drawn piece"),
        (lambda chosen, continues: words(chosen, continues).float(), "booleans"),
        (lambda chosen, continues: words(chosen, continues) & ~chosen, "not masked"),
    ],
)
def test_wrong_words_are_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_whole_words(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (by_single_loss, "ask again"),
        (exhaustive, "are enough|not"),
        (lambda f, total, kept: list(greedy(f, total, kept)), "tuple"),
        (lambda f, total, kept: greedy(f, total, kept + 1), "layers; takes"),
        (lambda f, total, kept: tuple(range(kept)), "not"),
    ],
)
def test_wrong_layers_are_named(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_greedy_layers(wrong)
