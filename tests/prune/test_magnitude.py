"""Magnitude pruning: the hand case of the specification, exact counts, and equality with torch."""

import copy

import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn

from refimpl import modules
from refimpl.prune import Magnitude, apply_mask, magnitude_masks, magnitude_scores, mask_from_scores, prune_

HAND = torch.tensor([[1.0, 2, 3, 4], [-4, -3, -2, -1]])


def test_hand_case():
    """Two of eight go: the two of magnitude 1."""
    mask = mask_from_scores(magnitude_scores(HAND), 0.25)
    assert apply_mask(HAND, mask).tolist() == [[0, 2, 3, 4], [-4, -3, -2, 0]]


def test_scores_are_fp32_magnitudes_without_gradient():
    scores = magnitude_scores(HAND.bfloat16().requires_grad_())
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert scores.tolist() == [[1, 2, 3, 4], [4, 3, 2, 1]]
    assert magnitude_scores(HAND.double()).dtype == torch.float64


def linear_of(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def test_layer_and_global_scope_differ_where_scales_do():
    small, large = linear_of(HAND / 10), linear_of(HAND)
    model = nn.Sequential(small, nn.Linear(2, 4, bias=False), large)
    local = prune_(copy.deepcopy(model), Magnitude(0.5), exclude="1")
    for name in ("0", "2"):
        assert int((local.get_submodule(name).weight == 0).sum()) == 4
    whole = prune_(copy.deepcopy(model), Magnitude(0.5, "global"), layers=["0", "2"])
    assert int((whole[0].weight == 0).sum()) == 8, "the layer of small weights is emptied"
    assert int((whole[2].weight == 0).sum()) == 0
    assert torch.equal(whole[1].weight, model[1].weight)
    assert torch.equal(whole[0].bias, model[0].bias)


def test_ties_across_layers_go_in_the_models_order():
    masks = magnitude_masks({"a": torch.ones(2, 2), "b": torch.ones(3)}, 0.8, "global")
    assert masks["a"].tolist() == [[False] * 2] * 2
    assert masks["b"].tolist() == [False, True, True]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_equals_torch_nn_utils_prune(tiny_bert, share, scope):
    """torch rounds a fraction; given the same whole number it must remove the same weights."""
    ours, theirs = tiny_bert, copy.deepcopy(tiny_bert)
    prune_(ours, Magnitude(share, scope), layers="encoder.*")
    layers = {n: m for n, m in theirs.encoder.named_modules() if isinstance(m, nn.Linear)}
    pairs = [(m, "weight") for m in layers.values()]
    sizes = [m.weight.numel() for m in layers.values()]
    if scope == "layer":
        for (m, _), n in zip(pairs, sizes, strict=True):
            torch_prune.l1_unstructured(m, "weight", amount=int(share * n + 1e-9))
    else:
        torch_prune.global_unstructured(
            pairs, torch_prune.L1Unstructured, amount=int(share * sum(sizes) + 1e-9)
        )
    for name, layer in layers.items():
        assert torch.equal(ours.encoder.get_submodule(name).weight, layer.weight), name


def test_conv1d_and_ties(tiny_gpt2):
    """The tied output layer is not pruned by a filter on linear layers; it is when named, once."""
    model = prune_(copy.deepcopy(tiny_gpt2), Magnitude(0.5))
    assert int((model.transformer.h[0].attn.c_attn.weight == 0).sum()) == 32 * 96 // 2
    assert torch.equal(model.lm_head.weight, tiny_gpt2.lm_head.weight)
    assert "lm_head" not in modules.steps_of(model)[0]["pruned"]
    prune_(tiny_gpt2, Magnitude(0.5), layers="lm_head")
    assert tiny_gpt2.lm_head.weight is tiny_gpt2.transformer.wte.weight
    assert int((tiny_gpt2.transformer.wte.weight == 0).sum()) == tiny_gpt2.lm_head.weight.numel() // 2


def test_a_weight_that_two_layers_share_competes_once():
    a, b, c = nn.Linear(3, 3), nn.Linear(3, 3), linear_of(torch.full((3, 3), 0.01))
    b.weight = a.weight
    model = prune_(nn.Sequential(a, b, c), Magnitude(0.5, "global"), layers=["0", "1", "2"])
    assert sum(int((w == 0).sum()) for w in (a.weight, c.weight)) == 9
    assert modules.steps_of(model)[0]["pruned"] == ["0", "2"]


def test_step_and_requires_grad(tiny_mlp):
    tiny_mlp[0].weight.requires_grad_(False)
    prune_(tiny_mlp, Magnitude(0.25))
    assert modules.steps_of(tiny_mlp) == [
        {
            "method": "prune.Magnitude",
            "config": {"sparsity": 0.25, "scope": "layer"},
            "pruned": ["0", "2"],
        }
    ]
    assert (tiny_mlp[0].weight.requires_grad, tiny_mlp[2].weight.requires_grad) == (False, True)


def test_a_reparametrised_layer_is_refused(tiny_mlp):
    """torch's own pruning makes `weight` a computed tensor: zeros written there would be lost."""
    torch_prune.l1_unstructured(tiny_mlp[2], "weight", amount=3)
    before = tiny_mlp[0].weight.clone()
    with pytest.raises(ValueError, match=r"2\.weight: got a reparametrised weight"):
        prune_(tiny_mlp, Magnitude(0.5))
    assert torch.equal(tiny_mlp[0].weight, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Magnitude(1.1), "sparsity: got 1.1"),
        (lambda: Magnitude(-0.1), "sparsity: got -0.1"),
        (lambda: Magnitude(0.5, "row"), "scope: got 'row'"),
        (lambda: magnitude_masks({}, 0.5), "weights: got none"),
        (lambda: magnitude_masks({"a": HAND}, 0.5, "row"), "scope: got 'row'"),
        (lambda: magnitude_masks({"a": HAND}, 1.5), "sparsity: got 1.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
