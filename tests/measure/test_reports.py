"""Reports, comparisons, tables, plots; the energy estimate."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from refimpl import measure
from refimpl.measure.reports import COLUMNS


def test_energy_by_hand():
    """10⁹ fp32 MACs at 4.6 pJ: 4.6 mJ; 10⁶ bytes at 160 pJ: .16 mJ."""
    assert measure.energy_mj({"float32": 10**9}) == pytest.approx(4.6)
    assert measure.energy_mj({"float32": 10**9}, 10**6) == pytest.approx(4.76)
    assert measure.energy_mj({}, 10**6) == pytest.approx(0.16)
    assert measure.energy_mj({"int8": 10**9, "float16": 10**9}) == pytest.approx(0.23 + 1.5)
    expected = {"float32": 4.6, "float16": 1.5, "bfloat16": 1.5, "int32": 3.2, "int8": 0.23, "uint8": 0.23}
    assert dict(measure.PICOJOULES) == pytest.approx(expected)


def test_report_of_an_mlp_by_hand(tiny_mlp):
    one = measure.report(tiny_mlp, torch.ones(4, 16), repeats=3, warmup=1)
    weights = 16 * 32 + 32 + 32 * 8 + 8
    assert one.parameters == weights
    assert one.bytes_memory == one.bytes_weights == 4 * weights
    assert one.positions == 4
    assert one.macs == 4 * (16 * 32 + 32 * 8)
    assert one.macs_per_token == 16 * 32 + 32 * 8
    assert one.peak_memory == 2 * 4 * 32 * 4
    assert one.bytes_moved == 4 * weights + 2 * (2 * 4 * 32 + 4 * 8) * 4
    assert one.energy_mj == pytest.approx((one.macs * 4.6 + one.bytes_moved * 160) * 1e-9)
    assert 0 < one.latency_spread[0] <= one.latency_ms <= one.latency_spread[1]


def test_the_model_is_left_as_it_was(tiny_bert, tiny_batch):
    """Modes differ by module on purpose; a gradient is there; the weights require gradients."""
    tiny_bert.train()
    tiny_bert.encoder.layer[0].eval()
    tiny_bert.pooler.dense.weight.grad = torch.ones_like(tiny_bert.pooler.dense.weight)
    before = copy.deepcopy(tiny_bert)
    modes = [m.training for m in tiny_bert.modules()]
    keys = set(tiny_bert.__dict__)
    measure.report(tiny_bert, tiny_batch, repeats=1, warmup=0)
    assert [m.training for m in tiny_bert.modules()] == modes
    assert set(tiny_bert.__dict__) == keys
    for (name, a), b in zip(tiny_bert.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.requires_grad
        assert a.grad is None or name == "pooler.dense.weight"
    assert torch.equal(tiny_bert.pooler.dense.weight.grad, torch.ones(32, 32))


def test_modes_come_back_when_the_model_fails():
    class Fails(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            raise RuntimeError("no")

    model = Fails().train()
    for function in (measure.report, measure.macs, measure.peak_memory):
        with pytest.raises(RuntimeError):
            function(model, torch.ones(1))
        assert model.training


def test_every_kind_of_sample(tiny_gpt2, tiny_batch):
    by_key = measure.macs(tiny_gpt2, tiny_batch).total
    assert measure.macs(tiny_gpt2, tiny_batch["input_ids"]).total == by_key
    assert measure.macs(tiny_gpt2, (tiny_batch["input_ids"],)).total == by_key


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_saved_has_no_size_on_disk(tiny_mlp):
    packed = torch.ao.quantization.quantize_dynamic(tiny_mlp, {nn.Linear})
    pair = measure.compare({"fp32": tiny_mlp, "int8": packed}, torch.ones(4, 16), repeats=1, warmup=0)
    one = pair.reports["int8"]
    assert one.bytes_disk is one.bytes_weights is one.bytes_overhead is None
    assert one.bytes_memory < pair.reports["fp32"].bytes_memory
    assert one.macs == pair.reports["fp32"].macs
    assert pair.table("disk")[1] == {"model": "int8", "disk (MB)": "–"}
    assert "bytes on disk" not in pair.relative()["int8"]


def test_a_format_without_constants_has_no_energy(tiny_mlp):
    one = measure.report(tiny_mlp.double(), torch.ones(4, 16).double(), repeats=1, warmup=0)
    assert one.energy_mj is None
    assert one.macs > 0


@pytest.fixture
def pair(tiny_mlp):
    half = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))
    result = measure.compare({"whole": tiny_mlp, "half": half}, torch.ones(4, 16), repeats=2, warmup=0)
    times = measure.Latency({"whole": [4.0, 6.0], "half": [2.0, 2.0]})
    return measure.Comparison(result.reports, times)


def test_table(pair):
    rows = pair.table("parameters", "macs", "speedup")
    assert rows == [
        {"model": "whole", "parameters": "808", "MACs per token (M)": "0.00", "times as fast": "1.00"},
        {"model": "half", "parameters": "408", "MACs per token (M)": "0.00", "times as fast": "2.50"},
    ]
    assert str(pair.table("parameters")) == "model  parameters\nwhole         808\nhalf          408"
    assert len(pair.table()[0]) == 1 + len(COLUMNS)
    assert str(pair) == str(pair.table())
    assert str(measure.Table()) == ""


def test_columns_show_the_right_numbers():
    one = measure.Report(
        parameters=1_500_000,
        bytes_memory=6_000_000,
        bytes_disk=6_120_000,
        bytes_weights=6_000_000,
        bytes_overhead=120_000,
        positions=10,
        macs=25_000_000,
        macs_per_token=2_500_000.0,
        latency_ms=12.34,
        latency_spread=(11.04, 13.06),
        peak_memory=2_340_000,
        bytes_moved=7,
        energy_mj=1.236,
    )
    shown = measure.Comparison({"m": one}, measure.Latency({"m": [1.0]})).table()[0]
    assert list(shown.values()) == [
        "m",
        "1,500,000",
        "6.1",
        "6.0",
        "2.50",
        "12.3",
        "11.0–13.1",
        "1.00",
        "2.3",
        "1.24",
    ]


def test_relative_and_plot(pair):
    shares = pair.relative()
    assert set(shares["whole"].values()) == {100.0}
    assert shares["half"]["parameters"] == pytest.approx(100 * 408 / 808)
    assert shares["half"]["time"] == pytest.approx(40.0)
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = pair.plot()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["whole", "half"]
    assert len(ax.patches) == 2 * len(shares["whole"])
    assert ax.patches[len(shares["whole"])].get_width() == pytest.approx(100 * 408 / 808)
    assert pair.plot(ax) is ax


def test_compare_interleaves(tiny_mlp, tiny_batch):
    order = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            order.append(self.name)
            return x

    measure.compare({"a": Named("a"), "b": Named("b")}, torch.ones(1), repeats=2, warmup=1)
    assert "".join(order[:6]) == "abbaab"


def test_defaults_of_report_and_compare(tiny_mlp, monkeypatch):
    from refimpl.measure import reports as module

    seen = []
    real = module.latency
    monkeypatch.setattr(module, "latency", lambda c, r, w: seen.append((r, w)) or real(c, r, w))
    measure.report(tiny_mlp, torch.ones(1, 16))
    measure.compare({"m": tiny_mlp}, torch.ones(1, 16))
    assert seen == [(10, 2), (10, 2)]


def test_no_work_and_no_traffic_take_no_energy():
    assert measure.energy_mj({}) == 0
    assert measure.energy_mj({"int8": 0}, 0) == 0


def test_a_device_that_does_not_tell_its_memory(tiny_mlp, monkeypatch):
    from refimpl.measure import reports as module

    monkeypatch.setattr(module, "allocations", lambda *_: None)
    one = measure.report(tiny_mlp, torch.ones(4, 16), repeats=1, warmup=0)
    assert one.peak_memory is None
    assert one.bytes_moved == 4 * one.parameters
    assert measure.Comparison({"m": one}, measure.Latency({"m": [1.0]})).table("peak")[0][
        "peak activations (MB)"
    ] == ("–")


def test_megabytes_are_powers_of_ten():
    from refimpl.measure.reports import _mb

    assert _mb(10**12) == "1,000,000.0"


def test_what_the_first_model_does_not_have_is_not_compared(pair):
    """No size on disk, no work: nothing to divide by."""
    whole, half = (pair.reports[name] for name in ("whole", "half"))
    base = dataclasses.replace(whole, bytes_disk=None, macs=0)
    shares = measure.Comparison({"whole": base, "half": half}, pair.latency).relative()["half"]
    assert "bytes on disk" not in shares
    assert "MACs" not in shares
    assert "parameters" in shares


def test_bars_stand_side_by_side(pair):
    """Two bars of .4 around each tick; what a model does not have is a bar of length zero."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    half = dataclasses.replace(pair.reports["half"], bytes_disk=None)
    ax = measure.Comparison({"whole": pair.reports["whole"], "half": half}, pair.latency).plot()
    labels = [t.get_text() for t in ax.get_yticklabels()]
    first, second = ax.patches[: len(labels)], ax.patches[len(labels) :]
    for j, (a, b) in enumerate(zip(first, second, strict=True)):
        assert [a.get_height(), b.get_height()] == pytest.approx([0.4, 0.4])
        assert a.get_y() + a.get_height() / 2 == pytest.approx(j - 0.2)
        assert b.get_y() + b.get_height() / 2 == pytest.approx(j + 0.2)
    assert second[labels.index("bytes on disk")].get_width() == 0
