"""Indexes over unit vectors, on faiss: derived from the rows, never the truth, rebuilt at any time."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refimpl.checks import check_int

__all__ = ["HNSW", "Exact"]


@dataclass(frozen=True)
class Exact:
    """Compare every query with every vector: recall 1, N·D multiply-accumulates a query."""

    def make(self, dim: int) -> Any:
        """An empty index for vectors of ``dim`` numbers."""
        return faiss().IndexFlatIP(dim)


@dataclass(frozen=True)
class HNSW:
    """A graph of neighbours on several levels (Malkov and Yashunin, arXiv 1603.09320).

    Args:
        m: links a vector on each level above the lowest, which has 2·m; 12 to 48 is usual. It costs about
            8 to 10 · m bytes a vector beside the vector.
        ef_construction: candidates that are kept while a vector is linked.
        ef_search: candidates that are kept while searching; raised to k where k is larger.
    """

    m: int = 16
    ef_construction: int = 100
    ef_search: int = 64

    def __post_init__(self) -> None:
        check_int("m", self.m, 2, 256)
        check_int("ef_construction", self.ef_construction, 1, 65536)
        check_int("ef_search", self.ef_search, 1, 65536)

    def make(self, dim: int) -> Any:
        """An empty index for vectors of ``dim`` numbers."""
        index = faiss().IndexHNSWFlat(dim, self.m, faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        return index


def check_index(index: Any) -> Exact | HNSW:
    """``"exact"``, ``"hnsw"``, or one of the two classes with its numbers."""
    if isinstance(index, Exact | HNSW):
        return index
    if index not in ("exact", "hnsw"):
        raise ValueError(f"index: got {index!r}; takes 'exact', 'hnsw', Exact() or HNSW(...)")
    return HNSW() if index == "hnsw" else Exact()


def describe(config: Exact | HNSW) -> dict[str, Any]:
    """The configuration as JSON."""
    return {"kind": type(config).__name__.lower(), **asdict(config)}


def from_description(description: dict[str, Any]) -> Exact | HNSW:
    """The configuration that `describe` wrote."""
    numbers = {key: value for key, value in description.items() if key != "kind"}
    return {"exact": Exact, "hnsw": HNSW}[description["kind"]](**numbers)


def built_as(config: Exact | HNSW) -> dict[str, Any]:
    """What decides the built index; ``ef_search`` does not."""
    return {key: value for key, value in describe(config).items() if key != "ef_search"}


def search(
    config: Exact | HNSW, index: Any, queries: np.ndarray, k: int, keep: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """``(scores, rows)`` of ``[Q, k]`` among the rows where ``keep``; row −1 stands for nothing."""
    # the selector reads the bitmap where it lies: both must live until the search is over
    bits = None if keep is None else np.packbits(keep, bitorder="little")
    options: dict[str, Any] = {} if bits is None else {"sel": faiss().IDSelectorBitmap(bits)}
    if isinstance(config, HNSW):
        params = faiss().SearchParametersHNSW(efSearch=max(config.ef_search, k), **options)
    else:
        params = faiss().SearchParameters(**options) if options else None
    return index.search(queries, k, params=params)


def dump(index: Any) -> bytes:
    """The index as bytes."""
    return faiss().serialize_index(index).tobytes()


def restore(payload: bytes) -> Any:
    """The index of `dump`; only for bytes whose checksum was compared before."""
    return faiss().deserialize_index(np.frombuffer(payload, dtype=np.uint8))


def faiss() -> Any:
    """The faiss module, imported when it is first needed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if sys.platform == "darwin":
        # torch and faiss each bring an OpenMP runtime; on macOS the second one ends the process unless told
        # not to, and crashes in parallel regions (github.com/faiss-wheels/faiss-wheels/issues/73)
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    try:
        import faiss as module
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise ModuleNotFoundError(
            "faiss: not installed, and this store searches with it; run: pip install 'refimpl[retrieve]' "
            "(or: pip install faiss-cpu)",
            name="faiss",
        ) from None
    if sys.platform == "darwin":
        module.omp_set_num_threads(1)
    return module
