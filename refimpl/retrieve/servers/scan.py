"""What every store on a server falls back to: read its rows in batches and compare each query with all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from refimpl.retrieve.rows import Metadata, unit
from refimpl.retrieve.store import Hit, as_hits

Batch = tuple[list[str], np.ndarray, list[Metadata]]


def best_of(
    batches: Iterable[Batch], queries: np.ndarray, k: int, test: Callable[[Metadata], bool] | None
) -> list[list[Hit]]:
    """The k best rows of each query by the cosine, in fp32, among those whose metadata pass ``test``.

    Args:
        batches: ids, vectors ``[n, dim]`` as they were given, and metadata.
        queries: ``[Q, dim]``, of length one.
        k: at least 1.
        test: what `compile_filter` made, or None.
    """
    scores = np.empty((len(queries), 0), dtype="f4")
    rows: list[tuple[str, Metadata]] = []  # those that are among the best of some query
    places = np.empty((len(queries), 0), dtype=int)
    for names, vectors, metadata in batches:
        kept = [i for i, row in enumerate(metadata) if test is None or test(row)]
        if not kept:
            continue
        new = np.arange(len(rows), len(rows) + len(kept))
        rows += [(names[i], metadata[i]) for i in kept]
        scores = np.concatenate([scores, queries @ unit(vectors[kept]).T], 1)  # (Q, k) + (Q, n)
        places = np.concatenate([places, np.broadcast_to(new, (len(queries), len(new)))], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, places = (np.take_along_axis(x, order, 1) for x in (scores, places))
        used, places = np.unique(places, return_inverse=True)  # forget rows that are no longer among them
        places = places.reshape(scores.shape)
        rows = [rows[i] for i in used]
    return [
        as_hits([rows[i][0] for i in b], a, [rows[i][1] for i in b])
        for a, b in zip(scores.tolist(), places.tolist(), strict=True)
    ]
