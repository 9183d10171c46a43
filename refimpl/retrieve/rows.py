"""What goes into a store, checked once at its door: vectors, ids, metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from refimpl.checks import check_int

Metadata = dict[str, Any]
FLOAT32 = np.dtype("<f4")
LEAST_SQUARE = 1e-20  # below it, and above its inverse, float32 would lose digits of a length
DEEPEST = 100  # lists and dictionaries within one another; servers and JSON itself have limits not far above


def check_dim(dim: Any) -> int:
    """A dimension: an integer from 1 to 65,536."""
    return check_int("dim", dim, 1, 65536)


def check_array(name: str, vectors: Any, dim: int | None = None) -> np.ndarray:
    """``vectors`` as a contiguous little-endian float32 array ``[N, dim]`` of the caller's or a new memory.

    Raises:
        TypeError: neither a NumPy array nor a torch tensor, or not floating point.
        ValueError: not two-dimensional, another dimension (None takes any), NaN or infinity (also when only
            float32 overflows).
    """
    rows = _as_rows(name, vectors, dim)
    finite = np.isfinite(rows)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(1))[0])
        raise ValueError(f"{name}: got NaN or infinity in row {row}; takes finite float32 numbers")
    return rows


def _as_rows(name: str, vectors: Any, dim: int | None) -> np.ndarray:
    if isinstance(vectors, torch.Tensor):
        tensor = vectors.detach().cpu()
        vectors = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if not isinstance(vectors, np.ndarray):
        raise TypeError(f"{name}: got {type(vectors).__name__}; takes a NumPy array or a torch tensor")
    if vectors.dtype.kind != "f":
        raise TypeError(f"{name}: got dtype {vectors.dtype}; takes floating point")
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        raise ValueError(f"{name}: got shape {vectors.shape}; takes (any, {dim or 'any'})")
    if vectors.dtype == FLOAT32:  # nothing can overflow, and a question is spared the 2 µs of errstate
        return np.ascontiguousarray(vectors)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(vectors, dtype=FLOAT32)


def check_vectors(vectors: Any, dim: int, name: str = "vectors") -> np.ndarray:
    """`check_array` that refuses zero vectors too: they have no direction, so no cosine.

    Raises:
        TypeError, ValueError: as `check_array`; a zero vector.
    """
    rows = check_array(name, vectors, dim)
    directed = rows.any(1)
    if not directed.all():
        row = int(np.flatnonzero(~directed)[0])
        raise ValueError(f"{name}: got a zero vector in row {row}; a cosine takes vectors with a direction")
    return rows


def check_lengths(rows: np.ndarray, who: str) -> None:
    """For a server that squares in float32: no vector whose length is below 1e-15 or above 1e15.

    Raises:
        ValueError: naming the row, and ``who`` takes no others.
    """
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("nd,nd->n", rows, rows)
    wrong = np.flatnonzero(~((squares > 1e-30) & (squares < 1e30)))
    if len(wrong):
        raise ValueError(f"vectors: got one of extreme length in row {wrong[0]}; {who} takes 1e-15 to 1e15")


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length one; divided by the largest entry first, so that no square over- or underflows."""
    scaled = rows / np.abs(rows).max(1, keepdims=True)
    scaled /= np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    return scaled


def check_queries(vectors: Any, dim: int) -> np.ndarray:
    """`check_vectors` and `unit`: one pass where all lengths are ordinary, for a question waits for it.

    Raises:
        TypeError, ValueError: as `check_vectors`.
    """
    rows = _as_rows("vectors", vectors, dim)
    squares = np.einsum("nd,nd->n", rows, rows)  # without a warning, whatever overflows
    if len(rows) == 1:
        # the same in Python's numbers: fewer calls of NumPy, each of some µs after a search that filled the caches
        square = squares.item()
        if LEAST_SQUARE < square < 1 / LEAST_SQUARE:  # NaN is neither
            return rows / np.float32(math.sqrt(square))
    elif len(rows) and squares.min() > LEAST_SQUARE and squares.max() < 1 / LEAST_SQUARE:
        return rows / np.sqrt(squares)[:, None]
    return unit(check_vectors(rows, dim))


def check_ids(ids: Any, count: int | None = None) -> list[str]:
    """``ids`` as a list of distinct, non-empty strings.

    Raises:
        TypeError: one string or a set instead of a list, or something that is no string.
        ValueError: an empty string, an id twice, or another number than ``count``.
    """
    unordered = isinstance(ids, set | frozenset | Mapping)
    if isinstance(ids, str) or unordered or not isinstance(ids, Iterable):
        raise TypeError(f"ids: got {type(ids).__name__}; takes a list of strings")
    names = list(ids)
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"ids: got {type(name).__name__} at index {i}; takes strings")
        if not name:
            raise ValueError(f"ids: got an empty string at index {i}; takes non-empty strings")
        if not _writable(name):
            raise ValueError(
                f"ids: got {name!r} at index {i}; takes what UTF-8 can write, no lone surrogates"
            )
    if count is not None and len(names) != count:
        raise ValueError(f"ids: got {len(names)}; takes {count}, one for each vector")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"ids: got {name!r} twice; takes each id once")
        seen.add(name)
    return names


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return not levels or any(_is_deeper(part, levels - 1) for part in parts)


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_metadata(metadata: Sequence[Metadata | None] | None, count: int) -> list[Metadata]:
    """One dictionary a row, as JSON gives it back (a copy: later changes to the argument have no effect).

    Raises:
        TypeError: not a list of dictionaries with string keys, or values that JSON does not have.
        ValueError: another number than ``count``; NaN or infinity; more than 100 levels.
    """
    if metadata is None:
        return [{}] * count  # one for all: a store never changes what it keeps, and gives copies out
    if isinstance(metadata, str | dict) or not isinstance(metadata, Sequence):
        raise TypeError(f"metadata: got {type(metadata).__name__}; takes a list of dictionaries")
    if len(metadata) != count:
        raise ValueError(f"metadata: got {len(metadata)}; takes {count}, one for each vector")
    rows = []
    for i, row in enumerate(metadata):
        row = {} if row is None else row
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
            raise TypeError(f"metadata: got {row!r} at index {i}; takes a dictionary with strings as keys")
        if _is_deeper(row, DEEPEST):
            raise ValueError(f"metadata: got more than {DEEPEST} levels at index {i}; takes as many at most")
        try:
            text = json.dumps(row, allow_nan=False, ensure_ascii=False)
            if not _writable(text):
                raise TypeError("a lone surrogate")
            rows.append(json.loads(text))
        except TypeError as error:
            raise TypeError(f"metadata: got {row!r} at index {i}; takes what JSON has ({error})") from None
        except ValueError:
            raise ValueError(f"metadata: got {row!r} at index {i}; takes finite numbers") from None
    return rows
