"""Depth: the layers that stay are the ones that were asked for, and nothing else is lost."""

import copy

import pytest
import torch
from torch import nn

from refimpl import checkpoint, modules
from refimpl.prune import Heads, Layers, prune_
from tests.contracts import models
from tests.prune.test_structured import make


@pytest.mark.parametrize(("name", "path"), [("bert", "encoder.layer"), ("gpt2", "transformer.h")])
@pytest.mark.parametrize("keep", [(0,), (1,), (0, 1)])
def test_layers_leave(name, path, keep, tmp_path):
    model = make(name)
    prune_(model, Heads(remove={1: [0]}))  # a step before, by the old number
    stack = model.get_submodule(path)
    expected = copy.deepcopy(model)
    kept = [stack[i] for i in keep]
    prune_(model, Layers(keep))
    assert list(model.get_submodule(path)) == kept
    assert model.config.num_hidden_layers == len(keep)
    # the naive way: skip the layer
    parent, _, leaf = path.rpartition(".")
    setattr(
        expected.get_submodule(parent), leaf, nn.ModuleList(expected.get_submodule(path)[i] for i in keep)
    )
    for i, layer in enumerate(expected.get_submodule(path)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = i
    assert torch.equal(models.run(model), models.run(expected))
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    assert torch.equal(models.run(again), models.run(model))
    assert again.config.num_hidden_layers == len(keep)


def test_generation_uses_the_cache_of_the_layers_that_are_left():
    model = prune_(make("gpt2"), Layers([1]))
    assert model.transformer.h[0].attn.layer_idx == 0
    ids = models.batch()["input_ids"][:1, :4]
    with_cache, without = (
        model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=c, pad_token_id=0)
        for c in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_the_step():
    step = modules.steps_of(prune_(make("bert"), Layers([1])))[0]
    assert step == {
        "method": "prune.Layers",
        "config": {"keep": [1]},
        "keep": {"encoder.layer": [1]},
        "attributes": {"encoder.layer.0.attention.self": {"layer_idx": 0}},
        "config_changes": {"num_hidden_layers": 1},
    }


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: Layers([]), ValueError, "keep: got \\(\\)"),
        (lambda: Layers([1, 0]), ValueError, "ascending"),
        (lambda: Layers([1, 1]), ValueError, "none twice"),
        (lambda: Layers([-1]), ValueError, "keep: got -1"),
        (lambda: Layers([0.5]), TypeError, "keep: got 0.5"),
        (lambda: Layers(3), TypeError, "keep: got int"),
        (lambda: Layers("01"), TypeError, "keep: got str"),
        (
            lambda: prune_(make("bert"), Layers([0, 2])),
            ValueError,
            "keep: got 2; takes an integer from 0 to 1",
        ),
        (lambda: prune_(make("bert"), Layers([0]), layers="encoder.*"), ValueError, "takes neither"),
        (lambda: prune_(make("bert"), Layers([0]), exclude="encoder.*"), ValueError, "takes neither"),
        (lambda: prune_(models.make("mlp"), Layers([0])), ValueError, "none of 8 layouts"),
        (lambda: prune_(nn.Sequential(make("bert"), make("bert")), Layers([0])), ValueError, "2 stacks"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
