"""refimpl.retrieve.servers, Redis: several processes, killed writers and servers, what was altered or lost."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from refimpl.retrieve import StoreError, open_store
from refimpl.retrieve.servers import entry, keeping
from refimpl.retrieve.servers import redis as redis_store
from refimpl.retrieve.servers.client import redis_module
from refimpl.retrieve.servers.entry import Entry
from tests.retrieve.servers import WRITER, needs_redis, needs_vset, own_server, vset_command

pytestmark = needs_redis
DIM = 8


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype("f4")


def names(count: int, start: int = 0) -> list[str]:
    return [f"r{i}" for i in range(start, start + count)]


@pytest.fixture(scope="module")
def server():
    with own_server() as own:
        yield own


@pytest.fixture
def client(server):
    own = redis_module().Redis.from_url(server.url)
    own.flushall()
    yield own
    own.close()


def opened(server, **options):
    return open_store(f"{server.url}?name=t", **{"dim": DIM, **options})


def test_what_lies_in_the_server(server, client):
    with opened(server, encoder="minilm") as store:
        store.upsert(["é/1"], vectors(1), [{"lang": "fr"}])
    assert json.loads(client.get("refimpl:t:manifest")) == {
        "format": "refimpl-redis-1",
        "dim": DIM,
        "metric": "cosine",
        "encoder": "minilm",
        "id": store._entry._id,
    }
    row = client.hgetall("refimpl:t:row:é/1")
    assert np.array_equal(np.frombuffer(row[b"vector"], "<f4"), vectors(1)[0])
    assert json.loads(row[b"metadata"]) == {"lang": "fr"}
    assert client.smembers("refimpl:t:ids") == {"é/1".encode()}


def test_opened_again_and_by_another_name(server, client):
    with opened(server) as store:
        store.upsert(names(2500), vectors(2500), [{"n": i} for i in range(2500)])
        store.delete(names(5))
        before = store.search(vectors(4, seed=1), filter={"n": {"$lt": 2000}})
    with opened(server, dim=None) as store:
        assert store.count() == 2495
        assert store.search(vectors(4, seed=1), filter={"n": {"$lt": 2000}}) == before
    with open_store(f"{server.url}?name=other", dim=3) as store:
        assert store.count() == 0
    with opened(server, encoder="minilm"):  # the first to say it decides
        pass
    for wrong, text in (({"dim": 4}, "dim: got 4"), ({"encoder": "x"}, "encoder: got 'x'")):
        with pytest.raises(StoreError, match=f"{text}; this store was made with"):
            opened(server, **wrong)


def test_a_reader_sees_each_acknowledged_write_of_another(server, client):
    with opened(server) as writer, opened(server) as reader:
        for step in range(30):
            writer.upsert([f"r{step % 7}", f"s{step}"], vectors(2, seed=step), [{"step": step}] * 2)
            if step % 5 == 4:
                assert writer.delete([f"s{step - 1}", "never there"]) == 1
            for store in (reader, writer):
                (item,) = store.get([f"r{step % 7}"])
                assert item.metadata == {"step": step} and np.array_equal(
                    item.vector, vectors(2, seed=step)[0]
                )
                (hits,) = store.search(vectors(2, seed=step)[1:], k=1)
                assert hits[0].id == f"s{step}"
        assert reader.count() == writer.count() == 7 + 30 - 6


def test_two_writers_of_the_same_rows_end_alike(server, client):
    with opened(server) as one, opened(server) as two:
        for step in range(12):
            (one if step % 2 else two).upsert(names(3), vectors(3, seed=step), [{"step": step}] * 3)
        rows = [[(i.metadata, i.vector.tolist()) for i in store.get(names(3))] for store in (one, two)]
    assert rows[0] == rows[1] and rows[0][0][0] == {"step": 11}


def test_a_reader_that_slept_through_the_whole_stream_reads_all_again(server, client, monkeypatch):
    monkeypatch.setattr(entry, "REMEMBERED", 20)
    with opened(server) as writer, opened(server) as reader:
        writer.upsert(names(3), vectors(3))
        assert reader.count() == 3
        for step in range(400):
            writer.upsert([f"s{step % 150}"], vectors(1, seed=step))
        writer.delete(["r0"])
        assert client.xlen("refimpl:t:changes") < 300, "the server cuts in blocks of its own"
        assert reader.count() == 152
        assert {h.id for h in reader.search(vectors(1), k=152)[0]} == {
            "r1",
            "r2",
            *(f"s{i}" for i in range(150)),
        }


def test_a_load_that_is_interrupted_is_done_again(server, client, monkeypatch):
    monkeypatch.setattr(entry, "REMEMBERED", 20)
    with opened(server) as writer, opened(server) as reader:
        for start in range(0, 3000, 20):
            writer.upsert(names(20, start), vectors(20, seed=start))
        real, calls = reader._fetch, []

        def breaks(ids):
            calls.append(1)
            if len(calls) == 2:
                raise redis_module().ConnectionError("for the test")
            real(ids)

        client.delete("refimpl:t:changes")
        client.xadd("refimpl:t:changes", {"ids": "[]"})
        monkeypatch.setattr(reader, "_fetch", breaks)
        with pytest.raises(StoreError, match="not reachable"):
            reader.count()
        assert reader.count() == 3000


def test_ids_that_the_server_names_twice_are_read_once(server, client, monkeypatch):
    """SSCAN may, while the set shrinks."""
    with opened(server) as store:
        store.upsert(names(5), vectors(5))
        real = store._redis.sscan_iter
        monkeypatch.setattr(store._redis, "sscan_iter", lambda *a, **o: [*real(*a, **o), b"r3", b"r0"])
        assert sorted(name for part in store._names() for name in part) == [b"r0", b"r1", b"r2", b"r3", b"r4"]


def test_a_wrong_index_leaves_nothing_in_the_server(server, client):
    with pytest.raises(ValueError, match="index: got 'nonsense'"):
        opened(server, index="nonsense")
    assert client.keys("*") == []


def test_what_is_gone_is_not_written(server, client):
    with opened(server) as store:
        client.flushall()
        for call in (lambda: store.upsert(["a"], vectors(1)), lambda: store.delete(["a"])):
            with pytest.raises(StoreError, match="gone from the server"):
                call()
        assert client.keys("*") == []


def test_a_store_that_was_made_anew_is_not_the_one_that_was_opened(server, client):
    """Its rows may have another dimension, or be searched by the server."""
    with opened(server) as old:
        client.flushall()
        with open_store(f"{server.url}?name=t", dim=2 * DIM) as new:
            calls = (
                lambda: old.upsert(["a"], vectors(1)),
                lambda: old.delete(["a"]),
                old.count,
                lambda: old.search(vectors(1)),
            )
            for call in calls:
                with pytest.raises(StoreError, match="gone from the server"):
                    call()
            assert new.count() == 0


def test_a_filter_deletes_no_row_that_was_replaced_meanwhile(server, client, monkeypatch):
    with opened(server) as one, opened(server) as two:
        one.upsert(names(3), vectors(3), [{"old": True}] * 3)
        real = one._matching

        def late(filter):
            found = real(filter)
            two.upsert(["r1"], vectors(1, seed=9), [{"old": False}])
            return found

        monkeypatch.setattr(one, "_matching", late)
        assert one.delete(filter={"old": True}) == 2
        assert two.count() == 1 and two.get(["r1"])[0].metadata == {"old": False}


def test_the_first_to_name_an_encoder_decides(server, client):
    with opened(server):
        pass
    entries = [Entry(client, b"refimpl:t:", "t") for _ in range(2)]
    real = client.transaction

    def slow(*given, **options):  # both have seen that there is none
        client.transaction = real
        entries[1].open(None, "cosine", "second", None, None)
        return real(*given, **options)

    client.transaction = slow
    try:
        with pytest.raises(StoreError, match="encoder: got 'first'; this store was made with 'second'"):
            entries[0].open(None, "cosine", "first", None, None)
    finally:
        client.transaction = real


def test_a_reader_stops_at_what_was_acknowledged_before(server, client, monkeypatch):
    """Beside a writer that never rests it would not come to an end."""
    with opened(server) as writer, opened(server) as reader:
        monkeypatch.setattr(redis_store, "BATCH", 2)
        writer.upsert(["a"], vectors(1))
        writer.upsert(["b"], vectors(1, seed=1))
        real, step = reader._fetch, iter(range(100))

        def busy(ids):
            real(ids)
            for _ in range(2):  # as many as are read at once
                writer.upsert([f"s{next(step)}"], vectors(1))

        monkeypatch.setattr(reader, "_fetch", busy)
        assert reader.count() == 2
        monkeypatch.setattr(reader, "_fetch", real)
        assert reader.count() == writer.count() == 2 + next(step)


def test_a_wrong_password_is_a_refusal_and_an_error_shows_no_vectors(server, client):
    client.config_set("requirepass", "right")
    try:
        with pytest.raises(StoreError, match="the server refused"):
            open_store(f"{server.url}?name=t", dim=DIM)
    finally:
        client.config_set("requirepass", "")
    with opened(server) as store:
        client.set("refimpl:t:ids", "no set")
        with pytest.raises(StoreError) as caught:
            store.upsert(["a"], vectors(1))
        assert "WRONGTYPE" in str(caught.value) and "HSET" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "policy", "taken"),
    [
        ("8mb", "allkeys-lru", False),
        ("8mb", "allkeys-random", False),
        ("8mb", "volatile-lru", True),
        ("8mb", "noeviction", True),
        ("0", "allkeys-lfu", True),
    ],
)
def test_a_server_that_drops_rows_when_it_is_full_is_refused(server, client, limit, policy, taken):
    client.config_set("maxmemory-policy", policy)
    client.config_set("maxmemory", limit)
    try:
        if taken:
            with opened(server) as store:
                store.upsert(names(3), vectors(3))
        else:
            with pytest.raises(StoreError, match=f"maxmemory 8,388,608 and maxmemory-policy {policy}"):
                opened(server)
            assert client.keys("*") == []
    finally:
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")


def test_a_full_server_refuses_and_keeps_what_it_acknowledged(server, client):
    with opened(server) as store:
        store.upsert(names(100), vectors(100))
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreError, match="maxmemory"):
                store.upsert(["x"], vectors(1))
        finally:
            client.config_set("maxmemory", "0")
        assert store.count() == 100 and store.get(["x"]) == [None]


def test_a_server_that_does_not_tell_its_memory_is_trusted(server, client):
    client.execute_command("ACL SETUSER quiet on >word ~* +@all -info")
    try:
        url = server.url.replace("unix://", "unix://quiet:word@")
        with open_store(f"{url}?name=t", dim=DIM) as store:
            store.upsert(names(3), vectors(3))
            assert store.count() == 3
    finally:
        client.execute_command("ACL DELUSER quiet")


@pytest.mark.parametrize("name", ["a:row", "a:row:b"])
def test_a_name_that_would_lie_among_the_rows_of_another_store(server, client, name):
    """The manifest of a store ``a:row`` would be the row ``manifest`` of the store ``a``."""
    with pytest.raises(ValueError, match="takes one without ':row'"):
        open_store(f"{server.url}?name={name}", dim=DIM)
    for good in ("row", "a:rows", "prod:docs"):
        with open_store(f"{server.url}?name={good}", dim=DIM) as store:
            assert store.count() == 0


def test_a_snapshot_in_progress_is_waited_for(server, client, monkeypatch):
    with opened(server) as store:
        store.upsert(names(3), vectors(3))
        real, calls = store._redis.save, []

        def busy():
            calls.append(1)
            if len(calls) < 3:
                raise redis_module().ResponseError("Background save already in progress")
            return real()

        monkeypatch.setattr(store._redis, "save", busy)
        store.flush()
        assert len(calls) == 3
        monkeypatch.setattr(keeping, "SAVING", 0.0)
        calls.clear()
        with pytest.raises(StoreError, match="in progress"):
            store.flush()


def test_altered_rows_and_lost_stores_are_noticed(server, client):
    with opened(server) as store:
        store.upsert(names(2), vectors(2))
        client.hset("refimpl:t:row:r0", "vector", b"short")
        client.xadd("refimpl:t:changes", {"ids": '["r0"]'})
        with pytest.raises(StoreError, match="row 'r0': got 5 bytes; takes 32"):
            store.count()
    with pytest.raises(StoreError, match="row 'r0'"):
        opened(server)
    client.set("refimpl:t:manifest", b"{")
    with pytest.raises(StoreError, match="no readable manifest"):
        opened(server)
    client.set("refimpl:t:manifest", b'{"format": "older"}')
    with pytest.raises(StoreError, match="format 'older'"):
        opened(server)
    client.flushall()
    with opened(server) as store:
        client.flushall()
        with pytest.raises(StoreError, match="gone from the server"):
            store.count()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://localhost/0?name=", "name=..."),
        ("redis://localhost/0?index=faiss", "name=..., index=local|vset|search"),
        ("redis://localhost/0?db=1", "name=..."),
        ("redis://localhost/0?name=a&name=b", "got 'an option twice'"),
        ("redis://localhost/0#x", "name=..."),
        ("redis//localhost", "takes a URL that starts with"),
        ("redis://localhost/docs", "takes the number of a database"),
        ("redis://localhost/1/2", "takes the number of a database"),
        ("redis+cluster://localhost/3", "none in a cluster"),
        ("unix:///some.sock?db=x", "takes the number of a database"),
        ("redis://localhost:x/0", "host or port cannot be read"),
    ],
)
def test_bad_urls(url, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        open_store(url, dim=2)
    with pytest.raises(StoreError, match="not reachable"):
        open_store("unix:///nowhere/redis.sock", dim=2)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@host:19530",
        "redis://h/0?password=secret",
        "milvus://user:secret@:19530/db",
        "redis://:pa#secret@h",
        "redis://:secret/x@h",
        "redis://user:secret@h/0?named=x",
        "mem://user:secret@h",
    ],
)
def test_no_error_shows_a_password(url):
    with pytest.raises(ValueError) as caught:
        open_store(url, dim=2)
    assert "secret" not in str(caught.value) and "pa#" not in str(caught.value)


def test_no_dimension_for_a_new_store(server, client):
    with pytest.raises(ValueError, match="dim: got None"):
        opened(server, dim=None)
    assert client.keys("*") == []


def test_a_password_is_not_shown(client, server):
    with opened(server) as store:
        store._url = "redis://user:secret@host:6379/0"
        assert store.info()["url"] == "redis://host:6379/0"


def test_a_writer_that_is_killed_loses_nothing_acknowledged_and_leaves_whole_rows(server, client):
    url = f"{server.url}?name=t"
    with opened(server):
        pass
    process = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == 40:
            break
    process.send_signal(signal.SIGKILL)
    acknowledged = max([40, *map(int, process.stdout.read().split())])
    process.wait()
    with opened(server) as store:
        assert store.count() % 3 == 0 and store.count() >= 3 * (acknowledged + 1)
        for step in range(store.count() // 3):
            for item in store.get([f"{step}-{i}" for i in range(3)]):
                assert item.metadata == {"step": step} and (item.vector == step + 1).all()


def test_the_server_goes_and_comes_back():
    """With an append-only file written at each command; killed without warning, the same store goes on."""
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:  # noqa: SIM117
        with opened(server) as store, opened(server) as reader:
            store.upsert(names(50), vectors(50))
            store.flush()
            server.kill()
            for call in (lambda: store.upsert(["x"], vectors(1)), reader.count, reader.flush):
                with pytest.raises(StoreError, match="not reachable"):
                    call()
            server.start()
            assert reader.count() == 50
            store.upsert(["x"], vectors(1, seed=5))
            assert reader.search(vectors(1, seed=5), k=1)[0][0].id == "x"


@pytest.mark.parametrize(
    ("append", "command"),
    [("no", None), ("yes", None), pytest.param("yes", vset_command(), marks=needs_vset)],
    ids=["snapshot", "policy", "waitaof"],
)
def test_what_was_flushed_is_on_the_disk(append, command):
    """Without an append-only file a snapshot is saved; killed after it, nothing is missing."""
    with own_server("--appendonly", append, "--appendfsync", "everysec", command=command) as server:
        with opened(server) as store:
            store.upsert(names(20), vectors(20))
            store.flush()
            assert store._redis.config_get("appendfsync") == {"appendfsync": "everysec"}, "as it was"
        server.kill()
        server.start()
        end = time.monotonic() + 10
        while True:  # a server that loads its file refuses commands meanwhile
            try:
                with opened(server, dim=None) as store:
                    assert store.count() == 20
                break
            except StoreError:
                assert time.monotonic() < end
                time.sleep(0.1)


def test_flushes_at_once_do_not_owe_one_another(monkeypatch):
    """One that finds the server syncing at each command, because another flush has told it to, must do so itself."""
    with own_server("--appendonly", "yes", "--appendfsync", "everysec") as server:
        client = redis_module().Redis.from_url(server.url)
        monkeypatch.setattr(keeping, "_waits", lambda server: False)
        with opened(server) as store:
            with client.lock("refimpl:flushing", timeout=60):
                client.config_set("appendfsync", "always")  # as a flush in another process has it
                store.upsert(names(3), vectors(3))
                flush = threading.Thread(target=store.flush)
                flush.start()
                flush.join(0.3)
                assert flush.is_alive() and not client.exists("refimpl:t:flushed")
                client.config_set("appendfsync", "everysec")
            flush.join(10)
            assert client.exists("refimpl:t:flushed")
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        client.close()
