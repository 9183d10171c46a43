"""The checks of the exercises on DistilGPT2 take right answers and refuse the wrong ones that readers give."""

from __future__ import annotations

import pytest
import torch
from book_kit.checks import distillation_gpt2 as checks

from refimpl.distill import kd_loss


def convert(perplexity, units, others, how="right"):
    return {
        "right": perplexity ** (units / others),
        "linear": perplexity * units / others,
        "inverse": perplexity ** (others / units),
        "same": perplexity,
    }[how]


def cached_tokens(budget, layers, width, rows=1, bytes_each=4, factor=2, per_row=True):
    return budget // (factor * layers * width * (rows if per_row else 1) * bytes_each)


def causal_kd(z, v, mask, keep="both"):
    m = mask.bool()
    real = {
        "both": m[:, :-1] & m[:, 1:],
        "this": m[:, :-1],
        "next": m[:, 1:],
        "all": torch.ones_like(m[:, 1:]),
    }[keep]
    return kd_loss(z[:, :-1], v[:, :-1], mask=real)


def multiplied(z, v, mask):
    m = (mask[:, :-1] * mask[:, 1:]).float()
    log_q, log_p = z[:, :-1].log_softmax(-1), v[:, :-1].log_softmax(-1)
    return ((log_p.exp() * (log_p - log_q)).sum(-1) * m).sum() / m.sum()


def sequence_kl(start_p, P, start_q, Q, length, contexts="p"):
    total = (start_p * (start_p / start_q).log()).sum()
    here = start_p if contexts == "p" else start_q
    for _ in range(length - 1):
        total = total + (here * (P * (P / Q).log()).sum(1)).sum()
        here = here @ (P if contexts == "p" else Q)
    return total


def test_right_answers_are_taken(capsys):
    checks.check_convert(convert)
    checks.check_cached_tokens(cached_tokens)
    checks.check_causal_kd(causal_kd)
    checks.check_sequence_kl(sequence_kl)
    assert capsys.readouterr().out == "ok\n" * 4


@pytest.mark.parametrize(
    ("how", "message"), [("linear", "logarithm"), ("inverse", "not less"), ("same", "same total")]
)
def test_perplexity_that_is_not_converted(how, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_convert(lambda *a: convert(*a, how=how))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factor": 1}, "a key and a value"),
        ({"per_row": False}, "cache of its own"),
        ({"factor": 4}, "tokens fit"),
    ],
)
def test_a_cache_of_another_size(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_cached_tokens(lambda *a: cached_tokens(*a, **wrong))


def test_a_cache_that_does_not_fit():
    with pytest.raises(AssertionError, match="do not fit"):
        checks.check_cached_tokens(lambda *a: cached_tokens(*a) + 1)
    with pytest.raises(AssertionError, match="whole tokens"):
        checks.check_cached_tokens(lambda b, layers, d, rows, each: b / (2 * layers * d * rows * each) - 0.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda z, v, m: kd_loss(z, v, mask=m), "last position"),
        (lambda z, v, m: kd_loss(z, v), "padding is counted"),
        (lambda *a: causal_kd(*a, keep="all"), "padding is counted, though"),
        (lambda *a: causal_kd(*a, keep="next"), "left-padded"),
        (lambda *a: causal_kd(*a, keep="this"), "next token is padding"),
        (multiplied, "NaN in padding"),
        (lambda z, v, m: 2 * causal_kd(z, v, m), "by hand"),
    ],
)
def test_positions_that_do_not_count(wrong, message):
    with pytest.raises(AssertionError, match=message):
        checks.check_causal_kd(wrong)


def test_sequences_scored_in_other_contexts():
    with pytest.raises(AssertionError, match="the sum over all 9 texts"):
        checks.check_sequence_kl(lambda *a: sequence_kl(*a, contexts="q"))
    with pytest.raises(AssertionError, match="contexts and the mean are p's"):
        checks.check_sequence_kl(lambda sp, P, sq, Q, n: sequence_kl(sq, Q, sp, P, n))
