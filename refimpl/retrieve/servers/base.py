"""Rows in a Redis server, whoever searches them: keys, manifest, transactions.

    refimpl:<name>:manifest      JSON: format, dimension, metric, encoder; the index, where the server keeps one; an id
    refimpl:<name>:row:<id>      hash: vector (little-endian float32), metadata (JSON)
    refimpl:<name>:ids           set of all ids
    refimpl:<name>:changes       stream: the ids of each change, in order
    refimpl:<name>:flushed       written by `flush`, to have it synced

Rows, ids and their change are written in one transaction. In a cluster the part before the last colon has braces, so that all
keys of one shard are on one node.
"""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.rows import Metadata, check_dim, check_ids, check_metadata, check_vectors
from refimpl.retrieve.servers import entry
from refimpl.retrieve.servers.client import server_errors
from refimpl.retrieve.servers.entry import Entry
from refimpl.retrieve.servers.keeping import bring_to_disk, refuse_a_cache
from refimpl.retrieve.servers.scan import Batch
from refimpl.retrieve.store import Store, StoreError, Vectors

BATCH = 1000  # rows a transaction or a fetch: 1.5 MB of 384 dimensions


class RedisBase(Store):
    """What the stores in Redis have in common: all but the search.

    Args:
        client: of redis-py, for this store alone: closed with it.
        url: shown by `info`, without a password.
        name: the store's.
        prefix: of all its keys.
        node: the client of the server that has these keys, where ``client`` is a cluster's.
    """

    _served: str | None = None  # one of `entry.SERVED`, of a store that its server searches
    _made: dict[str, Any] | None = None  # the index that the server keeps

    def __init__(
        self,
        client: Any,
        url: str,
        name: str,
        prefix: str,
        dim: int | None,
        metric: str,
        encoder: str | None,
        node: Callable[[], Any] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._closed = False
        self._url, self._name = url, name
        self._redis, self._node = client, node or (lambda: client)
        self._key = prefix.encode()
        dim = None if dim is None else check_dim(dim)
        with server_errors():
            refuse_a_cache(self._node())
            self._entry = Entry(client, self._key, name)
            manifest = self._entry.open(dim, metric, encoder, self._served, self._made)
        self._dim, self._metric = manifest["dim"], manifest["metric"]
        self._encoder = manifest["encoder"]
        self._made = manifest.get(self._entry.kind or "")

    @classmethod
    @abstractmethod
    def check(cls, client: Any, prefix: str, index: Any) -> Any:
        """The index that was asked for; what this server or this process lacks for it is said before anything is written."""

    # -- writing -------------------------------------------------------------------------------------

    def upsert(
        self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata | None] | None = None
    ) -> None:
        """See `Store.upsert`. Each 1,000 rows are one transaction: a crash leaves whole rows, the first ones."""
        rows = check_vectors(vectors, self._dim)
        names = check_ids(ids, len(rows))
        extra = check_metadata(metadata, len(rows))
        with self._lock, self._open():
            self._check_writer()
            self._prepare(rows, extra)
            for start in range(0, len(names), BATCH):
                part, own = names[start : start + BATCH], extra[start : start + BATCH]
                some = rows[start : start + BATCH]
                blob, width = some.tobytes(), 4 * self._dim  # cut up: quicker than to ask each row
                with self._redis.pipeline(transaction=True) as batch:
                    for i, (name, about) in enumerate(zip(part, own, strict=True)):
                        vector = blob[i * width : (i + 1) * width]
                        fields = {"vector": vector, "metadata": json.dumps(about) if about else "{}"}
                        self._put(batch, self._key + b"row:" + name.encode(), fields, about)
                    batch.sadd(self._key + b"ids", *part)
                    self._note(batch, part)
                    self._also_write(batch, part, some, own)
                    batch.execute()

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (filter is None):
            raise ValueError("ids, filter: got both or none; takes exactly one of them")
        names = None if ids is None else check_ids(ids)
        test = None if filter is None else compile_filter(filter)
        with self._lock, self._open():
            self._check_writer()
            if filter is not None:
                names = self._matching(filter)
            names = names or []
            removed = 0
            for start in range(0, len(names), BATCH):
                removed += self._remove(names[start : start + BATCH], test)
            return removed

    def _remove(self, names: list[str], test: Callable[[Metadata], bool] | None) -> int:
        """Delete these rows; with a test those that meet it still: another process may have replaced them."""
        keys = [self._key + b"row:" + name.encode() for name in names]

        def delete(batch: Any) -> int:
            part = names
            if test is not None:
                there, _, metadata = self._rows([name.encode() for name in names])
                part = [name for name, row in zip(there, metadata, strict=True) if test(row)]
            batch.multi()
            for name in part:
                batch.delete(self._key + b"row:" + name.encode())
            if part:
                batch.srem(self._key + b"ids", *part)
                self._note(batch, part)
                self._also_delete(batch, part)
            return len(part)

        if test is not None:  # done again when one of the rows changes meanwhile
            return int(self._redis.transaction(delete, *keys, value_from_callable=True))
        with self._redis.pipeline(transaction=True) as batch:
            count = delete(batch)
            return sum(batch.execute()[:count])

    def _check_writer(self) -> None:
        """Nothing is written into what is no store any more, nor past the server's index."""
        self._check_there()
        if self._entry.kind != self._served:
            raise StoreError(
                f"url: got index=local; this store was made with index={self._entry.kind}, and is written with it only"
            )

    def _check_there(self) -> None:
        self._entry.check_there()

    def _note(self, batch: Any, names: list[str]) -> None:
        batch.xadd(
            self._key + b"changes", {"ids": json.dumps(names)}, maxlen=entry.REMEMBERED, approximate=True
        )

    def _prepare(self, rows: np.ndarray, metadata: list[Metadata]) -> None:
        """What must be there before these rows are; nothing here. May refuse them."""

    def _put(self, batch: Any, key: bytes, fields: dict[str, Any], metadata: Metadata) -> None:
        """Write one row."""
        batch.hset(key, mapping=fields)

    def _also_write(self, batch: Any, names: list[str], rows: np.ndarray, metadata: list[Metadata]) -> None:
        """What else belongs to a transaction that writes rows; nothing here."""

    def _also_delete(self, batch: Any, names: list[str]) -> None:
        """What else belongs to a transaction that deletes rows; nothing here."""

    @abstractmethod
    def _matching(self, filter: Mapping[str, Any]) -> list[str]:
        """The ids of the rows that meet a filter."""

    # -- reading -------------------------------------------------------------------------------------

    def _names(self) -> Iterator[list[bytes]]:
        """All ids, in batches; one that is written or deleted meanwhile may be among them or not."""
        names: list[bytes] = []
        given: set[bytes] = set()  # a set that shrinks meanwhile gives some twice
        for name in self._redis.sscan_iter(self._key + b"ids", count=BATCH):
            if name in given:
                continue
            given.add(name)
            names.append(name)
            if len(names) == BATCH:
                yield names
                names = []
        if names:
            yield names

    def _rows(self, names: Sequence[bytes]) -> Batch:
        """Ids, vectors ``[n, dim]`` and metadata of those of these rows that are there.

        Raises:
            StoreError: a vector of another length: the row was altered.
        """
        with self._redis.pipeline(transaction=False) as batch:
            for name in names:
                batch.hmget(self._key + b"row:" + name, "vector", "metadata")
            found = batch.execute() if names else []
        there = [(name.decode(), *row) for name, row in zip(names, found, strict=True) if row[0] is not None]
        for name, vector, _ in there:
            if len(vector) != 4 * self._dim:
                raise StoreError(
                    f"row {name!r}: got {len(vector)} bytes; takes {4 * self._dim}: it was altered"
                )
        vectors = np.frombuffer(b"".join(vector for _, vector, _ in there), "<f4").reshape(-1, self._dim)
        return [name for name, _, _ in there], vectors, [json.loads(metadata) for _, _, metadata in there]

    def _shown(self) -> str:
        """The URL without the password."""
        scheme, _, rest = self._url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    # -- keeping -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """See `Store.flush`. Writes are in the server's memory at once; this waits until they are on its disk.

        Raises:
            StoreError: the server cannot be reached, or does not let its clients ask for that.
        """
        with self._lock, self._open():
            server = self._node()
            # of a cluster's server, a key that lies there
            lock = b"refimpl:flushing" if server is self._redis else self._key + b"flushing"
            bring_to_disk(server, self._key + b"flushed", lock)

    def close(self) -> None:
        """See `Store.close`; what was written is in the server already, `flush` is for its disk."""
        self.abandon()

    def abandon(self) -> None:
        """See `Store.abandon`; nothing is lost."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._redis.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        if self._closed:
            raise StoreError("store: it is closed; open it again")
        with server_errors():
            yield
