"""Vector search on real embeddings: our stores beside faiss, hnswlib and sentence-transformers; goals met or not.

Indexes are built with all threads; queries are given one at a time, on one core, unless a batch is named. Times are those
that the core spent on the search, not those on the clock, so that other work on the machine counts less. "times exact" is
beside faiss's Flat, which compares a query with every vector: the median of the ratios, round by round.
"""

from __future__ import annotations

import gc
import socket
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch

from refimpl.measure import Latency
from refimpl.retrieve import Auto, RedisServer, open_store
from refimpl.retrieve.codes import Int8Code, ProductCode, rescore, search_codes
from tests.bench._retrieve_engines import (
    KINDS,
    Engine,
    K,
    hnswlib,
    raw_faiss,
    raw_search,
    sentence_transformers,
    stores,
)
from tests.bench._retrieve_vectors import load

SIZES = (50_000, 200_000)
SINGLE, BATCH = 20, 100  # queries a round, one at a time; queries at once
SPEED = {50_000: ((0.98, 15), (0.99, 20)), 200_000: ((0.98, 20),)}  # recall, times exact
OVERHEAD, IMPORT = 0.10, 40_000  # of raw faiss; vectors a second into Redis
EXACT = "faiss Flat"


class Goals:
    """What was to be reached, and whether it was."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, goal: str, met: bool, measured: str) -> None:
        self.lines.append(f"{'met    ' if met else 'NOT met'}  {goal}: {measured}")


def recall(rows: object, true: np.ndarray) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, true.tolist(), strict=True)])  # type: ignore[call-overload]
    )


def one_core() -> None:
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)


def single(run: Callable[[np.ndarray], object], queries: np.ndarray) -> Callable[[], None]:
    def one_after_the_other() -> None:
        for i in range(len(queries)):
            run(queries[i : i + 1])

    return one_after_the_other


def core_time(callables: dict[str, Callable[[], object]], repeats: int, warmup: int = 1) -> Latency:
    """As `refimpl.measure.latency`, rounds in rotated order, by the clock of this thread."""
    times: dict[str, list[float]] = {name: [] for name in callables}
    names = list(callables)
    gc.disable()
    for number in range(warmup + repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            begun = time.thread_time_ns()
            callables[name]()
            if number >= warmup:
                times[name].append((time.thread_time_ns() - begun) / 1e6)
    gc.enable()
    return Latency(times)


def table(found: list[Engine], queries: np.ndarray, repeats: int) -> tuple[dict[str, float], Latency]:
    """Print the engines, the fastest last; the recall of each, and the times."""
    true = np.asarray(found[0].rows(found[0].run(queries)))
    recalls = {engine.name: recall(np.asarray(engine.rows(engine.run(queries))), true) for engine in found}
    taken = core_time({e.name: single(e.run, queries[:SINGLE]) for e in found}, repeats)
    print(
        f"{'engine':32}{'recall@10':>10}{'ms/query':>10}{'times exact':>12}{'(quartiles)':>16}{'bytes/vector':>14}{'build s':>9}"
    )
    for engine in sorted(found, key=lambda e: taken.speedup(EXACT, e.name)):
        name = engine.name
        low, high = taken.speedup_spread(EXACT, name)
        spread = f"({low:.1f} to {high:.1f})"
        built = "" if np.isnan(engine.build) else f"{engine.build:.1f}"
        print(
            f"{name:32}{recalls[name]:10.4f}{taken.median(name) / SINGLE:10.3f}{taken.speedup(EXACT, name):12.1f}"
            f"{spread:>16}{engine.nbytes:14.0f}{built:>9}"
        )
    return recalls, taken


def codes(vectors: np.ndarray, queries: np.ndarray, goals: Goals) -> None:
    """Recall of what takes fewer bytes, by `refimpl.retrieve.codes`."""
    true = faiss_flat(vectors).search(queries, K)[1]
    eight = Int8Code(vectors)
    rounded = eight.encode(vectors)
    small = ProductCode(vectors, vectors.shape[1] // 4, 4)
    packed = small.encode(vectors)
    full = vectors.shape[1] * 4
    found = []
    for some in np.array_split(queries, 10):  # scores of all are held at a time
        first = search_codes(small, packed, some, 20 * K)[1]
        found.append((search_codes(eight, rounded, some, K)[1], rescore(first, eight, rounded, some, K)[1]))
    whole, again = (recall(np.concatenate(rows), true) for rows in zip(*found, strict=True))
    goals.add("int8, recall@10 >= .99 at 4x fewer bytes", whole >= 0.99 and full / eight.nbytes >= 4,
              f"{whole:.4f} at {full / eight.nbytes:.2f}x")  # fmt: skip
    both = small.nbytes + eight.nbytes
    goals.add(f"{small.nbytes}-byte codes, the best {20 * K} rescored in int8, recall@10 >= .99 at 3.5x fewer bytes",
              again >= 0.99 and full / both >= 3.5, f"{again:.4f} at {full / both:.2f}x")  # fmt: skip


def faiss_flat(vectors: np.ndarray) -> faiss.Index:
    return KINDS["exact"].make(vectors)


def speed(what: str, count: int, recalls: dict[str, float], taken: Latency, exact: str, goals: Goals) -> None:
    """The fastest store of those that find enough, beside faiss's exact search of the same queries."""
    for least, times in SPEED.get(count, ()):
        enough = [n for n in taken.times if n.startswith("store") and recalls[n] >= least]
        best = max(enough, key=lambda n: taken.speedup(exact, n))
        ratio = taken.speedup(exact, best)
        goals.add(f"{what}: recall@10 >= {least} at >= {times}x exact", ratio >= times,
                  f"{best}, {recalls[best]:.4f} at {ratio:.1f}x")  # fmt: skip


