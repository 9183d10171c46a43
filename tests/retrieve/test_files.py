"""A store in a folder: opened again it is the same, after a crash it is the old one or the new one, whole."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from refimpl.retrieve import HNSW, StoreError, files, open_store
from tests.retrieve.test_store import DIM, names, vectors

INDEXES = pytest.mark.parametrize("index", ["exact", "hnsw"])


def contents(store) -> dict[str, tuple[list[float], dict]]:
    hits = store.search(vectors(1), k=10**6, exact=True)[0]
    return {item.id: (item.vector.tolist(), item.metadata) for item in store.get([h.id for h in hits])}


@INDEXES
def test_opened_again_it_is_the_same(tmp_path, index):
    url = tmp_path.as_uri()
    with open_store(url, DIM, index=index, encoder="e") as store:
        store.upsert(names(300), vectors(300), [{"n": i, "text": "ü"} for i in range(300)])
        store.delete(["r5"])
        store.upsert(["r6"], vectors(1, seed=8))
        before, found = contents(store), store.search(vectors(5, seed=2))
    with open_store(url) as store:
        assert contents(store) == before
        assert store.search(vectors(5, seed=2)) == found
        assert store.count() == 299
        info = store.info()
        assert (info["index"]["kind"], info["encoder"], info["saved"]) == (index, "e", True)
        assert info["bytes_disk"] == sum(p.stat().st_size for p in tmp_path.iterdir()) > 300 * DIM * 4
        assert info["url"] == url
        store.upsert(["more"], vectors(1, seed=4))
    with open_store(url, DIM) as store:
        assert store.count() == 300
        assert store.search(vectors(1, seed=4))[0][0].id == "more"


def test_an_exact_store_drops_deleted_rows_when_it_is_written(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(20), vectors(20))
        store.delete(["r1"])
        store.flush()
        assert store.info()["deleted"] == 0
    rows = json.loads(next(tmp_path.glob("rows-*.json")).read_text())
    assert rows["ids"] == [n for n in names(20) if n != "r1"]


def test_the_folder_holds_plain_files(tmp_path):
    with open_store(tmp_path.as_uri(), DIM, index="hnsw", encoder="e") as store:
        store.upsert(names(4), vectors(4), [{"n": i} for i in range(4)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for key, value in {
        "format": "refimpl-store-1",
        "dim": DIM,
        "metric": "cosine",
        "encoder": "e",
        "count": 4,
        "dtype": "<f4",
    }.items():
        assert manifest[key] == value
    assert manifest["index"] == {
        "kind": "hnsw",
        "m": 16,
        "ef_construction": 100,
        "ef_search": 64,
        "library": "faiss",
    }
    assert {p.name for p in tmp_path.iterdir()} == {
        "manifest.json",
        *(entry["name"] for entry in manifest["files"].values()),
    }
    assert np.array_equal(np.load(next(tmp_path.glob("*.npy")), allow_pickle=False), vectors(4))


def test_nothing_is_written_without_a_change(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(4), vectors(4))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    with open_store(tmp_path.as_uri()) as store:
        store.search(vectors(1))
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_new_folder_is_made_only_by_a_flush(tmp_path):
    url = (tmp_path / "deep" / "er").as_uri()
    with pytest.raises(RuntimeError), open_store(url, DIM) as store:
        store.upsert(names(1), vectors(1))
        raise RuntimeError
    assert not (tmp_path / "deep").exists()
    with open_store(url, DIM):
        pass
    with open_store(url) as store:
        assert store.count() == 0


def test_an_exception_leaves_the_state_of_the_last_flush(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    with pytest.raises(RuntimeError), open_store(tmp_path.as_uri()) as store:
        store.delete(["r0"])
        raise RuntimeError
    with open_store(tmp_path.as_uri()) as store:
        assert store.count() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 8}, "dim: got 8; this store was made with 16"),
        ({"encoder": "other"}, "encoder: got 'other'; this store was made with 'e'"),
    ],
)
def test_a_store_made_otherwise_is_refused(tmp_path, options, message):
    with open_store(tmp_path.as_uri(), DIM, encoder="e") as store:
        store.upsert(names(3), vectors(3))
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path.as_uri(), **options)
    with open_store(tmp_path.as_uri(), DIM, encoder="e") as store:
        assert store.count() == 3


def test_an_encoder_can_be_named_later(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    with open_store(tmp_path.as_uri(), encoder="e") as store:
        assert store.info()["saved"] is False
    with open_store(tmp_path.as_uri()) as store:
        assert store.info()["encoder"] == "e"


def test_another_index_is_built_from_the_rows(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(50), vectors(50))
    for index, kind, m in ((HNSW(m=4), "hnsw", 4), (HNSW(m=6), "hnsw", 6), ("exact", "exact", None)):
        with open_store(tmp_path.as_uri(), index=index) as store:
            assert store.info()["index"].get("m") == m
            assert [h[0].id for h in store.search(vectors(50), k=1)] == names(50)
        with open_store(tmp_path.as_uri()) as store:
            assert store.info()["index"]["kind"] == kind
        assert bool(list(tmp_path.glob("index-*"))) == (kind == "hnsw")


def test_ef_search_changes_without_building(tmp_path, monkeypatch):
    with open_store(tmp_path.as_uri(), DIM, index=HNSW(ef_search=20)) as store:
        store.upsert(names(50), vectors(50))
    monkeypatch.setattr(HNSW, "make", lambda *_: pytest.fail("built again"))
    with open_store(tmp_path.as_uri(), index=HNSW(ef_search=30)) as store:
        assert store.info()["index"]["ef_search"] == 30
    with open_store(tmp_path.as_uri()) as store:
        assert store.info()["index"]["ef_search"] == 30


def damage(path: Path, how: str) -> None:
    payload = bytearray(path.read_bytes())
    if how == "truncated":
        payload = payload[:-7]
    elif how == "altered":
        payload[len(payload) // 2] ^= 1
    path.unlink()
    if how != "missing":
        path.write_bytes(payload)


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("pattern", ["vectors-*", "rows-*", "manifest.json"])
def test_damage_is_noticed(tmp_path, pattern, how):
    with open_store(tmp_path.as_uri(), DIM, index="hnsw") as store:
        store.upsert(names(30), vectors(30))
    damage(next(tmp_path.glob(pattern)), how)
    if (pattern, how) == ("manifest.json", "missing"):  # no store there: never silently an empty one
        with pytest.raises(ValueError, match="dim: got None"):
            open_store(tmp_path.as_uri())
        return
    with pytest.raises(StoreError, match="truncated or altered|got no file"):
        open_store(tmp_path.as_uri(), DIM)


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
def test_a_damaged_index_is_built_again(tmp_path, how):
    with open_store(tmp_path.as_uri(), DIM, index="hnsw") as store:
        store.upsert(names(30), vectors(30))
    damage(next(tmp_path.glob("index-*")), how)
    with open_store(tmp_path.as_uri()) as store:
        assert [h[0].id for h in store.search(vectors(30), k=1)] == names(30)


def rewrite(folder: Path, **changes) -> None:
    """A manifest with other entries and a checksum that fits."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["sha256"] = files._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_another_format_or_shape_is_refused(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    rewrite(tmp_path, dim=8)
    with pytest.raises(StoreError, match=r"vectors: got float32 \(3, 16\)"):
        open_store(tmp_path.as_uri())
    rewrite(tmp_path, format="refimpl-store-9")
    with pytest.raises(StoreError, match="format 'refimpl-store-9'; takes 'refimpl-store-1'"):
        open_store(tmp_path.as_uri())
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(StoreError, match="manifest: not readable"):
        open_store(tmp_path.as_uri())


