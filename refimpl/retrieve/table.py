"""The rows of a store in memory: vectors, ids and metadata. A row is never changed, only added or marked deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.retrieve.filters import compile_filter
from refimpl.retrieve.rows import LEAST_SQUARE, Metadata, unit

FILTERS = 16  # filters whose rows are remembered until the next change


class Table:
    """Rows 0 to n − 1, each with a vector, an id and metadata; a deleted row has no id.

    Attributes:
        ids: of each row, None where it is deleted.
        metadata: of each row.
        alive: ``[rows]``, False where a row is deleted.
        row: the row of each id.
    """

    def __init__(self, vectors: np.ndarray, ids: list[str | None], metadata: list[Metadata]) -> None:
        self._room = vectors  # may have space behind the last row
        self.ids, self.metadata = ids, metadata
        self.row = {name: row for row, name in enumerate(ids) if name is not None}
        self.alive = np.array([name is not None for name in ids], dtype=bool)
        self._inverse, self._extreme = _inverse_lengths(self.vectors)  # for `best`

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def vectors(self) -> np.ndarray:
        """``[rows, dim]``, as they were given."""
        return self._room[: len(self.ids)]

    def append(self, names: list[str], vectors: np.ndarray, metadata: list[Metadata]) -> None:
        """Add rows at the end; a row that had one of these ids is deleted."""
        start, end = len(self.ids), len(self.ids) + len(names)
        if end > len(self._room):  # doubled each time, so that many small additions stay linear
            room = np.empty((max(end, 2 * len(self._room)), vectors.shape[1]), "<f4")
            room[:start] = self.vectors
            self._room = room
        self._room[start:end] = vectors
        for name in names:
            if name in self.row:
                self.delete(self.row[name])
        self.ids += names
        self.metadata += metadata
        self.alive = np.concatenate([self.alive, np.ones(len(names), dtype=bool)])
        inverse, extreme = _inverse_lengths(vectors)
        self._inverse = np.concatenate([self._inverse, inverse])
        self._extreme |= extreme
        self.row.update(zip(names, range(start, end), strict=True))

    def delete(self, row: int) -> None:
        """Mark a row that is not yet deleted."""
        del self.row[str(self.ids[row])]
        self.ids[row], self.metadata[row], self.alive[row] = None, {}, False

    def where(self, test: Callable[[Metadata], bool]) -> np.ndarray:
        """``[rows]``, True where a row is not deleted and ``test`` holds of its metadata."""
        found = [bool(alive) and test(row) for alive, row in zip(self.alive, self.metadata, strict=True)]
        return np.array(found, dtype=bool)

    def best(self, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The cosines of queries of length one with rows ``[Q, r]`` that were found by rounded ones, the k best first."""
        found = self.vectors.take(rows, axis=0)  # (Q, r, D); half the time of self.vectors[rows]
        if self._extreme:  # hardly ever seen; costs more
            scores = unit(found.reshape(-1, found.shape[-1])).reshape(found.shape) @ queries[:, :, None]
        else:
            scores = found @ queries[:, :, None] * self._inverse.take(rows)[:, :, None]
        scores = scores[:, :, 0]  # (Q, r, D) @ (Q, D, 1)
        order = (-scores).argsort(1, "stable")[:, :k]
        order += np.arange(0, rows.size, rows.shape[1])[:, None]  # places in the flat arrays
        return scores.take(order), rows.take(order)

    def packed(self) -> Table:
        """The same without the deleted rows, in the same order."""
        rows = np.flatnonzero(self.alive).tolist()
        return Table(self._room[rows], [self.ids[r] for r in rows], [self.metadata[r] for r in rows])


def _inverse_lengths(vectors: np.ndarray) -> tuple[np.ndarray, bool]:
    """1/‖v‖ of each row, and whether squares are beyond float32 for some of them."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    extreme = bool(((squares < LEAST_SQUARE) | (squares > 1 / LEAST_SQUARE)).any())
    return np.sqrt(1 / np.clip(squares, LEAST_SQUARE, 1 / LEAST_SQUARE)), extreme


class Remembered:
    """Which rows meet a filter, of the filters asked last; to be cleared when the rows change."""

    def __init__(self) -> None:
        self._found: dict[str, np.ndarray] = {}

    def rows(self, table: Table, filter: Any) -> np.ndarray:
        """`Table.where` of a filter in the form of `refimpl.retrieve.filters`."""
        test = compile_filter(filter)
        try:
            key = json.dumps(filter, sort_keys=True)
        except TypeError:  # a set, or a mapping that is no dictionary: not remembered
            return table.where(test)
        if key not in self._found:
            if len(self._found) >= FILTERS:
                self._found.pop(next(iter(self._found)))
            self._found[key] = table.where(test)
        return self._found[key]

    def clear(self) -> None:
        """Forget all of them."""
        self._found.clear()