def overhead(count: int, ours: dict, queries: np.ndarray, goals: Goals, repeats: int) -> Latency:
    """Store and index, the same object, at a batch of 100."""
    some = queries[:BATCH]
    pairs: dict[str, Callable[[], object]] = {}
    for kind in KINDS:
        made = ours[kind]
        raw = raw_search(kind, made._index)
        pairs[f"faiss {kind}"] = lambda raw=raw: raw(some)
        pairs[f"store {kind}"] = lambda made=made: made.search(some, K)
    taken = core_time(pairs, repeats, warmup=2)
    for kind in KINDS:
        more = statistics.median(taken.ratios(f"store {kind}", f"faiss {kind}")) - 1
        each = [1000 * taken.median(f"{who} {kind}") / BATCH for who in ("store", "faiss")]
        goals.add(f"{count:,}, {kind}: store over raw faiss, batch of {BATCH}, <= {OVERHEAD:.0%}", more <= OVERHEAD,
                  f"{more:+.1%} ({each[0]:.0f} and {each[1]:.0f} µs a query)")  # fmt: skip
    return taken


def redis_import(vectors: np.ndarray, goals: Goals) -> None:
    """`Store.upsert` into a server of its own, over a socket file and over TCP on the loopback."""
    ids = [str(i) for i in range(len(vectors))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with RedisServer(None, "--port", str(port), "--bind", "127.0.0.1") as server:
        for way, url in (("TCP", f"redis://127.0.0.1:{port}/0"), ("socket file", server.url)):
            rates = []
            for turn in range(5):
                with open_store(f"{url}?name={way.split()[0]}{turn}", vectors.shape[1]) as made:
                    begun = time.perf_counter()
                    made.upsert(ids, vectors)
                    rates.append(len(vectors) / (time.perf_counter() - begun))
            rate = statistics.median(rates)
            goals.add(f"Redis, {way} on loopback: import of >= {IMPORT:,} vectors/s", rate >= IMPORT,
                      f"{rate:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})")  # fmt: skip


def main(sizes: tuple[int, ...] = SIZES, repeats: int = 9) -> None:
    """Print a table for each size, and the goals."""
    threads = torch.get_num_threads()
    goals = Goals()
    for count in sizes:
        torch.set_num_threads(threads)
        faiss.omp_set_num_threads(threads)
        auto = type(Auto().at(count, 384)).__name__.lower()
        print(
            f"\n{count:,} vectors, built with {threads} threads, searched on one core; a store takes {auto} by itself"
        )
        vectors, queries = load(count)
        ours, found = stores(vectors)
        found = [*raw_faiss(vectors, ours), *found, *hnswlib(vectors), *sentence_transformers(vectors)]
        one_core()
        recalls, taken = table(found, queries, repeats)
        speed(f"{count:,}, one query at a time", count, recalls, taken, EXACT, goals)
        taken = overhead(count, ours, queries, goals, repeats)
        speed(f"{count:,}, {BATCH} queries at once", count, recalls, taken, "faiss exact", goals)
        if count == min(sizes):
            codes(vectors, queries, goals)
            redis_import(vectors, goals)
    print("\ngoals", *goals.lines, sep="\n")
