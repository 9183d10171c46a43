"""Indexes over unit vectors, on faiss or hnswlib: derived from the rows, never the truth, rebuilt at any time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from refimpl.checks import check_choice, check_int
from refimpl.retrieve.engines import Graph, faiss

__all__ = ["HNSW", "IVF", "Auto", "Exact", "FastScan"]


@dataclass(frozen=True)
class Exact:
    """Compare every query with every vector: recall 1, N·D multiply-accumulates a query."""

    def at(self, count: int, dim: int) -> Built:
        """What is built over so many vectors."""
        return self

    def make(self, units: np.ndarray) -> Any:
        """An index of the unit vectors ``[N, dim]``."""
        index = faiss().IndexFlatIP(units.shape[1])
        index.add(units)
        return index


@dataclass(frozen=True)
class HNSW:
    """A graph of neighbours on several levels (Malkov and Yashunin, arXiv 1603.09320).

    Args:
        m: links a vector on each level above the lowest, which has 2·m; 12 to 48 is usual. It costs about
            8 to 10 · m bytes a vector beside the vector.
        ef_construction: candidates that are kept while a vector is linked.
        ef_search: candidates that are kept while searching; raised to k where k is larger.
        library: which one builds and searches it in this process, ``"faiss"`` or ``"hnswlib"``.
    """

    m: int = 16
    ef_construction: int = 100
    ef_search: int = 64
    library: str = "faiss"

    def __post_init__(self) -> None:
        check_int("m", self.m, 2, 256)
        check_int("ef_construction", self.ef_construction, 1, 65536)
        check_int("ef_search", self.ef_search, 1, 65536)
        check_choice("library", self.library, ("faiss", "hnswlib"))

    def at(self, count: int, dim: int) -> Built:
        """What is built over so many vectors."""
        return self

    def make(self, units: np.ndarray) -> Any:
        """An index of the unit vectors ``[N, dim]``."""
        if self.library == "hnswlib":
            return Graph.of(units, self.m, self.ef_construction)
        index = faiss().IndexHNSWFlat(units.shape[1], self.m, faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        index.add(units)
        return index


@dataclass(frozen=True)
class IVF:
    """Cells around k-means centroids, of which a query looks into the nearest (Jégou et al. 2011).

    Trained on what is there when there are 39 vectors a cell, exact before; vectors added later do not move the cells.

    Args:
        cells: how many; about 4·√N is usual.
        nprobe: cells that a query looks into: the share nprobe/cells of the work of an exact search.
    """

    cells: int = 256
    nprobe: int = 16

    def __post_init__(self) -> None:
        check_int("cells", self.cells, 1, 65536)
        check_int("nprobe", self.nprobe, 1, self.cells)

    def at(self, count: int, dim: int) -> Built:
        """What is built over so many vectors."""
        return self if count >= TRAINING * self.cells else Exact()

    def make(self, units: np.ndarray) -> Any:
        """An index of the unit vectors ``[N, dim]``, trained on them."""
        cells = faiss().IndexFlatIP(units.shape[1])
        index = faiss().IndexIVFFlat(cells, units.shape[1], self.cells, faiss().METRIC_INNER_PRODUCT)
        index.own_fields = True
        cells.this.disown()
        index.train(units)
        index.add(units)
        return index


@dataclass(frozen=True)
class FastScan:
    """4-bit product codes of 4 numbers each, scanned in registers; the best are looked at again in int8.

    dim/8 + dim bytes a vector beside the vector. Exact below 10,000 vectors and where ``dim`` is no multiple of 4.

    Args:
        oversample: how many times k are looked at again in int8. Of those a store judges the best, and some more than
            k, by their vectors.

    Source: André et al. 2017, "Accelerated nearest neighbor search with Quick ADC".
    """

    oversample: int = 20

    def __post_init__(self) -> None:
        check_int("oversample", self.oversample, 1, 1000)

    def at(self, count: int, dim: int) -> Built:
        """What is built over so many vectors."""
        return self if count >= LEAST_SCANNED and dim % 4 == 0 else Exact()

    def make(self, units: np.ndarray) -> Any:
        """An index of the unit vectors ``[N, dim]``, trained on them."""
        dim, ip = units.shape[1], faiss().METRIC_INNER_PRODUCT
        coarse = faiss().IndexPQFastScan(dim, dim // 4, 4, ip)
        fine = faiss().IndexScalarQuantizer(dim, faiss().ScalarQuantizer.QT_8bit, ip)
        index = faiss().IndexRefine(coarse, fine)
        index.own_fields = index.own_refine_index = True
        coarse.this.disown()
        fine.this.disown()
        index.train(units)
        index.add(units)
        return index


@dataclass(frozen=True)
class Auto:
    """`Exact` up to 100,000 vectors, where it is fast enough and needs nothing; `FastScan` above."""

    def at(self, count: int, dim: int) -> Built:
        """What is built over so many vectors."""
        return FastScan().at(count, dim) if count > MOST_EXACT else Exact()


Built = Exact | HNSW | IVF | FastScan
Config = Built | Auto
KINDS = {kind.__name__.lower(): kind for kind in (Exact, HNSW, IVF, FastScan, Auto)}
TRAINING = 39  # vectors a centroid, below which faiss warns
LEAST_SCANNED = 10_000
MOST_EXACT = 100_000
SPARE = 4  # times k are asked of an index that cannot leave rows out; a store filters no more than that away


def check_index(index: Any) -> Config:
    """``"auto"``, ``"exact"``, ``"hnsw"``, ``"ivf"``, ``"fastscan"``, or one of the classes with its numbers."""
    if isinstance(index, Config):
        return index
    if not isinstance(index, str) or index not in KINDS:
        raise ValueError(f"index: got {index!r}; takes {', '.join(map(repr, KINDS))} or one of their classes")
    return KINDS[index]()


def describe(config: Config) -> dict[str, Any]:
    """The configuration as JSON."""
    return {"kind": type(config).__name__.lower(), **asdict(config)}


def from_description(description: dict[str, Any]) -> Config:
    """The configuration that `describe` wrote."""
    numbers = {key: value for key, value in description.items() if key != "kind"}
    return KINDS[description["kind"]](**numbers)


def built_as(config: Config) -> dict[str, Any]:
    """What decides the built index; how it is searched does not."""
    searching = ("ef_search", "nprobe", "oversample")
    return {key: value for key, value in describe(config).items() if key not in searching}


@lru_cache(maxsize=64)
def looked_at_again(factor: float) -> Any:
    """Parameters of a search in product codes; faiss only reads them, and to make them takes 2 µs."""
    return faiss().IndexRefineSearchParameters(k_factor=factor)


def search(
    config: Built, index: Any, queries: np.ndarray, k: int, keep: np.ndarray | None, spare: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """``(scores, rows)`` of ``[Q, k + spare]`` among the rows where ``keep``; row −1 stands for nothing.

    ``spare``, of product codes: rows beyond the k that decide how many candidates are looked at again.
    """
    if isinstance(config, FastScan):  # its scan takes no selector: ask for more, leave out, take the best
        times = 1 if keep is None else SPARE
        wanted = min(times * (k + spare), index.ntotal)
        factor = max(1.0, config.oversample * times * k / wanted)
        params = looked_at_again(factor)
        scores, rows = index.search(queries, wanted, params=params)
        if keep is not None:
            out = (rows < 0) | ~keep[rows]
            # what stays, in its order, comes first
            order = np.argsort(out, axis=1, kind="stable")[:, : k + spare]
            rows = np.where(np.take_along_axis(out, order, 1), -1, np.take_along_axis(rows, order, 1))
            scores = np.take_along_axis(scores, order, 1)
        return scores, rows
    if isinstance(config, HNSW) and isinstance(index, Graph):
        return index.search(queries, k, max(config.ef_search, k), keep)
    # the selector reads the bitmap where it lies: both must live until the search is over
    bits = None if keep is None else np.packbits(keep, bitorder="little")
    options: dict[str, Any] = {} if bits is None else {"sel": faiss().IDSelectorBitmap(bits)}
    if isinstance(config, HNSW):
        params = faiss().SearchParametersHNSW(efSearch=max(config.ef_search, k), **options)
    elif isinstance(config, IVF):
        params = faiss().SearchParametersIVF(nprobe=config.nprobe, **options)
    else:
        params = faiss().SearchParameters(**options) if options else None
    return index.search(queries, k, params=params)
