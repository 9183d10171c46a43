"""A store whose truth is in Redis, and an index in each process that searches.

The store reads the changes since it last looked, in one round trip, and fetches the rows they name: so it sees every write that was
acknowledged before, its own and those of other processes. It needs no module in the server and no version beyond 6.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refimpl.checks import check_int
from refimpl.retrieve import engines
from refimpl.retrieve import index as indexes
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.local import LocalStore
from refimpl.retrieve.rows import check_ids, check_vectors
from refimpl.retrieve.servers.base import BATCH, RedisBase
from refimpl.retrieve.servers.client import server_errors
from refimpl.retrieve.store import Hit, Item, StoreError, Vectors


class RedisStore(RedisBase):
    """Rows in Redis and, to search, a `LocalStore` that follows them."""

    def __init__(
        self,
        client: Any,
        url: str,
        name: str,
        prefix: str,
        dim: int | None,
        metric: str,
        index: Any,
        encoder: str | None,
        node: Callable[[], Any] | None = None,
    ) -> None:
        self._index = self.check(client, prefix, index)
        super().__init__(client, url, name, prefix, dim, metric, encoder, node)
        with server_errors():
            self._load()

    @classmethod
    def check(cls, client: Any, prefix: str, index: Any) -> indexes.Config | None:
        """See `RedisBase.check`."""
        engines.faiss()
        config = None if index is None else indexes.check_index(index)
        if isinstance(config, indexes.HNSW) and config.library == "hnswlib":
            engines.hnswlib()
        return config

    def _load(self) -> None:
        """All rows, and the change that they hold at least."""
        self._check_there()
        newest = self._redis.xrevrange(self._key + b"changes", count=1)
        if not newest:
            raise StoreError(f"name: the store {self._name!r} has lost its changes: it was altered")
        self._seen = b"0-0"  # no change has this id: a load that is interrupted is done again
        self._local = LocalStore(None, self._dim, self._metric, self._index, self._encoder)
        for names in self._names():
            self._fetch(names)
        self._seen = newest[0][0]

    def _follow(self) -> None:
        """Bring the local rows up to the last change that was acknowledged before; later ones may come for ever."""
        changes = self._key + b"changes"
        last = b"+"
        while True:
            with self._redis.pipeline(transaction=False) as batch:
                batch.xrevrange(changes, count=1)
                batch.xrange(changes, self._seen, self._seen, count=1)
                batch.xrange(changes, b"(" + self._seen, last, count=BATCH)
                newest, known, entries = batch.execute()
            if not known:  # the stream was cut beyond it, or the server lost it
                self._load()
                return
            if not entries:
                return
            if last == b"+":
                last = newest[0][0]
            named = dict.fromkeys(name for _, fields in entries for name in json.loads(fields[b"ids"]))
            ids = [name.encode() for name in named]
            for start in range(0, len(ids), BATCH):
                self._fetch(ids[start : start + BATCH])
            self._seen = entries[-1][0]
            if self._seen == last or len(entries) < BATCH:
                return

    def _fetch(self, names: Sequence[bytes]) -> None:
        """These rows as they are now; those that are not there are deleted here too."""
        there, vectors, metadata = self._rows(names)
        gone = {name.decode() for name in names}.difference(there)
        if gone:
            self._local.delete(sorted(gone))
        if there:
            self._local.upsert(there, vectors, metadata)

    def _matching(self, filter: Mapping[str, Any]) -> list[str]:
        self._follow()
        return self._local.matching_ids(filter)

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
            return {**self._local.info(), "url": self._shown(), "name": self._name, "saved": True}

    def abandon(self) -> None:
        """See `Store.abandon`; nothing is lost."""
        with self._lock:
            super().abandon()
            self._local.abandon()
