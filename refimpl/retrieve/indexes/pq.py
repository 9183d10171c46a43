"""Product quantization: a vector as a few bytes, its inner products by adding numbers out of a table."""

from __future__ import annotations

import numpy as np

from refimpl.checks import check_int
from refimpl.retrieve.indexes.common import best_of, kmeans, nearest, padded
from refimpl.retrieve.rows import check_array

__all__ = ["PQIndex"]


class PQIndex:
    """Each vector is cut into ``parts`` pieces, each piece is replaced by the nearest of its 2^bits centroids.

    x̂ = (c₁[i₁], …, c_m[i_m]): m numbers of ``bits`` bits stand for D floats, and for 2^(bits·m) different
    vectors, out of only m·2^bits·D/m trained ones. A query is not quantized (asymmetric distance computation): its inner
    products with all centroids, a table ``[m, 2^bits]``, cost 2^bits·D once; then each vector costs m additions:
    qᵀx̂ = Σ_j table[j, i_j].

    Args:
        training: ``[T, dim]``, what the centroids are trained on.
        parts: m, a divisor of ``dim``; bytes a vector at 8 bits.
        bits: of a code, 1 to 8.
        iterations: of k-means.
        seed: of k-means.

    Raises:
        TypeError, ValueError: no such array, ``dim`` no multiple of ``parts``, fewer vectors than centroids.

    Source: Jégou, Douze, Schmid 2011, "Product quantization for nearest neighbor search", sections II and III.
    """

    def __init__(
        self, training: np.ndarray, parts: int, bits: int = 8, iterations: int = 20, seed: int = 0
    ) -> None:
        training = check_array("training", training)
        self.dim = training.shape[1]
        self.parts = check_int("parts", parts, 1, self.dim)
        check_int("bits", bits, 1, 8)
        if self.dim % parts:
            raise ValueError(f"parts: got {parts} for {self.dim} numbers; takes a divisor")
        pieces = self._pieces(training)  # (m, T, D/m)
        self.centroids = np.stack(
            [kmeans(piece, 2**bits, iterations, seed + j) for j, piece in enumerate(pieces)]
        )  # (m, 2^bits, D/m)
        self.codes = np.empty((0, parts), dtype=np.uint8)

    def add(self, vectors: np.ndarray) -> None:
        """Append the codes of ``[N, dim]``; the vectors themselves are not kept."""
        self.codes = np.concatenate([self.codes, self.encode(vectors)])

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``[N, dim]`` to codes ``[N, parts]``, uint8."""
        pieces = self._pieces(check_array("vectors", vectors, self.dim))
        found = [nearest(piece, own) for piece, own in zip(pieces, self.centroids, strict=True)]
        return np.stack(found, axis=1).astype(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes ``[N, parts]`` to the vectors x̂ that they stand for, ``[N, dim]``."""
        if codes.ndim != 2 or codes.shape[1] != self.parts or codes.dtype != np.uint8:
            raise ValueError(f"codes: got {codes.dtype} {list(codes.shape)}; takes uint8 [N, {self.parts}]")
        return np.concatenate([own[codes[:, j]] for j, own in enumerate(self.centroids)], axis=1)

    def search(self, queries: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """``(scores, rows)``, both ``[Q, k]``: the largest qᵀx̂, the best first; -inf and -1 where there are fewer."""
        queries = check_array("queries", queries, self.dim)
        check_int("k", k, 1)
        rows = np.arange(len(self.codes))
        return padded([best_of(self.scores(query), rows, k) for query in queries], k)

    def scores(self, query: np.ndarray) -> np.ndarray:
        """qᵀx̂ of one query ``[dim]`` and all codes, ``[N]``, from its table."""
        table = np.einsum("mcd,md->mc", self.centroids, query.reshape(self.parts, -1))  # (m, 2^bits)
        return table[np.arange(self.parts), self.codes].sum(1)  # (N, m) -> (N,)

    def _pieces(self, vectors: np.ndarray) -> np.ndarray:
        """``[N, D]`` to ``[m, N, D/m]``."""
        return np.ascontiguousarray(vectors.reshape(len(vectors), self.parts, -1).transpose(1, 0, 2))
