"""A store in Redis that the server itself searches, by its vector sets (Redis 8): no process holds a copy.

Beside what `base` keeps:

    refimpl:<name>:vset          vector set: an HNSW graph of the vectors, with the metadata as attributes

The server takes bytes for what they are not, NaN and zero vectors without a word, and its scores are (1 + cos)/2: vectors are checked before
they are sent, and the hits are fetched and scored again here. A filter goes to its exact scan (``TRUTH``), if its language surely says the same;
else, and where results come short, the rows are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve import index as indexes
from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.rows import Metadata, check_ids, check_vectors, unit
from refimpl.retrieve.servers.base import RedisBase
from refimpl.retrieve.servers.client import has_vector_sets, server_errors
from refimpl.retrieve.servers.language import expression
from refimpl.retrieve.servers.scan import Batch, best_of
from refimpl.retrieve.store import Hit, Item, StoreError, Vectors

DEFAULT = indexes.HNSW(m=16, ef_construction=200, ef_search=256)
LEAST_LINKS = 4
QUERIES = 100  # a round trip


class VectorSetStore(RedisBase):
    """Rows in Redis, and a vector set over them in the same transactions."""

    _writes_vset = True

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
        config = DEFAULT if index is None else indexes.check_index(index)
        if not isinstance(config, indexes.HNSW):
            raise ValueError(f"index: got {config!r}; a vector set takes HNSW, with its numbers")
        if config.m < LEAST_LINKS:
            raise ValueError(f"index: got m={config.m}; a vector set takes {LEAST_LINKS} at least")
        self._made = indexes.describe(config)
        with server_errors():
            if not has_vector_sets(client, prefix):
                raise StoreError(
                    "url: got index=vset, and this server has no vector sets (Redis 8 has); use index=local"
                )
        super().__init__(client, url, name, prefix, dim, metric, encoder, node)
        self._config = replace(config, m=self._made["m"])  # the first one's: the server refuses another
        self._set = self._key + b"vset"

    # -- writing -------------------------------------------------------------------------------------

    def _also_write(self, batch: Any, names: list[str], rows: np.ndarray, metadata: list[Metadata]) -> None:
        for name, row, extra in zip(names, unit(rows), metadata, strict=True):
            # in fp32: rounded to int8, which is the server's habit, an exact scan would not be one
            options = ["NOQUANT", "EF", self._config.ef_construction, "M", self._config.m]
            attributes = ["SETATTR", json.dumps(extra, ensure_ascii=False)]
            batch.execute_command(
                "VADD", self._set, "FP32", row.astype("<f4").tobytes(), name, *options, *attributes
            )

    def _also_delete(self, batch: Any, names: list[str]) -> None:
        for name in names:
            batch.execute_command("VREM", self._set, name)

    def _matching(self, filter: Mapping[str, Any]) -> list[str]:
        test, found = compile_filter(filter), list[str]()
        for names, _, metadata in self._batches():
            found += [name for name, extra in zip(names, metadata, strict=True) if test(extra)]
        return found

    # -- reading -------------------------------------------------------------------------------------

    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        queries = unit(check_vectors(vectors, self._dim))
        check_int("k", k, 1)
        test = None if filter is None else compile_filter(filter)
        words = expression(filter, ".{}")
        with self._lock, self._open():
            k = min(k, self._count())
            if not k or not len(queries):
                return [[] for _ in queries]
            if words is not None:
                found = self._ask(queries, k, words, exact or filter is not None)
                if found is not None and (
                    test is None or all(test(hit.metadata) for hits in found for hit in hits)
                ):
                    return found
            return best_of(self._batches(), queries, k, test)

    def _ask(self, queries: np.ndarray, k: int, words: str, scan: bool) -> list[list[Hit]] | None:
        """The server's answer, scored here; None if it is short of what is there, or a row went meanwhile."""
        how: list[Any] = ["TRUTH"] if scan else ["EF", max(k, self._config.ef_search)]
        if words:
            how += ["FILTER", words]
        answers: list[list[bytes]] = []
        for start in range(0, len(queries), QUERIES):
            with self._redis.pipeline(transaction=False) as batch:
                for query in queries[start : start + QUERIES]:
                    payload = query.astype("<f4").tobytes()
                    batch.execute_command("VSIM", self._set, "FP32", payload, "COUNT", k, *how)
                answers += batch.execute()
        if not words and any(len(some) < k for some in answers):
            return None  # a graph may not reach all
        asked = list(dict.fromkeys(name for some in answers for name in some))
        names, vectors, metadata = self._rows(asked)
        if len(names) < len(asked):
            return None
        units = unit(vectors) if names else vectors
        row = {name: i for i, name in enumerate(asked)}
        found = []
        for query, some in zip(queries, answers, strict=True):
            places = np.array([row[name] for name in some], dtype=int)
            scores = (units[places] @ query).clip(-1, 1)
            order = np.argsort(-scores, kind="stable")
            pairs = zip(places[order].tolist(), scores[order].tolist(), strict=True)
            found.append([Hit(names[i], score, dict(metadata[i])) for i, score in pairs])
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
        """See `Store.info`. ``bytes_index``: of the vector set, as the server estimates it."""
        with self._lock, self._open():
            count = self._count()
            return {
                "url": self._shown(),
                "name": self._name,
                "dim": self._dim,
                "metric": self._metric,
                "index": indexes.describe(self._config),
                "built": {**indexes.describe(self._config), "kind": "vset"},
                "encoder": self._encoder,
                "count": count,
                "bytes_vectors": 4 * count * self._dim,
                "bytes_index": int(self._redis.memory_usage(self._set) or 0),
                "saved": True,
            }
