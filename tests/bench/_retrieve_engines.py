"""What is measured: our stores, faiss, hnswlib and sentence-transformers, each as one function of queries."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch

from refimpl.retrieve import HNSW, IVF, Exact, FastScan, Store, open_store
from refimpl.retrieve.engines import dump

K = 10
KINDS = {"exact": Exact(), "hnsw": HNSW(), "ivf": IVF(), "fastscan": FastScan()}


@dataclass(frozen=True)
class Engine:
    """``run`` of ``[Q, D]`` is timed as users call it; ``rows`` reads the row numbers ``[Q, K]`` from what it gives."""

    name: str
    run: Callable[[np.ndarray], Any]
    rows: Callable[[Any], Any]
    nbytes: float  # a vector, of all that must be in memory
    build: float  # seconds


def clocked(make: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    made = make()
    return made, time.perf_counter() - begun


def size(index: Any) -> float:
    return len(dump(index)) / index.ntotal


def store(vectors: np.ndarray, index: Any) -> Store:
    made = open_store("memory://", vectors.shape[1], index=index)
    made.upsert([str(i) for i in range(len(vectors))], vectors)
    return made


def stores(vectors: np.ndarray) -> tuple[dict[str, Store], list[Engine]]:
    """One of each kind with its default numbers, and a quicker one. Bytes: the rows as given, and the index."""
    found, engines = {}, []
    for kind, config in {**KINDS, "fastscan x10": FastScan(10)}.items():
        made, seconds = clocked(lambda config=config: store(vectors, config))
        found[kind] = made
        info = made.info()
        assert info["built"]["kind"] == kind.split()[0]
        nbytes = (info["bytes_vectors"] + info["bytes_index"]) / len(vectors)
        engines.append(
            Engine(
                f"store {kind}",
                lambda q, made=made: made.search(q, K),
                lambda hits: [[int(hit.id) for hit in some] for some in hits],
                nbytes,
                seconds,
            )
        )
    return found, engines


def raw_search(kind: str, index: Any) -> Callable[[np.ndarray], Any]:
    """A faiss index, searched by faiss with the numbers that the store of this kind has."""
    config = KINDS[kind]
    params = None
    if isinstance(config, HNSW):
        params = faiss.SearchParametersHNSW(efSearch=config.ef_search)
    elif isinstance(config, IVF):
        params = faiss.SearchParametersIVF(nprobe=config.nprobe)
    elif isinstance(config, FastScan):
        params = faiss.IndexRefineSearchParameters(k_factor=config.oversample)
    return lambda q: index.search(q, K, params=params)


def raw_faiss(vectors: np.ndarray, ours: dict[str, Store]) -> Iterator[Engine]:
    """HNSW and IVF are the objects in the stores, whose build was timed there; the others are made here."""
    flat, seconds = clocked(lambda: Exact().make(vectors))
    yield Engine("faiss Flat", raw_search("exact", flat), _second, size(flat), seconds)
    graph, cells, scan = (ours[kind]._index for kind in ("hnsw", "ivf", "fastscan"))  # type: ignore[attr-defined]
    for ef in (64, 128):
        wide = faiss.SearchParametersHNSW(efSearch=ef)
        name = f"faiss HNSW16, ef {ef}"
        yield Engine(
            name, lambda q, wide=wide: graph.search(q, K, params=wide), _second, size(graph), float("nan")
        )
    for nprobe in (16, 64):
        some = faiss.SearchParametersIVF(nprobe=nprobe)
        name = f"faiss IVF256, nprobe {nprobe}"
        yield Engine(
            name, lambda q, some=some: cells.search(q, K, params=some), _second, size(cells), float("nan")
        )
    for times in (10, 20):
        again = faiss.IndexRefineSearchParameters(k_factor=times)
        name = f"faiss PQ96x4 scan + SQ8 x{times}"
        yield Engine(
            name, lambda q, again=again: scan.search(q, K, params=again), _second, size(scan), float("nan")
        )
    fine = faiss.IndexRefine(scan.base_index, flat)  # the same codes, and the vectors instead of SQ8
    nbytes = size(flat) + size(faiss.downcast_index(scan.base_index))
    again = faiss.IndexRefineSearchParameters(k_factor=10)
    yield Engine(
        "faiss PQ96x4 scan + float x10",
        lambda q: fine.search(q, K, params=again),
        _second,
        nbytes,
        float("nan"),
    )
    eight = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    _, seconds = clocked(lambda: (eight.train(vectors), eight.add(vectors)))
    yield Engine("faiss SQ8", lambda q: eight.search(q, K), _second, size(eight), seconds)


def hnswlib(vectors: np.ndarray) -> Iterator[Engine]:
    """At the numbers of our HNSW; nothing where it is not installed.

    `make bench` builds it for any processor, that is without AVX; faiss chooses instructions when it runs. Built with
    ``-march=native`` it takes about as long as faiss, a query and a vector alike.
    """
    if not importlib.util.find_spec("hnswlib"):
        print("hnswlib is not installed: left out")
        return
    import hnswlib

    count, dim = vectors.shape
    graph = hnswlib.Index("ip", dim)
    graph.init_index(count, M=HNSW().m, ef_construction=HNSW().ef_construction)
    _, seconds = clocked(lambda: graph.add_items(vectors, num_threads=faiss.omp_get_max_threads()))
    for ef in (64, 128):

        def run(q: np.ndarray, ef: int = ef) -> Any:
            graph.set_ef(ef)
            return graph.knn_query(q, K, num_threads=1)

        yield Engine(
            f"hnswlib M16, ef {ef}", run, lambda found: found[0], graph.index_file_size() / count, seconds
        )


def sentence_transformers(vectors: np.ndarray) -> Iterator[Engine]:
    """Its exact search, and its rescored int8 (which its faiss index keeps as floats) and binary codes."""
    from sentence_transformers import util
    from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

    tensor = torch.from_numpy(vectors)
    for name, score in (
        ("cos_sim", util.cos_sim),
        ("dot_score", util.dot_score),
    ):  # cos_sim normalizes all again
        yield Engine(
            f"s-t semantic_search, {name}",
            lambda q, score=score: util.semantic_search(
                torch.from_numpy(q), tensor, top_k=K, score_function=score
            ),
            _corpus_ids,
            4 * vectors.shape[1],
            0.0,
        )
    ranges = np.stack([vectors.min(0), vectors.max(0)])
    for precision, times in (("uint8", 4), ("ubinary", 20)):
        options: dict[str, Any] = {"corpus_precision": precision, "top_k": K, "rescore_multiplier": times}
        options["ranges"] = ranges

        def made(precision: str = precision, options: dict[str, Any] = options) -> Any:
            codes = quantize_embeddings(vectors, precision, ranges=ranges)
            return semantic_search_faiss(vectors[:1], codes, output_index=True, **options)[-1]

        index, seconds = clocked(made)
        yield Engine(
            f"s-t {precision}, rescored x{times}",
            lambda q, index=index, options=options: semantic_search_faiss(q, corpus_index=index, **options)[
                0
            ],
            _corpus_ids,
            index.d / 8 if precision == "ubinary" else 4 * index.d,
            seconds,
        )


def _second(found: tuple[Any, Any]) -> Any:
    return found[1]


def _corpus_ids(found: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[hit["corpus_id"] for hit in some] for some in found]
