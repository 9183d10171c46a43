"""LowRankLinear: the function it replaces, and everything else that layer was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from refimpl import measure, modules
from refimpl.lowrank import Factors, LowRankLinear, truncated_svd
from tests.contracts.registry import randn


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_layer_of_that_rank_is_reproduced(kind):
    """A weight that has rank 3 loses nothing at rank 3; the bias stays."""
    layer = nn.Linear(20, 30) if kind == "linear" else Conv1D(30, 20)
    modules.set_weight_(layer, randn(30, 3) @ randn(3, 20, seed=1), randn(30, seed=4))
    thin = LowRankLinear.from_linear(layer, truncated_svd(modules.weight_of(layer), 3))
    x = randn(2, 5, 20, seed=2)
    torch.testing.assert_close(thin(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(thin.weight, modules.weight_of(layer), rtol=1e-4, atol=1e-4)
    assert thin.up.bias is layer.bias
    assert sum(p.numel() for p in thin.parameters()) == 3 * (20 + 30) + 30
    assert (thin.in_features, thin.rank, thin.out_features) == (20, 3, 30)
    assert "in_features=20, rank=3, out_features=30" in repr(thin)
    torch.testing.assert_close(thin.up.weight.norm(dim=0), thin.down.weight.norm(dim=1))


def test_factors_of_another_shape():
    factors = Factors(torch.ones(3, 2), torch.ones(2), torch.ones(2, 4))
    for layer in (nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(3, 3)):
        with pytest.raises(ValueError, match="factors: got 3 x 4; takes"):
            LowRankLinear.from_linear(layer, factors)
    assert LowRankLinear.from_linear(nn.Linear(4, 3), factors).rank == 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_rebuild_keeps_what_the_layer_was(bias, mode):
    old = nn.Linear(6, 8, bias=bias).to(torch.bfloat16).train(mode).requires_grad_(mode)
    before = torch.get_rng_state()
    new = LowRankLinear.rebuild(old, rank=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert new.down.weight.shape == (2, 6) and new.up.weight.shape == (8, 2)
    assert new.up.bias is old.bias and new.down.bias is None
    assert new.up.weight.dtype == new.down.weight.dtype == torch.bfloat16
    assert new.training is new.up.training is mode
    assert new.up.weight.requires_grad is new.down.weight.requires_grad is mode
    assert not new.up.weight.any() and not new.down.weight.any()


def test_a_frozen_weight_beside_a_trained_bias():
    old = nn.Linear(6, 8)
    old.weight.requires_grad_(False)
    new = LowRankLinear.rebuild(old, rank=2)
    assert not new.up.weight.requires_grad and new.up.bias.requires_grad


def test_made_anew_it_is_two_ordinary_layers():
    torch.manual_seed(0)
    new = LowRankLinear(5, 2, 7, bias=False, dtype=torch.float64)
    assert new.up.bias is None and new.up.weight.dtype == torch.float64 and bool(new.up.weight.any())
    assert LowRankLinear(5, 2, 7).up.bias is not None
    assert LowRankLinear(1, 1, 1)(torch.ones(2, 1)).shape == (2, 1)
    assert list(modules.linear_layers(new)) == ["down", "up"]
    x = randn(3, 5).double()
    torch.testing.assert_close(new(x), x @ new.down.weight.T @ new.up.weight.T)


def test_the_work_is_that_of_two_thin_products():
    thin = LowRankLinear(20, 3, 30)
    assert measure.macs(thin, randn(1, 20)).total == 3 * 20 + 3 * 30
