"""What is special to the stores in this process: which index is built, what is scanned, what is kept."""

from __future__ import annotations

import inspect
import os
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.retrieve import HNSW, IVF, Auto, Exact, FastScan, Store, engines, open_store
from refimpl.retrieve import index as indexes
from refimpl.retrieve.local import LocalStore
from refimpl.retrieve.rows import check_queries, check_vectors, unit
from tests.retrieve.servers import needs_hnswlib
from tests.retrieve.test_contract import naive, names, vectors

DIM = 16


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    """Product codes are trained on 20 vectors here."""
    monkeypatch.setattr(indexes, "LEAST_SCANNED", 20)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["upsert", "delete"]),
        st.lists(st.integers(0, 11), min_size=1, max_size=6, unique=True),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(operations=OPERATIONS, index=st.sampled_from(["exact", "hnsw"]))
def test_any_history_equals_a_dictionary(operations, index):
    """Upserts and deletes in any order: rows, counts and results are those of a plain dictionary."""
    rows: dict[str, np.ndarray] = {}
    with open_store("memory://", DIM, index=index) as store:
        for step, (what, numbers) in enumerate(operations):
            some = [f"r{n}" for n in numbers]
            if what == "upsert":
                new = vectors(len(some), seed=step)
                store.upsert(some, new)
                rows |= dict(zip(some, new, strict=True))
            else:
                assert store.delete(some) == len(rows.keys() & set(some))
                rows = {name: row for name, row in rows.items() if name not in some}
            assert store.count() == len(rows)
            for exact in (False, True):
                (hits,) = store.search(vectors(1, seed=99), k=5, exact=exact)
                assert [h.id for h in hits] == [name for name, _ in naive(rows, vectors(1, seed=99)[0], 5)]
        assert all(np.array_equal(store.get([name])[0].vector, row) for name, row in rows.items())


def test_deleted_rows_are_dropped_beyond_a_quarter():
    with open_store("memory://", DIM, index="hnsw") as store:
        store.upsert(names(8), vectors(8))
        store.delete(["r0", "r1"])
        assert store.info()["deleted"] == 2
        assert store.info()["bytes_vectors"] == 8 * DIM * 4
        store.upsert(["r2"], vectors(1))  # 3 of 9
        assert store.info()["deleted"] == 0
        assert store.count() == 6


def test_hnsw_finds_what_exact_search_finds():
    rows, queries = vectors(3000), vectors(100, seed=1)
    with open_store("memory://", DIM, index=HNSW(m=16, ef_construction=100, ef_search=128)) as store:
        store.upsert(names(3000), rows)
        near, exact = store.search(queries), store.search(queries, exact=True)
    same = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(near, exact, strict=True)]
    assert sum(same) >= 0.97 * 1000
    ids = [[[h.id for h in hits] for hits in some] for some in (near, exact)]
    assert sum(same) < 1000 or ids[0] == ids[1]


def test_hnsw_passes_its_numbers_on():
    index = HNSW(m=5, ef_construction=33, ef_search=7)
    made = index.make(np.empty((0, DIM), "f4"))
    assert (made.hnsw.efConstruction, made.hnsw.nb_neighbors(1), made.hnsw.nb_neighbors(0)) == (33, 5, 10)
    rows = unit(vectors(500))
    made.add(rows)
    seen = []

    class Spy:
        def search(self, queries, k, params):
            seen.append(params.efSearch)
            return made.search(queries, k, params=params)

    for k in (3, 9):
        indexes.search(index, Spy(), rows[:1], k, None)
    assert seen == [7, 9]
    assert HNSW() == HNSW(m=16, ef_construction=100, ef_search=64, library="faiss")


