"""The store in this process, with a folder behind it or without."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve import engines, files
from refimpl.retrieve import index as indexes
from refimpl.retrieve.manifest import check_manifest
from refimpl.retrieve.rows import (
    Metadata,
    check_dim,
    check_ids,
    check_metadata,
    check_queries,
    check_vectors,
    unit,
)
from refimpl.retrieve.store import Hit, Item, Store, StoreError, Vectors, as_hits
from refimpl.retrieve.table import Remembered, Table

MOST_DELETED = 0.25  # of the rows; beyond that they are dropped and the index is built anew
LEAST_KEPT = 0.5  # a filter that keeps no more than this of the rows goes to the exact scan


class LocalStore(Store):
    """Rows in memory (`Table`), a faiss index over them, and a folder, or none, that keeps both."""

    def __init__(
        self, folder: str | None, dim: int | None, metric: str, index: Any, encoder: str | None
    ) -> None:
        engines.faiss()  # a clear error now rather than at the first search
        config = None if index is None else indexes.check_index(index)
        dim = None if dim is None else check_dim(dim)
        self._lock = threading.RLock()  # faiss must not search while another thread adds
        self._closed = False
        self._folder = None if folder is None else Path(folder)
        state = None if self._folder is None else files.read(self._folder)
        if state is not None:
            self._load(state, dim, metric, config, encoder)
            return
        if dim is None:
            raise ValueError("dim: got None; takes the numbers a vector, as there is no store yet")
        self._dim, self._metric, self._encoder = dim, metric, encoder
        self._config = config or indexes.Auto()
        self._saved: str | None = None  # checksum of the manifest that this state was read from
        self._dirty = True
        self._fill(Table(np.empty((0, dim), "<f4"), [], []))

    def _load(
        self, state: tuple[Any, ...], dim: int | None, metric: str, config: Any, encoder: str | None
    ) -> None:
        manifest, vectors, ids, metadata, payload = state
        check_manifest(manifest, files.FORMAT, dim, metric, encoder)
        before = indexes.from_description(manifest["index"])
        self._config = before if config is None else config
        self._dim, self._metric = manifest["dim"], manifest["metric"]
        self._encoder = manifest["encoder"] or encoder
        self._saved = manifest["sha256"]
        self._dirty = self._encoder != manifest["encoder"] or self._config != before
        table = Table(vectors, ids, metadata)
        built = indexes.from_description(manifest.get("built", manifest["index"]))
        plan = self._config.at(len(table.row), self._dim)
        fits = payload is not None and indexes.built_as(built) == indexes.built_as(plan)
        self._fill(table, engines.restore(payload) if fits else None)

    def _fill(self, table: Table, index: Any = None) -> None:
        """Take these rows, and their index or a new one."""
        self._table = table
        self._filtered = Remembered()
        self._flat: Any = None  # for exact scans beside another index, made when first needed
        self._built = self._config.at(len(table.row), self._dim)
        if index is None or index.ntotal != len(table):
            index = self._built.make(unit(table.vectors))
        self._index = index

    # -- writing -------------------------------------------------------------------------------------

    def upsert(
        self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[Metadata | None] | None = None
    ) -> None:
        """See `Store.upsert`."""
        rows = check_vectors(vectors, self._dim)
        names = check_ids(ids, len(rows))
        extra = check_metadata(metadata, len(rows))
        with self._lock:
            self._check_open()
            if names:
                units = unit(rows)
                self._index.add(units)
                if self._flat is not None:
                    self._flat.add(units)
                self._table.append(names, rows, extra)
                self._changed()

    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """See `Store.delete`."""
        if (ids is None) == (filter is None):
            raise ValueError("ids, filter: got both or none; takes exactly one of them")
        names = None if ids is None else check_ids(ids)
        with self._lock:
            self._check_open()
            if names is None:
                rows = np.flatnonzero(self._filtered.rows(self._table, filter)).tolist()
            else:
                rows = [self._table.row[name] for name in names if name in self._table.row]
            for row in rows:
                self._table.delete(row)
            if rows:
                self._changed()
            return len(rows)

    def _changed(self) -> None:
        self._dirty = True
        self._filtered.clear()
        # exact until there is enough to train another index on; what was trained stays, also when rows go
        outgrown = self._is_exact() and self._config.at(len(self._table.row), self._dim) != self._built
        if outgrown or self._deleted() > MOST_DELETED * len(self._table):
            self._fill(self._table.packed())

    def _is_exact(self) -> bool:
        return isinstance(self._built, indexes.Exact)

    def _deleted(self) -> int:
        return len(self._table) - len(self._table.row)

    # -- reading -------------------------------------------------------------------------------------

    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Store.search`."""
        queries = check_queries(vectors, self._dim)
        check_int("k", k, 1)
        with self._lock:
            self._check_open()
            keep = self._table.alive if filter is None else self._filtered.rows(self._table, filter)
            found = len(self._table.row) if filter is None else int(keep.sum())
            k = min(k, found)
            if not k or not len(queries):
                return [[] for _ in queries]
            mask = None if found == len(keep) else keep
            if exact or found <= LEAST_KEPT * len(self._table.row):
                scores, rows = self._scan(queries, k, mask)
            else:
                rounded = isinstance(self._built, indexes.FastScan)
                # int8 may exchange the last of k with the next ones: some more, of which the vectors decide
                spare = min(1 + k // 10, found - k) if rounded else 0
                scores, rows = indexes.search(self._built, self._index, queries, k, mask, spare)
                if rows.min() < 0:  # a graph may not reach k rows where others are in the way
                    short = (rows < 0).any(1)
                    scores[short], rows[short] = self._scan(queries[short], k + spare, mask)
                if rounded:
                    scores, rows = self._table.best(queries, rows, k)
            return self._hits(scores, rows)

    def _hits(self, scores: np.ndarray, rows: np.ndarray) -> list[list[Hit]]:
        ids = cast(list[str], self._table.ids)  # a row that is found has one
        flat, k = rows.ravel().tolist(), rows.shape[1]
        hits = as_hits(
            map(ids.__getitem__, flat), scores.ravel().tolist(), map(self._table.metadata.__getitem__, flat)
        )
        return [hits[i : i + k] for i in range(0, len(hits), k)]

    def _scan(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        index = self._index
        if not self._is_exact():
            if self._flat is None:
                self._flat = indexes.Exact().make(unit(self._table.vectors))
            index = self._flat
        return indexes.search(indexes.Exact(), index, queries, k, mask)

    def matching_ids(self, filter: Mapping[str, Any]) -> list[str]:
        """The ids of the rows that meet a filter."""
        with self._lock:
            self._check_open()
            return [
                str(self._table.ids[row]) for row in np.flatnonzero(self._filtered.rows(self._table, filter))
            ]

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """See `Store.get`."""
        names = check_ids(ids)
        with self._lock:
            self._check_open()
            table = self._table
            rows = [table.row.get(name) for name in names]
            return [
                None if row is None else Item(name, table.vectors[row].copy(), dict(table.metadata[row]))
                for name, row in zip(names, rows, strict=True)
            ]

    def count(self) -> int:
        """See `Store.count`."""
        with self._lock:
            self._check_open()
            return len(self._table.row)

    def info(self) -> dict[str, Any]:
        """See `Store.info`. ``bytes_vectors``: the raw rows; ``bytes_index``: the index, with its own copy."""
        with self._lock:
            self._check_open()
            disk = 0
            if self._folder is not None and self._folder.is_dir():
                disk = sum(entry.stat().st_size for entry in self._folder.iterdir())
            return {
                "url": "memory://" if self._folder is None else self._folder.as_uri(),
                "dim": self._dim,
                "metric": self._metric,
                "index": indexes.describe(self._config),
                "built": indexes.describe(self._built),
                "encoder": self._encoder,
                "count": len(self._table.row),
                "deleted": self._deleted(),
                "bytes_vectors": self._table.vectors.nbytes,
                "bytes_index": len(engines.dump(self._index)),
                "bytes_disk": disk,
                "saved": not self._dirty,
            }

    # -- keeping -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """See `Store.flush`. Everything is written anew; without a folder there is nothing to do.

        Raises:
            StoreError: another store has changed the folder since this one read it.
        """
        with self._lock:
            self._check_open()
            if self._folder is None or not self._dirty:
                return
            with files.one_writer(self._folder):
                self._write()

    def _write(self) -> None:
        assert self._folder is not None
        now = files.read_manifest(self._folder)
        if (None if now is None else now["sha256"]) != self._saved:
            raise StoreError(f"folder: {self._folder.name!r} was changed by another writer; open it again")
        derived = not self._is_exact()  # an exact index is as fast made as read
        if not derived and self._deleted():
            self._fill(self._table.packed())
        fields = {
            "dim": self._dim,
            "metric": self._metric,
            "encoder": self._encoder,
            "count": len(self._table.row),
            "index": indexes.describe(self._config),
            "built": indexes.describe(self._built),
        }
        table, payload = self._table, engines.dump(self._index) if derived else None
        written = files.write(self._folder, fields, table.vectors, table.ids, table.metadata, payload)
        self._saved, self._dirty = written["sha256"], False

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            if not self._closed:
                self.flush()
                self.abandon()

    def abandon(self) -> None:
        """See `Store.abandon`."""
        with self._lock:
            self._closed = True
            self._index = self._flat = None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("store: it is closed; open it again")
