"""Stores of vectors behind one interface: what each must do, and which one a URL names."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit
from urllib.request import url2pathname

import numpy as np
from torch import Tensor

from refimpl.checks import check_choice

__all__ = ["Hit", "Item", "Store", "StoreError", "open_store"]

Vectors = np.ndarray | Tensor
METRICS = ("cosine",)


class StoreError(ValueError):
    """A store that cannot be opened, read or written as asked."""


@dataclass(frozen=True)
class Hit:
    """A result: ``score`` is the cosine similarity, from -1 to 1, the higher the better."""

    id: str
    score: float
    metadata: dict[str, Any]


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


def open_store(
    url: str,
    dim: int | None = None,
    metric: str = "cosine",
    *,
    index: Any = None,
    encoder: str | None = None,
) -> Store:
    """Open a store of vectors, or make an empty one.

    Args:
        url: ``"memory://"``, gone when closed; ``"file:///folder"``, a folder of plain files
            (`pathlib.Path.as_uri` makes the URL of a path, on Windows too); ``"redis://host:port/db?name=docs"``
            (``rediss://`` with TLS, ``unix:///path/redis.sock?db=0&name=docs``), rows in a Redis server, seen by all
            who open them, under a name (``refimpl`` without one). All search with faiss, in this process.
        dim: numbers a vector; may be left out for a folder that has a store.
        metric: ``"cosine"``.
        index: ``"auto"``, ``"exact"``, ``"hnsw"``, ``"ivf"``, ``"fastscan"``, or `HNSW`, ... with its numbers. Without
            it, what the folder was saved with, else `Auto`: exact up to 100,000 rows, product codes with a second look
            above. The index is derived: another one than before is built when opened.
        encoder: what made the vectors, e.g. `fingerprint(model, tokenizer)`. Kept with the store; opening it
            with another one raises.

    Raises:
        StoreError: a store of another dimension, metric or encoder; files that were truncated or altered.
        ValueError: an unknown scheme, a URL that is no folder, no ``dim`` for a new store.
        ModuleNotFoundError: faiss or redis is not installed (``pip install 'refimpl[retrieve,redis]'``).
    """
    if not isinstance(url, str):
        raise TypeError(f"url: got {type(url).__name__}; takes a string such as 'file:///folder'")
    check_choice("metric", metric, METRICS)
    if encoder is not None and not isinstance(encoder, str):
        raise TypeError(f"encoder: got {type(encoder).__name__}; takes a string or None")
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "://" not in url:
        raise ValueError(f"url: got {url!r}; takes a URL that starts with {' or '.join(SCHEMES.values())}")
    if parts.scheme in REDIS:
        from refimpl.retrieve.redis import RedisStore

        return RedisStore(*_server(parts), dim, metric, index, encoder)
    if parts.query or parts.fragment:
        raise ValueError(f"url: got {url!r}; takes no '?' or '#' (in a folder's name: %3F, %23)")
    from refimpl.retrieve.local import LocalStore

    return LocalStore(_folder(parts), dim, metric, index, encoder)


REDIS = ("redis", "rediss", "unix")
SCHEMES = {"memory": "memory://", "file": "file:///", **{scheme: f"{scheme}://" for scheme in REDIS}}


def _folder(parts: SplitResult) -> str | None:
    if parts.scheme == "memory":
        if parts.netloc or parts.path:
            raise ValueError(f"url: got {parts.geturl()!r}; takes 'memory://' and nothing behind it")
        return None
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"url: got host {parts.netloc!r}; takes three slashes: 'file:///folder'")
    folder = url2pathname(parts.path)
    if not os.path.isabs(folder) or folder == os.path.abspath(os.sep):
        raise ValueError(f"url: got {parts.geturl()!r}; takes an absolute folder: 'file:///folder'")
    return folder


def _server(parts: SplitResult) -> tuple[str, str]:
    """The URL for the client, and the name of the store."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    name = options.pop("name", "refimpl")
    if not name or parts.fragment or set(options) - {"db"}:
        raise ValueError(
            f"url: got {parts.geturl()!r}; takes '?name=...' behind it, of a socket 'db=...' too"
        )
    query = f"?{urlencode(options)}" if options else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{query}", name
