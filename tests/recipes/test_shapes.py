"""refimpl.recipes.shapes: parameters counted by hand, what is tied, where positions start."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.activations import ACT2FN

from refimpl.recipes import DEFAULTS
from refimpl.recipes.shapes import make_model
from tests.recipes.conftest import SMALL


class Ids:
    """As much of a tokenizer as a configuration needs."""

    pad_token_id = bos_token_id = eos_token_id = 0


@pytest.mark.parametrize("kind", ["masked-lm", "causal-lm"])
def test_parameters_by_hand(kind):
    s = DEFAULTS[kind]
    d, layers = s.width, s.layers
    norm, block = 2 * d, 12 * d * d + 13 * d  # q, k, v, output, two of the feed-forward; two norms of them
    count = s.vocabulary * d + s.length * d + layers * block
    count += norm + 2 * d + (d * d + d) + norm + s.vocabulary if kind == "masked-lm" else norm
    model = make_model(kind, Ids(), s)
    assert sum(p.numel() for p in model.parameters()) == count
    assert 2 * count < 10_000_000, "two of them in fp16 stay below 20 MB"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_positions_start_as_sinusoids():
    """As large as the other embeddings; the product of two depends on their distance alone, and falls."""
    torch.manual_seed(0)
    embeddings = make_model("masked-lm", Ids(), SMALL).bert.embeddings
    positions = embeddings.position_embeddings.weight.detach()
    assert embeddings.position_embeddings.weight.requires_grad, "they are trained"
    assert positions.square().mean().sqrt().item() == pytest.approx(SMALL.std, rel=1e-5)
    assert embeddings.word_embeddings.weight.std().item() == pytest.approx(SMALL.std, rel=0.05)
    products = positions @ positions.T  # (L, L)
    for distance in (0, 1, 5):
        assert products.diagonal(distance).std() < 1e-6
    assert products[0, 0] > products[0, 1] > products[0, 2]
    scale = math.sqrt(2) * SMALL.std
    assert positions[3, 0].item() == pytest.approx(scale * math.sin(3), rel=1e-5)
    assert positions[3, SMALL.width // 2].item() == pytest.approx(scale * math.cos(3), rel=1e-5)


def test_the_activation_is_gpt2s():
    x = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(ACT2FN["gelu_pytorch_tanh"](x), ACT2FN["gelu_new"](x), rtol=1e-5, atol=1e-6)
    assert make_model("causal-lm", Ids(), SMALL).config.activation_function == "gelu_pytorch_tanh"


def test_published_forms():
    """Two token types, absolute positions, dropout in attention too: what DistilBERT is cut out of."""
    bert = make_model("masked-lm", Ids(), SMALL).config
    assert (bert.type_vocab_size, bert.intermediate_size, bert.num_hidden_layers) == (2, 128, 2)
    assert bert.attention_probs_dropout_prob == bert.hidden_dropout_prob == 0.1
    gpt2 = make_model("causal-lm", Ids(), SMALL).config
    assert (gpt2.n_positions, gpt2.n_inner, gpt2.attn_pdrop) == (32, None, 0.1)
