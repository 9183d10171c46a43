"""Retrieval: texts to vectors, exact search, and stores that keep vectors and find them again."""

from refimpl.retrieve.encode import encode, pool
from refimpl.retrieve.exact import exact_search, mean_reciprocal_rank, recall_at_k

__all__ = ["encode", "exact_search", "mean_reciprocal_rank", "pool", "recall_at_k"]