def test_unit_of_tiny_and_huge_vectors():
    for scale in (1e-44, 1e-30, 1.0, 1e30, 3e38):
        rows = np.full((1, 4), scale, dtype="f4")
        np.testing.assert_allclose(unit(rows), [[0.5] * 4], rtol=1e-6)
    np.testing.assert_allclose(unit(np.array([[3.0, -4.0]], "f4")), [[0.6, -0.8]], rtol=1e-6)
    same = vectors(2)
    assert check_vectors(same, DIM) is same  # nothing is copied that need not be


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (
            lambda: open_store("http://host", 4),
            ValueError,
            "takes a URL that starts with memory:// or file:///",
        ),
        (lambda: open_store("C:\\folder", 4), ValueError, "starts with memory:// or file:///"),
        (lambda: open_store("/folder", 4), ValueError, "starts with memory:// or file:///"),
        (lambda: open_store("file:folder", 4), ValueError, "starts with memory:// or file:///"),
        (lambda: open_store("file://folder/x", 4), ValueError, "got host 'folder'; takes three slashes"),
        (lambda: open_store("file://", 4), ValueError, "takes an absolute folder"),
        (lambda: open_store("file:///", 4), ValueError, "takes an absolute folder"),
        (lambda: open_store("file:///x?index=hnsw", 4), ValueError, r"takes no '\?'"),
        (lambda: open_store("file:///x#y", 4), ValueError, "takes no"),
        (lambda: open_store("memory://name", 4), ValueError, "takes 'memory://'"),
        (lambda: open_store("memory:///name", 4), ValueError, "takes 'memory://'"),
        (lambda: open_store(5, 4), TypeError, "url: got int"),
        (lambda: open_store("memory://"), ValueError, "dim: got None"),
        (lambda: open_store("memory://", 0), ValueError, "dim: got 0"),
        (lambda: open_store("memory://", 70000), ValueError, "dim: got 70000"),
        (lambda: open_store("memory://", 4, "l2"), ValueError, "metric: got 'l2'"),
        (lambda: open_store("memory://", 4, index="flat"), ValueError, "index: got 'flat'"),
        (lambda: open_store("memory://", 4, encoder=3), TypeError, "encoder: got int"),
        (lambda: HNSW(m=1), ValueError, "m: got 1"),
        (lambda: HNSW(m=257), ValueError, "m: got 257"),
        (lambda: HNSW(ef_construction=0), ValueError, "ef_construction: got 0"),
        (lambda: HNSW(ef_search=0), ValueError, "ef_search: got 0"),
    ],
)
def test_bad_arguments_of_open(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'refimpl\[retrieve\]'"):
        open_store("memory://", 4)


def test_on_macos_faiss_runs_on_one_thread(monkeypatch):
    """Two OpenMP runtimes in one process crash there."""
    calls = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(faiss, "omp_set_num_threads", calls.append)
    monkeypatch.delenv("KMP_DUPLICATE_LIB_OK", raising=False)
    engines.faiss()
    assert calls == [1]
    assert os.environ["KMP_DUPLICATE_LIB_OK"] == "TRUE"
    monkeypatch.setattr(sys, "platform", "linux")
    engines.faiss()
    assert calls == [1]


def test_exact_is_the_default_while_it_is_fast():
    with open_store("memory://", 4) as store:
        assert store.info()["index"] == {"kind": "auto"} and store.info()["built"] == {"kind": "exact"}
    assert Exact() == Exact()


def test_every_backend_has_the_defaults_of_the_interface():
    for name in ("upsert", "search", "get", "delete"):
        defaults = [
            {p.name: p.default for p in inspect.signature(getattr(kind, name)).parameters.values()}
            for kind in (Store, LocalStore)
        ]
        assert defaults[0] == defaults[1], name


def test_what_is_scanned_and_what_the_graph_finds(monkeypatch):
    """The graph answers, unless every row was asked for or a filter keeps no more than half of them."""
    seen, real = [], indexes.search
    monkeypatch.setattr(
        indexes, "search", lambda config, *rest: seen.append(type(config).__name__) or real(config, *rest)
    )
    with open_store("memory://", DIM, index=HNSW(ef_search=64)) as store:
        store.upsert(names(20), vectors(20), [{"n": i} for i in range(20)])
        for filter in (None, {"n": {"$lt": 15}}, {"n": {"$lt": 10}}, {"n": {"$lt": 9}}):
            store.search(vectors(2), k=3, filter=filter)
        store.search(vectors(2), k=3, exact=True)
        assert seen == ["HNSW", "HNSW", "Exact", "Exact", "Exact"]
        assert type(store._scan(unit(vectors(1)), 1, None)[0]) is np.ndarray
        assert isinstance(store._flat, faiss.IndexFlatIP)


def test_a_row_that_the_graph_does_not_reach_is_scanned_for(monkeypatch):
    real = indexes.search

    def short(config, index, queries, k, mask, spare=0):
        scores, rows = real(config, index, queries, k, mask, spare)
        if isinstance(config, HNSW):
            rows[0, 1:] = -1
        return scores, rows

    with open_store("memory://", DIM, index="hnsw") as store:
        store.upsert(names(20), vectors(20))
        expected = store.search(vectors(2), k=5, exact=True)
        monkeypatch.setattr(indexes, "search", short)
        found = store.search(vectors(2), k=5)
    assert [[h.id for h in hits] for hits in found] == [[h.id for h in hits] for hits in expected]


def test_a_hit_is_named_and_never_changed():
    with open_store("memory://", DIM) as store:
        store.upsert(names(1), vectors(1), [{"year": 2020}])
        ((hit,),) = store.search(vectors(1))
        hit.metadata["year"] = 1999  # a copy: the store keeps its own
        assert store.get(names(1))[0].metadata == {"year": 2020}
    assert (hit.id, round(hit.score, 6)) == (names(1)[0], 1.0)
    with pytest.raises(AttributeError):
        hit.score = 0.5


def test_a_score_is_a_cosine_also_when_it_was_rounded():
    with open_store("memory://", DIM) as store:
        store.upsert(names(2), vectors(2))
        for scores, cosines in (([1.0000001, 0.5], [1.0, 0.5]), ([0.5, -1.0000001], [0.5, -1.0])):
            (hits,) = store._hits(np.array([scores], "f4"), np.array([[0, 1]]))
            assert [h.score for h in hits] == cosines


def test_the_rows_of_sixteen_filters_are_remembered():
    with open_store("memory://", DIM) as store:
        store.upsert(names(3), vectors(3), [{"n": i} for i in range(3)])
        for n in range(20):
            store.search(vectors(1), filter={"n": n})
        assert len(store._filtered._found) == 16


def test_the_smallest_and_the_largest_numbers():
    with open_store("memory://", 1) as store:
        store.upsert(["a"], np.array([[2.0]]))
        assert store.search(np.array([[-1.0]]))[0][0].score == -1
        assert store.info()["bytes_disk"] == 0
    assert (HNSW(m=2).m, HNSW(m=256).m) == (2, 256)
    for name in ("ef_construction", "ef_search"):
        for value in (1, 65536):
            assert getattr(HNSW(**{name: value}), name) == value
        with pytest.raises(ValueError, match=f"{name}: got 65537"):
            HNSW(**{name: 65537})
    with pytest.raises(ValueError, match="dim: got 65537"):
        open_store("memory://", 65537)


# -- which index is built -------------------------------------------------------------------------------


def test_auto_is_exact_and_then_product_codes(monkeypatch, tmp_path):
    monkeypatch.setattr(indexes, "MOST_EXACT", 300)
    url = (tmp_path / "growing").as_uri()
    kinds = []
    with open_store(url, dim=DIM) as store:
        assert store.info()["index"] == {"kind": "auto"}
        for start in range(0, 500, 100):
            store.upsert(names(100, start), vectors(100, seed=start))
            kinds.append(store.info()["built"]["kind"])
    assert kinds == ["exact", "exact", "exact", "fastscan", "fastscan"]
    with open_store(url) as store:
        built = store._index
        assert isinstance(built, faiss.IndexRefine) and store.info()["built"]["kind"] == "fastscan"
        store.delete(names(250))
        assert store.info()["built"]["kind"] == "exact", "packed, and few enough again"
        assert store.count() == 250


@pytest.mark.parametrize("index", [IVF(cells=8, nprobe=8), FastScan(oversample=30), HNSW(8, 60, 200)])
def test_other_indexes_find_what_exact_finds_with_the_same_scores(index):
    """2,000 rows, some replaced, some deleted, with and without a filter that keeps most."""
    rows = vectors(2000, seed=3)
    extra = [{"even": i % 2 == 0, "most": i % 10 != 0} for i in range(2000)]
    stores = [open_store("memory://", dim=DIM, index=kind) for kind in (index, "exact")]
    for store in stores:
        store.upsert(names(2000), rows, extra)
        store.upsert(names(50), vectors(50, seed=4), extra[:50])
        store.delete(names(100, 1000))
    assert stores[0].info()["built"]["kind"] == type(index).__name__.lower()
    queries = vectors(40, seed=5)
    for filter in (None, {"most": True}, {"even": True}):
        ours, truth = (store.search(queries, k=10, filter=filter) for store in stores)
        found = [len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(ours, truth, strict=True)]
        assert np.mean(found) > 0.98 and all(len(hits) == 10 for hits in ours)
        for hits in ours:
            scores = [h.score for h in hits]
            assert scores == sorted(scores, reverse=True)
            exact = dict(
                naive({h.id: stores[1].get([h.id])[0].vector for h in hits}, queries[ours.index(hits)], 10)
            )
            np.testing.assert_allclose(scores, [exact[h.id] for h in hits], atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_scores_of_product_codes_are_cosines_of_vectors_of_any_length(size):
    """Beyond 1e19 squares overflow in float32, below 1e-19 they lose digits: each tenth row is that long."""
    rows, queries = vectors(3000, seed=8), vectors(30, seed=9)
    scaled = rows * np.where(np.arange(3000) % 10 == 0, size, 1.0)[:, None].astype("f4")
    found = []
    for some in (rows, scaled):
        with open_store("memory://", dim=DIM, index=FastScan(40)) as store:
            store.upsert(names(3000), some)
            assert store.info()["built"]["kind"] == "fastscan"
            found.append(store.search(queries))
    for one, two in zip(*found, strict=True):
        assert [h.id for h in one] == [h.id for h in two]
        np.testing.assert_allclose([h.score for h in one], [h.score for h in two], atol=1e-6)


def test_product_codes_look_again_at_oversample_times_k_and_judge_by_the_vectors():
    """The candidates are the first 40 of the codes, then the 14 best of int8, then the 10 best of the vectors."""
    rows, queries = vectors(3000, seed=6), vectors(20, seed=7)
    units, unit_queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    with open_store("memory://", dim=DIM, index=FastScan(4)) as store:
        store.upsert(names(3000), rows)
        found = store.search(queries)
        _, first = faiss.downcast_index(store._index.base_index).search(unit_queries, 40)
        rounded = [store._index.refine_index.reconstruct_batch(candidates) for candidates in first]
    for query, candidates, vague, hits in zip(unit_queries, first, rounded, found, strict=True):
        second = candidates[np.argsort(-(vague @ query), kind="stable")[:14]]
        best = second[np.argsort(-(units[second] @ query), kind="stable")[:10]]
        assert [h.id for h in hits] == [names(3000)[row] for row in best]


def test_an_index_is_trained_when_there_is_enough_and_kept(tmp_path):
    url = (tmp_path / "cells").as_uri()
    with open_store(url, dim=DIM, index=IVF(cells=4, nprobe=2)) as store:
        store.upsert(names(155), vectors(155))
        assert store.info()["built"]["kind"] == "exact"
        store.upsert(["one more"], vectors(1, seed=9))
        assert store.info()["built"] == {"kind": "ivf", "cells": 4, "nprobe": 2}
        before = store.search(vectors(5, seed=1))
    with open_store(url) as store:
        assert isinstance(store._index, faiss.IndexIVFFlat) and store._config == IVF(4, 2)
        assert store.search(vectors(5, seed=1)) == before


def test_few_cells_or_few_second_looks_miss_some_and_more_find_more():
    rows, queries = vectors(3000, seed=6), vectors(60, seed=7)
    truth = open_store("memory://", dim=DIM, index="exact")
    truth.upsert(names(3000), rows)
    expected = truth.search(queries)
    for few, many in ((IVF(32, 1), IVF(32, 16)), (FastScan(1), FastScan(20))):
        scores = []
        for index in (few, many):
            store = open_store("memory://", dim=DIM, index=index)
            store.upsert(names(3000), rows)
            pairs = zip(store.search(queries), expected, strict=True)
            scores.append(np.mean([len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in pairs]))
        assert scores[0] < 0.8 and scores[1] > scores[0] + 0.15


def test_numbers_of_indexes_are_checked():
    for make, text in (
        (lambda: IVF(cells=0), "cells: got 0"),
        (lambda: IVF(cells=4, nprobe=5), "nprobe: got 5"),
        (lambda: FastScan(oversample=0), "oversample: got 0"),
        (lambda: open_store("memory://", dim=4, index="flat"), "index: got 'flat'; takes 'exact', 'hnsw'"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    assert Auto().at(10**6, 6) == Exact(), "no product codes of four numbers"


# -- hnswlib ---------------------------------------------------------------------------------------------


def test_without_hnswlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"HNSWLIB_NO_NATIVE=1 pip install 'refimpl\[hnsw\]'"):
        open_store("memory://", DIM, index=HNSW(library="hnswlib"))
    with pytest.raises(ValueError, match="library: got 'nmslib'"):
        HNSW(library="nmslib")


@needs_hnswlib
def test_hnswlib_finds_what_faiss_finds(tmp_path):
    rows, queries = vectors(3000, seed=3), vectors(100, seed=4)
    stores = {}
    for library in ("faiss", "hnswlib"):
        url = (tmp_path / library).as_uri()
        with open_store(url, DIM, index=HNSW(16, 100, 128, library)) as store:
            store.upsert(names(2000), rows[:2000])
            store.upsert(names(1000, 2000), rows[2000:])
            store.delete(names(300))
            before = store.search(queries)
        with open_store(url) as store:  # from the file: hnswlib's own bytes
            assert isinstance(store._index, engines.Graph) == (library == "hnswlib")
            assert store._index.ntotal == 3000
            exact = store.search(queries, exact=True)
            stores[library] = store.search(queries)
            assert stores[library] == before
        same = [
            len({h.id for h in a} & {h.id for h in b}) for a, b in zip(stores[library], exact, strict=True)
        ]
        assert sum(same) >= 0.98 * 1000, library
        for hits in stores[library]:
            scores = [h.score for h in hits]
            assert scores == sorted(scores, reverse=True)


@needs_hnswlib
def test_hnswlib_that_finds_fewer_than_k_says_so_and_does_not_raise():
    graph = engines.Graph.of(unit(vectors(50)), 4, 20)
    keep = np.zeros(50, dtype=bool)
    keep[:3] = True
    scores, found = graph.search(unit(vectors(2, seed=1)), 5, 5, keep)
    assert (found == -1).all() and (scores == -np.inf).all()
    scores, found = graph.search(unit(vectors(50)), 1, 50, None)
    assert found[:, 0].tolist() == list(range(50)) and scores.min() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_queries_of_any_length_have_length_one(scale):
    some = vectors(5) * np.float32(scale)
    some[1] = vectors(1, seed=9)  # lengths that differ widely
    np.testing.assert_allclose(check_queries(some, some.shape[1]), unit(some), rtol=1e-6)
    np.testing.assert_allclose(check_queries(some[:1], some.shape[1]), unit(some[:1]), rtol=1e-6)
    assert check_queries(some[:0], some.shape[1]).shape == (0, some.shape[1])


@pytest.mark.parametrize("value, text", [(np.nan, "NaN"), (np.inf, "NaN"), (0.0, "zero vector")])
def test_a_query_without_a_direction_is_refused(value, text):
    some = vectors(3)
    some[2] = value
    with pytest.raises(ValueError, match=f"{text}.* in row 2"):
        check_queries(some, some.shape[1])
    with pytest.raises(ValueError, match=f"{text}.* in row 0"):
        check_queries(some[2:], some.shape[1])


@pytest.mark.parametrize("ordinary", [0, 200])  # of the rows that are there first
def test_what_was_rounded_is_judged_by_vectors_of_any_length(ordinary, monkeypatch):
    monkeypatch.setattr(indexes, "LEAST_SCANNED", 20)
    lengths = np.concatenate([np.ones(ordinary), np.logspace(-25, 25, 400 - ordinary)])
    rows = vectors(400, seed=3) * lengths.astype("f4")[:, None]
    with open_store("memory://", rows.shape[1], index=FastScan(40)) as store:
        store.upsert(names(200), rows[:200])
        store.upsert(names(400)[200:], rows[200:])
        assert store.info()["built"]["kind"] == "fastscan"
        for hits, query in zip(store.search(rows, k=1), unit(rows), strict=True):
            assert abs(hits[0].score - 1) < 1e-5
            (item,) = store.get([hits[0].id])
            assert abs(unit(item.vector[None])[0] @ query - 1) < 1e-5
