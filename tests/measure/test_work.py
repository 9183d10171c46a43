"""Multiply-accumulates against formulas by hand, and against torch's own counter where it counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from refimpl import measure
from refimpl.quantize import Int8Dynamic, Int8Weights, quantize_


def transformer_macs(batch, length, d, f, layers):
    """4 d² of attention, 2 d f of feed-forward a token; QKᵀ and AV take L d each a token."""
    return layers * batch * length * (4 * d * d + 2 * d * f + 2 * length * d)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_a_linear_layer(batch, length, inside, outside):
    layer = nn.Linear(inside, outside)
    work = measure.macs(layer, torch.zeros(batch, length, inside))
    assert work.total == batch * length * inside * outside
    assert work.positions == batch * length
    assert work.per_token == inside * outside
    assert work.by_format == {"float32": work.total}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert_by_hand(tiny_bert, tiny_batch, attention):
    """Also that attention is counted on a CPU, which torch's registry leaves out, and alike in both ways."""
    tiny_bert.set_attn_implementation(attention)
    work = measure.macs(tiny_bert, tiny_batch)
    pooler = 3 * 32 * 32  # one position a text
    assert work.total == transformer_macs(3, 9, 32, 64, 2) + pooler
    assert work.positions == 27
    assert work.per_token == work.total / 27
    assert work.by_module["pooler"] == pooler
    assert work.by_module["encoder.layer.0"] == transformer_macs(3, 9, 32, 64, 1)


def test_gpt2_by_hand(tiny_gpt2, tiny_batch):
    work = measure.macs(tiny_gpt2, tiny_batch)
    head = 27 * 32 * 120
    assert work.total == transformer_macs(3, 9, 32, 128, 2) + head
    assert work.by_module["lm_head"] == head


def test_half_of_torchs_counter_where_that_counts_all(tiny_bert, tiny_batch):
    tiny_bert.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        tiny_bert(**tiny_batch)
    assert measure.macs(tiny_bert, tiny_batch).total * 2 == flops.get_total_flops()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_formats(dtype):
    layer = nn.Linear(3, 4).to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert measure.macs(layer, torch.zeros(2, 3, dtype=dtype)).by_format == {name: 24}
    layer = nn.Linear(3, 4, bias=False).to(dtype)
    assert measure.macs(layer, torch.zeros(2, 3, dtype=dtype)).by_format == {name: 24}


class IntegerLinear(nn.Module):
    """The product runs on int8, its result is fp32."""

    def __init__(self, inside, outside):
        super().__init__()
        self.register_buffer("weight", torch.ones(outside, inside, dtype=torch.int8))

    def forward(self, x):
        return torch._int_mm(x.to(torch.int8), self.weight.t()).float()


def test_integer_products_count_like_others():
    x = torch.ones(32, 16)
    work = measure.macs(IntegerLinear(16, 24), x)
    assert work.total == measure.macs(nn.Linear(16, 24), x).total == 32 * 16 * 24
    assert work.by_format == {"int8": work.total}
    assert work.weight_bytes == 24 * 16


@pytest.mark.filterwarnings("ignore")
def test_torchs_dynamically_quantized_layers_count_like_others(tiny_mlp):
    x = torch.ones(4, 16)
    packed = torch.ao.quantization.quantize_dynamic(tiny_mlp, {nn.Linear})
    work = measure.macs(packed, x)
    assert work.total == measure.macs(tiny_mlp, x).total == 4 * (16 * 32 + 32 * 8)
    assert work.by_format == {"int8": work.total}
    assert work.weight_bytes == 16 * 32 + 32 * 8


@pytest.mark.parametrize("config", [Int8Weights(), Int8Dynamic()], ids=["weights", "dynamic"])
def test_our_quantized_models_report_the_same_work(tiny_bert, tiny_batch, config):
    """Whatever operator this CPU multiplies integers with."""
    before = measure.macs(tiny_bert, tiny_batch), measure.parameters(tiny_bert)
    quantize_(tiny_bert, config)
    after = measure.macs(tiny_bert, tiny_batch), measure.parameters(tiny_bert)
    assert after[0].total == before[0].total
    assert after[1] == before[1]
    assert after[0].weight_bytes < 0.5 * before[0].weight_bytes


