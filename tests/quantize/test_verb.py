"""quantize_: what the configurations say when nothing is said, and what is refused before a change."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from refimpl import modules
from refimpl.quantize import Int4Weights, Int8Dynamic, Int8Weights, quantize_

CONFIGS = [Int8Weights(), Int8Dynamic(), Int4Weights(2)]


def test_defaults_and_the_smallest_groups():
    assert Int8Weights() == Int8Weights("channel", None)
    assert Int8Dynamic() == Int8Dynamic(symmetric=False)
    assert Int4Weights() == Int4Weights(group_size=32)
    for config in (Int8Weights("group", 1), Int4Weights(1)):
        assert isinstance(quantize_(nn.Sequential(nn.Linear(3, 2)), config), nn.Sequential)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize(
    ("weight", "exception", "message"),
    [
        (torch.full((4, 4), torch.nan), ValueError, r"1\.weight: got NaN"),
        (torch.ones(4, 4, dtype=torch.int32), TypeError, r"1\.weight: got dtype torch.int32"),
    ],
)
def test_a_refused_weight_is_named(config, weight, exception, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(exception, match=message):
        quantize_(model, config)
    assert modules.is_linear(model[0])


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_reparametrised_weight_is_refused(config):
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"0\.weight: got a reparametrised weight"):
        quantize_(model, config)


def test_a_tied_layer_is_refused_when_named(tiny_gpt2):
    with pytest.raises(ValueError, match=r"layers: got 'lm_head', which is tied"):
        quantize_(tiny_gpt2, Int8Weights(), layers="lm_head")
    with pytest.raises(ValueError, match="group_size: got 3 for .*; takes a divisor of 32"):
        quantize_(tiny_gpt2, Int8Weights("group", 3))
