"""Hierarchical navigable small world: a graph of neighbours on several levels, walked greedily."""

from __future__ import annotations

import heapq
import math

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.indexes.common import padded
from refimpl.retrieve.rows import check_array

__all__ = ["HNSWIndex"]

Scored = list[tuple[float, int]]  # (score, row)


class HNSWIndex:
    """Every vector is on level 0; on level l with probability m^-l. Long links are above, short ones below.

    A search starts at the entry on the top level, walks to the neighbour with the larger score until there is
    none, goes down a level, and so on; on level 0 it keeps the best ``ef`` rows seen and stops when the best one
    that is left to look at is worse than all of them. It looks at the links of about ef rows, each of which
    has 2·m at most: so many comparisons, not N.

    A new vector is linked to m of the ``ef_construction`` rows that a search for it finds, chosen by the heuristic: a
    candidate is passed over if it is nearer to a chosen one than to the new vector. So links point in different directions,
    and clusters stay connected. A row that then has too many links keeps those that the heuristic chooses. hnswlib does the
    same; faiss links a new row to 2·m rows on level 0, which finds .01 more at equal m and ef, with more comparisons.

    Args:
        dim: numbers a vector; the score is the inner product, so give unit vectors for cosines.
        m: links of a row on each level, 2·m on level 0.
        ef_construction: candidates kept while linking.
        seed: of the levels.

    Raises:
        ValueError: a count out of its bounds.

    Source: Malkov and Yashunin 2016 (arXiv 1603.09320), algorithms 1, 2, 4 and 5.
    """

    def __init__(self, dim: int, m: int = 16, ef_construction: int = 100, seed: int = 0) -> None:
        self.dim = check_int("dim", dim, 1)
        self.m = check_int("m", m, 2)
        self.ef_construction = check_int("ef_construction", ef_construction, 1)
        self.generator = np.random.default_rng(check_int("seed", seed, 0))
        self.vectors = np.empty((0, dim), dtype=np.float32)
        self.links: list[list[list[int]]] = []  # of row, of level: rows
        self.entry = -1  # a row of the top level
        self.compared = 0  # inner products so far, of adding and of searching

    def add(self, vectors: np.ndarray) -> None:
        """Append ``[N, dim]``, one after the other; their rows are counted on from those that are there."""
        vectors = check_array("vectors", vectors, self.dim)
        start = len(self.vectors)
        self.vectors = np.concatenate([self.vectors, vectors])
        for row in range(start, len(self.vectors)):
            self._insert(row)

    def search(self, queries: np.ndarray, k: int = 10, ef: int = 64) -> tuple[np.ndarray, np.ndarray]:
        """``(scores, rows)``, both ``[Q, k]``, the best first; -inf and -1 where there are fewer than k.

        Args:
            queries: ``[Q, dim]``.
            k: results a query.
            ef: rows kept on level 0, at least k.
        """
        queries = check_array("queries", queries, self.dim)
        check_int("k", k, 1)
        check_int("ef", ef, k)
        found = []
        for query in queries:
            near: Scored = []
            if self.links:
                near = self._descend(query, 0)
                near = sorted(self._search_level(query, near, ef, 0), key=lambda s: (-s[0], s[1]))[:k]
            scores, rows = [s for s, _ in near], [row for _, row in near]
            found.append((np.array(scores, dtype=np.float32), np.array(rows, dtype=np.int64)))
        return padded(found, k)

    @property
    def top(self) -> int:
        """The highest level."""
        return len(self.links[self.entry]) - 1

    def _insert(self, row: int) -> None:
        level = int(-math.log(1.0 - self.generator.random()) / math.log(self.m))  # P(level >= l) = m^-l
        self.links.append([[] for _ in range(level + 1)])
        if self.entry < 0:
            self.entry = row
            return
        vector, top = self.vectors[row], self.top
        near = self._descend(vector, level)
        for here in range(min(level, top), -1, -1):
            near = self._search_level(vector, near, self.ef_construction, here)
            most = 2 * self.m if here == 0 else self.m
            self.links[row][here] = self._choose(near, self.m)
            for other in self.links[row][here]:
                own = self.links[other][here]
                own.append(row)
                if len(own) > most:
                    scored = self._scored(self.vectors[other], own)
                    self.links[other][here] = self._choose(scored, most)
        if level > top:
            self.entry = row

    def _descend(self, vector: np.ndarray, level: int) -> Scored:
        """From the entry, greedily, to where a search on ``level`` starts."""
        near = self._scored(vector, [self.entry])
        for here in range(self.top, level, -1):
            near = self._search_level(vector, near, 1, here)
        return near

    def _search_level(self, vector: np.ndarray, near: Scored, ef: int, level: int) -> Scored:
        """The best ``ef`` rows of a level that are found from ``near``, in no order (algorithm 2)."""
        seen = {row for _, row in near}
        ahead = [(-score, row) for score, row in near]  # a heap with the best on top
        kept = list(near)  # a heap with the worst on top
        heapq.heapify(ahead)
        heapq.heapify(kept)
        while ahead:
            score, row = heapq.heappop(ahead)
            if -score < kept[0][0] and len(kept) >= ef:
                break
            fresh = [other for other in self.links[row][level] if other not in seen]
            seen.update(fresh)
            for found in self._scored(vector, fresh):
                if len(kept) < ef or found[0] > kept[0][0]:
                    heapq.heappush(ahead, (-found[0], found[1]))
                    heapq.heappush(kept, found)
                    if len(kept) > ef:
                        heapq.heappop(kept)
        return kept

    def _choose(self, near: Scored, most: int) -> list[int]:
        """At most ``most`` of ``near``, the best first, none nearer to one chosen before (algorithm 4)."""
        chosen: list[int] = []
        for score, row in sorted(near, key=lambda s: (-s[0], s[1])):
            if len(chosen) == most:
                break
            if all(other < score for other, _ in self._scored(self.vectors[row], chosen)):
                chosen.append(row)
        return chosen

    def _scored(self, vector: np.ndarray, rows: list[int]) -> Scored:
        self.compared += len(rows)
        return list(zip((self.vectors[rows] @ vector).tolist(), rows, strict=True)) if rows else []
