"""Blocks and stacks are found by what they are made of, whatever the classes are called."""

import pytest
from torch import nn

from refimpl import prune
from refimpl.blocks import ATTENTION, FEED_FORWARD, find_blocks, find_stack
from tests.prune.test_structured import HEADS, NEURONS, make


@pytest.mark.parametrize("name", NEURONS)
def test_one_block_of_each_kind_a_layer(name):
    model = make(name)
    assert len(find_blocks(model, FEED_FORWARD)) == 2
    if name in HEADS:
        assert [(b.groups, b.width) for b in find_blocks(model, ATTENTION).values()] == [(4, 8), (4, 8)]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bert", "encoder.layer"),
        ("gpt2", "transformer.h"),
        ("distilbert", "transformer.layer"),
        ("roberta", "encoder.layer"),
        ("llama", "model.layers"),
        ("opt", "model.decoder.layers"),
    ],
)
def test_the_stack(name, path):
    model = make(name)
    found, stack = find_stack(model)
    assert found == path and stack is model.get_submodule(path) and len(stack) == 2


def test_a_model_with_no_stack_or_with_two():
    with pytest.raises(ValueError, match="none of 8 layouts"):
        find_stack(make("mlp"))
    with pytest.raises(ValueError, match="with 2 stacks of layers"):
        find_stack(nn.ModuleDict({"encoder": make("bert"), "decoder": make("gpt2")}))
    bare = make("bert").encoder.layer[0]
    with pytest.raises(ValueError, match="with 0 stacks"):
        find_stack(bare)
    half = nn.Module()
    half.layers = nn.ModuleList([bare, nn.Linear(2, 2)])  # a list whose second entry holds no block
    with pytest.raises(ValueError, match="with 0 stacks"):
        find_stack(half)


def test_pruning_hands_the_same_names_on():
    assert prune.find_blocks is find_blocks and prune.ATTENTION is ATTENTION


def test_what_looks_like_a_block_but_has_other_sizes_is_none():
    class Odd(nn.Module):
        def __init__(self, rows, columns, heads):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(8, rows), nn.Linear(columns, 8)
            self.num_heads, self.split_size = heads, columns

    assert find_blocks(Odd(24, 8, 2), ATTENTION)["c_proj"].width == 4
    for rows, columns, heads in [(16, 8, 2), (24, 8, 3), (24, 8, 0), (24, 8, 2.0), (24, 8, True)]:
        with pytest.raises(ValueError, match="none of 3 layouts"):
            find_blocks(Odd(rows, columns, heads), ATTENTION)
    odd = Odd(24, 8, 2)
    odd.split_size = 7
    with pytest.raises(ValueError, match="none of 3 layouts"):
        find_blocks(odd, ATTENTION)
    odd = Odd(24, 8, 2)
    odd.c_proj = nn.LayerNorm(8)
    with pytest.raises(ValueError, match="none of 3 layouts"):
        find_blocks(odd, ATTENTION)


def test_a_block_that_shares_a_weight_is_left_alone():
    model = make("bert")
    model.encoder.layer[1].intermediate.dense.weight = model.encoder.layer[0].intermediate.dense.weight
    with pytest.raises(ValueError, match="none of 5 layouts"):
        find_blocks(model)
    assert len(find_blocks(model, ATTENTION)) == 2
