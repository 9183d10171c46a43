"""Locality-sensitive hashing: vectors with a small angle fall on the same side of most random planes."""

from __future__ import annotations

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.indexes.common import best_of, padded
from refimpl.retrieve.rows import check_array

__all__ = ["LSHIndex"]


class LSHIndex:
    """Hash tables of signs: the key of x in a table is the bits ``[aᵢᵀx > 0]`` of its ``bits`` random planes.

    For one plane P(same bit) = 1 − θ/π with θ the angle between two vectors, so for a whole key (1 − θ/π)^bits, and
    for at least one of ``tables`` keys 1 − (1 − (1 − θ/π)^bits)^tables. More bits: fewer candidates; more
    tables: fewer misses. ``probes`` also looks under keys with one bit turned over, first the bits whose plane
    is nearest to the query.

    Cost of a query: tables·bits·D for the keys, D for each candidate. Memory beside the vectors: 8·tables bytes a vector.

    Args:
        dim: numbers a vector.
        bits: of a key, at most 62.
        tables: of them.
        seed: of the planes.

    Raises:
        ValueError: a count below 1, too many bits.

    Source: Charikar 2002 (random hyperplanes); Lv et al. 2007 (probes).
    """

    def __init__(self, dim: int, bits: int = 12, tables: int = 8, seed: int = 0) -> None:
        self.dim = check_int("dim", dim, 1)
        self.bits = check_int("bits", bits, 1, 62)
        check_int("tables", tables, 1)
        generator = np.random.default_rng(check_int("seed", seed, 0))
        self.planes = generator.standard_normal((tables, bits, dim)).astype(np.float32)
        self.vectors = np.empty((0, dim), dtype=np.float32)
        self.tables: list[dict[int, list[int]]] = [{} for _ in range(tables)]

    def add(self, vectors: np.ndarray) -> None:
        """Append ``[N, dim]``; their rows are counted on from those that are there."""
        vectors = check_array("vectors", vectors, self.dim)
        start = len(self.vectors)
        self.vectors = np.concatenate([self.vectors, vectors])
        for table, margins in zip(self.tables, self._margins(vectors), strict=True):
            for row, key in enumerate(self._keys(margins), start):
                table.setdefault(int(key), []).append(row)

    def search(self, queries: np.ndarray, k: int = 10, probes: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """``(scores, rows)``, both ``[Q, k]``: the candidates with the largest inner product, the best first.

        Args:
            queries: ``[Q, dim]``.
            k: results a query; where there are fewer candidates, -inf and -1 stand for the rest.
            probes: keys to look under in each table, 1 to ``bits`` + 1.
        """
        queries = check_array("queries", queries, self.dim)
        check_int("k", k, 1)
        found = []
        for query, candidates in zip(queries, self.candidates(queries, probes), strict=True):
            found.append(best_of(self.vectors[candidates] @ query, candidates, k))
        return padded(found, k)

    def candidates(self, queries: np.ndarray, probes: int = 1) -> list[np.ndarray]:
        """For each query the rows that share a key with it, ascending."""
        queries = check_array("queries", queries, self.dim)
        check_int("probes", probes, 1, self.bits + 1)
        rows: list[set[int]] = [set() for _ in queries]
        for table, margins in zip(self.tables, self._margins(queries), strict=True):
            keys = self._keys(margins)
            nearest_planes = np.argsort(np.abs(margins), axis=1)[:, : probes - 1]
            for i, key in enumerate(keys):
                for turned in (int(key), *(int(key) ^ (1 << int(bit)) for bit in nearest_planes[i])):
                    rows[i].update(table.get(turned, ()))
        return [np.array(sorted(found), dtype=np.int64) for found in rows]

    def _margins(self, vectors: np.ndarray) -> np.ndarray:
        """aᵢᵀx of every table and plane: ``[tables, N, bits]``."""
        return np.einsum("nd,tbd->tnb", vectors, self.planes, optimize=True)

    def _keys(self, margins: np.ndarray) -> np.ndarray:
        """``[N, bits]`` margins of one table to ``[N]`` keys: bit i is 1 where margin i is positive."""
        return (margins > 0) @ (1 << np.arange(self.bits, dtype=np.int64))
