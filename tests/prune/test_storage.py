"""Bytes: each formula against the bytes of the real encoding, and every encoding back again."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.prune import (
    bitmask_bytes,
    break_even_density,
    csr_bytes,
    decode_bitmask,
    decode_csr,
    decode_two_four,
    dense_bytes,
    encode_bitmask,
    encode_csr,
    encode_two_four,
    mask_n_of_m,
    two_four_bytes,
)

DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
INDICES = st.sampled_from([torch.int16, torch.int32, torch.int64])


def sparse(rows, columns, density, seed, dtype):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=g).to(dtype)
    return weight.masked_fill(torch.rand(rows, columns, generator=g) >= density, 0)


def nbytes(parts):
    return sum(p.numel() * p.element_size() for p in parts.values())


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 33), st.floats(0, 1), st.integers(0, 99), DTYPES, INDICES)
def test_csr_and_bitmask_take_what_the_formulas_say_and_come_back(rows, columns, density, seed, dtype, index):
    weight = sparse(rows, columns, density, seed, dtype)
    nnz, size = int((weight != 0).sum()), weight.element_size()
    encoded = encode_csr(weight, index)
    assert nbytes(encoded) == csr_bytes(weight.shape, nnz, size, index.itemsize)
    assert torch.equal(decode_csr(encoded, weight.shape), weight)
    assert decode_csr(encoded, weight.shape).dtype == dtype
    encoded = encode_bitmask(weight)
    assert nbytes(encoded) == bitmask_bytes(weight.shape, nnz, size)
    assert torch.equal(decode_bitmask(encoded, weight.shape), weight)
    assert decode_bitmask(encoded, weight.shape).dtype == dtype


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.floats(0, 1), st.integers(0, 99), DTYPES)
def test_two_four_takes_what_the_formula_says_and_comes_back(rows, groups, density, seed, dtype):
    weight = sparse(rows, 4 * groups, density, seed, dtype)
    weight = weight * mask_n_of_m(weight.abs())
    encoded = encode_two_four(weight)
    assert nbytes(encoded) == two_four_bytes(weight.shape, weight.element_size())
    assert torch.equal(decode_two_four(encoded, weight.shape), weight)


def test_encodings_by_hand():
    weight = torch.tensor([[0.0, 5, 0, 0, 0, 0, 0, 6], [0] * 8, [7, 0, 8, 0, 0, 0, 0, 0]])
    csr = encode_csr(weight)
    assert csr["values"].tolist() == [5, 6, 7, 8]
    assert csr["columns"].tolist() == [1, 7, 0, 2]
    assert csr["row_starts"].tolist() == [0, 2, 2, 4]
    assert csr["columns"].dtype == csr["row_starts"].dtype == torch.int32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its CSR a beta
        torch_csr = weight.to_sparse_csr()
    assert csr["columns"].tolist() == torch_csr.col_indices().tolist()
    assert csr["row_starts"].tolist() == torch_csr.crow_indices().tolist()
    mask = encode_bitmask(weight)
    assert mask["values"].tolist() == [5, 6, 7, 8]
    assert mask["bits"].tolist() == [0b10000010, 0, 0b00000101]
    pair = encode_two_four(weight)
    assert pair["values"].tolist() == [0, 5, 0, 6, 0, 0, 0, 0, 7, 8, 0, 0]
    # positions (0,1) (0,3) (0,1) (0,1) (0,2) (0,1), the first in the lowest bits
    assert pair["positions"].tolist() == [0b11_00_01_00, 0b01_00_01_00, 0b01_00_10_00]


def test_bytes_by_hand():
    shape = (768, 3072)
    n = 768 * 3072
    assert dense_bytes(shape) == 4 * n
    assert dense_bytes(shape, 2) == 2 * n
    assert dense_bytes((3, 4, 5), 1) == 60
    assert csr_bytes(shape, 1000) == 8 * 1000 + 769 * 4
    assert csr_bytes(shape, 1000, 2, 2) == 4 * 1000 + 769 * 2
    assert bitmask_bytes(shape, 1000) == 4000 + n // 8
    assert bitmask_bytes((3, 3), 2, 2) == 4 + 2
    assert bitmask_bytes((9,), 9) == 36 + 2
    assert two_four_bytes(shape) == 2 * n + n // 8
    assert two_four_bytes(shape, 2) / dense_bytes(shape, 2) == 9 / 16


def test_break_even_by_hand():
    assert break_even_density("csr") == 0.5
    assert break_even_density("csr", 2) == pytest.approx(1 / 3)
    assert break_even_density("csr", 2, 2) == 0.5
    assert break_even_density("bitmask") == 31 / 32
    assert break_even_density("bitmask", 2) == 15 / 16
    assert break_even_density("csr", shape=(768, 768)) == pytest.approx(0.5 - 769 / (2 * 768**2))


@pytest.mark.parametrize("value_bytes", [2, 4, 8])
@pytest.mark.parametrize("index_bytes", [2, 4])
def test_break_even_is_where_the_bytes_cross(value_bytes, index_bytes):
    shape = (96, 160)
    n = 96 * 160
    at = int(break_even_density("csr", value_bytes, index_bytes, shape) * n)
    assert csr_bytes(shape, at, value_bytes, index_bytes) <= dense_bytes(shape, value_bytes)
    assert csr_bytes(shape, at + 1, value_bytes, index_bytes) > dense_bytes(shape, value_bytes)
    at = int(break_even_density("bitmask", value_bytes) * n)
    assert bitmask_bytes(shape, at, value_bytes) == dense_bytes(shape, value_bytes)


def test_encoding_forgets_the_gradient():
    weight = torch.ones(2, 4, requires_grad=True)
    assert not any(p.requires_grad for p in encode_csr(weight).values())
    assert not any(p.requires_grad for p in encode_bitmask(weight).values())


def broken(parts, **changes):
    return {**parts, **changes}


W = torch.tensor([[1.0, 0, 2, 0], [0, 0, 0, 3]])
CSR, MASK, PAIR = encode_csr(W), encode_bitmask(W), encode_two_four(W)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode_csr(CSR, (3, 4)), "do not fit"),
        (lambda: decode_csr(CSR, (2, 3)), "indices outside"),
        (lambda: decode_csr(broken(CSR, values=torch.ones(2)), (2, 4)), "do not fit"),
        (lambda: decode_csr(broken(CSR, row_starts=torch.tensor([0, 2, 4])), (2, 4)), "do not fit"),
        (lambda: decode_csr(broken(CSR, row_starts=torch.tensor([0, 4, 3])), (2, 4)), "indices outside"),
        (lambda: decode_csr(broken(CSR, row_starts=torch.tensor([1, 2, 3])), (2, 4)), "do not fit"),
        (lambda: decode_csr(broken(CSR, columns=torch.tensor([-1, 2, 3])), (2, 4)), "indices outside"),
        (lambda: decode_csr(broken(CSR, columns=torch.tensor([0, 2, 4])), (2, 4)), "indices outside"),
        (lambda: decode_bitmask(broken(MASK, values=torch.ones(2)), (2, 4)), "2 values for 3 set bits"),
        (lambda: decode_bitmask(MASK, (3, 4)), "takes 2"),
        (lambda: decode_bitmask(broken(MASK, bits=MASK["bits"].int()), (2, 4)), "uint8"),
        (lambda: decode_two_four(PAIR, (2, 8)), "takes 8"),
        (
            lambda: decode_two_four(broken(PAIR, positions=torch.zeros(3, dtype=torch.uint8)), (2, 4)),
            "takes 1",
        ),
        (lambda: encode_two_four(torch.ones(1, 4)), "more than 2"),
        (lambda: encode_two_four(torch.ones(1, 6)), "multiple of 4"),
        (lambda: encode_csr(torch.ones(2, 40000), torch.int16), "takes a wider one"),
        (lambda: encode_csr(torch.ones(2, 20000), torch.int16), "takes a wider one"),
        (lambda: encode_csr(torch.zeros(2, 32769), torch.int16), "takes a wider one"),
        (lambda: encode_csr(torch.ones(2, 2), torch.int8), "index_dtype: got torch.int8"),
        (lambda: csr_bytes((4,), 1), "takes \\(rows, columns\\)"),
        (lambda: csr_bytes((2, 2), 5), "nnz: got 5"),
        (lambda: csr_bytes((2, 2), -1), "nnz: got -1"),
        (lambda: csr_bytes((2, 2), 1, 0), "value_bytes: got 0"),
        (lambda: csr_bytes((2, 2), 1, 1, 0), "index_bytes: got 0"),
        (lambda: bitmask_bytes((2, 2), 5), "nnz: got 5"),
        (lambda: bitmask_bytes((2, 2), 1, 0), "value_bytes: got 0"),
        (lambda: bitmask_bytes((2, 2), -1), "nnz: got -1"),
        (lambda: dense_bytes(()), "shape: got \\(\\)"),
        (lambda: dense_bytes((2, 0)), "shape: got 0"),
        (lambda: dense_bytes((2, 2), 0), "value_bytes: got 0"),
        (lambda: two_four_bytes((4, 2)), "multiple of 4"),
        (lambda: two_four_bytes((2, 4), 0), "value_bytes: got 0"),
        (lambda: break_even_density("coo"), "encoding: got 'coo'"),
        (lambda: break_even_density("csr", 0), "value_bytes: got 0"),
        (lambda: break_even_density("csr", 4, 0), "index_bytes: got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_int16_index_reaches_as_far_as_it_can():
    """Row starts to 32767 entries, columns to index 32767."""
    assert torch.equal(
        decode_csr(encode_csr(torch.ones(1, 32767), torch.int16), (1, 32767)), torch.ones(1, 32767)
    )
    wide = torch.zeros(1, 32768)
    wide[0, -1] = 1
    assert torch.equal(decode_csr(encode_csr(wide, torch.int16), (1, 32768)), wide)
    assert torch.equal(decode_csr(encode_csr(torch.zeros(2, 2)), (2, 2)), torch.zeros(2, 2))


def test_single_bytes_and_single_entries():
    assert csr_bytes((2, 2), 1, 1, 1) == 2 + 3
    assert bitmask_bytes((2, 2), 1, 1) == 1 + 1
    assert two_four_bytes((2, 4), 1) == 4 + 1
    assert break_even_density("csr", 1, 1) == 0.5
    assert break_even_density("bitmask", 1) == 7 / 8
    one = torch.tensor([[0.0, 3.0]])
    with pytest.raises(ValueError, match="indices outside"):
        decode_csr(broken(encode_csr(one), columns=torch.tensor([2])), (1, 2))


@pytest.mark.parametrize("encode", [encode_csr, encode_bitmask, encode_two_four])
def test_what_is_no_weight_is_not_encoded(encode):
    with pytest.raises(TypeError, match="weight: got dtype"):
        encode(torch.tensor([[1, 0, 0, 0]]))
    with pytest.raises(ValueError, match="weight: got NaN"):
        encode(torch.tensor([[torch.inf, 0, 0, 0]]))


def test_one_full_group_among_empty_ones_is_no_two_four():
    with pytest.raises(ValueError, match="more than 2"):
        encode_two_four(torch.tensor([[0.0, 0, 0, 0], [1, 0, 1, 1]]))


@pytest.mark.parametrize("n", [6, 2])
def test_two_four_of_a_size_that_is_no_multiple_of_four(n):
    parts = {"values": torch.ones(n // 2), "positions": torch.zeros(1, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=f"got {n // 2} values"):
        decode_two_four(parts, (n,))
