"""Fewer numbers a vector: the first ones, principal components, or a trained map whose every prefix is of use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from refimpl.checks import check_int, check_number
from refimpl.retrieve.codes.common import Code
from refimpl.retrieve.rows import check_array, unit

__all__ = ["LinearCode", "matryoshka", "principal", "truncation"]


class LinearCode(Code):
    """``z = W x`` with ``W [kept, dim]``, in fp32; scores are inner products of Wq with z, or their cosines.

    Args:
        weight: ``[kept, dim]``.
        unit: scale Wq and z to length 1: the score is the cosine of what is left.

    Raises:
        TypeError, ValueError: no such array, or more numbers than before.
    """

    def __init__(self, weight: np.ndarray, unit: bool = False) -> None:
        self.weight = check_array("weight", weight)
        self.kept, self.dim = self.weight.shape
        if self.kept > self.dim:
            raise ValueError(f"weight: got {self.kept} rows of {self.dim}; takes as many at most")
        self.unit = bool(unit)

    @property
    def nbytes(self) -> int:
        """Bytes a vector."""
        return 4 * self.kept

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """See `Code.encode`."""
        z = check_array("vectors", vectors, self.dim) @ self.weight.T
        if self.unit:  # but for a vector of which nothing is left
            there = z.any(1)
            z[there] = unit(z[there])
        return z

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The shortest x with ``W x = z``."""
        return (codes @ np.linalg.pinv(self.weight).T).astype(np.float32)

    def scores(self, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """See `Code.scores`."""
        return self.encode(queries) @ codes.T


def truncation(dim: int, kept: int) -> LinearCode:
    """The first ``kept`` numbers, scaled to length 1: what is done with embeddings trained for it, and with others."""
    check_int("kept", kept, 1, check_int("dim", dim, 1))
    return LinearCode(np.eye(kept, dim, dtype=np.float32), unit=True)


def principal(training: np.ndarray, kept: int) -> LinearCode:
    """The ``kept`` directions with the largest second moments of ``[T, dim]``, not centred.

    Of all linear maps to ``kept`` numbers it loses least of the training vectors' inner products in squares
    (Eckart and Young 1936). Not centred: scores are inner products, and a mean that is subtracted changes their order.

    Raises:
        TypeError, ValueError: no such array; ``kept`` above ``dim``.
    """
    training = check_array("training", training)
    check_int("kept", kept, 1, training.shape[1])
    moments = training.T.astype(np.float64) @ training
    _, directions = np.linalg.eigh(moments)  # ascending
    return LinearCode(directions[:, ::-1][:, :kept].T.astype(np.float32))


def matryoshka(
    training: np.ndarray,
    sizes: Sequence[int],
    steps: int = 400,
    batch: int = 256,
    peak: float = 3e-3,
    temperature: float = 0.05,
    seed: int = 0,
) -> np.ndarray:
    """Train ``W [dim, dim]`` so that every prefix of ``W x`` ranks neighbours as x does; returns W.

    Over the pairs i ≠ j of a batch, with p_i = softmax_j(cos(x_i, x_j)/τ) of the vectors and q_i^d that of the first d numbers of
    their images: ``L = Σ_d mean_i KL(p_i ‖ q_i^d)``, a distillation of neighbourhoods. W starts as the principal directions;
    Adam with a cosine to 0. ``LinearCode(W[:d], unit=True)`` is the code of d numbers.

    Args:
        training: ``[T, dim]``.
        sizes: the prefixes d, each 1 to ``dim``.
        steps: of the optimizer.
        batch: vectors a step, at least 3.
        peak: learning rate at the start.
        temperature: τ.
        seed: of the batches.

    Raises:
        TypeError, ValueError: no such array, fewer vectors than a batch, no sizes, numbers out of bounds.

    Source: Kusupati et al. 2022 (arXiv 2205.13147) for nested prefixes; here of finished embeddings.
    """
    training = check_array("training", training)
    dim = training.shape[1]
    check_int("steps", steps, 1)
    check_int("batch", batch, 3, len(training))
    check_number("peak", peak, 0, low_open=True)
    check_number("temperature", temperature, 0, low_open=True)
    if not sizes:
        raise ValueError("sizes: got none; takes at least one")
    for size in sizes:
        check_int("sizes", size, 1, dim)
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    weight = torch.from_numpy(principal(training, dim).weight.copy()).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=peak)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    vectors = normalize(torch.from_numpy(training), dim=1)
    itself = torch.eye(batch, dtype=torch.bool)
    for _ in range(steps):
        x = vectors[torch.randperm(len(vectors), generator=generator)[:batch]]  # (B, D)
        p = (x @ x.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
        z = x @ weight.T  # (B, D)
        loss = weight.new_zeros(())
        for size in sizes:
            prefix = normalize(z[:, :size], dim=1)
            q = (prefix @ prefix.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
            loss = loss + (p.exp() * (p - q.masked_fill(itself, 0))).masked_fill(itself, 0).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weight.detach().numpy()