class Products(nn.Module):
    def forward(self, matrix, vector, start):
        return matrix @ vector + torch.addmv(start, matrix, vector) + vector @ vector


def test_products_with_vectors():
    work = measure.macs(Products(), (torch.ones(5, 3), torch.ones(3), torch.ones(5)))
    assert work.total == 15 + 15 + 3
    assert work.by_format == {"float32": 33}


def test_convolution_and_batched_product():
    model = nn.Conv1d(2, 3, 3)
    assert measure.macs(model, torch.ones(4, 2, 9)).total == 4 * 3 * 7 * 2 * 3


def test_recurrent_layers():
    model = nn.LSTM(4, 8, num_layers=2, bidirectional=True)
    first = 4 * 8 * 4 + 4 * 8 * 8  # one direction of the first layer, for one step of one sequence
    second = 4 * 8 * 16 + 4 * 8 * 8
    work = measure.macs(model, torch.ones(5, 3, 4))
    assert work.total == 5 * 3 * 2 * (first + second)


def test_layers_that_torch_fuses_when_it_can_are_counted():
    """nn.TransformerEncoderLayer runs as one opaque operator in evaluation mode; not while we count."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    work = measure.macs(layer, torch.ones(2, 5, 32))
    assert work.total == transformer_macs(2, 5, 32, 64, 1)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_fast_path_that_was_off_stays_off():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        measure.macs(nn.Linear(2, 2), torch.ones(1, 2))
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_weights_read_once_and_of_embeddings_only_the_rows(tiny_mlp):
    table = nn.Embedding(100, 8)
    assert measure.macs(table, torch.zeros(3, dtype=torch.long)).total == 0
    assert measure.macs(table, torch.zeros(3, dtype=torch.long)).weight_bytes == 3 * 8 * 4
    assert (
        measure.macs(table, torch.zeros(200, dtype=torch.long)).weight_bytes == 100 * 8 * 4
    )  # not more than all
    twice = nn.Sequential(tiny_mlp[0], nn.Linear(32, 16), tiny_mlp[0])
    parameters = sum(p.numel() for p in twice.parameters())
    assert measure.macs(twice, torch.ones(2, 16)).weight_bytes == 4 * parameters


def test_a_tied_head_reads_the_whole_table(tiny_gpt2, tiny_batch):
    work = measure.macs(tiny_gpt2, tiny_batch)
    not_read = (64 - 9) * 32 * 4  # positions beyond the ninth
    assert work.weight_bytes == 4 * sum(p.numel() for p in tiny_gpt2.parameters()) - not_read


@pytest.mark.parametrize(
    ("sample", "positions"),
    [
        (torch.zeros(2, 3, 4), 6),
        (torch.zeros(2, 4), 2),
        (torch.zeros(2, 3, 4, 4), 2),
        (torch.zeros(7), 7),
        (torch.zeros(2, 5, dtype=torch.long), 10),
        ((torch.zeros(2, 4), torch.zeros(2, 5, dtype=torch.long)), 10),
        ({"token_type_ids": torch.zeros(1, dtype=torch.long), "input_ids": torch.zeros(3, 2).long()}, 6),
        ({"x": [torch.zeros(3, 4)]}, 3),
        (torch.tensor(1.0), 1),
    ],
)
def test_positions(sample, positions):
    class Anything(nn.Module):
        def forward(self, *args, **kwargs):
            return None

    assert measure.macs(Anything(), sample).positions == positions


def test_counting_prints_nothing(tiny_mlp, capsys):
    measure.macs(tiny_mlp, torch.ones(1, 16))
    assert capsys.readouterr().out == ""
