"""A store in Redis that the server itself searches, by its vector sets (Redis 8): no process holds a copy.

Beside what `base` keeps:

    refimpl:<name>:vset          vector set: an HNSW graph of the vectors, with the metadata as attributes

The server takes bytes for what they are not, NaN and zero vectors without a word: vectors are checked before they are sent. A filter
goes to its exact scan (``TRUTH``), if its language surely says the same; else the rows are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.retrieve import index as indexes
from refimpl.retrieve.rows import Metadata, unit
from refimpl.retrieve.servers.client import has_vector_sets, server_errors
from refimpl.retrieve.servers.language import expression
from refimpl.retrieve.servers.served import DEFAULT, QUERIES, ServedStore
from refimpl.retrieve.store import StoreError

LEAST_LINKS = 4


class VectorSetStore(ServedStore):
    """Rows in Redis, and a vector set over them in the same transactions."""

    _served = "vset"
    _config: indexes.HNSW

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
        self._made = indexes.describe(config)
        super().__init__(client, url, name, prefix, dim, metric, encoder, node)
        assert self._made is not None
        self._config = replace(config, m=self._made["m"])  # the first one's: the server refuses another
        self._set = self._key + b"vset"

    @classmethod
    def check(cls, client: Any, prefix: str, index: Any) -> indexes.HNSW:
        """See `RedisBase.check`."""
        config = DEFAULT if index is None else indexes.check_index(index)
        if not isinstance(config, indexes.HNSW):
            raise ValueError(f"index: got {config!r}; a vector set takes HNSW, with its numbers")
        if config.m < LEAST_LINKS:
            raise ValueError(f"index: got m={config.m}; a vector set takes {LEAST_LINKS} at least")
        with server_errors():
            if not has_vector_sets(client, prefix):
                raise StoreError(
                    "url: got index=vset, and this server has no vector sets (Redis 8 has); use index=local"
                )
        return config

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

    # -- reading -------------------------------------------------------------------------------------

    def _ask(
        self, queries: np.ndarray, k: int, filter: Mapping[str, Any] | None, exact: bool
    ) -> list[list[bytes]] | None:
        words = expression(filter, ".{}")
        if words is None:
            return None
        how: list[Any] = ["TRUTH"] if exact or words else ["EF", max(k, self._config.ef_search)]
        if words:
            how += ["FILTER", words]
        answers: list[list[bytes]] = []
        for start in range(0, len(queries), QUERIES):
            with self._redis.pipeline(transaction=False) as batch:
                for query in queries[start : start + QUERIES]:
                    payload = query.astype("<f4").tobytes()
                    batch.execute_command("VSIM", self._set, "FP32", payload, "COUNT", k, *how)
                answers += batch.execute()
        return answers

    def _bytes_index(self) -> int:
        return int(self._redis.memory_usage(self._set) or 0)
