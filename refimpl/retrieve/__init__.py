"""Retrieval: texts to vectors, exact search, and stores that keep vectors and find them again."""

from refimpl.retrieve.cached import encode_cached
from refimpl.retrieve.encode import encode, fingerprint, pool
from refimpl.retrieve.exact import exact_search, mean_reciprocal_rank, recall_at_k
from refimpl.retrieve.index import HNSW, IVF, Auto, Exact, FastScan
from refimpl.retrieve.opening import open_store
from refimpl.retrieve.servers import RedisServer
from refimpl.retrieve.store import Hit, Item, Store, StoreError

__all__ = [
    "HNSW",
    "IVF",
    "Auto",
    "Exact",
    "FastScan",
    "Hit",
    "Item",
    "RedisServer",
    "Store",
    "StoreError",
    "encode",
    "encode_cached",
    "exact_search",
    "fingerprint",
    "mean_reciprocal_rank",
    "open_store",
    "pool",
    "recall_at_k",
]
