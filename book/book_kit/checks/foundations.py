"""Checks of the exercises on measuring: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

__all__ = [
    "check_bert_parameters",
    "check_less_time",
    "check_next_token_macs",
    "check_same_size_width",
    "check_times_as_fast",
]


def check_bert_parameters(answer: Callable[[int, int, int, int, int], int]) -> None:
    """``answer(vocabulary, positions, d, f, layers)`` against `transformers.BertModel` itself."""
    from transformers import BertConfig, BertModel

    for vocabulary, positions, d, f, layers in ((30522, 512, 768, 3072, 12), (50, 16, 24, 40, 3)):
        config = BertConfig(
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            hidden_size=d,
            intermediate_size=f,
            num_hidden_layers=layers,
            num_attention_heads=2,
        )
        with torch.device("meta"):  # shapes without memory
            wanted = sum(p.numel() for p in BertModel(config).parameters())
        got = answer(vocabulary, positions, d, f, layers)
        assert got == wanted, (
            f"got {got:,} for width {d} and {layers} layers, not {wanted:,} ({got - wanted:+,}): did you count "
            "biases, both LayerNorms of a layer and the one behind the tables, two segments, the pooler?"
        )
    print("ok")


def check_less_time(answer: Callable[[float], float]) -> None:
    """``answer(percent_faster)`` in percent."""
    for faster, wanted in ((0, 0.0), (60, 37.5), (100, 50.0), (300, 75.0)):
        got = answer(faster)
        assert math.isclose(got, wanted, abs_tol=1e-6), (
            f"{faster} % faster is not {got:.4g} % less time: at {1 + faster / 100:g} times the speed, "
            "which fraction of the time is left?"
        )
    print("ok")


def check_next_token_macs(answer: Callable[[int, int, int, int, int], int]) -> None:
    """``answer(past, d, f, layers, vocabulary)`` against a GPT-2 that continues with a cache."""
    from refimpl import measure
    from refimpl.models import build

    d, layers, vocabulary = 32, 3, 60
    model = build(
        "gpt2",
        head="causal-lm",
        vocab_size=vocabulary,
        n_embd=d,
        n_layer=layers,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    for past in (1, 7):
        ids = torch.ones(1, past + 1, dtype=torch.long)

        class NextToken(torch.nn.Module):
            """Runs one token after a cache that is filled outside of the counting."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, token: torch.Tensor) -> torch.Tensor:
                return self.model(token, past_key_values=self.cache).logits

        runner = NextToken()
        with torch.no_grad():
            runner.cache = model(ids[:, :-1]).past_key_values
        wanted = measure.macs(runner, ids[:, -1:]).total
        got = answer(past, d, 4 * d, layers, vocabulary)
        assert got == wanted, (
            f"got {got:,} after {past} tokens, not {wanted:,} ({got - wanted:+,}): the new token meets every "
            "past key and its own, twice (keys, then values), in each layer; the output layer once"
        )
    print("ok")


def check_times_as_fast(answer: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """``answer(a, b)`` on times with a drift and with one long round; the truth is 2."""
    drift = [1.0 * 1.3**i for i in range(9)]
    a, b = [2 * x for x in drift], list(drift)
    got = answer(a, b)
    assert math.isclose(got, 2.0, rel_tol=1e-9), f"B needs half of A's time, you say {got:.3g} times as fast"
    b[0] *= 1.3**5  # disturbs the order of b, so that its median is of another round than a's
    got = answer(a, b)
    assert math.isclose(got, 2.0, rel_tol=1e-9), (
        f"with one disturbed round you say {got:.3g}, not 2: take the ratio inside each round first"
    )
    b = list(drift)
    b[4] *= 10
    got = answer(a, b)
    assert math.isclose(got, 2.0, rel_tol=1e-9), (
        f"one round of ten times the length moves your result to {got:.3g}: a mean is not robust, a median is"
    )
    print("ok")


def check_same_size_width(answer: Callable[[int, int, int, int], int]) -> None:
    """``answer(d, layers, kept, heads)``: a multiple of ``heads``."""
    for arguments, wanted in (((768, 12, 6, 12), 540), ((768, 12, 3, 12), 384), ((512, 8, 2, 8), 256)):
        got = answer(*arguments)
        assert got == wanted, (
            f"got {got} for {arguments}, not {wanted}: parameters grow with the square of the width, so the "
            "width shrinks with the square root of the layers' fraction"
        )
    print("ok")
