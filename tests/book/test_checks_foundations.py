"""The checks of the chapter's exercises refuse the wrong answers that readers give, and say why."""

from __future__ import annotations

from statistics import mean, median

import pytest
from book_kit.checks import foundations as checks


@pytest.mark.parametrize(
    ("check", "answer", "hint"),
    [
        (checks.check_bert_parameters, lambda v, p, d, f, n: (v + p) * d + n * 12 * d * d, "biases"),
        (checks.check_less_time, lambda faster: faster, "which fraction"),
        (
            checks.check_next_token_macs,
            lambda past, d, f, layers, v: layers * (4 * d * d + 2 * d * f + 2 * past * d) + v * d,
            "its own",
        ),
        (checks.check_times_as_fast, lambda a, b: median(a) / median(b), "inside each round"),
        (
            checks.check_times_as_fast,
            lambda a, b: mean(x / y for x, y in zip(a, b, strict=True)),
            "inside|median",
        ),
        (checks.check_same_size_width, lambda d, layers, kept, heads: d * kept // layers, "square root"),
    ],
)
def test_wrong_answers_are_refused(check, answer, hint):
    with pytest.raises(AssertionError, match=hint):
        check(answer)
