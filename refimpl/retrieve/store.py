"""Stores of vectors behind one interface: what each must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

__all__ = ["Hit", "Item", "Store", "StoreError", "as_hits"]

Vectors = np.ndarray | Tensor


class StoreError(ValueError):
    """A store that cannot be opened, read or written as asked."""


# a tuple, as a search makes k of them a query: a frozen dataclass takes twice as long to make
class Hit(NamedTuple):
    """A result: ``score`` is the cosine similarity, from -1 to 1, the higher the better."""

    id: str
    score: float
    metadata: dict[str, Any]


# `Hit._make`, but nothing of it in Python
_hit: Callable[[tuple[str, float, dict[str, Any]]], Hit] = partial(tuple.__new__, Hit)


def as_hits(ids: Iterable[str], scores: list[float], metadata: Iterable[dict[str, Any]]) -> list[Hit]:
    """Of each id, score and dictionary a `Hit`: the score within [−1, 1], the dictionary a copy.

    By ``map``, list after list: a search waits for it, and a loop in Python takes half as long again.
    """
    if scores and (max(scores) > 1.0 or min(scores) < -1.0):  # rounding may give 1.0000001
        scores = [max(-1.0, min(1.0, score)) for score in scores]
    return list(map(_hit, zip(list(ids), scores, map(dict.copy, metadata), strict=True)))


@dataclass(frozen=True, eq=False)
class Item:
    """A row: the vector as it was given, in float32."""

    id: str
    vector: np.ndarray
    metadata: dict[str, Any]


class Store(ABC):
    """Vectors with ids and metadata. Ids are strings; scores are cosine similarities on every backend.

    In a ``with`` statement a store is flushed and closed at the end, and closed without a flush when an
    exception leaves it. Calls from several threads wait for one another.
    """

    @abstractmethod
    def upsert(
        self, ids: Sequence[str], vectors: Vectors, metadata: Sequence[dict[str, Any] | None] | None = None
    ) -> None:
        """Add rows; a row whose id is there already is replaced, its metadata too.

        Args:
            ids: N distinct, non-empty strings.
            vectors: ``[N, dim]``, floating point, kept as float32.
            metadata: N dictionaries of what JSON has, or None.

        Raises:
            TypeError, ValueError: anything else, before a row is changed. So are NaN, infinity, zero vectors.
        """

    @abstractmethod
    def search(
        self, vectors: Vectors, k: int = 10, filter: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """The best rows for each query, the best first: k of them, or as many as there are.

        Args:
            vectors: ``[Q, dim]``, floating point.
            k: results a query.
            filter: conditions on the metadata, e.g. ``{"lang": "en", "year": {"$gte": 2020}}``; all hold.
                Operators: ``$eq $ne $in $gt $gte $lt $lte``. A missing field meets none.
            exact: compare with every row, whatever the index.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """The rows of these ids, in this order; None for an id that is not there."""

    @abstractmethod
    def delete(self, ids: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None) -> int:
        """Remove the rows of these ids, or those that a filter finds; returns how many there were."""

    @abstractmethod
    def count(self) -> int:
        """Rows in the store."""

    @abstractmethod
    def flush(self) -> None:
        """Make everything done so far permanent; when it returns, a crash loses none of it."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """What the store is: dimension, metric, index, encoder, count, bytes."""

    @abstractmethod
    def close(self) -> None:
        """Flush and let go. Closing twice is allowed, any other call afterwards raises `StoreError`."""

    @abstractmethod
    def abandon(self) -> None:
        """Let go without a flush: what was not flushed is lost."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