def test_no_pickle_is_read(tmp_path):
    """An array of objects is code to be run; it is refused even where every checksum fits."""
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    path = next(tmp_path.glob("vectors-*"))
    np.save(path, np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    import hashlib

    entry = {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    rewrite(tmp_path, files=manifest["files"] | {"vectors": entry})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        open_store(tmp_path.as_uri())


def test_a_file_for_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="url: got 'file', a file; takes a folder"):
        open_store((tmp_path / "file").as_uri(), DIM)


def test_a_second_writer_is_noticed(tmp_path):
    first = open_store(tmp_path.as_uri(), DIM)
    second = open_store(tmp_path.as_uri(), DIM)
    first.upsert(["a"], vectors(1))
    first.flush()
    second.upsert(["b"], vectors(1))
    with pytest.raises(StoreError, match="changed by another writer"):
        second.flush()
    second.abandon()
    first.upsert(["c"], vectors(1))
    first.close()
    with open_store(tmp_path.as_uri()) as store:
        assert store.count() == 2


def test_a_reader_that_meets_a_writer_reads_again(tmp_path, monkeypatch):
    """The manifest was read, then replaced together with its files."""
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(["a"], vectors(1))
    real, old = files._read_file, []

    def late(folder, entry):
        if not old:
            old.append(entry)
            with open_store(tmp_path.as_uri()) as writer:
                writer.upsert(["b"], vectors(1, seed=1))
        return real(folder, entry)

    monkeypatch.setattr(files, "_read_file", late)
    with open_store(tmp_path.as_uri()) as store:
        assert store.count() == 2


def crash_at(call: int, real):
    """``real``, but for the call of this number."""
    calls = iter(range(10**6))

    def crashing(*arguments, **options):
        if next(calls) == call:
            raise Crash
        return real(*arguments, **options)

    return crashing


class Crash(BaseException):
    """The process ends here: no handler of ordinary exceptions runs."""


@INDEXES
@pytest.mark.parametrize("function", ["fsync", "replace", "unlink"])
def test_a_crash_at_any_step_leaves_the_old_state_or_the_new(tmp_path, monkeypatch, index, function):
    with open_store(tmp_path.as_uri(), DIM, index=index) as store:
        store.upsert(names(20), vectors(20), [{"n": i} for i in range(20)])
        old = contents(store)
    real, seen, step = getattr(os, function), [], 0
    while True:
        store = open_store(tmp_path.as_uri())
        assert contents(store) == old
        store.delete(["r1"])
        store.upsert([f"new{step}"], vectors(1, seed=step))
        new = contents(store)
        monkeypatch.setattr(os, function, crash_at(step, real))
        try:
            store.flush()
            finished = True
        except Crash:
            finished = False
        monkeypatch.setattr(os, function, real)
        with open_store(tmp_path.as_uri()) as again:
            now = contents(again)
        assert now in (old, new)
        seen.append(now == new)
        if finished:
            break
        old, step = now, step + 1
    assert seen[-1]
    assert len(seen) > (2 if function == "unlink" else 3)
    assert function == "unlink" or not seen[0]
    assert not list(tmp_path.glob(".writing-*"))  # leftovers of crashes are gone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_loses_nothing_that_was_flushed(tmp_path):
    """A process that writes without end is killed at odd moments; what it acknowledged is there, and whole."""
    for round_, wait in enumerate((0.05, 0.013, 0.031, 0.08)):
        store = open_store(tmp_path.as_uri(), DIM)
        had = store.count()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                for i in range(10**6):
                    store.upsert([f"{round_}-{i}"], np.full((1, DIM), i + 1, "f4"))
                    store.flush()
                    os.write(writing, b".")
            finally:
                os._exit(0)
        os.close(writing)
        acknowledged = len(os.read(reading, 1))  # at least one
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged += len(os.read(reading, 10**6))
        os.close(reading)
        store.abandon()
        with open_store(tmp_path.as_uri()) as again:
            assert had + acknowledged <= again.count() <= had + acknowledged + 1
            for item in again.get([f"{round_}-{i}" for i in range(again.count() - had)]):
                assert item.vector.tolist() == [int(item.id.split("-")[1]) + 1] * DIM


def test_paths_with_odd_characters(tmp_path):
    folder = tmp_path / "ä b#c%41?d"
    with open_store(folder.as_uri(), DIM) as store:
        store.upsert(["a"], vectors(1))
    assert (folder / "manifest.json").is_file()
    with open_store(folder.as_uri().replace("file:///", "file://localhost/")) as store:
        assert store.count() == 1


def test_windows_urls(monkeypatch):
    """`pathlib` writes file:///C:/folder there; nturl2path reads it on every system."""
    import ntpath
    from nturl2path import url2pathname
    from urllib.parse import urlsplit

    from refimpl.retrieve import opening as module

    monkeypatch.setattr(module, "url2pathname", url2pathname)
    monkeypatch.setattr(module.os, "path", ntpath)
    monkeypatch.setattr(module.os, "sep", "\\")
    assert module._folder(urlsplit("file:///C:/my%20folder/x")) == "C:\\my folder\\x"


def test_the_index_is_of_the_kind_that_was_asked_for(tmp_path):
    with open_store(tmp_path.as_uri(), DIM, index=HNSW(m=4)) as store:
        store.upsert(names(50), vectors(50))
    with open_store(tmp_path.as_uri(), index=HNSW(m=6)) as store:
        assert store._index.hnsw.nb_neighbors(1) == 6
    with open_store(tmp_path.as_uri(), index="exact") as store:
        assert not hasattr(store._index, "hnsw")


def test_a_flush_keeps_a_graph_and_says_that_it_was_saved(tmp_path):
    with open_store(tmp_path.as_uri(), DIM, index="hnsw") as store:
        assert store.info()["bytes_disk"] == 0
        store.upsert(names(20), vectors(20), [{"text": "ü"}] * 20)
        store.delete(["r1"])
        store.flush()
        assert store.info()["saved"]
        assert store.info()["deleted"] == 1
    assert "ü" in next(tmp_path.glob("rows-*.json")).read_text(encoding="utf-8")
    for path in tmp_path.iterdir():
        assert re.fullmatch(r"manifest\.json|(vectors|rows|index)-[0-9a-f]{16}\.(npy|json|faiss)", path.name)


def test_a_manifest_in_another_order_is_the_same(tmp_path):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    with open_store(tmp_path.as_uri()) as store:
        assert store.count() == 3


def test_a_reader_gives_up_after_three_attempts(tmp_path, monkeypatch):
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    tried = []

    def gone(folder, entry):
        tried.append(entry["name"])
        raise FileNotFoundError(2, "gone", entry["name"])

    monkeypatch.setattr(files, "_read_file", gone)
    with pytest.raises(StoreError, match="got no file 'vectors-"):
        open_store(tmp_path.as_uri())
    assert len(tried) == 3


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be opened")
def test_the_folder_is_brought_to_the_disk_around_the_manifest(tmp_path, monkeypatch):
    """Its entries before the manifest names them, and the manifest's own."""
    order, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (
            order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file") or sync(handle)
        ),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: order.append(Path(b).suffix) or replace(a, b))
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
    files_ = ["file", ".npy", "file", ".json"]
    assert order == [*files_, "folder", "file", ".json", "folder"]


