"""Low rank: a matrix replaced by the product of two thin ones."""

from refimpl.lowrank.layers import LowRankLinear
from refimpl.lowrank.rank import (
    break_even_rank,
    cumulative_energy,
    effective_rank,
    rank_for_energy,
    rank_for_keep,
    stable_rank,
    truncation_error,
)
from refimpl.lowrank.svd import Factors, truncated_svd
from refimpl.lowrank.verb import TruncatedSVD, factorize_

__all__ = [
    "Factors",
    "LowRankLinear",
    "TruncatedSVD",
    "break_even_rank",
    "cumulative_energy",
    "effective_rank",
    "factorize_",
    "rank_for_energy",
    "rank_for_keep",
    "stable_rank",
    "truncated_svd",
    "truncation_error",
]
