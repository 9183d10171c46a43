"""Checks of the exercises on DistilGPT2: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from book_kit.checks.distillation import _logits, _softmax

__all__ = ["check_cached_tokens", "check_causal_kd", "check_convert", "check_sequence_kl"]


def check_convert(answer: Callable[[float, int, int], float]) -> None:
    """``answer(perplexity, units, others)``: the perplexity of the same text per other unit."""
    for perplexity, units, others in ((20.0, 1000, 750), (16.3, 245_569, 217_646), (2.5, 600, 600)):
        got = float(answer(perplexity, units, others))
        wanted = math.exp(math.log(perplexity) * units / others)
        if math.isclose(got, perplexity * units / others, rel_tol=1e-6) and units != others:
            raise AssertionError("it is the nats that add up, not the perplexity: take the logarithm first")
        if math.isclose(got, perplexity ** (others / units), rel_tol=1e-6) and units != others:
            raise AssertionError("fewer units share the same total: each of them carries more nats, not less")
        assert math.isclose(got, wanted, rel_tol=1e-6), (
            f"perplexity {perplexity} over {units} units: got {got:.4f} for {others} others; {wanted:.4f} has the "
            "same total of nats"
        )
    print("ok")


def check_cached_tokens(answer: Callable[..., int]) -> None:
    """``answer(budget, layers, width, rows, bytes_each)``: how many tokens of each row a cache can hold."""
    cases = (
        (75_497_472, 12, 768, 1, 4),
        (75_497_472, 6, 768, 1, 4),
        (10**9, 6, 768, 16, 2),
        (1000, 2, 8, 1, 4),
    )
    for budget, layers, width, rows, bytes_each in cases:
        got = answer(budget, layers, width, rows, bytes_each)
        one = 2 * layers * width * rows * bytes_each
        if got == budget // (one // 2):
            raise AssertionError("a layer keeps a key and a value for each token: twice the width")
        if rows > 1 and got == budget // (one // rows):
            raise AssertionError("every row of the batch has a cache of its own")
        assert got == int(got), f"got {got}; takes whole tokens"
        assert got * one <= budget, f"got {got}: {got * one:,} bytes do not fit into {budget:,}"
        assert got == budget // one, f"got {got}; {budget // one} tokens fit into {budget:,} bytes"
    print("ok")


def check_causal_kd(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """``answer(student_logits, teacher_logits, attention_mask)``: KL, mean over predictions of real tokens."""
    z, v = (t.view(3, 5, 4) for t in _logits(15, 4))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])

    def mean(keep: Callable[[list[int], int], bool]) -> float:
        found = []
        for row, m in enumerate(mask.tolist()):
            for i in range(5):
                if keep(m, i):
                    p, q = _softmax(v[row, i].tolist(), 1.0), _softmax(z[row, i].tolist(), 1.0)
                    found.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        return sum(found) / len(found)

    got = float(answer(z.clone(), v.clone(), mask))
    wrong: dict[str, Callable[[list[int], int], bool]] = {
        "the last position of a row predicts nothing that is there": lambda m, i: m[i] == 1,
        "padding is counted": lambda m, i: True,
        "padding is counted, though the last position is not": lambda m, i: i < 4,
        "before a left-padded text there is nothing to predict its first token from": lambda m, i: (
            i < 4 and m[i + 1] == 1
        ),
        "a position whose next token is padding is counted": lambda m, i: i < 4 and m[i] == 1,
    }
    wanted = mean(lambda m, i: i < 4 and m[i] == 1 and m[i + 1] == 1)
    for message, keep in wrong.items():
        assert not math.isclose(got, mean(keep), rel_tol=1e-6), message
    assert math.isclose(got, wanted, rel_tol=1e-5), f"got {got:.6f}; by hand it is {wanted:.6f}"
    noisy = z.clone()
    noisy[1, 3:] = math.nan
    noisy[2, :2] = math.nan
    again = float(answer(noisy, v.clone(), mask))
    assert math.isclose(again, wanted, rel_tol=1e-5), (
        "NaN in padding gets into the result: cut the rows out, do not multiply by 0"
    )
    print("ok")


def check_sequence_kl(answer: Callable[[Tensor, Tensor, Tensor, Tensor, int], float]) -> None:
    """``answer(start_p, P, start_q, Q, length)``: KL between two Markov chains' texts of ``length`` tokens."""
    rows = torch.stack([*_logits(4, 3)]).softmax(-1)  # (2, 4, 3)
    (start_p, P), (start_q, Q) = ((r[0], r[1:]) for r in rows)
    for length in (1, 2, 4):

        def probability(text: tuple[int, ...], start: Tensor, table: Tensor) -> float:
            steps = [float(table[a, b]) for a, b in itertools.pairwise(text)]
            return float(start[text[0]]) * math.prod(steps)

        def divergence(swap: bool, length: int = length) -> float:
            total = 0.0
            for text in itertools.product(range(3), repeat=length):
                p, q = probability(text, start_p, P), probability(text, start_q, Q)
                total += q * math.log(q / p) if swap else p * math.log(p / q)
            return total

        got = float(answer(start_p, P, start_q, Q, length))
        wanted = divergence(False)
        if math.isclose(got, divergence(True), rel_tol=1e-6):
            raise AssertionError("that is KL(q ‖ p): the contexts and the mean are p's")
        assert math.isclose(got, wanted, rel_tol=1e-6), (
            f"texts of {length}: got {got:.6f}; the sum over all {3**length} texts is {wanted:.6f}"
        )
    print("ok")
