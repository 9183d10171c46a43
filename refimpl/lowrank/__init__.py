"""Low rank: a weight matrix as the product of two thin ones."""

from refimpl.lowrank.factorize import TruncatedSVD, factorize_
from refimpl.lowrank.layers import LowRankLinear
from refimpl.lowrank.ranks import (
    break_even_rank,
    effective_rank,
    factored_parameters,
    rank_for_energy,
    rank_for_keep,
    truncation_error,
)
from refimpl.lowrank.svd import truncated_svd

__all__ = [
    "LowRankLinear",
    "TruncatedSVD",
    "break_even_rank",
    "effective_rank",
    "factored_parameters",
    "factorize_",
    "rank_for_energy",
    "rank_for_keep",
    "truncated_svd",
    "truncation_error",
]
