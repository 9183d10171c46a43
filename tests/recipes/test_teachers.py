"""refimpl.recipes.teachers: a whole recipe in seconds; interrupted or not, the same bytes come out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from refimpl import models
from refimpl.recipes import KINDS, evaluate
from refimpl.recipes.draws import Collator, Draws
from refimpl.recipes.teachers import main, train
from tests.recipes.conftest import SMALL

pytest.importorskip("accelerate")
FILES = {
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "log.json",
    "README.md",
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, training, held, tmp_path_factory):
    """``(kind, folder)`` of a teacher trained without interruption."""
    folder = tmp_path_factory.mktemp("recipe") / "teacher"
    return request.param, train(request.param, folder, SMALL, training=training, validation=held, test=held)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_what_is_written(trained, held):
    kind, folder = trained
    assert {p.name for p in folder.iterdir()} - {"generation_config.json"} == FILES
    assert not list(folder.parent.glob("*.new")) and not list(folder.parent.glob("*.old"))
    log = json.loads((folder / "log.json").read_text())
    assert (log["kind"], log["settings"]) == (kind, asdict(SMALL))
    assert log["tokens_seen"] == 12 * 4 * 32
    assert [e["step"] for e in log["curve"] if "loss" in e] == [4, 8, 12]
    assert [e["step"] for e in log["curve"] if "held_out_nats" in e] == [4, 8, 12]
    seconds = [e["core_seconds"] for e in log["curve"]]
    assert seconds == sorted(seconds)
    text = "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".md"))
    assert str(folder.parent) not in text and os.uname().nodename not in text
    assert "perplexity" in (folder / "README.md").read_text()
    assert 'dtype": "float16' in (folder / "config.json").read_text()


def test_it_learns(trained):
    log = json.loads((trained[1] / "log.json").read_text())
    losses = [e["held_out_nats"] for e in log["curve"] if "held_out_nats" in e]
    assert losses[-1] < losses[0] - 0.05


def test_a_reader_gets_what_the_log_says(trained, held):
    """Through refimpl's loader and through transformers' own: fp16 on the disk, the log's scores in fp32."""
    kind, folder = trained
    model, tokenizer = models.load(folder, task=kind)
    assert model.dtype == torch.float32 and not model.training
    auto = {"masked-lm": AutoModelForMaskedLM, "causal-lm": AutoModelForCausalLM}[kind]
    theirs = auto.from_pretrained(folder, dtype=torch.float32)
    for one, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other) and torch.equal(one, one.half().float())
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    score = evaluate(model, tokenizer, held, length=32)
    written = json.loads((folder / "log.json").read_text())["scores"]["test"]
    assert score.nats == pytest.approx(written["nats"], rel=1e-6)
    assert score.accuracy == pytest.approx(written["accuracy"])
    assert score.perplexity == pytest.approx(written["perplexity"], rel=1e-6)


def test_fp16_costs_nothing(trained, held):
    """The last checkpoint, in fp32, scores as the fp16 file does."""
    kind, folder = trained
    whole, tokenizer = models.load(folder.parent / "teacher-training" / "checkpoint-12", task=kind)
    half, _ = models.load(folder, task=kind)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))
    one, other = (evaluate(m, tokenizer, held, length=32) for m in (whole, half))
    assert one.nats == pytest.approx(other.nats, abs=1e-3)


def test_twice_is_the_same(trained, training, held, tmp_path):
    kind, folder = trained
    again = train(kind, tmp_path / "again", SMALL, training=training, validation=held, test=held)
    assert weights(again) == weights(folder)
    other = replace(SMALL, seed=1)
    assert weights(
        train(kind, tmp_path / "other", other, training=training, validation=held, test=held)
    ) != weights(folder)


def test_resumed_is_uninterrupted(trained, training, held, tmp_path):
    """From the checkpoint in the middle, and with a last one that a kill left without its state."""
    kind, folder = trained
    work = tmp_path / "resumed-training"
    shutil.copytree(folder.parent / "teacher-training", work)
    (work / "checkpoint-12" / "trainer_state.json").unlink()
    given = {"training": training, "validation": held, "test": held}
    with pytest.raises(FileExistsError, match="resume"):
        train(kind, tmp_path / "resumed", SMALL, **given)
    with pytest.raises(ValueError, match="takes the same settings"):
        train(kind, tmp_path / "resumed", replace(SMALL, peak=1e-4), **given, resume=True)
    resumed = train(kind, tmp_path / "resumed", SMALL, **given, resume=True)
    assert weights(resumed) == weights(folder)
    curves = [json.loads((f / "log.json").read_text())["curve"] for f in (resumed, folder)]
    for one, other in zip(*curves, strict=True):
        assert {k: v for k, v in one.items() if k != "core_seconds"} == {
            k: v for k, v in other.items() if k != "core_seconds"
        }


