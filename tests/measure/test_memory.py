"""Peak memory to the byte, where it can be counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refimpl import measure
from refimpl.measure import memory


def test_a_chain_holds_two_layers_at_a_time():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8))
    hidden, out = 32 * 256 * 4, 32 * 8 * 4
    x = torch.ones(32, 64)
    assert measure.peak_memory(model, x) == 2 * hidden  # the ReLU's input and output
    assert memory.allocations(model, x).total == 2 * hidden + out


class Keeper(nn.Module):
    """Makes a table at the first call and keeps it; holds ``copies`` results of 4,000 bytes at once."""

    def __init__(self, copies):
        super().__init__()
        self.copies, self.table = copies, None

    def forward(self, x):
        if self.table is None:
            self.table = torch.zeros(100_000)
        return [x.clone() for _ in range(self.copies)]


@pytest.mark.parametrize("copies", [1, 3])
def test_what_is_held_grows_the_peak_and_what_is_made_once_does_not(copies):
    assert measure.peak_memory(Keeper(copies), torch.ones(1000)) == copies * 4000


def test_temporary_buffers_inside_an_operator_count():
    """sorted() of a [n] fp32 tensor gives values and int64 places: 12 n bytes at least."""

    class Sort(nn.Module):
        def forward(self, x):
            return torch.sort(x).values

    assert measure.peak_memory(Sort(), torch.ones(1000)) >= 12_000


def test_memory_that_was_there_and_is_freed_does_not_make_the_peak_smaller():
    class Forgets(nn.Module):
        def forward(self, x):
            self.kept = x.clone()
            return self.kept

    # the second run makes its result before it drops the first one's
    assert measure.peak_memory(Forgets(), torch.ones(1000)) == 4000


def test_a_device_that_does_not_tell(tiny_mlp, monkeypatch):
    monkeypatch.setattr(memory, "device_of", lambda *_: torch.device("mps"))
    assert measure.peak_memory(tiny_mlp, torch.ones(2, 16)) is None


def test_the_profiler_says_nothing_on_stderr(tiny_mlp, capfd):
    measure.peak_memory(tiny_mlp, torch.ones(2, 16))
    assert capfd.readouterr().err == ""


def test_stderr_comes_back_when_the_model_fails(capfd):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        measure.peak_memory(Fails(), torch.ones(1))
    import os

    os.write(2, b"here")
    assert capfd.readouterr().err == "here"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)).cuda()
    hidden = 32 * 256 * 4
    assert measure.peak_memory(model, torch.ones(32, 64, device="cuda")) == 2 * hidden


def test_the_arithmetic_on_cuda(tiny_mlp, monkeypatch):
    """Peak above what was held before, total as the difference of two counters; on a device of numbers."""
    counters = iter([{"allocated_bytes.all.allocated": 50}, {"allocated_bytes.all.allocated": 120}])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1064)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: next(counters))
    seen = memory._on_cuda(tiny_mlp, torch.ones(2, 16), torch.device("cuda"))
    assert (seen.peak, seen.total) == (64, 70)
    counters = iter([{}, {}])  # nothing was ever allocated
    assert memory._on_cuda(tiny_mlp, torch.ones(2, 16), torch.device("cuda")).total == 0
