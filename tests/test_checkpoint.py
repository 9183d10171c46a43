"""checkpoint: whole or not at all, exact, and nothing but data in it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from refimpl import checkpoint, modules
from refimpl.checkpoint import CheckpointError
from tests.contracts import models


def spec_of(folder: Path) -> dict:
    return json.loads((folder / "refimpl.json").read_text())


def write_spec(folder: Path, spec: dict) -> None:
    """As an attacker would who can compute a checksum: the content is what must be refused."""
    content = {k: v for k, v in spec.items() if k != "sha256"}
    spec["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "refimpl.json").write_text(json.dumps(spec))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(models.make("bert"), tmp_path / "model")
    return tmp_path / "model"


def test_the_bytes_are_explained(tmp_path: Path):
    """weights = Σ numel · bytes, ties once; overhead = the safetensors header + the spec; nothing else."""
    model = models.make("gpt2")
    size = checkpoint.save(model, tmp_path)
    assert size.weights == 4 * modules.parameters_once(model)
    files = {entry.name: entry.stat().st_size for entry in os.scandir(tmp_path)}
    weights = spec_of(tmp_path)["weights"]
    assert set(files) == {"refimpl.json", weights["file"]}
    header = 8 + int.from_bytes((tmp_path / weights["file"]).read_bytes()[:8], "little")
    assert size.overhead == header + files["refimpl.json"]
    assert size.total == size.weights + size.overhead == sum(files.values())
    assert files[weights["file"]] == weights["bytes"]


def test_any_safetensors_reader_reads_it(saved: Path):
    tensors = load_file(saved / spec_of(saved)["weights"]["file"])
    assert torch.equal(
        tensors["encoder.layer.0.output.dense.weight"],
        models.make("bert").encoder.layer[0].output.dense.weight,
    )


@pytest.mark.parametrize("on", ["bert", "gpt2"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_models_come_back_with_configuration_and_attention(on, attention, tmp_path: Path):
    model = models.make(on)
    model.set_attn_implementation(attention)
    checkpoint.save(model, tmp_path)
    state = torch.get_rng_state()
    again = checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "loading moved the caller's random numbers"
    assert type(again) is type(model) and again.config._attn_implementation == attention
    assert again.config.hidden_size == model.config.hidden_size
    assert torch.equal(models.run(again), models.run(model))
    assert modules.tied_parameters(again) == modules.tied_parameters(model)
    assert not again.training and all(p.requires_grad for p in again.parameters())


def test_half_precision_stays(tmp_path: Path):
    model = models.make("bert").to(torch.bfloat16)
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    assert again.dtype == again.config.dtype == torch.bfloat16
    assert checkpoint.size(model).weights == 2 * modules.parameters_once(model)


def test_any_module_with_a_factory(tmp_path: Path):
    model = models.make("mlp")
    checkpoint.save(model, tmp_path)
    assert torch.equal(models.run(checkpoint.load(tmp_path, factory=models.MAKERS["mlp"])), models.run(model))
    with pytest.raises(CheckpointError, match="factory: got None; takes a function that makes a TinyMLP"):
        checkpoint.load(tmp_path)
    with pytest.raises(TypeError, match="factory: got a function that returns int"):
        checkpoint.load(tmp_path, factory=lambda: 3)


def test_buffers_and_views_are_kept(tmp_path: Path):
    """A running mean, a transposed (not contiguous) weight, two weights that are views of one storage."""

    def factory() -> nn.Module:
        return nn.ModuleDict({"norm": nn.BatchNorm1d(3), "a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})

    model = factory()
    model["norm"](torch.randn(4, 3))
    base = torch.randn(4, 3)
    model["a"].weight.data, model["b"].weight.data = base[:2], base[2:]
    model["a"].weight.data = torch.randn(3, 2).T
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path, factory=factory)
    for (name, value), (other, copy) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other and value.dtype == copy.dtype and torch.equal(value, copy)


def test_frozen_parameters_and_a_tie_that_the_factory_lacks(tmp_path: Path):
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    checkpoint.save(tied, tmp_path)
    with pytest.raises(CheckpointError, match="'1.weight' was tied to '0.weight'"):
        checkpoint.load(tmp_path, factory=lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def test_state_that_is_no_tensor_is_refused(tmp_path: Path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    with pytest.raises(CheckpointError, match="got dict as state '_extra_state'"):
        checkpoint.save(Odd(2, 2), tmp_path / "x")
    bad = modules.record_step_(models.make("bert"), {"method": "prune.Magnitude", "config": {"s": object()}})
    with pytest.raises(CheckpointError, match="not JSON"):
        checkpoint.save(bad, tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Damage


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("which", ["weights", "spec"])
def test_truncation_is_noticed(saved: Path, which: str, keep: float):
    name = spec_of(saved)["weights"]["file"] if which == "weights" else "refimpl.json"
    payload = (saved / name).read_bytes()
    (saved / name).write_bytes(payload[: int(keep * len(payload))])
    with pytest.raises(CheckpointError, match="truncated or altered"):
        checkpoint.load(saved)


def test_one_altered_bit_is_noticed(saved: Path):
    path = saved / spec_of(saved)["weights"]["file"]
    payload = bytearray(path.read_bytes())
    payload[-3] ^= 1
    path.write_bytes(payload)
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(saved)


def test_an_altered_spec_is_noticed(saved: Path):
    text = (saved / "refimpl.json").read_text()
    assert '"num_hidden_layers": 2' in text
    (saved / "refimpl.json").write_text(text.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(saved)


def test_a_missing_file_is_named(saved: Path):
    (saved / spec_of(saved)["weights"]["file"]).unlink()
    with pytest.raises(CheckpointError, match="no file 'weights-"):
        checkpoint.load(saved)


def edits() -> list[tuple[str, object, str]]:
    layer = "encoder.layer.0.output.dense"

    def step(**kw):
        return lambda s: s["steps"].append({"method": "modules.Resized", **kw})

    def base(**kw):
        return lambda s: s["base"].update(kw)

    def weights(**kw):
        return lambda s: s["weights"].update(kw)

    return [
        ("format", lambda s: s.update(format=2), "format 2; takes 1"),
        ("no steps", lambda s: s.pop("format"), "not readable"),
        ("unknown step", step(method="prune.Nonsense"), "'refimpl.prune.Nonsense', which this version"),
        ("unknown module", step(method="nonsense.Magnitude"), "which this version"),
        ("not a name", step(method="prune.__import__('os')"), "takes names inside refimpl"),
        ("outside", step(layers={layer: {"class": "os.system", "args": {}}}), "takes names inside refimpl"),
        ("no rebuild", step(layers={layer: {"class": "refimpl.checkpoint.load", "args": {}}}), "rebuild"),
        ("no layer", step(layers={"x": {"class": "refimpl.modules.Resized", "args": {}}}), "does not fit"),
        (
            "bad arguments",
            step(layers={layer: {"class": "refimpl.modules.Resized", "args": {"a": 1}}}),
            "does not fit",
        ),
        (
            "shape",
            step(
                layers={
                    layer: {
                        "class": "refimpl.modules.Resized",
                        "args": {"in_features": 9, "out_features": 32},
                    }
                }
            ),
            r"'encoder.layer.0.output.dense.weight' of shape \(32, 48\); takes \(32, 9\)",
        ),
        ("attribute", step(attributes={"encoder.layer.0": {"forward": 3}}), "takes an integer one"),
        ("value", step(attributes={"encoder.layer.0": {"seq_len_dim": "a"}}), "takes an integer one"),
        ("untied", step(untied=["pooler.dense.weight"]), "does not fit"),
        ("class", base(**{"class": "AutoTokenizer"}), "takes a model class of transformers"),
        ("config class", base(config_class="BertModel"), "takes a model class of transformers"),
        ("path", weights(file="../weights.safetensors"), "no file"),
        ("left over", step(keep={"encoder.layer": [0]}), "left over"),
        ("missing", lambda s: s["base"]["config"].update(num_hidden_layers=3), "missing"),
    ]


@pytest.mark.parametrize(("edit", "message"), [e[1:] for e in edits()], ids=[e[0] for e in edits()])
def test_a_spec_that_does_not_fit_is_refused(saved: Path, edit, message):
    spec = spec_of(saved)
    edit(spec)
    write_spec(saved, spec)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(saved)


# Crashes


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("occurrence", [1, 2])
def test_a_crash_while_saving_loses_nothing(saved: Path, monkeypatch, call: str, occurrence: int):
    """Interrupted at every point where the disk changes, the folder still holds the old model, whole."""
    before = models.run(checkpoint.load(saved))
    real, seen = getattr(os, call), []

    def failing(*args):
        seen.append(args)
        if len(seen) == occurrence:
            raise OSError("disk gone")
        return real(*args)

    monkeypatch.setattr(os, call, failing)
    other = models.make("bert", seed=5)
    with pytest.raises(OSError, match="disk gone"):
        checkpoint.save(other, saved)
    monkeypatch.undo()
    assert torch.equal(models.run(checkpoint.load(saved)), before)
    assert not list(saved.glob(".writing-*"))
    checkpoint.save(other, saved)
    assert torch.equal(models.run(checkpoint.load(saved)), models.run(other))
    assert len(list(saved.iterdir())) == 2


def test_kept_blocks_and_attributes_are_replayed(tmp_path: Path):
    model = models.make("bert")
    model.encoder.layer = nn.ModuleList([model.encoder.layer[1]])
    model.encoder.layer[0].seq_len_dim = 0
    modules.record_step_(
        model,
        {
            "method": "modules.Resized",
            "keep": {"encoder.layer": [1]},
            "attributes": {"encoder.layer.0": {"seq_len_dim": 0}},
            "config_changes": {"num_hidden_layers": 1},
        },
    )
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    assert len(again.encoder.layer) == again.config.num_hidden_layers == 1
    assert again.encoder.layer[0].seq_len_dim == 0
    assert torch.equal(models.run(again), models.run(model))
    assert checkpoint.size(again) == checkpoint.size(model)


def test_custom_model_classes_of_transformers_are_not_guessed(tmp_path: Path):
    class Mine(transformers.BertModel):
        pass

    model = Mine(
        transformers.BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    )
    checkpoint.save(model, tmp_path)
    with pytest.raises(CheckpointError, match="'Mine'; takes a model class of transformers"):
        checkpoint.load(tmp_path)
    assert isinstance(checkpoint.load(tmp_path, factory=lambda: Mine(model.config)), Mine)
