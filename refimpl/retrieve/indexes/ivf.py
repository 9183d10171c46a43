"""Inverted file: cells around centroids; a query is compared with the vectors of the nearest cells only."""

from __future__ import annotations

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.indexes.common import best_of, kmeans, nearest, padded
from refimpl.retrieve.rows import check_array

__all__ = ["IVFIndex"]


class IVFIndex:
    """Vectors in the Voronoi cells of k-means centroids, one list of rows a cell.

    A query looks into the ``nprobe`` cells whose centroids are nearest. Expected cost with even cells:
    C·D for the centroids and nprobe/C·N·D for the vectors, least at C = √(nprobe·N). A neighbour across the border of
    a cell that was not looked into is missed: recall grows with nprobe, to 1 at nprobe = C.

    Args:
        training: ``[T, dim]``, what the centroids are trained on; 30 a cell or more.
        cells: C.
        iterations: of k-means.
        seed: of k-means.

    Raises:
        TypeError, ValueError: no such array, fewer vectors than cells.

    Source: Sivic and Zisserman 2003; Jégou et al. 2011, section IV.
    """

    def __init__(self, training: np.ndarray, cells: int, iterations: int = 20, seed: int = 0) -> None:
        self.centroids = kmeans(training, cells, iterations, seed)  # (C, D)
        self.vectors = np.empty((0, self.centroids.shape[1]), dtype=np.float32)
        self.lists: list[list[int]] = [[] for _ in range(cells)]

    def add(self, vectors: np.ndarray) -> None:
        """Append ``[N, dim]``; their rows are counted on from those that are there."""
        vectors = check_array("vectors", vectors, self.centroids.shape[1])
        start = len(self.vectors)
        self.vectors = np.concatenate([self.vectors, vectors])
        for row, cell in enumerate(nearest(vectors, self.centroids), start):
            self.lists[cell].append(row)

    def search(self, queries: np.ndarray, k: int = 10, nprobe: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """``(scores, rows)``, both ``[Q, k]``: the largest inner products in ``nprobe`` cells, the best first.

        Where the cells hold fewer than k, -inf and -1 stand for the rest.
        """
        queries = check_array("queries", queries, self.centroids.shape[1])
        check_int("k", k, 1)
        found = []
        for query, cells in zip(queries, self.cells(queries, nprobe), strict=True):
            rows = np.array([row for cell in cells for row in self.lists[cell]], dtype=np.int64)
            found.append(best_of(self.vectors[rows] @ query, rows, k))
        return padded(found, k)

    def cells(self, queries: np.ndarray, nprobe: int = 1) -> np.ndarray:
        """The ``nprobe`` nearest cells of each query, the nearest first: ``[Q, nprobe]``."""
        queries = check_array("queries", queries, self.centroids.shape[1])
        check_int("nprobe", nprobe, 1, len(self.centroids))
        half = 0.5 * np.einsum("cd,cd->c", self.centroids, self.centroids)
        return np.argsort(half - queries @ self.centroids.T, axis=1, kind="stable")[:, :nprobe]
