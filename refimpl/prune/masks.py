"""From scores to masks: exactly ⌊sparsity · n⌋ entries go, whatever the ties.

A mask is a boolean tensor: True is kept, False is removed. Comparing with a threshold (``scores <= t``)
removes too many when several entries share the score t, and one too many at sparsity 0; here the number
comes first.
"""

from __future__ import annotations

import math
import sys

import torch

from refimpl.checks import check_int, check_number, check_tensor

__all__ = ["apply_mask", "mask_from_scores", "mask_n_of_m", "removed_count"]


def removed_count(n: int, sparsity: float) -> int:
    """How many of ``n`` entries a sparsity removes: ⌊sparsity · n⌋.

    The product is meant as in decimal arithmetic: a float product within four units in the last place of
    an integer is that integer, so that .29 of 100 is 29 although ``0.29 * 100 == 28.999999999999996``.

    Args:
        n: number of entries.
        sparsity: fraction removed, from 0 to 1.

    Raises:
        TypeError, ValueError: ``n`` is no integer from 0, or ``sparsity`` is outside [0, 1].
    """
    check_int("n", n, 0)
    product = check_number("sparsity", sparsity, 0, 1) * n
    nearest = round(product)
    return nearest if math.isclose(product, nearest, rel_tol=4 * sys.float_info.epsilon) else int(product)


def mask_from_scores(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Keep the highest scores; remove exactly ``removed_count(scores.numel(), sparsity)`` of the lowest.

    Among equal scores the one with the lower (row-major) index is removed first.

    Args:
        scores: floating point, any shape, finite; higher is more important.
        sparsity: fraction removed, from 0 to 1.

    Returns:
        Boolean tensor of the scores' shape and device, True where kept.

    Raises:
        TypeError, ValueError: scores that are not floating point or not finite; a sparsity outside [0, 1].
    """
    check_tensor("scores", scores, floating=True, finite=True)
    return keep_highest(scores, removed_count(scores.numel(), sparsity))


def keep_highest(scores: torch.Tensor, remove: int) -> torch.Tensor:
    """`mask_from_scores` by number: exactly ``remove`` entries go."""
    flat = scores.detach().reshape(-1)
    if flat.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()  # exact, and kthvalue exists for it on every device
    if remove == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(remove).values  # the remove-th lowest: everything below it goes ...
    below = flat < threshold
    tied = flat == threshold
    # ... and of those that are equal to it the first ones, until the number is reached
    missing = remove - below.sum()
    gone = below | (tied & (tied.cumsum(0) <= missing))
    return ~gone.reshape(scores.shape)


def mask_n_of_m(scores: torch.Tensor, n: int = 2, m: int = 4) -> torch.Tensor:
    """Keep the ``n`` highest scores of every ``m`` consecutive ones in a row (2:4 by default).

    Args:
        scores: ``[rows, columns]``, floating point, finite; ``columns`` a multiple of ``m``.
        n: how many of each group are kept, from 0 to ``m``.
        m: size of a group.

    Returns:
        Boolean tensor, True where kept; among equal scores the lower index is removed first.

    Raises:
        TypeError, ValueError: scores of another kind or shape; ``n`` or ``m`` out of range.

    Source: Mishra et al. 2021 (arXiv 2104.08378), the pattern of NVIDIA's sparse tensor cores.
    """
    check_tensor("scores", scores, ndim=2, floating=True, finite=True)
    check_int("m", m, 1)
    check_int("n", n, 0, m)
    rows, columns = scores.shape
    if columns % m:
        raise ValueError(f"scores: got {columns} columns; takes a multiple of m={m}")
    groups = scores.detach().reshape(rows, columns // m, m)  # (R, C) -> (R, C/m, m)
    order = groups.argsort(dim=-1, stable=True)  # lowest first, equal ones by index
    mask = torch.ones_like(groups, dtype=torch.bool).scatter_(-1, order[..., : m - n], False)
    return mask.reshape(rows, columns)


def apply_mask(weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A copy of ``weight`` with (positive) zero where ``mask`` is False.

    Raises:
        TypeError, ValueError: not tensors of one shape, or a mask that is not boolean.
    """
    check_tensor("weight", weight)
    check_tensor("mask", mask, shape=weight.shape)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: got dtype {mask.dtype}; takes a boolean tensor, True where kept")
    return weight.masked_fill(~mask, 0)
