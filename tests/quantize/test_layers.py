"""Quantized layers: integers exact on every path, any shape and dtype, copies, casts, checkpoints."""

import copy
import io

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from refimpl import checkpoint, modules
from refimpl.quantize import (
    Int4Weights,
    Int8Dynamic,
    Int8Weights,
    int8_linear,
    integer_path,
    product,
    quantize_,
    quantize_rows,
    sqnr,
)

CONFIGS = [
    Int8Weights(),
    Int8Weights("tensor"),
    Int8Weights("group", 8),
    Int4Weights(8),
    Int8Dynamic(),
    Int8Dynamic(True),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantized(config, layer=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer = layer or nn.Linear(24, 12)
    return quantize_(nn.Sequential(layer), config)[0], layer


def naive(x, weight, scale, bias, symmetric):
    """The same product with Python's own integers and fp64 scales."""
    rows = []
    for row in x.double():
        high, low = row.max().item(), row.min().item()
        if symmetric:
            s = max(high, -low) / 127 or 1.0
            z = 0
        else:
            s = (max(high, 0) - min(low, 0)) / 255 or 1.0
            z = -128 - round(min(low, 0) / s)
        q = [max(-128, min(127, round(v / s) + z)) for v in row.tolist()]
        sums = [sum((a - z) * b for a, b in zip(q, w, strict=True)) for w in weight.tolist()]
        rows.append([s * c * t + b for c, t, b in zip(scale.tolist(), sums, bias.tolist(), strict=True)])
    return torch.tensor(rows)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("path", ["onednn", "int_mm", "float"])
def test_product_equals_integers_by_hand(symmetric, path):
    if path == "onednn" and integer_path() != "onednn":
        pytest.skip("no VNNI on this CPU")
    x = normal(7, 40) + 0.5
    x[2] = 0
    x[3] = x[3].abs()
    weight = torch.randint(-127, 128, (9, 40), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    scale, bias = normal(9, seed=2).abs() + 0.1, normal(9, seed=3)
    got = int8_linear(x, weight, scale, bias, symmetric, path=path)
    wanted = naive(x, weight, scale, bias, symmetric)
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-3)
    assert torch.allclose(int8_linear(x, weight, scale, None, symmetric, path=path), wanted - bias, atol=1e-3)
    assert torch.equal(got[2], bias)


def test_paths_agree_over_chunks_and_where_fp32_sums_would_round():
    """2,100 products of up to 127² exceed 2^24: the plain path must add them in pieces."""
    x = torch.full((2 * (product.CHUNK // 2100) + 3, 2100), 1.0)  # three chunks
    x[::2] = normal(x[::2].shape[0], 2100).abs()
    weight = torch.full((5, 2100), 127, dtype=torch.int8)
    weight[1] = torch.randint(-127, 128, (2100,), generator=torch.Generator().manual_seed(0))
    scale = torch.ones(5)
    plain = int8_linear(x, weight, scale, symmetric=True, path="float")
    assert plain[1, 0].item() == pytest.approx(127 * 127 * 2100 / 127, rel=1e-6)
    q, s, _ = quantize_rows(x, True)
    exact = (q.double() @ weight.double().T) * s.double()
    assert torch.allclose(plain.double(), exact, rtol=3e-7, atol=0)
    assert torch.equal(plain, int8_linear(x, weight, scale, symmetric=True, path="int_mm"))
    assert torch.equal(plain, int8_linear(x, weight, scale, symmetric=True))


def test_rows_use_the_whole_grid():
    x = torch.stack([torch.linspace(0, 1, 50), torch.linspace(-3, 1, 50), torch.linspace(-2, -1, 50)])
    q, scale, zero_point = quantize_rows(x)
    assert torch.allclose(scale[:, 0], torch.tensor([1, 4, 2]) / 255)
    assert zero_point[:, 0].tolist() == [-128, 63, 127]
    assert (q[0].min(), q[0].max()) == (-128, 127)
    assert q[2].max() == 0  # half of this row's grid lies above it, between -1 and 0
    assert ((q - zero_point) * scale - x).abs().max() <= scale.max() * 0.501
    q, scale, none = quantize_rows(x, symmetric=True)
    assert none is None
    assert torch.allclose(scale[:, 0], torch.tensor([1, 3, 2]) / 127)
    assert q.min() == -127


def test_choice_of_path(monkeypatch):
    assert integer_path("meta") == "float"
    assert integer_path("cuda") == "int_mm"
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert integer_path() == "float"
    x, weight = normal(3, 8), torch.ones(2, 8, dtype=torch.int8)
    assert torch.allclose(
        int8_linear(x, weight, torch.ones(2)), x.sum(1, keepdim=True).expand(3, 2), atol=0.1
    )
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert integer_path() == "onednn"
    assert integer_path(torch.device("cpu")) == "onednn"


def test_cuda_padding():
    """What the CUDA path adds for cuBLAS, tried on the CPU: 17 rows, sizes divisible by 8, then cut again."""
    q = torch.randint(-9, 9, (3, 13), dtype=torch.int8)
    weight = torch.randint(-9, 9, (5, 13), dtype=torch.int8)
    a, b = product.padded(q, weight)
    assert (a.shape, b.shape) == ((17, 16), (8, 16))
    assert torch.equal((a.int() @ b.int().T)[:3, :5], q.int() @ weight.int().T)
    a, b = product.padded(torch.zeros(20, 16, dtype=torch.int8), torch.zeros(8, 16, dtype=torch.int8))
    assert (a.shape, b.shape) == ((20, 16), (8, 16))


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_near_the_layer_it_replaces_in_any_shape_and_dtype(config):
    new, old = quantized(config)
    least = 13 if isinstance(config, Int4Weights) else 34
    for shape in ((24,), (5, 24), (2, 3, 24)):
        x = normal(*shape)
        y = new(x)
        assert y.shape == (*shape[:-1], 12)
        assert sqnr(old(x), y) > least
    assert new(torch.zeros(0, 24)).shape == (0, 12)
    assert new(torch.zeros(2, 0, 24)).shape == (2, 0, 12)
    turned = normal(24, 5).T  # not contiguous
    assert torch.allclose(new(turned), new(turned.contiguous()), atol=1e-6)
    rows = normal(6, 24)
    assert torch.allclose(new(rows)[2:3], new(rows[2:3]), atol=1e-6), "a row must not depend on others"
    assert torch.equal(new(torch.zeros(1, 24))[0], old.bias)
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(new).to(dtype)
        assert half.scale.dtype == torch.float32
        assert half(x.to(dtype)).dtype == dtype
        assert sqnr(old(x), half(x.to(dtype)).float()) > least - 2
    with pytest.raises((ValueError, RuntimeError)):
        new(normal(3, 23))


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_conv1d_and_no_bias(config):
    conv = Conv1D(12, 24)
    linear = nn.Linear(24, 12)
    linear.weight.data, linear.bias.data = conv.weight.T.clone().detach(), conv.bias.detach().clone()
    x = normal(4, 24)
    assert torch.equal(quantized(config, conv)[0](x), quantized(config, linear)[0](x))
    new, old = quantized(config, nn.Linear(24, 12, bias=False))
    assert new.bias is None
    assert sqnr(old(x), new(x)) > 13


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_dequantized_is_within_half_a_step(config):
    new, old = quantized(config)
    step = new.scale.max() if not isinstance(config, Int4Weights) else new.scale.repeat_interleave(8, 1)
    assert ((new.dequantized() - old.weight).abs() <= 0.501 * step).all()
    assert new.dequantized().dtype == torch.float32
    if isinstance(config, Int8Weights | Int4Weights):
        x = normal(3, 24)
        assert torch.allclose(new(x), nn.functional.linear(x, new.dequantized(), old.bias), atol=1e-6)


def test_what_is_derived_follows_the_weight_and_is_never_copied():
    new, _ = quantized(Int8Dynamic())
    x = normal(3, 24)
    first = new(x)
    assert new._derived is not None
    for twin in (copy.deepcopy(new), _pickled(new)):
        assert twin._derived is None
        assert torch.equal(twin(x), first)
    assert set(new.state_dict()) == {"weight", "scale", "bias"}
    held = new._derived
    new(x)
    assert new._derived is held, "made once"
    other, _ = quantized(Int8Dynamic(), nn.Linear(24, 12))
    wanted = other(x)
    new.load_state_dict(other.state_dict())  # in place
    assert torch.equal(new(x), wanted)
    new.weight.data = new.weight.neg()  # behind the counter of changes
    assert torch.allclose(new(x) - new.bias, -(wanted - new.bias), atol=1e-5)
    with torch.inference_mode():
        made = quantize_(nn.Sequential(nn.Linear(24, 12)), Int8Dynamic())
        assert made(x).shape == (3, 12)


def _pickled(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_saves_and_loads_bit_for_bit(config, tiny_gpt2, tiny_batch, tmp_path):
    model = quantize_(tiny_gpt2, config)
    assert not modules.is_linear(modules.get(model, "transformer.h.0.attn.c_attn"))
    assert modules.is_linear(model.lm_head), "tied to the embedding, so passed over"
    checkpoint.save(model, tmp_path / "m")
    again = checkpoint.load(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(model(**tiny_batch).logits, again(**tiny_batch).logits)
    step = modules.steps_of(again)[-1]
    assert step["method"] == f"quantize.{type(config).__name__}"


def test_bytes(tiny_bert):
    """4 bytes a weight become 1 (or a half) and 4 for each scale."""
    before = checkpoint.size(tiny_bert).weights
    layers = modules.linear_layers(tiny_bert)
    weights = sum(modules.weight_of(m).numel() for m in layers.values())
    outputs = sum(modules.features(m)[1] for m in layers.values())
    int8 = checkpoint.size(quantize_(copy.deepcopy(tiny_bert), Int8Dynamic())).weights
    assert before - int8 == pytest.approx(3 * weights - 4 * outputs, abs=600)
    int4 = checkpoint.size(quantize_(copy.deepcopy(tiny_bert), Int4Weights(16))).weights
    assert before - int4 == pytest.approx(3.5 * weights - 4 * weights / 16, abs=600)


def test_patterns_and_nothing_changed_on_error(tiny_bert):
    model = quantize_(tiny_bert, Int8Weights(), layers="*.intermediate.dense", exclude="encoder.layer.1.*")
    assert not modules.is_linear(modules.get(model, "encoder.layer.0.intermediate.dense"))
    assert modules.is_linear(modules.get(model, "encoder.layer.1.intermediate.dense"))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="group_size: got 5"):
        quantize_(model, Int4Weights(5))
    modules.get(model, "encoder.layer.1.output.dense").weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        quantize_(model, Int8Weights())
    assert set(state) == set(model.state_dict())
    assert len(modules.steps_of(model)) == 1


def test_minilm_keeps_its_embeddings(minilm):
    """On the real model: both sides in integers move the pooled output by less than half a per cent."""
    model, tokenizer = minilm
    batch = tokenizer(
        ["Return the sum of two numbers.", "Open a file and read it."], padding=True, return_tensors="pt"
    )
    cosines = {}
    with torch.no_grad():
        full = model(**batch).last_hidden_state[:, 0]
        for config in (Int8Weights("tensor"), Int8Weights(), Int8Dynamic(), Int8Dynamic(True)):
            small = quantize_(copy.deepcopy(model), config)(**batch).last_hidden_state[:, 0]
            cosines[config] = torch.cosine_similarity(full, small).min().item()
    assert cosines[Int8Weights()] > 0.998
    assert cosines[Int8Dynamic()] > 0.995
    assert cosines[Int8Weights("tensor")] < cosines[Int8Weights()] - 0.005
    assert cosines[Int8Dynamic(True)] < cosines[Int8Dynamic()]


@pytest.mark.parametrize("symmetric", [False, True])
def test_compiles_to_one_graph_with_the_same_integers(symmetric):
    """Traced without a C++ compiler; ``fullgraph`` raises on any break."""
    model = quantize_(nn.Sequential(nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 8)), Int8Dynamic(symmetric))
    x = normal(2, 5, 24)
    traced = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.allclose(traced(x), model(x), atol=1e-4)
