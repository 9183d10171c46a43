"""refimpl.processor: bfloat16 with and without instructions for it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from refimpl import processor
from refimpl.processor import bf16_products, has_bf16
from refimpl.retrieve import encode


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setattr(processor, "has_bf16", lambda: False)


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_what_the_processor_says(monkeypatch, told, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert has_bf16() == has


def test_products_are_those_of_fp32_rounded_once(without):
    x, w = torch.randn(5, 64).bfloat16(), torch.randn(7, 64).bfloat16()
    b = torch.randn(7).bfloat16()
    exact = (x.double() @ w.double().T + b.double()).float().bfloat16()
    with bf16_products():
        found = [
            nn.functional.linear(x, w, b),
            nn.functional.linear(x, w, bias=b),
            torch.addmm(b, x, w.T),
            (torch.bmm(x[None], w.T[None])[0].float() + b.float()).bfloat16(),
            ((x @ w.T).float() + b.float()).bfloat16(),
        ]
    for y in found[:3]:
        assert y.dtype == torch.bfloat16
        # a sum that lies between two bfloat16 numbers may fall either way
        torch.testing.assert_close(y, exact, rtol=2**-7, atol=1e-3)
        assert (y == exact).float().mean() > 0.9
    for y in found[3:]:  # rounded before the addition too
        torch.testing.assert_close(y, exact, rtol=2**-6, atol=2**-5)


def test_other_dtypes_are_left_alone(without):
    x, w = torch.randn(3, 8), torch.randn(2, 8)
    with bf16_products():
        assert torch.equal(nn.functional.linear(x, w), x @ w.T)
        assert (x.half() @ w.half().T).dtype == torch.float16
        assert (x.bfloat16() + 1).dtype == torch.bfloat16


def test_nothing_is_done_where_it_is_not_needed(monkeypatch):
    monkeypatch.setattr(processor, "has_bf16", lambda: True)
    monkeypatch.setattr(processor, "_Widened", None)
    with bf16_products():
        pass


def test_encode_gives_the_same_vectors_either_way(monkeypatch, minilm):
    model, tokenizer = copy.deepcopy(minilm[0]).bfloat16(), minilm[1]
    texts = ["Compute the median along an axis.", "A fast convolution.", "no"]
    found = []
    for has in (True, False):
        monkeypatch.setattr(processor, "has_bf16", lambda has=has: has)
        found.append(encode(model, tokenizer, texts))
    assert (found[0] * found[1]).sum(1).min() > 0.9999
    assert not torch.equal(found[0], encode(minilm[0], tokenizer, texts)), "in bfloat16"
