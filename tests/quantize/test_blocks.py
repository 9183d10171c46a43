"""Granularity, whole tensors, packing, SQNR."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.quantize import (
    PerChannel,
    PerGroup,
    PerTensor,
    from_blocks,
    mse_range,
    pack_int4,
    quantize_tensor,
    sqnr,
    to_blocks,
    unpack_int4,
)

CUBE = torch.arange(24.0).reshape(2, 3, 4)


def test_blocks_by_hand():
    assert to_blocks(CUBE, PerTensor()).shape == (1, 24)
    assert to_blocks(CUBE, PerChannel())[1].tolist() == list(range(12, 24))
    assert to_blocks(CUBE, PerChannel(1))[1].tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert torch.equal(to_blocks(CUBE, PerChannel(-1)), to_blocks(CUBE, PerChannel(2)))
    assert to_blocks(CUBE, PerChannel(-1))[3].tolist() == [3, 7, 11, 15, 19, 23]
    assert to_blocks(CUBE, PerGroup(2))[5].tolist() == [10, 11]
    assert PerGroup().size == 64
    assert to_blocks(torch.zeros(0, 3), PerChannel(0)).shape == (0, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(-4, 3), st.integers(1, 3))
def test_from_blocks_undoes_to_blocks(shape, axis, size):
    shape = [*shape[:-1], shape[-1] * size]
    x = torch.arange(math.prod(shape)).reshape(shape)
    kinds = [PerTensor(), PerGroup(size)] + [PerChannel(axis)] * (-len(shape) <= axis < len(shape))
    for kind in kinds:
        assert torch.equal(from_blocks(to_blocks(x, kind), kind, x.shape), x)


def test_quantize_tensor_by_hand():
    x = torch.tensor([[-1.0, 0.5], [2.54, 1.27]])
    found = quantize_tensor(x, granularity=PerChannel(0))
    assert found.q.tolist() == [[-127, 64], [127, 64]]  # 63.5 rounds to even
    assert torch.allclose(found.scale, torch.tensor([1 / 127, 2.54 / 127]))
    assert torch.allclose(found.dequantize(), torch.tensor([[-1.0, 64 / 127], [2.54, 1.28]]))
    assert found.bits_per_number == 8 + 32 / 2
    assert quantize_tensor(x).q.shape == (1, 4)
    assert quantize_tensor(x, 4, symmetric=False, signed=False).bits_per_number == 4 + 36 / 4
    affine = quantize_tensor(x, symmetric=False, signed=False)
    assert affine.zero_point.item() == 72  # 1/3.54 of 255
    assert affine.q.min() == 0
    assert affine.q.max() == 255


def test_affine_keeps_one_sided_values_better_and_finer_blocks_keep_more():
    x = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 0, 64).unsqueeze(
        1
    )
    quality = {
        g: sqnr(x, quantize_tensor(x, 8, g).dequantize()) for g in (PerTensor(), PerChannel(0), PerGroup(8))
    }
    assert quality[PerTensor()] + 5 < quality[PerChannel(0)] < quality[PerGroup(8)]
    one_sided = quantize_tensor(x, symmetric=False).dequantize()
    assert sqnr(x, one_sided) > quality[PerTensor()] + 5  # one bit, 6 dB


def test_clipped_values_stay_on_the_narrow_grid():
    x = torch.cat([torch.randn(4000, generator=torch.Generator().manual_seed(0)), torch.tensor([-30.0])])
    found = quantize_tensor(x, 4, range_of=lambda rows: mse_range(rows, 4, symmetric=True))
    assert found.q.min() == -7
    assert sqnr(x, found.dequantize()) > sqnr(x, quantize_tensor(x, 4).dequantize()) + 1


def test_pack_by_hand():
    q = torch.tensor([[-8, 7, 0], [1, -1, 3]], dtype=torch.int8)
    assert pack_int4(q).tolist() == [[0 | 15 << 4, 8 | 8 << 4], [9 | 7 << 4, 11 | 8 << 4]]
    assert torch.equal(unpack_int4(pack_int4(q), 3), q)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3), st.integers(0, 9), st.integers(0, 99))
def test_unpack_undoes_pack(rows, n, seed):
    q = torch.randint(-8, 8, (rows, n), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = pack_int4(q)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, (n + 1) // 2)
    assert torch.equal(unpack_int4(packed, n), q)
    assert unpack_int4(packed, n).dtype == torch.int8


def test_pack_equals_numpy():
    q = torch.randint(-8, 8, (5, 10), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    a = (q.numpy() + 8).astype(np.uint8)
    assert np.array_equal(pack_int4(q).numpy(), a[:, ::2] + 16 * a[:, 1::2])


def test_sqnr_by_hand():
    x = torch.tensor([3.0, 4.0])
    assert sqnr(x, torch.tensor([3.0, 3.5])).item() == pytest.approx(20)
    assert sqnr(x, x).item() == math.inf
    assert sqnr(x.half(), x.half() / 2).item() == pytest.approx(20 * math.log10(2))


def test_the_signal_is_measured_in_fp64():
    """An error of 1e-9 of the signal is 180 dB; a signal of exactly 1 is a signal."""
    x = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert sqnr(x, x + torch.tensor([0.0, 1e-9])).item() == pytest.approx(180)
    assert sqnr(x.float(), x.float()).dtype == torch.float64


def test_blocks_and_bytes_of_a_vector():
    q = torch.tensor([1, -2, 3], dtype=torch.int8)
    assert pack_int4(q).tolist() == [9 | 6 << 4, 11 | 8 << 4]
    assert torch.equal(unpack_int4(pack_int4(q), 3), q)


def clipless(rows):
    return rows.amin(1), rows.amax(1)


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: sqnr(torch.ones(2).int(), torch.ones(2)), TypeError, "x: got dtype"),
        (lambda: sqnr(torch.ones(2), torch.ones(2).int()), TypeError, "x_hat: got dtype"),
        (lambda: sqnr(torch.ones(2) / 0, torch.ones(2)), ValueError, "x: got NaN or inf"),
        (lambda: sqnr(torch.ones(2), torch.ones(2) / 0), ValueError, "x_hat: got NaN or inf"),
        (lambda: pack_int4(torch.tensor([-9, 0], dtype=torch.int8)), ValueError, "from -9 to 0"),
        (lambda: pack_int4(torch.tensor([8, 0], dtype=torch.int8)), ValueError, "from 0 to 8"),
        (lambda: unpack_int4(torch.tensor(1, dtype=torch.uint8), 1), ValueError, "n: got 1 for bytes of"),
        (lambda: to_blocks(CUBE, PerGroup(3)), ValueError, "size: got 3; takes a divisor .* dimension, 4"),
        (lambda: to_blocks(CUBE[0, 0, 0], PerGroup(3)), ValueError, "divisor of the last dimension, 1"),
        (lambda: quantize_tensor(CUBE / 0, range_of=clipless), ValueError, "x: got NaN or inf"),
        (lambda: quantize_tensor(CUBE.int(), range_of=clipless), TypeError, "x: got dtype"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
