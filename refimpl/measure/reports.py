"""All measurements of one model, and of several side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from refimpl import checkpoint
from refimpl.checks import check_choice, check_int
from refimpl.measure.energy import PICOJOULES, energy_mj
from refimpl.measure.memory import allocations
from refimpl.measure.sample import Sample, at_rest, call, check_sample
from refimpl.measure.sizes import bytes_in_memory, parameters
from refimpl.measure.timing import Latency, latency
from refimpl.measure.work import macs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MB = 1e6


@dataclass(frozen=True)
class Report:
    """What was measured of one model on one sample. Sizes in bytes, times in ms, MB = 10⁶ bytes.

    Attributes:
        parameters: each tied one once.
        bytes_memory: of parameters and buffers as they are held.
        bytes_disk: of what `refimpl.checkpoint.save` writes, to the byte: ``bytes_weights + bytes_overhead``
            (names, shapes, spec). All three are ``None`` for a model that it cannot save.
        positions: tokens in the sample, padding included.
        macs: multiply-accumulates of one run of the sample.
        macs_per_token: ``macs / positions``.
        latency_ms: median over warm runs of the sample.
        latency_spread: 25 % and 75 % quantiles.
        peak_memory: most bytes at one moment of a run above what was held before; ``None`` where the device
            does not tell (MPS).
        bytes_moved: estimate of the traffic of one run: the weights that it reads, once, and everything that
            it allocates, written once and read once.
        energy_mj: `refimpl.measure.energy_mj` of the MACs and the bytes moved: ranks, not joules. ``None`` if
            the MACs are in a format without published constants.
    """

    parameters: int
    bytes_memory: int
    bytes_disk: int | None
    bytes_weights: int | None
    bytes_overhead: int | None
    positions: int
    macs: int
    macs_per_token: float
    latency_ms: float
    latency_spread: tuple[float, float]
    peak_memory: int | None
    bytes_moved: int
    energy_mj: float | None


def report(model: nn.Module, sample: Sample, *, repeats: int = 10, warmup: int = 2) -> Report:
    """Measure ``model`` on ``sample``; the model, its mode and its gradients are afterwards as before.

    Args:
        model: any module.
        sample: a mapping of keyword arguments, a tuple of positional ones, or one tensor.
        repeats: timed runs.
        warmup: runs before them.

    Raises:
        TypeError: ``model`` is no `torch.nn.Module`; ``sample`` is no tensor, mapping or tuple.
        ValueError: no position in the sample, NaN or infinity in it, another device than the model's;
            ``repeats`` below 1 or ``warmup`` below 0.
    """
    return compare({"model": model}, sample, repeats=repeats, warmup=warmup).reports["model"]


def compare(
    models: Mapping[str, nn.Module], sample: Sample, *, repeats: int = 10, warmup: int = 2
) -> Comparison:
    """Measure several models on the same sample, their timed runs interleaved (`refimpl.measure.latency`).

    Args:
        models: by name; the first is the one that the others are compared with.
        sample: as in `report`, for every model.
        repeats: timed rounds.
        warmup: rounds before them.

    Raises:
        TypeError, ValueError: as `report`; ``models`` is no mapping, or empty.
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"models: got {type(models).__name__}; takes a mapping of names to models")
    if not models:
        raise ValueError("models: got none; takes at least one")
    for model in models.values():
        check_sample(model, sample)
    check_int("repeats", repeats, 1)
    check_int("warmup", warmup, 0)
    with at_rest(*models.values()):
        times = latency({n: partial(call, m, sample) for n, m in models.items()}, repeats, warmup)
    return Comparison({n: _report(n, m, sample, times) for n, m in models.items()}, times)


def _report(name: str, model: nn.Module, sample: Sample, times: Latency) -> Report:
    work = macs(model, sample)
    seen = allocations(model, sample)
    moved = work.weight_bytes + 2 * (seen.total if seen else 0)
    known = all(f in PICOJOULES for f in work.by_format)
    try:
        size = checkpoint.size(model)
    except checkpoint.CheckpointError:
        size = None
    return Report(
        parameters=parameters(model).total,
        bytes_memory=bytes_in_memory(model),
        bytes_disk=size.total if size else None,
        bytes_weights=size.weights if size else None,
        bytes_overhead=size.overhead if size else None,
        positions=work.positions,
        macs=work.total,
        macs_per_token=work.per_token,
        latency_ms=times.median(name),
        latency_spread=times.spread(name),
        peak_memory=seen.peak if seen else None,
        bytes_moved=moved,
        energy_mj=energy_mj(work.by_format, moved) if known else None,
    )