PROGRAM = """
import sys
from refimpl.data import corpus
from refimpl.recipes.teachers import train
from tests.recipes.conftest import SMALL
texts = corpus("train", "scikit-learn")[:300]
held = corpus("test", "scikit-learn")[:12]
train(sys.argv[1], sys.argv[2], SMALL, training=texts, validation=held, test=held, resume=len(sys.argv) > 3)
"""


@pytest.mark.slow
def test_killed_and_resumed(trained, tmp_path):
    """Killed by a signal after the second checkpoint, whatever it was doing, then continued."""
    kind, folder = trained
    if kind == "masked-lm":
        pytest.skip("one kind is enough of three processes")
    command = [sys.executable, "-c", PROGRAM, kind, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "8/12" not in process.stderr.read(1) + process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    subprocess.run([*command, "resume"], check=True, capture_output=True)
    assert weights(tmp_path / "killed") == weights(folder)


def test_an_older_folder_is_replaced_whole(trained, training, held, tmp_path):
    kind, _ = trained
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "stale.txt").write_text("x")
    made = train(
        kind, tmp_path / "old", replace(SMALL, steps=1), training=training, validation=held, test=held
    )
    assert {p.name for p in made.iterdir()} - {"generation_config.json"} == FILES


def test_draws_are_permutations_and_know_their_number():
    rows = torch.arange(5)[:, None]
    draws = Draws(rows, 13, seed=3)
    assert len(draws) == 13
    seen = [int(draws[i][1]) for i in range(13)]
    assert [draws[i][0] for i in range(13)] == list(range(13))
    assert sorted(seen[:5]) == sorted(seen[5:10]) == [0, 1, 2, 3, 4] and len(set(seen[10:])) == 3
    assert seen[:5] != seen[5:10]
    assert seen == [int(Draws(rows, 13, seed=3)[i][1]) for i in range(13)]
    assert seen != [int(Draws(rows, 13, seed=4)[i][1]) for i in range(13)]


def test_masks_are_new_at_each_draw_and_those_of_its_number(wordpieces):
    row = torch.randint(5, 400, (64,), generator=torch.Generator().manual_seed(0))
    collator = Collator("masked-lm", wordpieces, seed=2)
    state = torch.get_rng_state()
    first, second = collator([(0, row), (1, row)]), collator([(2, row), (3, row)])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first["labels"], second["labels"])
    assert not torch.equal(first["labels"][0], first["labels"][1])
    again = Collator("masked-lm", wordpieces, seed=2)([(2, row), (3, row)])
    assert torch.equal(again["input_ids"], second["input_ids"])
    assert not torch.equal(
        Collator("masked-lm", wordpieces, seed=3)([(2, row), (3, row)])["labels"], second["labels"]
    )


def test_the_share_of_masks_is_the_settings(wordpieces):
    rows = torch.randint(5, 400, (200, 64), generator=torch.Generator().manual_seed(0))
    labels = Collator("masked-lm", wordpieces, 0, share=0.3)(list(enumerate(rows)))["labels"]
    assert (labels != -100).float().mean() == pytest.approx(0.3, abs=0.01)


def test_the_command_line(monkeypatch, capsys, tmp_path):
    from refimpl.recipes import teachers

    calls = []
    monkeypatch.setattr(teachers, "train", lambda *a, **k: calls.append((a, k)) or a[1])
    main(["causal-lm", "--steps", "7", "--seed", "3", "--output", str(tmp_path / "x"), "--resume"])
    main(["masked-lm"])
    (kind, output, settings), options = calls[0]
    assert (kind, output, options) == ("causal-lm", tmp_path / "x", {"resume": True})
    assert settings == replace(teachers.DEFAULTS["causal-lm"], steps=7, seed=3)
    assert calls[1][0][2] == teachers.DEFAULTS["masked-lm"] and not calls[1][1]["resume"]
    assert "x" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sparse-lm"])
