"""Parameters and bytes: each once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refimpl import checkpoint, measure, models


def test_groups_of_bert_by_hand(tiny_bert):
    d, f, layers, vocabulary = 32, 64, 2, 120
    counted = measure.parameters(tiny_bert)
    assert counted.groups == {
        "embeddings": (vocabulary + 64 + 2) * d,
        "attention": layers * 4 * (d * d + d),
        "feed-forward": layers * (d * f + f + f * d + d),
        "norms": (1 + 2 * layers) * 2 * d,
        "head": d * d + d,  # the pooler
        "other": 0,
    }
    assert counted.total == sum(counted.groups.values()) == sum(p.numel() for p in tiny_bert.parameters())


def test_groups_of_gpt2_by_hand_with_the_tied_head_in_the_embeddings(tiny_gpt2):
    d, layers, vocabulary = 32, 2, 120
    counted = measure.parameters(tiny_gpt2)
    assert counted.groups == {
        "embeddings": (vocabulary + 64) * d,
        "attention": layers * (d * 3 * d + 3 * d + d * d + d),
        "feed-forward": layers * (d * 4 * d + 4 * d + 4 * d * d + d),
        "norms": (1 + 2 * layers) * 2 * d,
        "head": 0,
        "other": 0,
    }
    assert counted.total == sum(counted.groups.values())


def test_the_bias_of_an_output_layer_is_in_the_head(tiny_bert_mlm):
    d = 32
    assert measure.parameters(tiny_bert_mlm).groups["head"] == 120 + d * d + d  # decoder bias, transform


def test_groups_of_modules_without_blocks():
    """No ModuleList: linear layers are feed-forward, whatever else is other; attention is still attention."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(2, 2, 3), nn.LayerNorm(4), nn.MultiheadAttention(4, 2))
    groups = measure.parameters(model).groups
    assert groups["feed-forward"] == 16
    assert groups["other"] == 14
    assert groups["norms"] == 8
    assert groups["attention"] == 4 * (16 + 4)
    assert groups["head"] == 0


def test_what_is_not_linear_in_a_block_is_other():
    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Conv1d(2, 2, 3), nn.Linear(2, 2)])
    groups = measure.parameters(model).groups
    assert (groups["other"], groups["feed-forward"]) == (14, 6)


class Codes(nn.Module):
    """A linear layer whose weight is no parameter, with or without a bias that is one."""

    def __init__(self, inside, outside, bias):
        super().__init__()
        self.in_features, self.out_features = inside, outside
        self.bias = nn.Parameter(torch.zeros(outside)) if bias else None


@pytest.mark.parametrize("bias", [True, False])
def test_weights_held_as_codes_count_as_the_numbers_they_stand_for(bias):
    model = nn.Module()
    model.blocks = nn.ModuleList([Codes(3, 5, bias), nn.Linear(2, 2)])
    counted = measure.parameters(model)
    assert counted.total == 15 + 5 * bias + 6
    assert counted.groups["feed-forward"] == counted.total
    assert measure.parameters(Codes(3, 5, bias)).total == 15 + 5 * bias


@pytest.mark.filterwarnings("ignore")
def test_quantization_does_not_change_the_number_of_parameters(tiny_mlp):
    packed = torch.ao.quantization.quantize_dynamic(tiny_mlp, {nn.Linear})
    assert measure.parameters(packed) == measure.parameters(tiny_mlp)


def test_a_layer_of_two_factors_is_not_taken_for_one_of_codes():
    model = nn.Module()
    model.in_features, model.out_features = 10, 10
    model.left, model.right = nn.Parameter(torch.ones(10, 2)), nn.Parameter(torch.ones(2, 10))
    assert measure.parameters(model).total == 40


@pytest.mark.parametrize(
    ("name", "head", "total"),
    [
        ("bert-base-uncased", None, 109_482_240),
        ("bert-base-uncased", "masked-lm", 109_514_298),
        ("distilbert-base-uncased", None, 66_362_880),
        ("distilbert-base-uncased", "masked-lm", 66_985_530),
        ("gpt2", "causal-lm", 124_439_808),
        ("distilgpt2", "causal-lm", 81_912_576),
    ],
)
def test_published_shapes_to_the_unit(name, head, total):
    with torch.device("meta"):  # shapes only
        model = models.build(name, head=head)
    assert measure.parameters(model).total == total


def test_bytes_in_memory_count_ties_views_and_buffers_once():
    model = nn.Module()
    model.a = nn.Parameter(torch.zeros(10, 4))
    model.b = model.a
    model.register_buffer("view", model.a.detach()[:3])
    model.register_buffer("other", torch.zeros(5, dtype=torch.int8))
    assert measure.bytes_in_memory(model) == 160 + 5


def test_bytes_in_memory_follow_the_dtype(tiny_mlp):
    size = measure.bytes_in_memory(tiny_mlp)
    assert size == 4 * sum(p.numel() for p in tiny_mlp.parameters())
    assert measure.bytes_in_memory(tiny_mlp.half()) * 2 == size


@pytest.mark.filterwarnings("ignore")
def test_bytes_in_memory_see_torchs_packed_weights(tiny_mlp):
    packed = torch.ao.quantization.quantize_dynamic(tiny_mlp, {nn.Linear})
    weights = 16 * 32 + 32 * 8
    assert weights < measure.bytes_in_memory(packed) < 4 * weights  # int8, with fp32 biases, scales


@pytest.mark.filterwarnings("ignore")
def test_bytes_in_memory_of_sparse_tensors():
    """Values and indices: [2, 8] int64 for COO, 9 row starts and 8 columns for CSR."""
    model = nn.Module()
    model.register_buffer("s", torch.eye(8).to_sparse())
    assert measure.bytes_in_memory(model) == 8 * 4 + 16 * 8
    rows, places = torch.arange(9), torch.arange(8)
    model.s = torch.sparse_csr_tensor(rows, places, torch.ones(8), (8, 8))
    assert measure.bytes_in_memory(model) == 8 * 4 + (9 + 8) * 8
    model.s = torch.sparse_csc_tensor(rows.clone(), places.clone(), torch.ones(8), (8, 8))
    assert measure.bytes_in_memory(model) == 8 * 4 + (9 + 8) * 8


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_bytes_in_memory_of_weights_that_onednn_packed():
    model = nn.Module()
    model.register_buffer("w", torch.ones(4, 6).to_mkldnn())
    assert measure.bytes_in_memory(model) == 96


def test_bytes_in_memory_look_into_tensor_subclasses():
    class Pair(torch.Tensor):
        """Two tensors that pass for one, as libraries of quantization have them."""

        def __tensor_flatten__(self):
            return ["left", "right"], None

    model = nn.Module()
    pair = torch.Tensor._make_subclass(Pair, torch.zeros(3))
    pair.left, pair.right = torch.zeros(5, dtype=torch.int8), torch.zeros(2)
    model.register_buffer("p", pair)
    assert measure.bytes_in_memory(model) == 5 + 8


def test_disk_size_is_what_save_writes(tiny_bert, tiny_batch, tmp_path):
    checkpoint.save(tiny_bert, tmp_path)
    one = measure.report(tiny_bert, tiny_batch, repeats=1, warmup=0)
    assert one.bytes_disk == sum(f.stat().st_size for f in tmp_path.iterdir())
    assert one.bytes_disk == one.bytes_weights + one.bytes_overhead
    # position ids and such are buffers that are held but not saved
    assert one.bytes_weights == 4 * one.parameters
    assert one.bytes_memory >= one.bytes_weights