class Table(list[dict[str, str]]):
    """Rows of formatted cells by column; prints as a table of text."""

    def __str__(self) -> str:
        if not self:
            return ""
        lines = [list(self[0]), *([*row.values()] for row in self)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


def _mb(size: int | None) -> str:
    return "–" if size is None else f"{size / MB:,.1f}"


# column -> (heading, what of a report is shown)
COLUMNS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "parameters": ("parameters", lambda r: f"{r.parameters:,}"),
    "disk": ("disk (MB)", lambda r: _mb(r.bytes_disk)),
    "memory": ("weights in memory (MB)", lambda r: _mb(r.bytes_memory)),
    "macs": ("MACs per token (M)", lambda r: f"{r.macs_per_token / 1e6:,.2f}"),
    "latency": ("latency (ms)", lambda r: f"{r.latency_ms:,.1f}"),
    "spread": ("quartiles (ms)", lambda r: "{:,.1f}–{:,.1f}".format(*r.latency_spread)),
    "speedup": ("times as fast", lambda r: ""),  # needs the other models: see Comparison.table
    "peak": ("peak activations (MB)", lambda r: _mb(r.peak_memory)),
    "energy": ("energy estimate (mJ)", lambda r: "–" if r.energy_mj is None else f"{r.energy_mj:,.2f}"),
}


@dataclass(frozen=True)
class Comparison:
    """Reports of several models by name, and their interleaved times; the first model is the baseline."""

    reports: dict[str, Report]
    latency: Latency

    def table(self, *columns: str) -> Table:
        """One row a model; all columns, or those named: see `refimpl.measure.reports.COLUMNS`.

        "times as fast" is the median of the round-by-round ratios to the first model.

        Raises:
            ValueError: an unknown column.
        """
        chosen = [check_choice("columns", c, COLUMNS) for c in columns] or list(COLUMNS)
        first = next(iter(self.reports))
        rows = Table()
        for name, one in self.reports.items():
            row = {"model": name}
            for column in chosen:
                heading, show = COLUMNS[column]
                row[heading] = (
                    f"{self.latency.speedup(first, name):.2f}" if column == "speedup" else show(one)
                )
            rows.append(row)
        return rows

    def __str__(self) -> str:
        return str(self.table())

    def relative(self) -> dict[str, dict[str, float]]:
        """For each model and quantity, what it needs in percent of the first model's."""
        first = next(iter(self.reports))
        base = self.reports[first]
        result = {}
        for name, one in self.reports.items():
            shares = {"time": 100 / self.latency.speedup(first, name)}
            for label, field in RELATIVE.items():
                mine, theirs = getattr(one, field), getattr(base, field)
                if mine is not None and theirs:
                    shares[label] = 100 * mine / theirs
            result[name] = {k: shares[k] for k in (*RELATIVE, "time") if k in shares}
        return result

    def plot(self, ax: Axes | None = None) -> Axes:
        """Horizontal bars of `relative`: what each model needs of what the first one needs."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots()
        values = self.relative()
        labels = list(next(iter(values.values())))
        height = 0.8 / len(values)
        for i, (name, shares) in enumerate(values.items()):
            places = [j + (i - (len(values) - 1) / 2) * height for j in range(len(labels))]
            ax.barh(places, [shares.get(label, 0.0) for label in labels], height=height, label=name)
        ax.set_yticks(range(len(labels)), labels)
        ax.invert_yaxis()
        ax.set_axisbelow(True)
        ax.set_xlabel(f"percent of {next(iter(values))}")
        ax.legend(ncols=len(values), loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return ax


RELATIVE: dict[str, Any] = {
    "parameters": "parameters",
    "bytes on disk": "bytes_disk",
    "MACs": "macs",
    "peak activations": "peak_memory",
    "energy estimate": "energy_mj",
}
