"""Indexes written from scratch, to be read: what faiss and hnswlib do, in NumPy, at the same recall.

For work use `refimpl.retrieve.open_store`. All of these have ``add(vectors)`` and ``search(queries, k)``, which
returns inner products and rows, ``[Q, k]`` each.
"""

from refimpl.retrieve.indexes.common import kmeans
from refimpl.retrieve.indexes.hnsw import HNSWIndex
from refimpl.retrieve.indexes.ivf import IVFIndex
from refimpl.retrieve.indexes.lsh import LSHIndex
from refimpl.retrieve.indexes.pq import PQIndex

__all__ = ["HNSWIndex", "IVFIndex", "LSHIndex", "PQIndex", "kmeans"]
