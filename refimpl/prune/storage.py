"""What zeros cost on disk: dense, CSR, bitmask and 2:4, as formulas and as real encodings.

n entries of v bytes each, nnz of them not zero, in r rows; i bytes for an index:

    dense    n · v
    CSR      nnz · (v + i) + (r + 1) · i         a column index beside each value, and where rows start
    bitmask  nnz · v + ⌈n / 8⌉                   one bit an entry says whether it is there
    2:4      (n / 2) · v + ⌈n / 8⌉               two of four entries are there, two bits say which each one is
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from refimpl.checks import check_choice, check_int, check_tensor

__all__ = [
    "bitmask_bytes",
    "break_even_density",
    "csr_bytes",
    "decode_bitmask",
    "decode_csr",
    "decode_two_four",
    "dense_bytes",
    "encode_bitmask",
    "encode_csr",
    "encode_two_four",
    "two_four_bytes",
]


def dense_bytes(shape: Sequence[int], value_bytes: int = 4) -> int:
    """n · v: every entry is stored.

    Args:
        shape: sizes of the tensor.
        value_bytes: bytes of one value (4 for fp32, 2 for fp16).

    Raises:
        TypeError, ValueError: sizes or bytes that are not positive integers.
    """
    return _numel(shape) * check_int("value_bytes", value_bytes, 1)


def csr_bytes(shape: Sequence[int], nnz: int, value_bytes: int = 4, index_bytes: int = 4) -> int:
    """nnz · (v + i) + (rows + 1) · i: compressed sparse rows.

    Args:
        shape: ``(rows, columns)``.
        nnz: number of entries that are not zero.
        value_bytes: bytes of one value.
        index_bytes: bytes of one column index and of one row start.

    Raises:
        TypeError, ValueError: not two dimensions, more entries than the shape has, sizes not positive.
    """
    n = _numel(shape)
    if len(shape) != 2:
        raise ValueError(f"shape: got {tuple(shape)}; takes (rows, columns)")
    check_int("nnz", nnz, 0, n)
    index = check_int("index_bytes", index_bytes, 1)
    return nnz * (check_int("value_bytes", value_bytes, 1) + index) + (shape[0] + 1) * index


def bitmask_bytes(shape: Sequence[int], nnz: int, value_bytes: int = 4) -> int:
    """nnz · v + ⌈n / 8⌉: the values that are there, and one bit for each entry.

    Args and errors as in `csr_bytes`, for any number of dimensions.
    """
    n = _numel(shape)
    return check_int("nnz", nnz, 0, n) * check_int("value_bytes", value_bytes, 1) + math.ceil(n / 8)


def two_four_bytes(shape: Sequence[int], value_bytes: int = 4) -> int:
    """(n / 2) · v + ⌈n / 8⌉: two of every four entries, and a 2-bit position for each of the two.

    Args:
        shape: sizes; the last a multiple of 4.
        value_bytes: bytes of one value. At 2 this is 9/16 of the dense bytes.

    Raises:
        TypeError, ValueError: sizes not positive, or a last size that is no multiple of 4.
    """
    n = _numel(shape)
    if shape[-1] % 4:
        raise ValueError(f"shape: got a last size of {shape[-1]}; takes a multiple of 4")
    return n // 2 * check_int("value_bytes", value_bytes, 1) + math.ceil(n / 8)


def break_even_density(
    encoding: str, value_bytes: int = 4, index_bytes: int = 4, shape: Sequence[int] | None = None
) -> float:
    """The density nnz / n at which an encoding takes as many bytes as the dense tensor.

    CSR: v / (v + i), less (rows + 1) · i / (n · (v + i)) when a shape is given: 1/2 with fp32 values and
    32-bit indices, 1/3 with fp16. Bitmask: 1 − 1 / (8 v): 97 % with fp32, 94 % with fp16.

    Args:
        encoding: ``"csr"`` or ``"bitmask"``.
        value_bytes, index_bytes: as in `csr_bytes`.
        shape: ``(rows, columns)``; ``None`` for the limit of long rows.

    Raises:
        TypeError, ValueError: unknown encoding, sizes not positive.
    """
    check_choice("encoding", encoding, ("csr", "bitmask"))
    v = check_int("value_bytes", value_bytes, 1)
    i = check_int("index_bytes", index_bytes, 1)
    if encoding == "bitmask":
        return 1 - 1 / (8 * v)
    if shape is None:
        return v / (v + i)
    return (dense_bytes(shape, v) - csr_bytes(shape, 0, v, i)) / (_numel(shape) * (v + i))


def encode_csr(weight: torch.Tensor, index_dtype: torch.dtype = torch.int32) -> dict[str, torch.Tensor]:
    """``values`` [nnz], ``columns`` [nnz], ``row_starts`` [rows + 1]; together `csr_bytes` bytes.

    Args:
        weight: ``[rows, columns]``, floating point, finite.
        index_dtype: ``torch.int16``, ``int32`` or ``int64``.

    Raises:
        TypeError, ValueError: not such a tensor, or indices that do not fit ``index_dtype``.
    """
    check_tensor("weight", weight, ndim=2, floating=True, finite=True)
    check_choice("index_dtype", index_dtype, (torch.int16, torch.int32, torch.int64))
    weight = weight.detach()
    there = weight != 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64, device=weight.device), there.sum(1).cumsum(0)])
    limit = torch.iinfo(index_dtype).max
    if max(int(starts[-1]), weight.shape[1] - 1) > limit:
        raise ValueError(f"index_dtype: got {index_dtype} (up to {limit}); takes a wider one for this tensor")
    columns = there.nonzero()[:, 1]
    return {
        "values": weight[there],
        "columns": columns.to(index_dtype),
        "row_starts": starts.to(index_dtype),
    }


def decode_csr(encoded: Mapping[str, torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    """The dense tensor of `encode_csr`.

    Raises:
        KeyError, ValueError: a part is missing, or the parts do not fit each other and the shape.
    """
    values, columns, starts = _parts(encoded, "values", "columns", "row_starts")
    columns, starts = columns.long(), starts.long()
    rows, width = shape
    counts = starts.diff()
    fits = starts.numel() == rows + 1 and int(starts[0]) == 0 and int(starts[-1]) == columns.numel()
    if not fits or values.numel() != columns.numel():
        raise ValueError(f"encoded: got parts that do not fit each other and shape {tuple(shape)}")
    outside = columns.numel() > 0 and (int(columns.min()) < 0 or int(columns.max()) >= width)
    if outside or bool((counts < 0).any()):
        raise ValueError(f"encoded: got indices outside shape {tuple(shape)}")
    weight = values.new_zeros(rows, width)
    row_of = torch.arange(rows, device=values.device).repeat_interleave(counts)
    weight[row_of, columns] = values
    return weight


def encode_bitmask(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """``values`` [nnz] and ``bits`` [⌈n / 8⌉] (uint8, lowest bit first); together `bitmask_bytes` bytes.

    Raises:
        TypeError, ValueError: not a finite floating-point tensor.
    """
    check_tensor("weight", weight, floating=True, finite=True)
    flat = weight.detach().reshape(-1)
    there = flat != 0
    return {"values": flat[there], "bits": _pack(there.to(torch.uint8), 1)}


def decode_bitmask(encoded: Mapping[str, torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    """The dense tensor of `encode_bitmask`.

    Raises:
        KeyError, ValueError: a part is missing, or the parts do not fit each other and the shape.
    """
    n = _numel(shape)
    values, bits = _parts(encoded, "values", "bits")
    there = _unpack(bits, 1, n).bool()
    if int(there.sum()) != values.numel():
        raise ValueError(f"encoded: got {values.numel()} values for {int(there.sum())} set bits")
    weight = values.new_zeros(n)
    weight[there] = values
    return weight.reshape(*shape)


def encode_two_four(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """``values`` [n / 2] and ``positions`` [⌈n / 8⌉] (uint8, four 2-bit positions each).

    A group with fewer than two entries is filled up with zeros.

    Args:
        weight: finite, floating point; last size a multiple of 4; at most 2 of every 4 not zero.

    Raises:
        TypeError, ValueError: not such a tensor.
    """
    check_tensor("weight", weight, floating=True, finite=True)
    two_four_bytes(weight.shape)  # checks the sizes
    groups = weight.detach().reshape(-1, 4)
    there = groups != 0
    if int(there.sum(1).max()) > 2:
        raise ValueError(
            "weight: got a group of 4 with more than 2 entries; takes a 2:4 pattern (mask_n_of_m)"
        )
    # entries first, in order; then as many zeros as fill the group up
    positions = there.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :2].sort(1).values
    values = groups.gather(1, positions).reshape(-1)
    return {"values": values, "positions": _pack(positions.reshape(-1).to(torch.uint8), 2)}


def decode_two_four(encoded: Mapping[str, torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
    """The dense tensor of `encode_two_four`.

    Raises:
        KeyError, ValueError: a part is missing, or the parts do not fit the shape.
    """
    n = _numel(shape)
    values, packed = _parts(encoded, "values", "positions")
    if values.numel() * 2 != n or n % 4:
        raise ValueError(f"encoded: got {values.numel()} values; takes {n // 2} for shape {tuple(shape)}")
    positions = _unpack(packed, 2, n // 2).long().reshape(-1, 2)
    weight = values.new_zeros(n // 4, 4)
    return weight.scatter_(1, positions, values.reshape(-1, 2)).reshape(*shape)


def _parts(encoded: Mapping[str, torch.Tensor], *names: str) -> list[torch.Tensor]:
    if any(name not in encoded for name in names):
        raise KeyError(f"encoded: got {sorted(encoded)}; takes {names}")
    return [encoded[name] for name in names]


def _numel(shape: Sequence[int]) -> int:
    if not shape:
        raise ValueError("shape: got (); takes at least one size")
    return math.prod(check_int("shape", size, 1) for size in shape)


def _pack(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Codes of ``width`` bits, 8 / width to a byte, the first in the lowest bits."""
    per_byte = 8 // width
    padded = torch.nn.functional.pad(codes, (0, -codes.numel() % per_byte)).reshape(-1, per_byte)
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=codes.device)
    return (padded << shifts).sum(1, dtype=torch.uint8)


def _unpack(packed: torch.Tensor, width: int, n: int) -> torch.Tensor:
    if packed.dtype != torch.uint8 or packed.numel() != math.ceil(n * width / 8):
        raise ValueError(
            f"encoded: got {packed.numel()} packed bytes; takes {math.ceil(n * width / 8)} (uint8)"
        )
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
    return ((packed[:, None] >> shifts) & (2**width - 1)).reshape(-1)[:n]
