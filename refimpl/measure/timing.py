"""Time on the clock: paired, interleaved, warm; medians with their spread, ratios round by round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from refimpl.checks import check_choice, check_int
from refimpl.measure.sample import synchronize


@dataclass(frozen=True)
class Latency:
    """Times in milliseconds, ``times[name][round]``; the rounds of all names belong together."""

    times: dict[str, list[float]]

    def median(self, name: str) -> float:
        """The median time of ``name`` in ms."""
        return median(self._of("name", name))

    def spread(self, name: str) -> tuple[float, float]:
        """The 25 % and 75 % quantiles of the times of ``name`` in ms."""
        return _quartiles(self._of("name", name))

    def ratios(self, baseline: str, name: str) -> list[float]:
        """time of ``baseline`` / time of ``name`` in each round: how many times as fast ``name`` was."""
        pairs = zip(self._of("baseline", baseline), self._of("name", name), strict=True)
        return [slow / fast for slow, fast in pairs]

    def speedup(self, baseline: str, name: str) -> float:
        """The median of `ratios`: ``name`` is so many times as fast as ``baseline``."""
        return median(self.ratios(baseline, name))

    def speedup_spread(self, baseline: str, name: str) -> tuple[float, float]:
        """The 25 % and 75 % quantiles of `ratios`."""
        return _quartiles(self.ratios(baseline, name))

    def _of(self, argument: str, name: str) -> list[float]:
        return self.times[check_choice(argument, name, tuple(self.times))]


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def latency(callables: Mapping[str, Callable[[], Any]], repeats: int = 15, warmup: int = 3) -> Latency:
    """Time several functions against each other.

    One round calls each function once; the order is rotated by one from round to round, so that none is
    always first and none always follows the same other. The first ``warmup`` rounds are not kept. Whatever
    slows the machine for a while slows all of them, and the ratios of a round hardly change. Python's
    garbage collector waits meanwhile, and an accelerator's queue is emptied before the clock is read.

    Args:
        callables: functions without arguments, by name.
        repeats: rounds that are kept.
        warmup: rounds before them.

    Raises:
        TypeError: not a mapping of callables; ``repeats`` or ``warmup`` no integer.
        ValueError: no callables; ``repeats`` below 1 or ``warmup`` below 0.
    """
    if not isinstance(callables, Mapping) or not all(callable(f) for f in callables.values()):
        raise TypeError("callables: got something else; takes a mapping of names to functions")
    if not callables:
        raise ValueError("callables: got none; takes at least one")
    check_int("repeats", repeats, 1)
    check_int("warmup", warmup, 0)
    names = list(callables)
    times: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(warmup + repeats):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                synchronize()
                begun = time.perf_counter_ns()
                callables[name]()
                synchronize()
                elapsed = (time.perf_counter_ns() - begun) / 1e6
                if number >= warmup:
                    times[name].append(elapsed)
    finally:
        if collecting:
            gc.enable()
    return Latency(times)
