"""What the indexes written from scratch share: the best of some candidates, and k-means."""

from __future__ import annotations

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.rows import check_array

__all__ = ["best_of", "kmeans", "nearest", "padded"]

EMPTY = -1  # the row of "nothing found", with the score -inf


def best_of(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of ``[C]`` scores with their rows, the best first; of equal scores the lower row."""
    if len(scores) > k:  # a partition costs C, a sort C log C
        keep = scores >= np.partition(scores, -k)[-k]  # with all that are equal to the last one
        scores, rows = scores[keep], rows[keep]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def padded(found: list[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Results of queries, each of k or fewer, as ``[Q, k]`` scores and rows, filled with -inf and -1."""
    scores = np.full((len(found), k), -np.inf, dtype=np.float32)
    rows = np.full((len(found), k), EMPTY, dtype=np.int64)
    for i, (best, where) in enumerate(found):
        scores[i, : len(best)], rows[i, : len(where)] = best, where
    return scores, rows


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """For each of ``[N, D]`` the centroid of ``[C, D]`` with the least Euclidean distance, ``[N]``.

    ‖x − c‖² = ‖x‖² − 2 xᵀc + ‖c‖², and ‖x‖² is the same for all centroids.
    """
    half = 0.5 * np.einsum("cd,cd->c", centroids, centroids)
    blocks = [
        (vectors[i : i + 4096] @ centroids.T - half).argmax(1) for i in range(0, max(len(vectors), 1), 4096)
    ]
    return np.concatenate(blocks)


def kmeans(vectors: np.ndarray, clusters: int, iterations: int = 20, seed: int = 0) -> np.ndarray:
    """Lloyd's algorithm: ``clusters`` centroids ``[C, D]`` of ``[N, D]``.

    It starts from distinct vectors drawn at random. Each iteration assigns every vector to the nearest centroid
    and moves each centroid to the mean of its vectors: the sum of squared distances never grows. A centroid
    without vectors takes the place of the vector that is farthest from its own.

    Raises:
        ValueError: fewer vectors than clusters, a count below 1.

    Source: Lloyd 1982, "Least squares quantization in PCM".
    """
    vectors = check_array("vectors", vectors)
    check_int("iterations", iterations, 1)
    check_int("clusters", clusters, 1)
    if clusters > len(vectors):
        raise ValueError(f"clusters: got {clusters} for {len(vectors)} vectors; takes as many at most")
    generator = np.random.default_rng(check_int("seed", seed, 0))
    centroids = vectors[generator.choice(len(vectors), clusters, replace=False)].copy()
    for _ in range(iterations):
        own = nearest(vectors, centroids)
        counts = np.bincount(own, minlength=clusters)
        # in float64; np.add.at does the same in ten times the time
        sums = [np.bincount(own, column, clusters) for column in vectors.T]
        moved = (np.stack(sums, axis=1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            distance = np.square(vectors - centroids[own]).sum(1)
            moved[empty] = vectors[np.argsort(-distance, kind="stable")[: len(empty)]]
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids
