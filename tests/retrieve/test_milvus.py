"""refimpl.retrieve.servers.milvus: what Milvus answers itself, killed writers and servers, what it refuses."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from refimpl.retrieve import HNSW, IVF, StoreError, open_store
from refimpl.retrieve.servers import collection, milvus
from tests.retrieve.servers import WRITER, needs_milvus, own_milvus
from tests.retrieve.test_contract import names

pytestmark = needs_milvus
DIM = 8


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype("f4")


@pytest.fixture
def url(tmp_path):
    return (tmp_path / "some.db").as_uri().replace("file:", "milvus:")


@pytest.fixture
def scans(monkeypatch):
    """How often rows were read instead of searched."""
    from refimpl.retrieve.servers import milvus as module

    made, real = [], module.best_of
    monkeypatch.setattr(module, "best_of", lambda *some: made.append(1) or real(*some))
    return made


def test_what_milvus_answers_itself(url, scans):
    with open_store(url, DIM, index="exact") as store:
        store.upsert(names(50), vectors(50), [{"n": i, "kind": "ab"[i % 2]} for i in range(50)])
        store.search(vectors(3))
        store.search(vectors(3), exact=True)
        for filter in ({"n": {"$gte": 10, "$lt": 30}}, {"kind": "a"}, {"kind": {"$in": ["a", "x"]}, "n": 3}):
            store.search(vectors(3), filter=filter)
        assert scans == []
        store.search(vectors(3), filter={"kind": {"$ne": "a"}})
        store.search(vectors(3), filter={"kind": None})
        assert len(scans) == 2
    with open_store(f"{url}?name=graph", DIM, index=HNSW(8, 40, 32)) as store:
        store.upsert(names(50), vectors(50))
        store.search(vectors(3))
        assert len(scans) == 2
        store.search(vectors(3), exact=True)
        assert len(scans) == 3


def test_an_answer_that_comes_short_is_scanned_for(url, scans, monkeypatch):
    with open_store(url, DIM) as store:
        store.upsert(names(50), vectors(50), [{"n": i} for i in range(50)])
        expected = [store.search(vectors(3), filter=some) for some in (None, {"n": {"$lt": 30}})]
        real = store._ask
        monkeypatch.setattr(store, "_ask", lambda *some: [hits[:-1] for hits in real(*some)])
        assert scans == []
        got = [store.search(vectors(3), filter=some) for some in (None, {"n": {"$lt": 30}})]
        assert len(scans) == 2
        for a, b in zip(expected, got, strict=True):
            assert [[h.id for h in hits] for hits in a] == [[h.id for h in hits] for hits in b]


def test_indexes_by_name(url):
    for name, index, built in (
        ("a", HNSW(8, 40, 32), {"index_type": "HNSW", "params": {"M": 8, "efConstruction": 40}}),
        ("b", IVF(4, 4), {"index_type": "IVF_FLAT", "params": {"nlist": 4}}),
        ("c", "exact", {"index_type": "FLAT"}),
        ("d", None, {"index_type": "AUTOINDEX"}),
    ):
        with open_store(f"{url}?name={name}", DIM, index=index) as store:
            store.upsert(names(200), vectors(200))
            assert store.info()["built"] == built
            described = store._client.describe_index(name, "vector")
            assert (described["index_type"], described["metric_type"]) == (built["index_type"], "COSINE")
            assert [h[0].id for h in store.search(vectors(20), k=3)] == names(20)
    with pytest.raises(ValueError, match="Milvus takes Auto, Exact, HNSW or IVF"):
        open_store(url, DIM, index="fastscan")


def test_another_index_is_built_when_it_is_asked_for(url, scans):
    with open_store(url, DIM, index=HNSW(8, 40, 32)) as store:
        store.upsert(names(100), vectors(100))
    with open_store(url) as store:
        assert store.info()["index"]["kind"] == "hnsw"
        store.search(vectors(3), exact=True)
        assert len(scans) == 1
    with open_store(url, index="exact") as store:
        assert store.info()["index"] == {"kind": "exact"}
        assert store._client.describe_index("refimpl", "vector")["index_type"] == "FLAT"
        assert [h[0].id for h in store.search(vectors(20), k=1, exact=True)] == names(20)
        assert len(scans) == 1
    with open_store(url) as store:
        assert store.info()["built"] == {"index_type": "FLAT"}


def test_bad_urls_and_ids(url):
    for bad, text in (
        ("milvus:///relative", "takes an absolute file"),
        (f"{url}?name=a-b", "letters, digits"),
        (f"{url}?name=docs_manifest", "no '_manifest' at the end"),
        (f"{url}?named=x", "name=..., tls=true|false"),
        (f"{url}?tls=maybe", "name=..., tls=true|false"),
        (f"{url}?", None),
    ):
        if text is None:
            open_store(bad, DIM).close()
        else:
            with pytest.raises(ValueError, match=text.replace(".", r"\.").replace("|", r"\|")):
                open_store(bad, DIM)
    with open_store(url, DIM) as store:
        with pytest.raises(ValueError, match="ids: got one of 65536 bytes"):
            store.upsert(["ok", "x" * 65536], vectors(2))
        assert store.count() == 0


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_lengths_that_milvus_cannot_square_are_refused(url, size):
    with open_store(url, DIM) as store:
        rows = vectors(3)
        rows[1] *= size
        with pytest.raises(ValueError, match="vectors: got one of extreme length in row 1"):
            store.upsert(names(3), rows)
        assert store.count() == 0
        store.upsert(names(3), vectors(3) * np.float32(1e12))
        assert [h[0].id for h in store.search(vectors(3), k=1)] == names(3)


def test_rows_of_another_dimension_than_the_manifest_says(url):
    """As when two processes make the store at once, or one is killed between its two collections."""
    with open_store(url, DIM) as store:
        store._client.drop_collection("refimpl")
        collection._make(store._client, "refimpl", DIM + 1, {"index_type": "FLAT"}, "another")
        store.abandon()
    with pytest.raises(StoreError, match=f"dim: got {DIM}; this store was made with {DIM + 1}"):
        open_store(url, DIM)


def test_the_address_of_a_server(monkeypatch):
    seen = {}
    monkeypatch.setattr(milvus, "MilvusStore", lambda url, options, *rest: seen.update(options, url=url))
    for url, options in (
        ("milvus://[::1]:19531", {"uri": "http://[::1]:19531"}),
        ("milvus://host?tls=true", {"uri": "https://host:19530"}),
        (
            "milvus://me:p%40ss@host:1/base?name=x",
            {"uri": "http://host:1", "token": "me:p@ss", "db_name": "base"},
        ),
    ):
        seen.clear()
        open_store(url, DIM)
        assert {key: seen[key] for key in options} == options and "p%40ss" not in seen["url"]


def test_a_writer_that_is_killed_loses_nothing_acknowledged(url):
    process = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 40:
            break
    with pytest.raises(StoreError, match="milvus"):  # a file has one process
        open_store(url)
    process.send_signal(signal.SIGKILL)
    acknowledged = max([40, *map(int, process.stdout.read().split())])
    process.wait()
    with open_store(url) as store:
        assert store.count() >= 3 * (acknowledged + 1)
        for step in range(acknowledged + 1):
            for item in store.get([f"{step}-{i}" for i in range(3)]):
                assert item.metadata == {"step": step} and (item.vector == step + 1).all()


def test_the_server_goes_and_comes_back(monkeypatch):
    from refimpl.retrieve.servers import milvus as module

    monkeypatch.setattr(module, "TIMEOUT", 2.0)
    with own_milvus() as server, open_store(f"{server.url}?name=t", DIM) as store:
        store.upsert(names(50), vectors(50))
        server.kill()
        for call in (lambda: store.upsert(["x"], vectors(1)), store.count, lambda: store.search(vectors(1))):
            with pytest.raises(StoreError, match="milvus"):
                call()
        server.start()
        end = time.monotonic() + 30
        while True:  # the client waits a while before it tries again to connect
            try:
                assert store.count() == 50
                break
            except StoreError:
                assert time.monotonic() < end
                time.sleep(0.5)
        store.upsert(["x"], vectors(1, seed=5))
        assert store.search(vectors(1, seed=5), k=1)[0][0].id == "x"
    with pytest.raises(StoreError, match="milvus"):
        open_store(server.url, DIM)


def pass_on(listener, port, heard):
    """Hand the bytes of one connection on to a local port and back; ``heard``: when the client sent some."""
    with listener.accept()[0] as client, socket.create_connection(("127.0.0.1", port)) as server:
        while True:
            for end in select.select([client, server], [], [])[0]:
                data = end.recv(2**16)
                if not data:
                    return
                (server if end is client else client).sendall(data)
                if end is client:
                    heard.append(time.monotonic())


@pytest.mark.parametrize("pings", [False, True])
def test_an_idle_store_is_silent(monkeypatch, pings):
    """milvus-lite's server hangs up on a client that pings; with pings this test has to hear them."""
    every = {"grpc.keepalive_time_ms": 300, "grpc.http2.min_time_between_pings_ms": 300}
    changed = (
        {"grpc.keepalive_permit_without_calls": 1, "grpc.http2.max_pings_without_data": 0} if pings else {}
    )
    monkeypatch.setattr(milvus, "CHANNEL", {**milvus.CHANNEL, **every, **changed})
    with own_milvus() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        heard = []
        threading.Thread(target=pass_on, args=(listener, server.port, heard), daemon=True).start()
        with open_store(f"milvus://127.0.0.1:{listener.getsockname()[1]}?name=t", DIM) as store:
            store.upsert(names(3), vectors(3))
            time.sleep(0.5)  # acknowledgements of what was sent
            begun = time.monotonic()
            time.sleep(2)
            assert bool([moment for moment in heard if moment > begun]) == pings
            assert store.count() == 3


def test_an_integer_that_milvus_cannot_keep_is_refused_before_a_row_is_written(url, monkeypatch):
    monkeypatch.setattr(milvus, "BATCH", 2)
    with open_store(url, DIM) as store:
        with pytest.raises(ValueError, match="more than 64 bits at index 2; Milvus takes 64"):
            store.upsert(names(3), vectors(3), [{}, {"n": 2**63 - 1}, {"deep": [{"n": 2**63}]}])
        assert store.count() == 0


def test_messages_are_no_larger_than_milvus_takes(url, monkeypatch):
    monkeypatch.setattr(milvus, "MESSAGE", 4 * DIM * 3)
    with open_store(url, DIM, index="exact") as store:
        real, sizes = store._client.upsert, []
        monkeypatch.setattr(
            store._client, "upsert", lambda name, rows: sizes.append(len(rows)) or real(name, rows)
        )
        store.upsert(names(7), vectors(7))
        assert sizes == [3, 3, 1] and store.count() == 7
