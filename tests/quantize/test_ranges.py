"""Ranges: by hand, against numpy, against a naive search."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.quantize import (
    absmax_range,
    affine_qparams,
    dequantize,
    minmax_range,
    mse_range,
    percentile_range,
    quantize,
    rms_range,
)

ROWS = torch.tensor([[-1.0, 2.0, 3.0, 0.0], [-5.0, 1.0, 4.0, 0.5]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def listed(ends):
    return [e.tolist() for e in ends]


def test_by_hand():
    assert listed(minmax_range(ROWS)) == [[-1, -5], [3, 4]]
    assert listed(absmax_range(ROWS)) == [[-3, -5], [3, 5]]
    # rms of the first row: sqrt(14/4) = 1.8708
    low, high = rms_range(ROWS, 1.0)
    assert low.tolist() == pytest.approx([-1, -(((25 + 1 + 16 + 0.25) / 4) ** 0.5)])
    assert high.tolist() == pytest.approx([3.5**0.5, ((25 + 1 + 16 + 0.25) / 4) ** 0.5])
    spike = torch.zeros(1, 100).index_fill_(1, torch.tensor([3]), 10.0)  # rms 1
    assert rms_range(spike)[1].item() == pytest.approx(4)
    assert listed(percentile_range(ROWS, 100)) == [[-1, -5], [3, 4]]
    assert listed(percentile_range(torch.arange(11.0), 80)) == [1, 9]
    assert percentile_range(torch.arange(2001.0))[0].item() == pytest.approx(1)  # 99.9 per cent


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.floats(1, 100), st.integers(0, 9))
def test_percentile_equals_numpy(n, percentile, seed):
    x = normal(2, n, seed=seed)
    low, high = percentile_range(x, percentile)
    tail = (100 - percentile) / 2
    wanted = np.percentile(x.double().numpy(), [tail, 100 - tail], axis=1)
    assert np.allclose(np.stack([low.numpy(), high.numpy()]), wanted, atol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_mse_equals_a_naive_search(symmetric, signed, bits):
    x = normal(3, 200, seed=bits) + 0.3
    low, high = mse_range(x, bits, symmetric, signed, steps=20)
    for row, found in zip(x, zip(low.tolist(), high.tolist(), strict=True), strict=True):

        def error(a, b, row=row):
            s, z = affine_qparams(a, b, bits, symmetric, signed)
            return (
                (dequantize(quantize(row, s, z, bits, signed, symmetric), s, z) - row).square().mean().item()
            )

        shares = [k / 20 for k in range(20, 0, -1)]
        if symmetric:
            top = row.abs().max().item()
            a = min(shares, key=lambda f: error(-f * top, f * top)) * top
            assert found == pytest.approx((-a, a))
        else:
            bottom, top = row.min().item(), row.max().item()
            b = min(shares, key=lambda f: error(bottom, f * top)) * top
            a = min(shares, key=lambda f: error(f * bottom, b)) * bottom
            assert found == pytest.approx((a, b))


def test_mse_clips_outliers_at_few_bits_and_nothing_at_many():
    x = torch.cat([normal(1, 10_000), torch.tensor([[12.0]])], 1)
    assert mse_range(x, 3, symmetric=True)[1].item() < 6
    even = 2 * torch.rand(1, 10_000, generator=torch.Generator().manual_seed(0)) - 1
    assert mse_range(even, 8, symmetric=True)[1].item() > 0.98
    assert mse_range(torch.zeros(1, 3))[1].item() == 0
    low, high = mse_range(x, 8)  # a hundredth at a time
    for share in (low / x.min(), high / x.max()):
        assert share.item() * 100 == pytest.approx(round(share.item() * 100), abs=1e-3)


def test_mse_keeps_the_short_side_of_one_sided_values():
    x = torch.nn.functional.gelu(1.5 * normal(1, 20_000))
    low, high = mse_range(x, 4)
    assert low.item() < -0.1
    assert high.item() < 0.9 * x.max().item()


@pytest.mark.parametrize("range_of", [minmax_range, absmax_range, rms_range, percentile_range, mse_range])
def test_fp32_no_gradient_and_rows_by_themselves(range_of):
    x = normal(4, 3, 50).bfloat16().requires_grad_()
    low, high = range_of(x)
    assert low.shape == high.shape == (4, 3)
    assert low.dtype == torch.float32
    assert not high.requires_grad
    assert range_of(x.detach().double())[0].dtype == torch.float64
    alone = range_of(x[2, 1])
    assert torch.allclose(alone[0], low[2, 1])
    assert torch.allclose(alone[1], high[2, 1])


def test_mse_defaults():
    """8 bits, affine, a hundred candidates: what more bits or a symmetric grid would choose is another range."""
    x = torch.cat([normal(1, 50), torch.tensor([[60.0]])], 1)
    assert listed(mse_range(x)) == listed(mse_range(x, 8, False, True, 100))
    assert listed(mse_range(x)) != listed(mse_range(x, 9))
    assert listed(mse_range(x)) != listed(mse_range(x, symmetric=True))
    assert listed(mse_range(x, 2)) == listed(mse_range(x, 2, steps=100)) != listed(mse_range(x, 2, steps=101))


def test_mse_tries_the_smallest_share_and_prefers_the_wider_of_equals():
    """±0.5 falls on the 2-bit grid of half the range; an upper end of 1e-9 changes nothing."""
    for scale in (0.25, 4.0):
        x = scale * torch.tensor([[0.5, -0.5, 0.5, 1.0]])
        assert mse_range(x, 2, symmetric=True, steps=2)[1].tolist() == [0.5 * scale]
        assert listed(mse_range(x, 2, steps=1)) == listed(minmax_range(x))
    assert mse_range(torch.tensor([[-3.0, -1.0, -2.0, 1e-9]]))[1].item() == pytest.approx(1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_mse_of_one_sided_rows_holds_zero(sign):
    """The grid needs 0, so the end on the empty side is 0; the other is searched as always."""
    x = sign * torch.tensor([[1.0, 2.0, 3.0]])
    low, high = mse_range(x, bits=2)
    inner, outer = (low, high) if sign > 0 else (high, low)
    assert inner.item() == 0
    assert 0 < abs(outer.item()) <= 3 and outer.item() * sign > 0
