"""Bitmask storage: the same function bit for bit, the bytes of the formula, no stale matrix."""

import copy

import pytest
import torch
from torch import nn

from refimpl import checkpoint, modules
from refimpl.prune import Bitmask, BitmaskLinear, Magnitude, bitmask_bytes, compress_storage_, prune_
from tests.contracts import models


@pytest.mark.parametrize("on", ["mlp", "bert", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_disk_holds_what_the_formula_says(on, dtype, tmp_path):
    model = models.make(on).to(dtype)
    dense = checkpoint.size(model).weights
    prune_(model, Magnitude(0.7))
    assert checkpoint.size(model).weights == dense, "zeros alone save nothing"
    size = dtype.itemsize
    saved = sum(
        w.numel() * size - bitmask_bytes(w.shape, int((w != 0).sum()), size)
        for w in map(modules.weight_of, modules.linear_layers(model).values())
    )
    before = models.run(model)
    compress_storage_(model, Bitmask())
    assert torch.equal(models.run(model), before)
    assert checkpoint.save(model, tmp_path).weights == dense - saved
    again = checkpoint.load(tmp_path, factory=models.MAKERS[on] if on == "mlp" else None)
    assert torch.equal(models.run(again), before)


def test_only_layers_that_gain_are_changed():
    model = models.make("bert")
    prune_(model, Magnitude(0.5), layers="encoder.layer.0.*")
    compress_storage_(model, Bitmask())
    packed = [n for n, m in model.named_modules() if isinstance(m, BitmaskLinear)]
    assert len(packed) == 6
    assert all(n.startswith("encoder.layer.0.") for n in packed)
    step = modules.steps_of(model)[-1]
    assert step["method"] == "prune.Bitmask"
    assert step["layers"][packed[0]] == {"class": "refimpl.prune.BitmaskLinear", "args": {"nnz": 512}}
    with pytest.raises(ValueError, match="got no linear layer with enough zeros"):
        compress_storage_(models.make("bert"), Bitmask())


def test_at_the_break_even_density_nothing_is_gained():
    """31 of 32 fp32 entries there: 4 bytes saved, 4 bytes of bits."""
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight.fill_(1)[0, 0] = 0
    model = nn.Sequential(layer)
    with pytest.raises(ValueError, match="enough zeros"):
        compress_storage_(model, Bitmask())
    with torch.no_grad():
        layer.weight[0, 1] = 0
    compress_storage_(model, Bitmask())
    assert model[0].values.numel() == 30


def pruned_layer(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(20, 12)
    return prune_(nn.Sequential(layer), Magnitude(0.6))[0]


def test_the_dense_matrix_follows_the_values():
    """Written in place, assigned, loaded, converted, or copied: the next call sees it."""
    a, b = pruned_layer(), pruned_layer(1)
    x = torch.randn(3, 20)
    layer = BitmaskLinear.from_linear(a)
    assert torch.equal(layer(x), a(x))
    layer.values.mul_(2)
    assert torch.equal(layer.weight, 2 * a.weight)
    layer.load_state_dict(BitmaskLinear.from_linear(b).state_dict())
    assert torch.equal(layer(x), b(x))
    twin = copy.deepcopy(layer)
    assert twin._dense is None
    twin.values.zero_()
    assert torch.equal(layer(x), b(x))
    assert torch.equal(twin.weight, torch.zeros(12, 20))
    layer.values.data = BitmaskLinear.from_linear(a).values
    layer.bits.data = BitmaskLinear.from_linear(a).bits
    assert torch.equal(layer.weight, a.weight)
    assert layer.bfloat16().weight.dtype == torch.bfloat16
    assert torch.equal(layer.float().weight, a.weight.bfloat16().float())
    with torch.inference_mode():
        inference = BitmaskLinear.from_linear(pruned_layer())
        assert torch.equal(inference(x), a(x))


def test_it_keeps_bias_mode_and_repr():
    layer = nn.Linear(4, 2, bias=False).eval()
    with torch.no_grad():
        layer.weight[0] = 0
    packed = BitmaskLinear.from_linear(layer)
    assert packed.bias is None
    assert not packed.training
    assert "in_features=4, out_features=2, nnz=4" in repr(packed)
    assert copy.deepcopy(packed).bias is None
    assert not copy.deepcopy(packed).training
    frozen = pruned_layer().requires_grad_(False)
    twin = copy.deepcopy(BitmaskLinear.from_linear(frozen))
    assert torch.equal(twin.bias, frozen.bias)
    assert not twin.bias.requires_grad
    assert [n for n, _ in twin.named_parameters()] == ["bias"]
    assert sorted(twin.state_dict()) == ["bias", "bits", "values"]


def test_inputs_get_their_gradient():
    dense = pruned_layer()
    layer = BitmaskLinear.from_linear(dense)
    x = torch.randn(3, 20, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, dense.weight.sum(0).expand(3, -1).detach())


@pytest.mark.parametrize("rows", [7, 8, 9])
def test_rebuild_makes_the_shapes_of_from_linear(rows):
    """Bits are rounded up to whole bytes."""
    layer = nn.Linear(3, rows)
    with torch.no_grad():
        layer.weight[0, 0] = 0
    packed = BitmaskLinear.from_linear(layer)
    empty = BitmaskLinear.rebuild(layer, nnz=3 * rows - 1)
    shapes = {k: (v.shape, v.dtype) for k, v in packed.state_dict().items()}
    assert {k: (v.shape, v.dtype) for k, v in empty.state_dict().items()} == shapes
    assert empty.training == layer.training
    assert not empty.values.requires_grad


def test_bad_input():
    with pytest.raises(TypeError, match="config: got str"):
        compress_storage_(models.make("bert"), "bitmask")
    with pytest.raises(ValueError, match="include: got 'x'"):
        compress_storage_(models.make("bert"), Bitmask(), layers="x")
    tied = prune_(models.make("gpt2"), Magnitude(0.5), layers="lm_head")
    with pytest.raises(ValueError, match="layers: got 'lm_head', which is tied"):
        compress_storage_(tied, Bitmask(), layers="lm_head")
    assert tied.lm_head.weight is tied.transformer.wte.weight
    with pytest.raises(TypeError, match="config: got float"):
        prune_(models.make("bert"), 0.5)
    with pytest.raises(TypeError, match="model: got str"):
        prune_("bert", Magnitude(0.5))


def test_the_dense_matrix_is_made_once():
    layer = BitmaskLinear.from_linear(pruned_layer())
    assert layer.weight is layer.weight
    layer.values.mul_(2)
    assert layer.weight is layer.weight


def test_a_layer_of_zeros_changes_its_dtype():
    """Without values there is no address by which to tell two dtypes apart."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.zero_()
    packed = BitmaskLinear.from_linear(layer)
    assert packed.weight.dtype == torch.float32
    assert packed.bfloat16().weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("weight", "exception", "message"),
    [
        (torch.tensor([[torch.nan] + [0.0] * 31]), ValueError, r"1\.weight: got NaN"),
        (torch.zeros(1, 32, dtype=torch.int32), TypeError, r"1\.weight: got dtype torch.int32"),
    ],
)
def test_a_refused_weight_is_named_and_nothing_changed(weight, exception, message):
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 1))
    with torch.no_grad():
        model[0].weight.zero_()
    model[1].weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(exception, match=message):
        compress_storage_(model, Bitmask())
    assert isinstance(model[0], nn.Linear)
