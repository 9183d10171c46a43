"""How many ranks: what a rank costs in parameters, and what it keeps of a spectrum."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch

from refimpl.checks import check_choice, check_int, check_number, check_tensor

__all__ = [
    "break_even_rank",
    "cumulative_energy",
    "effective_rank",
    "rank_for_energy",
    "rank_for_keep",
    "stable_rank",
    "truncation_error",
]


def break_even_rank(out_features: int, in_features: int) -> int:
    """The largest rank r at which two factors have fewer parameters than the matrix.

    Two factors ``[m, r]`` and ``[r, n]`` have r(m + n) parameters, the matrix mn. The largest r with
    r(m + n) < mn is ⌊(mn − 1) / (m + n)⌋; for a square matrix a little under half its width.

    Args:
        out_features: m, at least 1.
        in_features: n, at least 1.

    Returns:
        The rank; 0 when no factorisation is smaller (a single row or column, 2 × 2).

    Raises:
        TypeError, ValueError: a size that is no integer, or below 1.
    """
    m, n = check_int("out_features", out_features, 1), check_int("in_features", in_features, 1)
    return (m * n - 1) // (m + n)


def rank_for_keep(out_features: int, in_features: int, keep: float) -> int:
    """The largest rank whose two factors have at most ``keep`` times the parameters of the matrix.

    r = ⌊keep · mn / (m + n)⌋, computed exactly from the decimal that ``keep`` is written as.

    Args:
        out_features: m, at least 1.
        in_features: n, at least 1.
        keep: fraction of the matrix's *parameters* that stay (not of its ranks), between 0 and 1.

    Returns:
        The rank; 0 when ``keep`` does not pay for a single one.

    Raises:
        TypeError, ValueError: a size below 1, or ``keep`` outside (0, 1).
    """
    m, n = check_int("out_features", out_features, 1), check_int("in_features", in_features, 1)
    check_number("keep", keep, 0, 1, low_open=True, high_open=True)
    return int(Fraction(str(keep)) * m * n / (m + n))


def cumulative_energy(singular_values: torch.Tensor) -> torch.Tensor:
    """The fraction of ‖W‖_F² that the best rank-r approximation holds, for r = 1 … k.

    e_r = Σ_{i≤r} σ_i² / Σ_i σ_i² , and 1 − e_r is the relative squared error that is left.

    Args:
        singular_values: ``[k]``, not negative, the largest first.

    Returns:
        ``[k]`` in fp64, rising to 1; all ones for a matrix of zeros.

    Raises:
        TypeError, ValueError: not such a vector.
    """
    squares = _checked(singular_values).square()
    total = squares.cumsum(0)
    return total / total[-1] if total[-1] > 0 else torch.ones_like(total)


def rank_for_energy(singular_values: torch.Tensor, energy: float) -> int:
    """The smallest rank that keeps the fraction ``energy`` of ‖W‖_F².

    min { r : Σ_{i≤r} σ_i² ≥ energy · Σ_i σ_i² }, with room for rounding of 1e-12 relative.

    Args:
        singular_values: ``[k]``, not negative, the largest first. All of them: the total is their sum.
        energy: between 0 (excluded) and 1.

    Returns:
        A rank from 1 to k.

    Raises:
        TypeError, ValueError: not such a vector; ``energy`` outside (0, 1].
    """
    check_number("energy", energy, 0, 1, low_open=True)
    kept = cumulative_energy(singular_values)
    return int((kept < energy - 1e-12).sum()) + 1


def truncation_error(
    singular_values: torch.Tensor, rank: int, norm: Literal["frobenius", "spectral"] = "frobenius"
) -> float:
    """The error of the best rank-r approximation, from the spectrum alone.

    ``frobenius``: ‖W − W_r‖_F = √(Σ_{i>r} σ_i²);  ``spectral``: ‖W − W_r‖₂ = σ_{r+1}.

    Args:
        singular_values: ``[k]``, not negative, the largest first. All of them.
        rank: r, from 0 to k.
        norm: which error.

    Raises:
        TypeError, ValueError: not such a vector, rank out of bounds, unknown norm.

    Source: Eckart and Young 1936; Mirsky 1960 for every norm that rotations leave alone.
    """
    check_choice("norm", norm, ("frobenius", "spectral"))
    left = _checked(singular_values)
    left = left[check_int("rank", rank, 0, len(left)) :]
    if norm == "frobenius":
        return float(left.square().sum().sqrt())
    return float(left[0]) if len(left) else 0.0


def stable_rank(singular_values: torch.Tensor) -> float:
    """‖W‖_F² / ‖W‖₂² = Σ σ_i² / σ_1²: at most the rank, and unmoved by small singular values.

    Args:
        singular_values: ``[k]``, not negative, the largest first.

    Returns:
        Between 1 and k; 0 for a matrix of zeros.

    Raises:
        TypeError, ValueError: not such a vector.

    Source: Rudelson and Vershynin 2007 (arXiv math/0503442).
    """
    squares = _checked(singular_values).square()
    return float(squares.sum() / squares[0]) if squares[0] > 0 else 0.0


def effective_rank(singular_values: torch.Tensor) -> float:
    """exp H(p) with p_i = σ_i / Σ_j σ_j: the number of equal singular values with the same entropy.

    Args:
        singular_values: ``[k]``, not negative, the largest first.

    Returns:
        Between 1 and k; 0 for a matrix of zeros.

    Raises:
        TypeError, ValueError: not such a vector.

    Source: Roy and Vetterli 2007, "The effective rank".
    """
    values = _checked(singular_values)
    if values[0] == 0:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def _checked(singular_values: torch.Tensor) -> torch.Tensor:
    """In fp64: cumulative sums of thousands of squares must not lose the small ones."""
    check_tensor("singular_values", singular_values, ndim=1, floating=True, finite=True)
    values = singular_values.detach().double()
    if not len(values) or values[-1] < 0 or bool((values[1:] > values[:-1]).any()):
        raise ValueError(
            f"singular_values: got {values[:4].tolist()} ...; "
            "takes at least one, none negative, the largest first"
        )
    return values
