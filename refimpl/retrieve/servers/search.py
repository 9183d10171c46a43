"""A store in Redis that RediSearch searches, through redisvl: a module of the server, or the query engine of Redis 8.

Beside what `base` keeps:

    refimpl:<name>:row:<id>      what `tags` makes of the metadata, for filters
    refimpl:<name>:numbers       set of the numeric fields that the schema has
    refimpl:<name>:search        no key: the index over all that begins with ``refimpl:<name>:row:``

The index is derived, and the server brings it up to date within each write. After a restart it may lag behind: it is asked only when it
counts as many rows as there are ids. A filter is compared with all rows that meet it, so that it is exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.retrieve import index as indexes
from refimpl.retrieve.filters import ORDER, conditions
from refimpl.retrieve.rows import Metadata, check_lengths
from refimpl.retrieve.servers import tags
from refimpl.retrieve.servers.client import (
    has_search,
    redis_module,
    redisvl_module,
    search_errors,
    server_errors,
)
from refimpl.retrieve.servers.served import DEFAULT, QUERIES, ServedStore
from refimpl.retrieve.store import StoreError

BUILDING = 600.0  # seconds that the server may take to index rows that are there
LOCKED = 60.0  # seconds after which a process that was to make the index is taken for dead


class SearchStore(ServedStore):
    """Rows in Redis, and RediSearch's index over them."""

    _served = "search"
    _config: indexes.HNSW | indexes.Exact
    _full = False  # the schema

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
        config = self.check(client, prefix, index)
        self._vl = redisvl_module()
        self._made = indexes.describe(config)
        super().__init__(client, url, name, prefix, dim, metric, encoder, node)
        assert self._made is not None
        built = indexes.from_description(self._made)  # the first one's; how it is searched may be another
        if isinstance(built, indexes.HNSW) and isinstance(config, indexes.HNSW):
            built = replace(built, ef_search=config.ef_search)
        assert isinstance(built, indexes.HNSW | indexes.Exact)
        self._config = built
        try:
            with server_errors(), search_errors():
                self._build()
        except BaseException:
            if self._entry.new:  # made by this call, and not to be used: leave nothing
                client.delete(*(self._key + part for part in (b"manifest", b"changes", b"numbers")))
            raise

    @classmethod
    def check(cls, client: Any, prefix: str, index: Any) -> indexes.HNSW | indexes.Exact:
        """See `RedisBase.check`."""
        config = DEFAULT if index is None else indexes.check_index(index)
        if not isinstance(config, indexes.HNSW | indexes.Exact):
            raise ValueError(f"index: got {config!r}; RediSearch takes HNSW, with its numbers, or Exact")
        redisvl_module()
        with server_errors():
            if not has_search(client):
                raise StoreError("url: got index=search, and this server has no RediSearch; use index=local")
        if database := client.connection_pool.connection_kwargs.get("db"):
            raise ValueError(f"url: got database {database} and index=search; RediSearch takes database 0")
        return config

    # -- the index -----------------------------------------------------------------------------------

    def _build(self) -> None:
        """Make the index, unless it is there as it should be, and wait until all rows are in it."""
        vector: dict[str, Any] = {"algorithm": "flat"}
        if isinstance(self._config, indexes.HNSW):
            made = {"m": self._config.m, "ef_construction": self._config.ef_construction}
            vector = {"algorithm": "hnsw", "ef_runtime": self._config.ef_search, **made}
        vector |= {"dims": self._dim, "distance_metric": "cosine", "datatype": "float32"}
        prefix = self._key.decode()
        schema = {
            "index": {"name": prefix + "search", "prefix": prefix + "row:", "storage_type": "hash"},
            "fields": [
                {"name": "vector", "type": "vector", "attrs": vector},
                {"name": "tags", "type": "tag", "attrs": {"separator": ","}},
            ],
        }
        self._index = self._vl.index.SearchIndex.from_dict(schema, redis_client=self._redis)
        with self._redis.lock(self._key + b"building", timeout=LOCKED):  # one of those who open it at once
            wanted = (vector["algorithm"].upper(), self._dim)
            if not self._index.exists():
                self._index.create()
            elif self._built() != wanted:  # left by a store that is gone
                self._index.create(overwrite=True, drop=False)
            self._numbers = self._known()
            there = {name for field in self._fields() for name in field.values() if isinstance(name, str)}
            for name in sorted(self._numbers - there):  # of an index that was dropped
                self._declare(name)
        end = time.monotonic() + BUILDING
        while _int(self._index.info()["indexing"]):
            if time.monotonic() > end:
                raise StoreError(f"redis: the server has not indexed all rows within {BUILDING:.0f} s")
            time.sleep(0.02)

    def _fields(self) -> list[dict[str, Any]]:
        """What the server says of each field of the schema."""
        found = []
        for field in self._index.info()["attributes"]:
            words = [word.decode() if isinstance(word, bytes) else word for word in field]
            found.append(dict(zip(words[::2], words[1::2], strict=False)))
        return found

    def _declare(self, name: str, *options: str) -> None:
        self._redis.execute_command("FT.ALTER", self._index.name, *options, "SCHEMA", "ADD", name, "NUMERIC")

    def _built(self) -> tuple[str, int]:
        """Algorithm and dimension of the index that is there."""
        said = next((field for field in self._fields() if field.get("identifier") == "vector"), {})
        return str(said.get("algorithm", "")).upper(), _int(said.get("dim", 0))

    def _known(self) -> set[str]:
        return {name.decode() for name in self._redis.smembers(self._key + b"numbers")}

    def _bytes_index(self) -> int:
        with search_errors():
            state = self._index.info()
        return int(2**20 * sum(float(state[f"{part}_sz_mb"]) for part in ("vector_index", "inverted")))

    # -- writing -------------------------------------------------------------------------------------

    def _prepare(self, rows: np.ndarray, metadata: list[Metadata]) -> None:
        check_lengths(rows, "RediSearch")
        for name in sorted(tags.numbers(metadata) - self._numbers):
            if self._full:
                return
            try:  # no row has it yet, so none is read again
                self._declare(name, "SKIPINITIALSCAN")
            except redis_module().ResponseError as error:
                said = str(error).lower()
                if "limit" in said or "too many" in said:
                    self._full = True  # filters on further numbers will read the rows
                    return
                if "duplicate" not in said:  # another process was quicker
                    raise
            self._redis.sadd(self._key + b"numbers", name)
            self._numbers.add(name)

    def _put(self, batch: Any, key: bytes, fields: dict[str, Any], metadata: Metadata) -> None:
        batch.delete(key)  # with the numbers that the row had before
        batch.hset(key, mapping={**fields, **tags.fields(metadata)})

    # -- reading -------------------------------------------------------------------------------------

    def _ask(
        self, queries: np.ndarray, k: int, filter: Mapping[str, Any] | None, exact: bool
    ) -> list[list[bytes]] | None:
        words = self._vl.query.filter
        graph = isinstance(self._config, indexes.HNSW)
        condition = tags.every_row(words) if exact and graph else None
        if filter is not None:
            if any(operator in ORDER for _, operator, _ in conditions(filter)):
                self._numbers |= self._known()
            condition = tags.condition(filter, self._numbers, words)
            if condition is None:
                return None
        options: dict[str, Any] = {"filter_expression": condition}
        if condition is not None:
            options["hybrid_policy"] = "ADHOC_BF"
        elif isinstance(self._config, indexes.HNSW):
            options["ef_runtime"] = max(k, self._config.ef_search)
        with search_errors():
            state = self._index.info()
            if _int(state["indexing"]) or _int(state["num_docs"]) != self._count():
                return None
            asked = [
                # no limit of time: an answer that was cut off would look like any other
                self._vl.query.VectorQuery(
                    query.astype("<f4").tobytes(), "vector", num_results=k, **options
                ).timeout(0)
                for query in queries
            ]
            answers = self._index.batch_query(asked, batch_size=QUERIES)
        start = len(self._key) + len(b"row:")
        return [[row["id"].encode()[start:] for row in some] for some in answers]


def _int(said: Any) -> int:
    """A number of `FT.INFO`, which gives it as one or as text."""
    return int(float(said))
