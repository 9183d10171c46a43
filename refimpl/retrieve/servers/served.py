"""Rows in Redis that the server itself searches: what its indexes have in common. No process holds a copy.

What the server finds is fetched and scored again here, and tested again where there is a filter. Where its answer may not be the whole
one, the rows are read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve import index as indexes
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.rows import check_ids, check_queries, unit
from refimpl.retrieve.servers.base import RedisBase
from refimpl.retrieve.servers.scan import Batch, best_of
from refimpl.retrieve.store import Hit, Item, Vectors, as_hits

DEFAULT = indexes.HNSW(m=16, ef_construction=200, ef_search=256)
QUERIES = 100  # a round trip


class ServedStore(RedisBase):
    """Rows in Redis, and an index over them that the server keeps and searches."""

    _config: indexes.Config

    @abstractmethod
    def _ask(
        self, queries: np.ndarray, k: int, filter: Mapping[str, Any] | None, exact: bool
    ) -> list[list[bytes]] | None:
        """The ids that the server finds for each query; None where the rows have to be read instead."""

    @abstractmethod
    def _bytes_index(self) -> int:
        """Of the index in the server, as it estimates them."""

    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        queries = check_queries(vectors, self._dim)
        check_int("k", k, 1)
        test = None if filter is None else compile_filter(filter)
        with self._lock, self._open():
            k = min(k, self._count())
            if not k or not len(queries):
                return [[] for _ in queries]
            answers = self._ask(queries, k, filter, exact)
            if answers is not None and (filter is not None or all(len(some) >= k for some in answers)):
                found = self._hits(queries, answers)  # a graph may not reach all
                if found is not None and (
                    test is None or all(test(hit.metadata) for hits in found for hit in hits)
                ):
                    return found
            return best_of(self._batches(), queries, k, test)

    def _hits(self, queries: np.ndarray, answers: list[list[bytes]]) -> list[list[Hit]] | None:
        """These rows, scored here, the best first; None if one went meanwhile."""
        asked = list(dict.fromkeys(name for some in answers for name in some))
        names, vectors, metadata = self._rows(asked)
        if len(names) < len(asked):
            return None
        units = unit(vectors) if names else vectors
        row = {name: i for i, name in enumerate(asked)}
        found = []
        for query, some in zip(queries, answers, strict=True):
            places = np.array([row[name] for name in some], dtype=int)
            scores = units[places] @ query
            order = np.argsort(-scores, kind="stable")
            best = places[order].tolist()
            found.append(
                as_hits([names[i] for i in best], scores[order].tolist(), [metadata[i] for i in best])
            )
        return found

    def _matching(self, filter: Mapping[str, Any]) -> list[str]:
        test, found = compile_filter(filter), list[str]()
        for names, _, metadata in self._batches():
            found += [name for name, extra in zip(names, metadata, strict=True) if test(extra)]
        return found

    def _batches(self) -> Iterator[Batch]:
        """All rows."""
        for names in self._names():
            yield self._rows(names)

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """See `Store.get`."""
        asked = check_ids(ids)
        with self._lock, self._open():
            rows = zip(*self._rows([name.encode() for name in asked]), strict=True)
        found = {name: Item(name, vector.copy(), metadata) for name, vector, metadata in rows}
        return [found.get(name) for name in asked]

    def _count(self) -> int:
        self._check_there()
        return int(self._redis.scard(self._key + b"ids"))

    def count(self) -> int:
        """See `Store.count`."""
        with self._lock, self._open():
            return self._count()

    def info(self) -> dict[str, Any]:
        """See `Store.info`. ``bytes_index``: of the index in the server, as it estimates them."""
        with self._lock, self._open():
            count = self._count()
            return {
                "url": self._shown(),
                "name": self._name,
                "dim": self._dim,
                "metric": self._metric,
                "index": indexes.describe(self._config),
                "built": {**indexes.describe(self._config), "kind": self._served},
                "encoder": self._encoder,
                "count": count,
                "bytes_vectors": 4 * count * self._dim,
                "bytes_index": self._bytes_index(),
                "saved": True,
            }
