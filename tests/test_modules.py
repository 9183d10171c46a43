"""modules: every linear layer is found, seen as [out, in], replaced, and ties are kept by identity."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from refimpl import modules
from tests.contracts import models


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4))
def test_weight_of_is_what_the_layer_multiplies_by(n_in, n_out, rows):
    """y = x Wᵀ + b for both kinds: the check that Conv1D is transposed, once and not twice."""
    x = torch.randn(rows, n_in, generator=torch.Generator().manual_seed(rows))
    for layer in (nn.Linear(n_in, n_out), Conv1D(n_out, n_in)):
        assert modules.weight_of(layer).shape == (n_out, n_in)
        assert modules.features(layer) == (n_in, n_out)
        torch.testing.assert_close(layer(x), x @ modules.weight_of(layer).T + layer.bias)


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), Conv1D(2, 3)], ids=["Linear", "Conv1D"])
def test_set_weight_writes_in_place(layer):
    weight, bias = torch.arange(6.0).reshape(2, 3), torch.tensor([7.0, 8.0])
    parameter = layer.weight
    assert modules.set_weight_(layer, weight, bias) is layer
    assert layer.weight is parameter
    assert torch.equal(modules.weight_of(layer), weight)
    assert torch.equal(layer(torch.tensor([[1.0, 0.0, 2.0]])), torch.tensor([[4.0 + 7, 3 + 10 + 8]]))
    modules.set_weight_(layer, weight * 2)
    assert torch.equal(layer.bias, bias)


def test_set_weight_refuses_before_it_writes():
    """A good bias with a bad weight, and the other way round: neither is written."""
    layer = nn.Linear(3, 2)
    before = copy.deepcopy(layer.state_dict())
    for weight, bias in [
        (torch.zeros(2, 3), torch.full((2,), torch.inf)),
        (torch.full((2, 3), torch.nan), torch.zeros(2)),
    ]:
        with pytest.raises(ValueError):
            modules.set_weight_(layer, weight, bias)
        assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize("kind", ["linear", "no bias", "conv"])
def test_resized_linear_keeps_kind_dtype_and_modes(kind):
    layer = Conv1D(5, 4) if kind == "conv" else nn.Linear(4, 5, bias=kind == "linear")
    layer = layer.to(torch.bfloat16).eval().requires_grad_(False)
    new = modules.resized_linear(layer, 3, 2)
    assert type(new) is type(layer) and modules.features(new) == (3, 2)
    assert (new.bias is None) == (layer.bias is None)
    assert new.weight.dtype == torch.bfloat16 and not new.training and not new.weight.requires_grad
    assert modules.resized_linear(nn.Linear(2, 2).train(), 3, 2).training
    assert modules.features(modules.Resized.rebuild(layer, 3, 2)) == (3, 2)


def test_linear_layers_of_gpt2_sees_conv1d_and_leaves_the_tied_head():
    """transformers #24504 and neural-compressor #1341: Conv1D missed, the tied output layer hit."""
    model = models.make("gpt2")
    found = modules.linear_layers(model)
    assert len(found) == 8 and all(isinstance(m, Conv1D) for m in found.values())
    assert "lm_head" in modules.linear_layers(model, tied=True)
    assert list(modules.linear_layers(model, include="lm_head")) == ["lm_head"]
    assert "lm_head" not in modules.linear_layers(model, include="*")
    modules.untie_(model, "lm_head.weight")
    assert "lm_head" in modules.linear_layers(model)


def test_linear_layers_by_pattern():
    model = models.make("bert")
    assert len(modules.linear_layers(model)) == 2 * 6 + 1
    queries = modules.linear_layers(model, include="*.query")
    assert list(queries) == [f"encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    assert all(queries[n] is modules.get(model, n) for n in queries)
    rest = modules.linear_layers(model, exclude=["encoder.layer.0.*", "pooler.dense"])
    assert len(rest) == 6 and all(n.startswith("encoder.layer.1.") for n in rest)
    both = modules.linear_layers(model, include="encoder.layer.1.*", exclude="*.key")
    assert len(both) == 5
    # a pattern is of whole names, and case counts
    with pytest.raises(ValueError):
        modules.linear_layers(model, include="query")
    with pytest.raises(ValueError):
        modules.linear_layers(model, include="*.QUERY")


def test_replace_reaches_every_place_of_a_shared_module():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    new = nn.Identity()
    assert modules.replace_(model, "0", new) is model
    assert model[0] is new and model[2] is new


def test_get_names_what_is_near():
    with pytest.raises(KeyError, match=r"encoder\.layer\.0\.output"):
        modules.get(models.make("bert"), "encoder.layer.9.output")
    model = models.make("mlp")
    assert modules.get(model, "") is model


def test_ties_are_found_and_counted_once():
    model = models.make("gpt2")
    assert modules.tied_parameters(model) == [["transformer.wte.weight", "lm_head.weight"]]
    assert modules.parameters_once(model) == sum(p.numel() for p in set(model.parameters()))
    assert modules.tied_parameters(models.make("bert")) == []


def test_untying_copies_the_values():
    model = models.make("gpt2")
    before = models.run(model)
    modules.untie_(model, "lm_head.weight")
    assert torch.equal(models.run(model), before)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert float(model.transformer.wte.weight.detach().abs().sum()) > 0
    assert modules.steps_of(model) == [
        {
            "method": "modules.untie_",
            "untied": ["lm_head.weight"],
            "config_changes": {"tie_word_embeddings": False},
        }
    ]
    assert model.config.tie_word_embeddings is False


def test_untying_outside_transformers_and_frozen():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.requires_grad_(False)
    modules.untie_(model, "1.weight")
    assert modules.tied_parameters(model) == [] and not model[1].weight.requires_grad
    assert modules.steps_of(model) == [{"method": "modules.untie_", "untied": ["1.weight"]}]


def test_steps_are_copies_and_survive_deepcopy():
    model = models.make("bert")
    step = {"method": "prune.Magnitude", "config": {"sparsity": 0.5}}
    modules.record_step_(model, step)
    step["config"]["sparsity"] = 0.9
    modules.steps_of(model).clear()
    assert modules.steps_of(model) == [{"method": "prune.Magnitude", "config": {"sparsity": 0.5}}]
    twin = copy.deepcopy(model)
    modules.record_step_(twin, {"method": "prune.Heads"})
    assert len(modules.steps_of(model)) == 1 and len(modules.steps_of(twin)) == 2


def test_the_base_configuration_is_from_before_the_first_step():
    model = models.make("bert")
    modules.record_step_(model, {"method": "m", "config_changes": {"num_hidden_layers": 1}})
    modules.record_step_(model, {"method": "m", "config_changes": {"intermediate_size": 8}})
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (1, 8)
    base = model.__dict__["refimpl_base"]
    assert (base.num_hidden_layers, base.intermediate_size) == (2, 48)


def test_integers_are_no_weights():
    layer = nn.Linear(3, 2)
    with pytest.raises(TypeError, match="weight: got dtype"):
        modules.set_weight_(layer, torch.ones(2, 3, dtype=torch.int32))
    with pytest.raises(TypeError, match="bias: got dtype"):
        modules.set_weight_(layer, torch.ones(2, 3), torch.ones(2, dtype=torch.int32))


def test_the_smallest_layer():
    assert modules.features(modules.resized_linear(nn.Linear(3, 2), 1, 1)) == (1, 1)
