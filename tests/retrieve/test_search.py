"""refimpl.retrieve.servers, RediSearch: what the server answers itself, and what is asked of the rows instead."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from refimpl.retrieve import HNSW, Exact, StoreError, open_store
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.servers import search, served, tags
from refimpl.retrieve.servers.client import redis_module
from tests.retrieve.servers import needs_redis, needs_search, own_cluster, own_server, search_command
from tests.retrieve.test_contract import names
from tests.retrieve.test_servers import DIM, needs_cli, vectors

LASTING = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(scope="module")
def server():
    with own_server(command=search_command()) as own:
        yield own


@pytest.fixture
def fresh(server):
    client = redis_module().Redis.from_url(server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def scans(monkeypatch):
    """How often rows were read instead of searched."""
    made, real = [], served.best_of
    monkeypatch.setattr(served, "best_of", lambda *some: made.append(1) or real(*some))
    return made


def opened(server, index=None, dim=DIM):
    return open_store(f"{server.url}?name=t&index=search", dim, index=index)


# -- metadata as tags and numbers ------------------------------------------------------------------------


def test_equal_values_have_the_same_tag_and_no_others():
    def tag(value):
        return tags.fields({"a": value})["tags"].split(",")[2:]

    assert tag(1) == tag(1.0) != tag("1")
    assert tag(2**53) == tag(float(2**53)) != tag(2**53 + 1)
    assert tag(0) == tag(-0.0) != tag(False) != tag(None)
    assert tag([1]) == tag({"b": 1}) == []
    assert tags.fields({})["tags"] == tags.EVERY
    assert tags.fields({"a": 1})["tags"].split(",")[1] == tags.fields({"a": "x"})["tags"].split(",")[1]


def test_numbers_are_written_as_float64_and_never_as_infinity():
    (field,) = tags.numbers([{"a": 1, "b": True, "c": "1"}, {"a": 2.5}])
    assert field == tags.number_field("a")
    written = [tags.fields({"a": value})[field] for value in (1, 0.1, -(10**400), 10**400)]
    assert written[:2] == ["1.0", "0.1"]
    assert [float(text) for text in written[2:]] == [-sys.float_info.max, sys.float_info.max]


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ({"a": None}, True),
        ({"a": {"$ne": "x'\"\\,{|}"}}, True),
        ({"a": {"$in": [1, None, True]}}, True),
        ({"n": {"$gte": 1, "$lt": 2.5}}, True),
        ({"n": {"$gt": "x"}}, False),
        ({"n": {"$gt": 2**53}}, False),
        ({"n": {"$gt": 1e-9}}, False),
        ({"unknown": {"$gt": 1}}, False),
        ({"a": {"$in": []}}, False),
    ],
)
@needs_search
def test_what_is_said_in_tags(filter, said):
    words = __import__("redisvl.query.filter").query.filter
    compile_filter(filter)
    assert (tags.condition(filter, {tags.number_field("n")}, words) is not None) == said


# -- on a server -----------------------------------------------------------------------------------------


@needs_search
@pytest.mark.parametrize("index", [None, "exact"])
def test_what_the_server_answers_itself(server, fresh, scans, index):
    odd = [1, "1", True, None, "a,b|c", "x'y\"z", -2.5, "é"]
    with opened(server, index) as store, opened(server, index) as other:
        rows = [{"n": i, "odd": odd[i % 8], **({"rare": i} if i % 50 == 0 else {})} for i in range(400)]
        store.upsert(names(400), vectors(400), rows)
        for filter in (
            *({"odd": value} for value in odd),
            *({"odd": {"$ne": value}} for value in odd[:4]),
            {"odd": {"$in": odd[2:6]}, "n": {"$gt": 20.5, "$lte": 99}},
            {"rare": {"$gte": 0}},
            {"rare": {"$ne": -1}, "n": {"$lt": 150}},
            {"missing": 0},
        ):
            wanted = {f"r{i}" for i, row in enumerate(rows) if compile_filter(filter)(row)}
            for some in (store, other):
                (hits,) = some.search(vectors(1), k=400, filter=filter)
                assert {hit.id for hit in hits} == wanted, filter
        near, exact = (store.search(vectors(30, seed=1), exact=how) for how in (False, True))
        assert [[h.id for h in hits] for hits in near] == [[h.id for h in hits] for hits in exact]
        assert scans == []
        assert store.search(vectors(1), filter={"odd": {"$gt": "é"}}) == [[]]
        assert len(scans) == 1
        assert store.delete(["r1", "r2"]) == 2
        assert store.info()["built"]["kind"] == "search" and store.info()["bytes_index"] > 300 * 4 * DIM


@needs_search
def test_a_filter_compares_with_all_rows_that_meet_it(server, fresh, scans):
    """A graph that is searched first and filtered then finds a fraction of them."""
    with opened(server, HNSW(m=4, ef_construction=8, ef_search=1)) as store:
        rows = vectors(2000)
        store.upsert(names(2000), rows, [{"n": i} for i in range(2000)])
        queries = vectors(20, seed=1)
        found = store.search(queries, k=10, filter={"n": {"$lt": 1000}})
    units = rows[:1000] / np.linalg.norm(rows[:1000], axis=1, keepdims=True)
    best = np.argsort(-queries @ units.T, axis=1)[:, :10]
    assert [[h.id for h in hits] for hits in found] == [[f"r{i}" for i in line] for line in best]
    assert scans == []


@needs_search
def test_the_graph_and_its_numbers(server, fresh, scans):
    with opened(server, HNSW(m=7, ef_construction=33, ef_search=200)) as store:
        store.upsert(names(3000), vectors(3000))
        near, exact = (store.search(vectors(50, seed=1), k=10, exact=how) for how in (False, True))
        said = fresh.ft("refimpl:t:search").info()["attributes"][0]
        words = [word.decode() if isinstance(word, bytes) else word for word in said]
        kept = dict(zip(words[::2], words[1::2], strict=False))
        assert (kept["algorithm"], kept["dim"], kept["M"], kept["ef_construction"]) == ("HNSW", DIM, 7, 33)
    same = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(near, exact, strict=True)]
    assert sum(same) >= 0.98 * 500 and scans == []
    with opened(server, HNSW(m=32, ef_search=1)) as store:  # its links stay, how it is searched does not
        assert store.info()["index"]["m"] == 7 and store.info()["index"]["ef_search"] == 1
        worse = store.search(vectors(50, seed=1), k=10)
    few = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(worse, exact, strict=True)]
    assert sum(few) < sum(same)


@needs_search
def test_an_index_that_is_behind_is_not_asked(server, fresh, scans, monkeypatch):
    with opened(server) as store:
        store.upsert(names(20), vectors(20))
        real = store._index.info
        for lag in ({"num_docs": 19}, {"indexing": 1}):
            monkeypatch.setattr(store._index, "info", lambda lag=lag: {**real(), **lag})
            assert [hits[0].id for hits in store.search(vectors(20), k=1)] == names(20)
        assert len(scans) == 2


@needs_search
def test_a_row_that_goes_between_search_and_fetch_is_left_out(server, fresh, scans):
    with opened(server) as store:
        store.upsert(names(20), vectors(20))
        real = store._index.batch_query

        def late(*some, **options):
            found = real(*some, **options)
            fresh.delete("refimpl:t:row:r3")  # as another process would, after the server has answered
            fresh.srem("refimpl:t:ids", "r3")
            return found

        store._index.batch_query = late
        (hits,) = store.search(vectors(20)[3:4], k=5)
        assert len(hits) == 5 and "r3" not in {hit.id for hit in hits} and len(scans) == 1


@needs_search
def test_a_replaced_row_has_none_of_its_old_numbers(server, fresh, scans):
    with opened(server) as store:
        store.upsert(names(3), vectors(3), [{"n": i, "m": 7} for i in range(3)])
        store.upsert(["r1"], vectors(1, seed=5), [{"m": "7"}])
        for filter in ({"n": {"$gte": 0}}, {"m": {"$lt": 8}}, {"m": 7}):
            assert {h.id for h in store.search(vectors(1), filter=filter)[0]} == {"r0", "r2"}
        assert scans == []
        assert not [field for field in fresh.hkeys("refimpl:t:row:r1") if field.startswith(b"n")]


@needs_search
def test_two_writers_declare_the_same_number(server, fresh, scans):
    with opened(server) as one, opened(server) as two:
        for step in range(4):
            for at, store in enumerate((one, two)):
                store.upsert([f"{step}-{at}"], vectors(1, seed=10 * step + at), [{f"n{step}": at}])
        for step in range(4):
            for store in (one, two):
                (hits,) = store.search(vectors(1), filter={f"n{step}": {"$gt": 0}})
                assert [hit.id for hit in hits] == [f"{step}-1"]
        assert scans == []


@needs_search
def test_more_names_of_numbers_than_a_schema_takes(server, fresh, scans):
    """The first thousand are declared; a filter on another one reads the rows."""
    with opened(server) as store:
        store.upsert(["few"], vectors(1), [{"n": 1}])
        store.upsert(["many"], vectors(1, seed=1), [{f"n{i}": i for i in range(1100)}])
        store.upsert(["later"], vectors(1, seed=2), [{"m": 7, "n": 2}])
        with opened(server) as other:
            for some in (store, other):
                for filter, wanted in (
                    ({"n": {"$gt": 0}}, {"few", "later"}),
                    ({"m": {"$gt": 6}}, {"later"}),
                    ({"n1099": {"$gt": 1098}}, {"many"}),
                    ({"n7": 7}, {"many"}),
                ):
                    assert {h.id for h in some.search(vectors(1), filter=filter)[0]} == wanted, filter
        declared = fresh.scard("refimpl:t:numbers")
        assert 900 < declared < 1100 and 0 < len(scans) <= 4


@needs_search
def test_many_open_a_new_store_at_once(server, fresh, scans):
    """Each declares a number of its own: whose index it is must not matter."""
    for turn in range(4):
        fresh.flushall()
        failures: list[BaseException] = []
        gate = threading.Barrier(4)

        def work(i, gate=gate, failures=failures):
            try:
                gate.wait()
                with opened(server) as store:
                    store.upsert([f"r{i}"], vectors(1, seed=i), [{"n": i + 1, f"own{i}": 1}])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == [], turn
        with opened(server) as store:
            assert {h.id for h in store.search(vectors(1), filter={"n": {"$gt": 0}})[0]} == set(names(4))
            for i in range(4):
                assert [h.id for h in store.search(vectors(1), filter={f"own{i}": {"$gt": 0}})[0]] == [
                    f"r{i}"
                ]
    assert scans == []


@needs_search
def test_nothing_acknowledged_is_lost_when_the_server_is_killed(scans):
    with (
        own_server(*LASTING, command=search_command()) as server,
        opened(server) as store,
    ):
        store.upsert(names(50), vectors(50), [{"n": i} for i in range(50)])
        before = store.search(vectors(5, seed=1), filter={"n": {"$lt": 30}})
        server.kill()
        with pytest.raises(StoreError, match="not reachable"):
            store.search(vectors(1))
        server.start()
        after = store.search(
            vectors(5, seed=1), filter={"n": {"$lt": 30}}
        )  # of the rows, if the index is behind
        assert [[h.id for h in hits] for hits in after] == [[h.id for h in hits] for hits in before]
        assert store.delete(filter={"n": {"$lt": 10}}) == 10 and store.count() == 40
        store.upsert(["new"], vectors(1, seed=9), [{"n": -1, "later": 2}])
        assert store.search(vectors(1), filter={"later": {"$gt": 1}})[0][0].id == "new"
        with opened(server) as again:
            scans.clear()
            assert [h.id for h in again.search(vectors(1, seed=9), k=1)[0]] == ["new"]
            assert scans == []


@needs_search
def test_an_index_that_was_dropped_is_built_when_opened(server, fresh, scans):
    with opened(server) as store:
        store.upsert(names(500), vectors(500), [{"n": i} for i in range(500)])
    for left in ("nothing", "another's"):
        fresh.ft("refimpl:t:search").dropindex()
        if left == "another's":
            kept = "ON HASH PREFIX 1 refimpl:t:row: SCHEMA vector VECTOR FLAT 6 TYPE FLOAT32 DIM 3 DISTANCE_METRIC L2"
            fresh.execute_command("FT.CREATE", "refimpl:t:search", *kept.split())
        with opened(server) as store:
            assert [h.id for h in store.search(vectors(1), k=1, filter={"n": {"$lt": 1}})[0]] == ["r0"]
            assert len(store.search(vectors(1), k=500)[0]) == 500
    assert scans == []
    with opened(server) as store:
        fresh.ft("refimpl:t:search").dropindex()
        with pytest.raises(StoreError, match="redis: the server refused"):
            store.search(vectors(1))


@needs_search
def test_a_store_of_one_kind_is_not_written_by_the_other(server, fresh):
    local, vset = f"{server.url}?name=t", f"{server.url}?name=t&index=vset"
    with opened(server) as store:
        store.upsert(names(40), vectors(40))
        with open_store(local) as reader:
            a, b = (some.search(vectors(5, seed=1), k=7) for some in (store, reader))
            assert [[h.id for h in hits] for hits in a] == [[h.id for h in hits] for hits in b]
            with pytest.raises(StoreError, match="index=local; this store was made with index=search"):
                reader.upsert(["x"], vectors(1))
        with pytest.raises(StoreError, match="index=vset; this store was made with index=search"):
            open_store(vset)
    fresh.flushall()
    with open_store(local, DIM), pytest.raises(StoreError, match="index=search; this store was made with"):
        opened(server)


@needs_search
def test_bad_input(server, fresh):
    for wrong in ("ivf", "fastscan", "auto"):
        with pytest.raises(ValueError, match="RediSearch takes HNSW"):
            opened(server, wrong)
    url = server.url + "?db=1&name=t&index=search"
    with pytest.raises(ValueError, match="database 1 and index=search; RediSearch takes database 0"):
        open_store(url, DIM)
    assert fresh.keys("*") == []
    with opened(server, Exact()) as store:
        with pytest.raises(ValueError, match="extreme length in row 1; RediSearch takes 1e-15 to 1e15"):
            store.upsert(names(2), vectors(2) * np.array([[1.0], [1e-20]]))
        assert store.count() == 0


@needs_search
def test_a_store_whose_index_cannot_be_made_leaves_nothing(server, fresh):
    fresh.execute_command("ACL SETUSER poor on >word ~* +@all -ft.create")
    try:
        with pytest.raises(StoreError, match="refused"):
            open_store(server.url.replace("unix://", "unix://poor:word@") + "?name=t&index=search", DIM)
        assert fresh.keys("*") == []
    finally:
        fresh.execute_command("ACL DELUSER poor")


@needs_redis
def test_a_server_without_it_is_refused(monkeypatch):
    pytest.importorskip("redisvl")
    monkeypatch.setattr(search, "has_search", lambda *some: False)
    with own_server() as server, pytest.raises(StoreError, match="this server has no RediSearch"):
        opened(server)


def test_without_redisvl(monkeypatch):
    pytest.importorskip("redis")
    monkeypatch.setitem(sys.modules, "redisvl", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'refimpl\[redisvl\]'"):
        open_store("redis://localhost:1?index=search", DIM)


@needs_redis
@needs_cli
def test_a_cluster_is_refused():
    with own_cluster() as url:
        with pytest.raises(ValueError, match="index=search in a cluster; takes local or vset"):
            open_store(f"{url}?index=search", DIM)
        client = redis_module().RedisCluster.from_url(url.replace("+cluster", ""))
        assert client.keys("*", target_nodes="primaries") == []
        client.close()
