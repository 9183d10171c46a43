"""A store in Milvus: a file that milvus-lite keeps in this process, or a server or cluster, by the same client.

    <name>            collection: key (SHA-256 of the id), name (the id), vector as given, metadata (JSON)
    <name>_manifest   collection of one row: format, dimension, metric, encoder

Every read asks for strong consistency, so that it sees what was acknowledged before. What Milvus finds is taken when it
surely means what was asked: a filter that its language may read otherwise, or that comes short, is answered by reading the rows.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve import index as indexes
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.rows import (
    Metadata,
    check_dim,
    check_ids,
    check_metadata,
    check_queries,
    check_vectors,
)
from refimpl.retrieve.servers.client import milvus_errors, milvus_module
from refimpl.retrieve.servers.collection import check_taken, open_collection, translate
from refimpl.retrieve.servers.language import expression
from refimpl.retrieve.servers.scan import Batch, best_of
from refimpl.retrieve.store import Hit, Item, Store, StoreError, Vectors, as_hits

BATCH = 1000  # rows a call
MESSAGE = 2**25  # bytes of vectors in a call, at most: a message has 64 MB with all
MOST_HITS = 16384  # that a Milvus server gives for one query
NOT_LOADED = 101  # the code of an error of Milvus
TIMEOUT = 30.0  # seconds until a server that does not answer is given up
# pymilvus pings every 10 s, also when nothing is asked; a gRPC server that was not told to bear it (milvus-lite's) hangs up
CHANNEL = {"grpc.keepalive_permit_without_calls": 0, "grpc.keepalive_time_ms": int(1000 * TIMEOUT)}


class MilvusStore(Store):
    """Rows and index in Milvus; this process keeps neither."""

    def __init__(
        self,
        url: str,
        options: dict[str, Any],
        name: str,
        dim: int | None,
        metric: str,
        index: Any,
        encoder: str | None,
    ) -> None:
        config = None if index is None else indexes.check_index(index)
        translate(config or indexes.Auto())
        if not (name.isidentifier() and name.isascii()) or name.endswith("_manifest"):
            raise ValueError(
                f"url: got name {name!r}; Milvus takes letters, digits and '_', no '_manifest' at the end"
            )
        dim = None if dim is None else check_dim(dim)
        self._lock = threading.RLock()
        self._closed = False
        self._url, self._name = url, name
        with milvus_errors():
            self._client = milvus_module().MilvusClient(**options, timeout=TIMEOUT, grpc_options=CHANNEL)
            try:
                manifest = open_collection(self._client, name, dim, metric, config, encoder)
            except BaseException:
                self._client.close()
                raise
        self._dim, self._metric, self._encoder = (manifest[key] for key in ("dim", "metric", "encoder"))
        self._config = indexes.from_description(manifest["index"])
        self._parameters, self._search = translate(self._config)

    # -- writing -------------------------------------------------------------------------------------

    def upsert(
        self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata | None] | None = None
    ) -> None:
        """See `Store.upsert`; 1,000 rows a call. An id has at most 65,535 bytes, metadata 65,536 on a server."""
        rows = check_vectors(vectors, self._dim)
        names = check_ids(ids, len(rows))
        extra = check_metadata(metadata, len(rows))
        check_taken(names, rows, extra)
        with self._lock, self._open():
            count = max(1, min(BATCH, MESSAGE // (4 * self._dim)))
            for start in range(0, len(names), count):
                part = range(start, min(start + count, len(names)))
                self._client.upsert(
                    self._name,
                    [
                        {"key": _key(names[i]), "name": names[i], "vector": rows[i], "metadata": extra[i]}
                        for i in part
                    ],
                )

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (filter is None):
            raise ValueError("ids, filter: got both or none; takes exactly one of them")
        names = None if ids is None else check_ids(ids)
        test = None if filter is None else compile_filter(filter)
        with self._lock, self._open():
            if names is None:
                names = [
                    row["name"]
                    for part in self._read(["name", "metadata"])
                    for row in part
                    if test is not None and test(row["metadata"])
                ]
            removed = 0
            for start in range(0, len(names), BATCH):
                keys = [_key(name) for name in names[start : start + BATCH]]
                found = self._loaded(self._client.get, ids=keys, output_fields=["key"])
                there = [row["key"] for row in found]
                if there:
                    self._client.delete(self._name, ids=there)
                removed += len(there)
            return removed

    # -- reading -------------------------------------------------------------------------------------

    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        queries = check_queries(vectors, self._dim)
        check_int("k", k, 1)
        test = None if filter is None else compile_filter(filter)
        words = expression(filter, 'metadata["{}"]')
        with self._lock, self._open():
            k = min(k, self._count())
            if not k or not len(queries):
                return [[] for _ in queries]
            ready = words is not None and k <= MOST_HITS
            if ready and (not exact or self._parameters["index_type"] == "FLAT"):
                found = self._ask(queries, k, words or "")
                wanted = k if filter is None else min(k, self._count(words or ""))
                if all(len(hits) >= wanted for hits in found) and (
                    test is None or all(test(hit.metadata) for hits in found for hit in hits)
                ):
                    return found
            return best_of(self._batches(), queries, k, test)

    def _ask(self, queries: np.ndarray, k: int, words: str) -> list[list[Hit]]:
        found = []
        for start in range(0, len(queries), BATCH):
            answers = self._loaded(
                self._client.search,
                data=list(queries[start : start + BATCH]),
                limit=k,
                filter=words,
                output_fields=["name", "metadata"],
                search_params={
                    "params": {key: max(k, n) if key == "ef" else n for key, n in self._search.items()}
                },
                consistency_level="Strong",
            )
            found += [
                as_hits(
                    [row["entity"]["name"] for row in rows],
                    [float(row["distance"]) for row in rows],
                    [row["entity"]["metadata"] for row in rows],
                )
                for rows in answers
            ]
        return found

    def _loaded(self, call: Callable[..., Any], **options: Any) -> Any:
        """A call of the client; a server that was started again may want the collection loaded first."""
        try:
            return call(self._name, **options)
        except milvus_module().MilvusException as error:
            if error.code != NOT_LOADED:
                raise
            self._client.load_collection(self._name)
            return call(self._name, **options)

    def _read(self, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        """All rows, in batches."""
        rows = self._loaded(self._client.query_iterator, batch_size=BATCH, output_fields=fields)
        try:
            while part := rows.next():
                yield list(part)
        finally:
            rows.close()

    def _batches(self) -> Iterator[Batch]:
        for part in self._read(["name", "vector", "metadata"]):
            vectors = np.array([row["vector"] for row in part], dtype="<f4")
            yield [row["name"] for row in part], vectors, [row["metadata"] for row in part]

    def _count(self, words: str = "") -> int:
        rows = self._loaded(
            self._client.query, filter=words, output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(rows[0]["count(*)"])

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """See `Store.get`."""
        names = check_ids(ids)
        found: dict[str, Item] = {}
        with self._lock, self._open():
            for start in range(0, len(names), BATCH):
                rows = self._loaded(
                    self._client.get,
                    ids=[_key(name) for name in names[start : start + BATCH]],
                    output_fields=["name", "vector", "metadata"],
                    consistency_level="Strong",
                )
                for row in rows:
                    vector = np.array(row["vector"], dtype="<f4")
                    found[row["name"]] = Item(row["name"], vector, dict(row["metadata"]))
        return [found.get(name) for name in names]

    def count(self) -> int:
        """See `Store.count`."""
        with self._lock, self._open():
            return self._count()

    def info(self) -> dict[str, Any]:
        """See `Store.info`; bytes of an index are not told by Milvus."""
        with self._lock, self._open():
            count = self._count()
            return {
                "url": self._url,
                "name": self._name,
                "dim": self._dim,
                "metric": self._metric,
                "index": indexes.describe(self._config),
                "built": dict(self._parameters),
                "encoder": self._encoder,
                "count": count,
                "bytes_vectors": 4 * count * self._dim,
                "saved": True,
            }

    # -- keeping -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """See `Store.flush`."""
        with self._lock, self._open():
            self._client.flush(self._name)

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            if not self._closed:
                self.flush()
                self.abandon()

    def abandon(self) -> None:
        """See `Store.abandon`; what Milvus acknowledged stays."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._client.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        if self._closed:
            raise StoreError("store: it is closed; open it again")
        with milvus_errors():
            yield


def _key(name: str) -> str:
    """A key that needs no quoting, whatever the id holds."""
    return hashlib.sha256(name.encode()).hexdigest()
