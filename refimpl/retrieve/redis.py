"""A store whose truth is in Redis: a hash for each row, a stream of changes, and an index in each process that searches.

    refimpl:<name>:manifest      JSON: format, dimension, metric, encoder
    refimpl:<name>:row:<id>      hash: vector (little-endian float32), metadata (JSON)
    refimpl:<name>:ids           set of all ids
    refimpl:<name>:changes       stream: the ids of each change, in order
    refimpl:<name>:flushed       written by `flush`, to have it synced

Rows, ids and their change are written in one transaction. A store that searches reads the changes since it last
looked, in one round trip, and fetches the rows they name: so it sees every write that was acknowledged before, its own and
those of other processes. It needs no module in the server and no version beyond 6.2.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.local import LocalStore
from refimpl.retrieve.rows import Metadata, check_dim, check_ids, check_metadata, check_vectors
from refimpl.retrieve.server import redis_module, server_errors
from refimpl.retrieve.store import Hit, Item, Store, StoreError, Vectors

FORMAT = "refimpl-redis-1"
BATCH = 1000  # rows a transaction or a fetch: 1.5 MB of 384 dimensions
REMEMBERED = 10_000  # changes in the stream; a store that slept through more reads all rows again


class RedisStore(Store):
    """Rows in Redis and, to search, a `LocalStore` that follows them."""

    def __init__(
        self, url: str, name: str, dim: int | None, metric: str, index: Any, encoder: str | None
    ) -> None:
        self._lock = threading.RLock()
        self._closed = False
        self._url, self._name = url, name
        dim = None if dim is None else check_dim(dim)
        self._redis = redis_module().Redis.from_url(url)
        self._key = f"refimpl:{name}:".encode()
        with server_errors():
            manifest = self._manifest(dim, metric, encoder)
            self._dim, self._metric = manifest["dim"], manifest["metric"]
            self._encoder = manifest["encoder"]
            self._index = index
            self._load()

    def _manifest(self, dim: int | None, metric: str, encoder: str | None) -> dict[str, Any]:
        """The one that is there; a new one where there is none, unless another process is quicker."""
        key = self._key + b"manifest"
        payload = self._redis.get(key)
        if payload is None:
            if dim is None:
                raise ValueError("dim: got None; takes the numbers a vector, as there is no store yet")
            fields = {"format": FORMAT, "dim": dim, "metric": metric, "encoder": encoder}
            with self._redis.pipeline(transaction=True) as batch:
                batch.set(key, json.dumps(fields), nx=True)
                # never empty: the last entry that a store has seen tells whether it missed any
                batch.xadd(self._key + b"changes", {"ids": "[]"}, maxlen=REMEMBERED)
                batch.get(key)
                payload = batch.execute()[-1]
        try:
            found: dict[str, Any] = json.loads(payload)
            form = found["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"name: {self._name!r} has no readable manifest ({error})") from error
        if form != FORMAT:
            raise StoreError(f"manifest: got format {form!r}; takes {FORMAT!r}")
        for field, got in (("dim", dim), ("metric", metric), ("encoder", encoder)):
            if got is not None and found[field] is not None and got != found[field]:
                raise StoreError(f"{field}: got {got!r}; this store was made with {found[field]!r}")
        if encoder is not None and found["encoder"] is None:  # the first to say it decides
            found["encoder"] = encoder
            self._redis.set(key, json.dumps(found))
        return found

    # -- following the server ------------------------------------------------------------------------

    def _load(self) -> None:
        """All rows, and the change that they hold at least."""
        newest = self._redis.xrevrange(self._key + b"changes", count=1)
        if not newest or not self._redis.exists(self._key + b"manifest"):
            raise StoreError(
                f"name: the store {self._name!r} is gone from the server; open it again to make it"
            )
        self._seen: bytes = newest[0][0]
        self._local = LocalStore(None, self._dim, self._metric, self._index, self._encoder)
        names: list[bytes] = []
        for name in self._redis.sscan_iter(self._key + b"ids", count=BATCH):
            names.append(name)
            if len(names) == BATCH:
                self._fetch(names)
                names = []
        self._fetch(names)

    def _follow(self) -> None:
        """Bring the local rows up to the last acknowledged change."""
        changes = self._key + b"changes"
        while True:
            with self._redis.pipeline(transaction=False) as batch:
                batch.xrange(changes, self._seen, self._seen, count=1)
                batch.xrange(changes, b"(" + self._seen, b"+", count=BATCH)
                known, entries = batch.execute()
            if not known:  # the stream was cut beyond it, or the server lost it
                self._load()
                return
            if not entries:
                return
            named = dict.fromkeys(name for _, fields in entries for name in json.loads(fields[b"ids"]))
            ids = [name.encode() for name in named]
            for start in range(0, len(ids), BATCH):
                self._fetch(ids[start : start + BATCH])
            self._seen = entries[-1][0]

    def _fetch(self, names: Sequence[bytes]) -> None:
        """These rows as they are now; those that are not there are deleted here too."""
        if not names:
            return
        with self._redis.pipeline(transaction=False) as batch:
            for name in names:
                batch.hmget(self._key + b"row:" + name, "vector", "metadata")
            rows = batch.execute()
        there = [(name.decode(), *row) for name, row in zip(names, rows, strict=True) if row[0] is not None]
        for name, vector, _ in there:
            if len(vector) != 4 * self._dim:
                raise StoreError(
                    f"row {name!r}: got {len(vector)} bytes; takes {4 * self._dim}: it was altered"
                )
        gone = [name.decode() for name, row in zip(names, rows, strict=True) if row[0] is None]
        if gone:
            self._local.delete(gone)
        if there:
            vectors = np.frombuffer(b"".join(vector for _, vector, _ in there), "<f4").reshape(-1, self._dim)
            self._local.upsert(
                [name for name, _, _ in there], vectors, [json.loads(metadata) for _, _, metadata in there]
            )

    # -- writing -------------------------------------------------------------------------------------

    def upsert(
        self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata | None] | None = None
    ) -> None:
        """See `Store.upsert`. Each 1,000 rows are one transaction: a crash leaves whole rows, the first ones."""
        rows = check_vectors(vectors, self._dim)
        names = check_ids(ids, len(rows))
        extra = check_metadata(metadata, len(rows))
        with self._lock, self._open():
            for start in range(0, len(names), BATCH):
                part = names[start : start + BATCH]
                with self._redis.pipeline(transaction=True) as batch:
                    for i, name in enumerate(part, start):
                        fields = {"vector": rows[i].tobytes(), "metadata": json.dumps(extra[i])}
                        batch.hset(self._key + b"row:" + name.encode(), mapping=fields)
                    batch.sadd(self._key + b"ids", *part)
                    self._note(batch, part)
                    batch.execute()

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (filter is None):
            raise ValueError("ids, filter: got both or none; takes exactly one of them")
        names = None if ids is None else check_ids(ids)
        if filter is not None:
            compile_filter(filter)
        with self._lock, self._open():
            if filter is not None:
                self._follow()
                names = self._local.matching_ids(filter)
            names = names or []
            removed = 0
            for start in range(0, len(names), BATCH):
                part = names[start : start + BATCH]
                with self._redis.pipeline(transaction=True) as batch:
                    for name in part:
                        batch.delete(self._key + b"row:" + name.encode())
                    batch.srem(self._key + b"ids", *part)
                    self._note(batch, part)
                    removed += sum(batch.execute()[: len(part)])
            return removed

    def _note(self, batch: Any, names: list[str]) -> None:
        batch.xadd(self._key + b"changes", {"ids": json.dumps(names)}, maxlen=REMEMBERED, approximate=True)

    # -- reading -------------------------------------------------------------------------------------

    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        check_vectors(vectors, self._dim)
        check_int("k", k, 1)
        if filter is not None:
            compile_filter(filter)
        with self._lock, self._open():
            self._follow()
            return self._local.search(vectors, k, filter, exact)

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """See `Store.get`."""
        names = check_ids(ids)
        with self._lock, self._open():
            self._follow()
            return self._local.get(names)

    def count(self) -> int:
        """See `Store.count`."""
        with self._lock, self._open():
            self._follow()
            return self._local.count()

    def info(self) -> dict[str, Any]:
        """See `Store.info`; the bytes are those of this process's copy. ``saved`` means: in the server."""
        with self._lock, self._open():
            self._follow()
            scheme, _, rest = self._url.partition("://")
            url = f"{scheme}://{rest.rpartition('@')[2]}"  # without the password
            return {**self._local.info(), "url": url, "name": self._name, "saved": True}

    # -- keeping -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """See `Store.flush`. Writes are in the server's memory at once; this waits until they are on its disk.

        Without an append-only file a snapshot is saved. With one that is not synced at each command it is for
        one: what was written before is then on the disk too.

        Raises:
            StoreError: the server cannot be reached, or does not let its clients ask for that.
        """
        with self._lock, self._open():
            options = self._redis.config_get("append*")
            if options["appendonly"] != "yes":
                self._redis.save()
            elif options["appendfsync"] != "always":
                self._redis.config_set("appendfsync", "always")
                try:
                    self._redis.set(self._key + b"flushed", b"1")  # answered when it is on the disk
                finally:
                    self._redis.config_set("appendfsync", options["appendfsync"])

    def close(self) -> None:
        """See `Store.close`; what was written is in the server already, `flush` is for its disk."""
        self.abandon()

    def abandon(self) -> None:
        """See `Store.abandon`; nothing is lost."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._local.abandon()
                self._redis.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        if self._closed:
            raise StoreError("store: it is closed; open it again")
        with server_errors():
            yield
