"""The order of the calls and the arithmetic of the times, on a clock that the test drives."""

from __future__ import annotations

import gc

import pytest
import torch

from refimpl import measure
from refimpl.measure import timing
from refimpl.measure.sample import synchronize


@pytest.fixture
def clock(monkeypatch):
    """``clock.spend(ms)`` lets time pass."""

    class Clock:
        now = 0

        def spend(self, ms):
            self.now += int(ms * 1e6)

    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: clock.now)
    return clock


def test_rounds_are_interleaved_and_their_order_rotates():
    calls = []
    measure.latency({n: lambda n=n: calls.append(n) for n in "abc"}, repeats=3, warmup=1)
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"


def test_times_are_milliseconds_and_warm_up_is_left_out(clock):
    spend = iter([100, 1, 2, 4, 3, 10])
    result = measure.latency({"a": lambda: clock.spend(next(spend))}, repeats=5, warmup=1)
    assert result.times == {"a": [1.0, 2.0, 4.0, 3.0, 10.0]}
    assert result.median("a") == 3.0
    assert result.spread("a") == (2.0, 4.0)


def test_ratios_are_taken_round_by_round(clock):
    """A machine that slows down by the minute: the ratio in every round is 2, though the times grow 100-fold."""
    state = {"load": 1.0}

    def work(ms):
        clock.spend(ms * state["load"])
        state["load"] *= 1.0 if ms == 20 else 10.0

    result = measure.latency({"slow": lambda: work(20), "fast": lambda: work(10)}, repeats=3, warmup=0)
    assert result.ratios("slow", "fast") == [2.0, 20.0, 2.0]  # the load changed inside the second round
    assert result.speedup("slow", "fast") == 2.0
    assert result.speedup("fast", "slow") == 0.5
    assert result.speedup_spread("slow", "fast") == (2.0, 11.0)
    assert result.speedup("slow", "slow") == 1.0


def test_defaults():
    calls = []
    result = measure.latency({"a": lambda: calls.append(1)})
    assert len(result.times["a"]) == 15
    assert len(calls) == 18


def test_one_round_has_no_spread(clock):
    result = measure.latency({"a": lambda: clock.spend(5)}, repeats=1, warmup=0)
    assert result.spread("a") == (5.0, 5.0)


def test_the_garbage_collector_waits_and_comes_back():
    seen = []
    measure.latency({"a": lambda: seen.append(gc.isenabled())}, repeats=1, warmup=0)
    assert seen == [False]
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure.latency({"a": lambda: 1 / 0})
    assert gc.isenabled()
    gc.disable()
    try:
        measure.latency({"a": lambda: None}, repeats=1, warmup=0)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_an_accelerators_queue_is_waited_for(monkeypatch):
    """Its own device's, or the current one's; a CPU has none."""
    waited = []
    synchronize()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronize(torch.device("cuda:1"))
    assert waited == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for device in (None, torch.device("cpu"), torch.device("cuda:1")):
        synchronize(device)
    assert waited == [None, None, torch.device("cuda:1")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    synchronize()
    assert waited[3:] == ["mps"]
