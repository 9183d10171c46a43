"""faiss and hnswlib, imported when they are first needed, and their indexes as bytes."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

__all__ = ["Graph", "dump", "faiss", "hnswlib", "restore"]

MARK = b"refimpl-hnswlib\n"


class Graph:
    """hnswlib's HNSW behind the calls that a faiss index takes.

    hnswlib reads beyond a vector of a wrong length, and raises when it finds fewer than k: a store checks lengths before, and
    what is not found is row -1 here. The order in which threads link decides the graph, so one thread builds it.
    """

    def __init__(self, dim: int, m: int, ef_construction: int) -> None:
        self._made = {"dim": dim, "m": m, "ef_construction": ef_construction}
        self._index = hnswlib().Index("ip", dim)
        self._index.init_index(1024, ef_construction=ef_construction, M=m, random_seed=100)

    @classmethod
    def of(cls, units: np.ndarray, m: int, ef_construction: int) -> Self:
        """Of the unit vectors ``[N, dim]``."""
        graph = cls(units.shape[1], m, ef_construction)
        graph.add(units)
        return graph

    @property
    def ntotal(self) -> int:
        """Vectors in it."""
        return int(self._index.get_current_count())

    def add(self, units: np.ndarray) -> None:
        """These too; their rows go on from the last one."""
        start, end = self.ntotal, self.ntotal + len(units)
        if end > self._index.get_max_elements():
            self._index.resize_index(max(end, 2 * self._index.get_max_elements()))
        if len(units):
            self._index.add_items(units, np.arange(start, end), num_threads=1)

    def search(
        self, queries: np.ndarray, k: int, ef: int, keep: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``(scores, rows)`` of ``[Q, k]`` among the rows where ``keep``; row -1 stands for nothing."""
        self._index.set_ef(max(ef, k))
        test = None if keep is None else keep.__getitem__
        scores = np.full((len(queries), k), -np.inf, dtype="f4")
        rows = np.full((len(queries), k), -1, dtype="i8")
        try:
            found, distances = self._index.knn_query(queries, k, num_threads=1, filter=test)
            rows[:], scores[:] = found, 1 - distances
        except RuntimeError:  # of one query at least; which one is not said
            if len(queries) > 1:
                parts = [self.search(query[None], k, ef, keep) for query in queries]
                return np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts])
        return scores, rows

    def __bytes__(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph"
            self._index.save_index(str(path))
            return MARK + json.dumps(self._made).encode() + b"\n" + path.read_bytes()

    @classmethod
    def read(cls, payload: bytes) -> Self:
        """The graph of these bytes."""
        head, _, body = payload.removeprefix(MARK).partition(b"\n")
        graph = cls(**json.loads(head))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph"
            path.write_bytes(body)
            graph._index = hnswlib().Index("ip", graph._made["dim"])
            graph._index.load_index(str(path))
        return graph


def dump(index: Any) -> bytes:
    """The index as bytes."""
    return bytes(index) if isinstance(index, Graph) else faiss().serialize_index(index).tobytes()


def restore(payload: bytes) -> Any:
    """The index of `dump`; only for bytes whose checksum was compared before."""
    if payload.startswith(MARK):
        return Graph.read(payload)
    return faiss().deserialize_index(np.frombuffer(payload, dtype=np.uint8))


def hnswlib() -> Any:
    """The hnswlib module, imported when it is first needed.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import hnswlib as module
    except ModuleNotFoundError as error:
        if error.name != "hnswlib":
            raise
        raise ModuleNotFoundError(
            "hnswlib: not installed, and this index was asked for; run, with a C++ compiler: "
            "HNSWLIB_NO_NATIVE=1 pip install 'refimpl[hnsw]'; or take HNSW(library='faiss')",
            name="hnswlib",
        ) from None
    return module


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
