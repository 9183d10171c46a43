"""Grids: the hand case of the specification, properties, and equality with torch's own quantizers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from refimpl.quantize import affine_qparams, dequantize, integer_range, quantize


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_hand_case():
    """Unsigned 8 bits of [-2, 10]: scale 12/255, -2 is 0, 0 is 42 (42.5 rounds to even), 10 is 255 less nothing."""
    scale, zero_point = affine_qparams(-2.0, 10.0, signed=False)
    assert scale.item() == pytest.approx(12 / 255)
    assert zero_point.item() == 42
    q = quantize(torch.tensor([-2.0, 0.0, 1.0, 10.0, 99.0, -99.0]), scale, zero_point, signed=False)
    assert q.tolist() == [0, 42, 63, 254, 255, 0]
    assert q.dtype == torch.uint8
    assert dequantize(q, scale, zero_point)[2].item() == pytest.approx(21 * 12 / 255)
    assert affine_qparams(-2.0, 10.0)[1].item() == 42 - 128


def test_hand_case_symmetric():
    scale, zero_point = affine_qparams(-2.0, 10.0, symmetric=True)
    assert (scale.item(), zero_point.item()) == (pytest.approx(10 / 127), 0)
    assert affine_qparams(-10.0, 2.0, 4, symmetric=True)[0].item() == pytest.approx(10 / 7)
    assert affine_qparams(-10.0, 2.0, symmetric=True, signed=False)[1].item() == 128


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((8, True), (-128, 127)),
        ((8, False), (0, 255)),
        ((8, True, True), (-127, 127)),
        ((8, False, True), (1, 255)),
        ((2, True), (-2, 1)),
        ((4, True, True), (-7, 7)),
        ((16, False), (0, 65535)),
    ],
)
def test_integer_range(arguments, wanted):
    assert integer_range(*arguments) == wanted
    assert integer_range() == (-128, 127)


@pytest.mark.parametrize(
    ("bits", "signed", "dtype"),
    [(8, True, torch.int8), (8, False, torch.uint8), (9, True, torch.int16), (9, False, torch.int32)],
)
def test_dtypes_hold_their_integers(bits, signed, dtype):
    x = torch.tensor([-5.0, 5.0])
    scale, zero_point = affine_qparams(-4.0, 4.0, bits, signed=signed)
    q = quantize(x, scale, zero_point, bits, signed)
    assert q.dtype == dtype
    assert tuple(q.tolist()) == integer_range(bits, signed)


def test_narrow_grid_never_uses_the_smallest_integer():
    one, zero = torch.tensor(1.0), torch.tensor(0)
    assert quantize(torch.tensor([-500.0]), one, zero).item() == -128
    assert quantize(torch.tensor([-500.0]), one, zero, narrow=True).item() == -127


def test_zero_is_always_on_the_grid_and_the_range_widened_to_it():
    for low, high in ((3.0, 7.0), (-7.0, -3.0), (-0.3, 1.7), (0.0, 0.0)):
        scale, zero_point = affine_qparams(low, high, signed=False)
        q = quantize(torch.zeros(1), scale, zero_point, signed=False)
        assert dequantize(q, scale, zero_point).item() == 0
        assert 0 <= zero_point.item() <= 255
    assert affine_qparams(3.0, 7.0)[0].item() == pytest.approx(7 / 255)
    assert affine_qparams(-7.0, -3.0)[0].item() == pytest.approx(7 / 255)


def test_a_range_of_zero_width_has_scale_one():
    for symmetric in (False, True):
        scale, zero_point = affine_qparams(torch.zeros(2), torch.zeros(2), symmetric=symmetric)
        assert scale.tolist() == [1, 1]
        assert zero_point.tolist() == ([0, 0] if symmetric else [-128, -128])


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-100, 100),
    st.floats(0.01, 100),
    st.integers(2, 12),
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
)
def test_error_is_at_most_half_a_step_inside_the_range(low, width, bits, symmetric, signed, seed):
    high = low + width
    x = low + width * torch.rand(50, generator=torch.Generator().manual_seed(seed))
    scale, zero_point = affine_qparams(low, high, bits, symmetric, signed)
    q = quantize(x, scale, zero_point, bits, signed)
    error = (dequantize(q, scale, zero_point) - x).abs().max().item()
    # an affine zero point is rounded, which moves the ends by up to half a step
    assert error <= scale.item() * (0.5 if symmetric else 1.0) * 1.001 + 1e-4


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.booleans())
def test_rounding_what_is_on_the_grid_changes_nothing(bits, symmetric, signed):
    scale, zero_point = affine_qparams(-1.0, 2.0, bits, symmetric, signed)
    q = torch.arange(integer_range(bits, signed)[0], integer_range(bits, signed)[1] + 1)
    x = dequantize(q, scale, zero_point)
    assert torch.equal(quantize(x, scale, zero_point, bits, signed).long(), q)


def test_error_law():
    """E e² = s²/12 for values spread evenly, and 6.02 dB for one bit more."""
    x = 2 * torch.rand(200_000, generator=torch.Generator().manual_seed(0)) - 1
    errors = []
    for bits in (7, 8):
        scale, zero_point = affine_qparams(-1.0, 1.0, bits)
        error = dequantize(quantize(x, scale, zero_point, bits), scale, zero_point) - x
        errors.append(error.square().mean())
        assert errors[-1].item() == pytest.approx(scale.item() ** 2 / 12, rel=0.01)
    assert 10 * torch.log10(errors[0] / errors[1]).item() == pytest.approx(6.02, abs=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("signed", "dtype"), [(False, torch.quint8), (True, torch.qint8)])
def test_equals_torch_observer_and_quantizer(signed, dtype):
    x = normal(64, 33) * 3 + 1
    observer = MinMaxObserver(dtype=dtype, qscheme=torch.per_tensor_affine)
    observer(x)
    their_scale, their_zero = observer.calculate_qparams()
    scale, zero_point = affine_qparams(x.min(), x.max(), signed=signed)
    assert torch.allclose(scale, their_scale)
    assert zero_point.item() == their_zero.item()
    theirs = torch.quantize_per_tensor(x, scale.item(), zero_point.item(), dtype)
    assert torch.equal(quantize(x, scale, zero_point, signed=signed), theirs.int_repr())
    assert torch.allclose(dequantize(theirs.int_repr(), scale, zero_point), theirs.dequantize())
    ends = (0, 255) if not signed else (-128, 127)
    fake = torch.fake_quantize_per_tensor_affine(x, scale.item(), zero_point.item(), *ends)
    assert torch.allclose(dequantize(quantize(x, scale, zero_point, signed=signed), scale, zero_point), fake)


@pytest.mark.filterwarnings("ignore")
def test_equals_torch_per_channel():
    x = normal(12, 40)
    observer = PerChannelMinMaxObserver(ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_affine)
    observer(x)
    their_scale, their_zero = observer.calculate_qparams()
    scale, zero_point = affine_qparams(x.amin(1), x.amax(1))
    assert torch.allclose(scale, their_scale)
    assert torch.equal(zero_point, their_zero)
    theirs = torch.fake_quantize_per_channel_affine(x, scale, zero_point, 0, -128, 127)
    s, z = scale.unsqueeze(1), zero_point.unsqueeze(1)
    assert torch.allclose(dequantize(quantize(x, s, z), s, z), theirs)


def test_half_precision_computes_in_fp32_and_fp64_stays():
    x = normal(100).bfloat16()
    scale, zero_point = affine_qparams(x.min(), x.max())
    assert scale.dtype == torch.float32
    assert torch.equal(quantize(x, scale, zero_point), quantize(x.float(), scale, zero_point))
    assert affine_qparams(torch.tensor(-1.0).double(), torch.tensor(1.0).double())[0].dtype == torch.float64
    x = torch.tensor([0.1, 0.2]).requires_grad_()
    assert not affine_qparams(x.min(), x.max())[0].requires_grad


def test_a_scale_of_integers_is_refused():
    with pytest.raises(TypeError, match="scale: got dtype"):
        quantize(torch.ones(2), torch.tensor(1), torch.tensor(0))
