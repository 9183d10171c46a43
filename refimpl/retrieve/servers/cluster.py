"""A store spread over a Redis Cluster: each shard is a store of its own, and the client merges what they find.

    refimpl:{<name>}:shards        JSON: the tags of the shards, for good
    refimpl:{<tag>}:...            the keys of one shard, all on one node of the cluster

A tag's checksum decides which node has it: they are chosen when the store is made, so that each primary node has one. A row is in
shard SHA-256(id) mod shards. The k best of all rows are among the k best of each shard, so asking each for k loses nothing; asking
for k/shards would. When the cluster moves slots between its nodes, shards move as a whole, and the client follows.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refimpl.checks import check_int
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.rows import Metadata, check_dim, check_ids, check_metadata, check_vectors
from refimpl.retrieve.servers.base import RedisBase
from refimpl.retrieve.servers.client import server_errors
from refimpl.retrieve.store import Hit, Item, Store, StoreError, Vectors

TRIES = 100_000  # tags, until each node that owns a slot has one; of 16,384 slots


class ClusterStore(Store):
    """Shards by id, on a Redis Cluster.

    Args:
        connect: makes a client of the cluster.
        kind: `RedisStore` or `VectorSetStore`.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        kind: type[RedisBase],
        url: str,
        name: str,
        dim: int | None,
        metric: str,
        index: Any,
        encoder: str | None,
    ) -> None:
        if set(name) & set("{}"):
            raise ValueError(f"url: got name {name!r}; in a cluster it takes no braces")
        dim = None if dim is None else check_dim(dim)
        self._url, self._name = url, name
        self._shards: list[Any] = []
        with server_errors():
            client = connect()
        try:
            kind.check(client, f"refimpl:{{{name}}}:", index)
            with server_errors():
                tags = self._tags(client, dim)
            for tag in tags:
                prefix = f"refimpl:{{{tag}}}:"
                with server_errors():
                    part = connect()
                where = (lambda c, p: lambda: c.get_redis_connection(c.get_node_from_key(p)))(part, prefix)
                try:
                    shard = kind(part, url, name, prefix, dim, metric, index, encoder, where)  # type: ignore[call-arg, arg-type]
                except BaseException:
                    part.close()
                    raise
                self._shards.append(shard)
        except BaseException:
            self.abandon()
            raise
        finally:
            client.close()

    def _tags(self, client: Any, dim: int | None) -> list[str]:
        """Of the shards: what was decided when the store was made, one for each primary node at that time."""
        key = f"refimpl:{{{self._name}}}:shards"
        payload = client.get(key)
        if payload is None:
            if dim is None:
                raise ValueError("dim: got None; takes the numbers a vector, as there is no store yet")
            # a primary that owns no slots, as one that was just added, can have no shard
            owners = {nodes[0].name for nodes in client.nodes_manager.slots_cache.values()}
            found_at: dict[str, str] = {}
            for tag in (f"{self._name}/{i}" for i in range(TRIES)):
                found_at.setdefault(client.get_node_from_key(f"{{{tag}}}").name, tag)
                if len(found_at) == len(owners):
                    break
            tags = [found_at[node] for node in sorted(found_at)]
            client.set(key, json.dumps(tags), nx=True)
            payload = client.get(key)
        try:
            found = json.loads(payload)
            if not (isinstance(found, list) and found and all(isinstance(tag, str) for tag in found)):
                raise TypeError(f"got {found!r}")
            return found
        except (ValueError, TypeError) as error:
            raise StoreError(f"name: {self._name!r} has no readable list of shards ({error})") from error

    def _of(self, name: str) -> int:
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % len(self._shards)

    def _split(self, names: list[str]) -> list[list[int]]:
        """The places of the ids of each shard."""
        places: list[list[int]] = [[] for _ in self._shards]
        for i, name in enumerate(names):
            places[self._of(name)].append(i)
        return places

    @property
    def _dim(self) -> int:
        return int(self._shards[0]._dim)

    def upsert(
        self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata | None] | None = None
    ) -> None:
        """See `Store.upsert`; one transaction for each shard and 1,000 rows."""
        rows = check_vectors(vectors, self._dim)
        names = check_ids(ids, len(rows))
        extra = check_metadata(metadata, len(rows))
        self._check_open()
        for shard, part in zip(self._shards, self._split(names), strict=True):
            if part:
                shard.upsert([names[i] for i in part], rows[part], [extra[i] for i in part])

    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        check_vectors(vectors, self._dim)
        check_int("k", k, 1)
        if filter is not None:
            compile_filter(filter)
        self._check_open()
        answers = [shard.search(vectors, k, filter, exact) for shard in self._shards]
        return [
            heapq.nsmallest(k, (hit for hits in some for hit in hits), key=lambda hit: -hit.score)
            for some in zip(*answers, strict=True)
        ]

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """See `Store.get`."""
        names = check_ids(ids)
        self._check_open()
        found: list[Item | None] = [None] * len(names)
        for shard, part in zip(self._shards, self._split(names), strict=True):
            if part:
                for i, item in zip(part, shard.get([names[i] for i in part]), strict=True):
                    found[i] = item
        return found

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (filter is None):
            raise ValueError("ids, filter: got both or none; takes exactly one of them")
        if filter is not None:
            compile_filter(filter)
            self._check_open()
            return sum(shard.delete(filter=filter) for shard in self._shards)
        names = check_ids(ids)
        self._check_open()
        parts = zip(self._shards, self._split(names), strict=True)
        return sum(shard.delete([names[i] for i in part]) for shard, part in parts if part)

    def count(self) -> int:
        """See `Store.count`."""
        self._check_open()
        return sum(shard.count() for shard in self._shards)

    def flush(self) -> None:
        """See `Store.flush`; every node that has a shard."""
        self._check_open()
        for shard in self._shards:
            shard.flush()

    def info(self) -> dict[str, Any]:
        """See `Store.info`; numbers are sums over the shards, ``shards`` has the rows of each."""
        self._check_open()
        parts = [shard.info() for shard in self._shards]
        sums = {key: sum(p[key] for p in parts) for key in parts[0] if key.startswith(("bytes", "count"))}
        return {**parts[0], **sums, "shards": [part["count"] for part in parts]}

    def close(self) -> None:
        """See `Store.close`."""
        self.abandon()

    def abandon(self) -> None:
        """See `Store.abandon`; nothing is lost."""
        for shard in self._shards:
            shard.abandon()

    def _check_open(self) -> None:
        if self._shards[0]._closed:
            raise StoreError("store: it is closed; open it again")
