"""How many singular values to keep: parameters, energy, and the rank at which nothing is saved."""

from __future__ import annotations

import torch

from refimpl.checks import check_int, check_number, check_tensor

__all__ = [
    "break_even_rank",
    "effective_rank",
    "factored_parameters",
    "rank_for_energy",
    "rank_for_keep",
    "truncation_error",
]


def factored_parameters(m: int, n: int, rank: int) -> int:
    """Entries of the two factors of an m × n matrix: r(m + n).

    Raises:
        TypeError, ValueError: sizes below 1, a rank outside 1 … min(m, n).
    """
    check_int("m", m, 1)
    check_int("n", n, 1)
    return check_int("rank", rank, 1, min(m, n)) * (m + n)


def break_even_rank(m: int, n: int) -> int:
    """The largest rank whose factors have fewer entries than the matrix: max r with r(m + n) < mn.

    768 × 768: 383; 768 × 3072: 614. For a matrix with one row or column it is 0: nothing can be saved.

    Raises:
        TypeError, ValueError: sizes below 1.
    """
    return (check_int("m", m, 1) * check_int("n", n, 1) - 1) // (m + n)


def rank_for_keep(m: int, n: int, keep: float) -> int:
    """The largest rank whose factors have at most ``keep`` of the matrix's entries: ⌊keep · mn / (m + n)⌋.

    May be 0, when even rank 1 has more.

    Raises:
        TypeError, ValueError: sizes below 1, ``keep`` outside (0, 1).
    """
    check_number("keep", keep, 0, 1, low_open=True, high_open=True)
    entries = check_int("m", m, 1) * check_int("n", n, 1)
    # 1e-9: a keep that names a whole rank, such as .4 for 2 of 5, must not lose it to rounding
    return int(keep * entries / (m + n) + 1e-9)


def rank_for_energy(singular_values: torch.Tensor, energy: float) -> int:
    """The smallest rank that keeps the fraction ``energy`` of the squared Frobenius norm.

    min r with Σ_{i≤r} σ_i² ≥ energy · Σ_i σ_i², summed in fp64; 1 for a matrix of zeros.

    Args:
        singular_values: ``[k]``, non-negative, in descending order.
        energy: fraction in (0, 1].

    Raises:
        TypeError, ValueError: values negative, not in descending order or not finite; energy outside (0, 1].
    """
    squared = _squares(singular_values)
    check_number("energy", energy, 0, 1, low_open=True)
    reached = squared.cumsum(0) >= energy * squared.sum() * (1 - 1e-12)  # 1e-12: rounding of the sums
    return int(reached.to(torch.int8).argmax()) + 1


def truncation_error(singular_values: torch.Tensor, rank: int) -> float:
    """‖W − W_r‖_F / ‖W‖_F = sqrt(Σ_{i>r} σ_i² / Σ_i σ_i²), in fp64; 0 for a matrix of zeros.

    Raises:
        TypeError, ValueError: bad singular values; a rank outside 0 … k.
    """
    squared = _squares(singular_values)
    check_int("rank", rank, 0, len(squared))
    total = float(squared.sum())
    return (float(squared[rank:].sum()) / total) ** 0.5 if total > 0 else 0.0


def effective_rank(singular_values: torch.Tensor) -> float:
    """exp(H(p)) with p_i = σ_i / Σ_j σ_j: how many equal singular values would be as spread out.

    From 1 (one direction) to k (all alike); 0 for a matrix of zeros. In fp64.

    Raises:
        TypeError, ValueError: bad singular values.

    Source: Roy and Vetterli 2007, "The effective rank".
    """
    _squares(singular_values)
    values = singular_values.detach().double()
    total = values.sum()
    if float(total) == 0:
        return 0.0
    p = values / total
    return float(torch.exp(torch.special.entr(p).sum()))


def _squares(singular_values: torch.Tensor) -> torch.Tensor:
    check_tensor("singular_values", singular_values, ndim=1, floating=True, finite=True)
    if len(singular_values) == 0 or bool((singular_values < 0).any()):
        raise ValueError("singular_values: got none or negative ones; takes at least one, none negative")
    if bool((singular_values.diff() > 0).any()):
        raise ValueError("singular_values: got values that increase; takes descending order")
    return singular_values.detach().double().square()
