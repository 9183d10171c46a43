"""The truncated singular value decomposition, exact and randomised."""

from __future__ import annotations

from typing import Literal

import torch

from refimpl.checks import check_choice, check_int, check_tensor

__all__ = ["truncated_svd"]

# above this, the exact decomposition of a matrix costs more than a coffee; below, it is exact and quick
EXACT_UP_TO = 2048


def truncated_svd(
    weight: torch.Tensor,
    rank: int,
    method: Literal["auto", "exact", "randomized"] = "auto",
    *,
    oversampling: int = 10,
    iterations: int = 4,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best rank-r approximation of a matrix: W ≈ W_r = U diag(S) Vh.

    ``exact`` takes the r leading singular triples; no matrix of rank r is closer in the Frobenius or the
    spectral norm: ‖W − W_r‖_F² = Σ_{i>r} σ_i² and ‖W − W_r‖₂ = σ_{r+1}. ``randomized`` finds an
    orthonormal basis Q of the range of (W Wᵀ)^iterations W Ω, with Ω a Gaussian ``[n, r + oversampling]``,
    and decomposes the small QᵀW. ``auto`` is exact up to a smaller side of 2048, or when the rank is more
    than a quarter of it.

    Args:
        weight: ``[m, n]``, floating point, finite.
        rank: r, from 1 to min(m, n).
        method: ``"auto"``, ``"exact"`` or ``"randomized"``.
        oversampling: columns beyond r that the random basis takes; more is more accurate.
        iterations: power iterations; more separates close singular values better.
        seed: of the Gaussian, which is the same on every device.

    Returns:
        ``U [m, r]``, ``S [r]`` in descending order, ``Vh [r, n]``, in fp32 (fp64 for an fp64 weight). The
        entry of largest magnitude in each column of U is positive, so the factors are unique where the
        singular values differ.

    Raises:
        TypeError, ValueError: a bad weight, rank, method or setting.

    Source: Eckart and Young 1936; Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1.
    """
    check_tensor("weight", weight, ndim=2, floating=True, finite=True)
    smaller = min(weight.shape)
    check_int("rank", rank, 1, smaller)
    check_choice("method", method, ("auto", "exact", "randomized"))
    check_int("oversampling", oversampling, 0)
    check_int("iterations", iterations, 0)
    wide = weight.detach().to(torch.float64 if weight.dtype == torch.float64 else torch.float32)
    if method == "exact" or (method == "auto" and (smaller <= EXACT_UP_TO or 4 * rank > smaller)):
        u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    else:
        basis = _range_basis(wide, min(rank + oversampling, smaller), iterations, seed)  # [m, k]
        small, s, vh = torch.linalg.svd(basis.T @ wide, full_matrices=False)  # of [k, n]
        u = basis @ small
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()  # [1, r]
    signs[signs == 0] = 1  # a column of zeros cannot occur, but must not erase its partner
    return (u * signs).contiguous(), s.contiguous(), (vh * signs.T).contiguous()


def _range_basis(weight: torch.Tensor, columns: int, iterations: int, seed: int) -> torch.Tensor:
    """An orthonormal ``[m, columns]`` whose span holds most of the range of ``weight``."""
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(weight.shape[1], columns, generator=generator, dtype=weight.dtype)
    basis = torch.linalg.qr(weight @ gaussian.to(weight.device)).Q
    for _ in range(iterations):
        # orthonormalised at every half step: otherwise rounding leaves the leading direction only
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    return basis
