"""Peak memory of a run: the most bytes allocated at one moment, above what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from refimpl.measure.sample import Sample, at_rest, call, check_sample, device_of, synchronize


@dataclass(frozen=True)
class Allocations:
    """Bytes of one run: ``peak`` at one moment above the start, ``total`` over all its allocations."""

    peak: int
    total: int


def peak_memory(model: nn.Module, sample: Sample) -> int | None:
    """The most bytes that one warm run of ``model`` holds at a moment, above what was held before it.

    Activations, temporary buffers of operators and the output; not the weights, not the sample. On a CPU it
    is exact for everything that torch allocates (from the events of `torch.profiler`); scratch memory that
    oneDNN or MKL take for themselves is not seen. On CUDA it is ``torch.cuda.max_memory_allocated``. MPS and
    others record no peak: ``None``.

    Raises:
        TypeError, ValueError: as `refimpl.measure.report`.
    """
    check_sample(model, sample)
    seen = allocations(model, sample)
    return None if seen is None else seen.peak


def allocations(model: nn.Module, sample: Sample) -> Allocations | None:
    """See `peak_memory`; ``None`` where the device does not tell."""
    device = device_of(model, sample)
    if device.type not in ("cpu", "cuda"):
        return None
    with at_rest(model):
        call(model, sample)  # what a model makes once and keeps is not a cost of each run
        return _on_cuda(model, sample, device) if device.type == "cuda" else _on_cpu(model, sample)


def _on_cuda(model: nn.Module, sample: Sample, device: torch.device) -> Allocations:
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    before = torch.cuda.memory_stats(device).get("allocated_bytes.all.allocated", 0)
    call(model, sample)
    synchronize(device)
    after = torch.cuda.memory_stats(device).get("allocated_bytes.all.allocated", 0)
    return Allocations(peak=torch.cuda.max_memory_allocated(device) - held, total=after - before)


def _on_cpu(model: nn.Module, sample: Sample) -> Allocations:
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _silenced():
        profiler.start()
    try:
        call(model, sample)
    finally:
        with _silenced():
            profiler.stop()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted(
        ((e.start_ns(), i, e.nbytes()) for i, e in enumerate(events) if e.name() == "[memory]"),
    )
    held = peak = total = 0
    for _, _, change in changes:
        held += change
        peak = max(peak, held)
        total += max(change, 0)
    return Allocations(peak, total)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the lines that torch's profiler writes to the process's stderr when it starts and stops away."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without stderr
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