def test_an_old_file_may_be_gone_already(tmp_path, monkeypatch):
    """Another process that cleans up as well."""
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(3), vectors(3))
        monkeypatch.setattr(Path, "glob", lambda folder, pattern: [folder / "vectors-gone.npy"])
    monkeypatch.undo()
    with open_store(tmp_path.as_uri()) as store:
        assert store.count() == 3


@pytest.mark.skipif(os.name != "posix", reason="no lock of a folder there")
def test_two_writers_at_once_lose_nothing(tmp_path, monkeypatch):
    """While one writes its files another one flushes: it is refused, and removes nothing."""
    with open_store(tmp_path.as_uri(), DIM) as store:
        store.upsert(names(2), vectors(2))
    one, two = (open_store(tmp_path.as_uri()) for _ in range(2))
    one.upsert(["one"], vectors(1))
    two.upsert(["two"], vectors(1))
    real, refused = files.replace_file, []

    def meanwhile(path, payload):
        real(path, payload)
        if path.name.startswith("rows") and not refused:
            with pytest.raises(StoreError, match="is being written by another writer") as caught:
                two.flush()
            refused.append(caught)

    monkeypatch.setattr(files, "replace_file", meanwhile)
    one.flush()
    assert refused
    with pytest.raises(StoreError, match="was changed by another writer"):
        two.flush()
    two.abandon()
    with open_store(tmp_path.as_uri()) as store:
        assert store.count() == 3 and store.get(["one"])[0] is not None
