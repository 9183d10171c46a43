"""What every code of a vector can do, a search over codes, and a second look with a finer one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.indexes.common import best_of, padded
from refimpl.retrieve.rows import check_array

__all__ = ["Code", "rescore", "search_codes"]


class Code(ABC):
    """A way to write ``[N, dim]`` vectors down in fewer bytes. Queries stay as they are."""

    dim: int

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes a vector."""

    @abstractmethod
    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``[N, dim]`` to codes ``[N, …]`` of ``nbytes`` bytes each."""

    @abstractmethod
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes to the vectors that they stand for, ``[N, dim]`` in fp32."""

    def scores(self, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Inner products of ``[Q, dim]`` with what the codes stand for, ``[Q, N]``."""
        return check_array("queries", queries, self.dim) @ self.decode(codes).T


def search_codes(
    code: Code, codes: np.ndarray, queries: np.ndarray, k: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """The k best codes of each query by `Code.scores`: ``(scores, rows)``, both ``[Q, k]``, -inf and -1 where there are fewer.

    Raises:
        TypeError, ValueError: queries that are no ``[Q, dim]``; k below 1.
    """
    check_int("k", k, 1)
    rows = np.arange(len(codes))
    return padded([best_of(own, rows, k) for own in code.scores(queries, codes)], k)


def rescore(
    rows: np.ndarray, finer: Code, codes: np.ndarray, queries: np.ndarray, k: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """The best k of the rows that a coarse search found, by the scores of a finer code.

    Only what the coarse search let through can be found: with r rows a query, recall@k is at most the share of the true k
    among them.

    Args:
        rows: ``[Q, r]`` of the coarse search; -1 stands for nothing.
        finer: the code to judge by.
        codes: ``[N, …]``, all vectors in that code.
        queries: ``[Q, dim]``.
        k: results a query, at most r.

    Raises:
        TypeError, ValueError: no ``[Q, r]`` integers, other shapes, k out of bounds.
    """
    queries = check_array("queries", queries, finer.dim)
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "i":
        raise TypeError("rows: got no integers; takes the rows of a search, [Q, r]")
    if rows.ndim != 2 or len(rows) != len(queries):
        raise ValueError(f"rows: got shape {list(rows.shape)}; takes [{len(queries)}, r]")
    check_int("k", k, 1, rows.shape[1])
    found = []
    for query, own in zip(queries, rows, strict=True):
        own = own[own >= 0]
        found.append(best_of(finer.scores(query[None], codes[own])[0], own, k))
    return padded(found, k)
