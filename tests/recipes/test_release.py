"""refimpl.recipes.release: the committed teachers, as a reader loads them."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from transformers import BertForMaskedLM, GPT2LMHeadModel

from refimpl.data import corpus
from refimpl.recipes import (
    ARMS,
    DEFAULTS,
    KINDS,
    bigram,
    causal_rows,
    chain,
    evaluate,
    held_out,
    load_ingredients,
    load_teacher,
    masked_rows,
    score_masked,
    score_next,
    unigram,
)
from refimpl.recipes.release import HERE, release
from refimpl.recipes.shapes import make_model
from tests.recipes.conftest import SMALL


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_reader_loads(kind):
    model, tokenizer = load_teacher(kind)
    s = DEFAULTS[kind]
    assert isinstance(model, BertForMaskedLM if kind == "masked-lm" else GPT2LMHeadModel)
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert len(tokenizer) == model.config.vocab_size == s.vocabulary
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (s.layers, s.width)
    assert tokenizer.model_max_length == model.config.max_position_embeddings == s.length
    log = json.loads((HERE / kind / "log.json").read_text())
    assert log["kind"] == kind and log["settings"]["steps"] == s.steps
    assert log["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_tells_the_truth_and_counting_is_beaten(kind):
    """Held-out scores of the log, and a margin over unigrams and bigrams on the same tokens."""
    model, tokenizer = load_teacher(kind)
    log = json.loads((HERE / kind / "log.json").read_text())["scores"]["test"]
    texts = held_out("test")
    part = evaluate(model, tokenizer, texts, limit=60)
    assert part.nats == pytest.approx(log["nats"], rel=0.1), "60 of the blocks"
    assert part.accuracy == pytest.approx(log["accuracy"], rel=0.15)
    training = corpus("train")
    if kind == "causal-lm":
        tokens, rows = chain(tokenizer, training, tokenizer.eos_token_id), causal_rows(tokenizer, texts)
        one, two = (score_next(f(tokens, len(tokenizer)), *rows) for f in (unigram, bigram))
    else:
        tokens, rows = chain(tokenizer, training, tokenizer.sep_token_id), masked_rows(tokenizer, texts)
        tables = unigram(tokens, len(tokenizer)), bigram(tokens, len(tokenizer))
        one, two = (score_masked(tables[0], t, *rows, tokenizer.mask_token_id) for t in (None, tables[1]))
    assert one.tokens == two.tokens == log["tokens"], "the same tokens"
    assert log["nats"] < two.nats < one.nats
    assert log["accuracy"] > two.accuracy > one.accuracy


def test_both_fit_the_repository():
    files = [p for kind in KINDS for p in (HERE / kind).glob("*")]
    assert sum(p.stat().st_size for p in files) < 20_000_000


def test_a_weight_beyond_fp16_is_refused_before_anything_is_written(bytepieces, held, tmp_path):
    model = make_model("causal-lm", bytepieces, SMALL)
    with torch.no_grad():
        model.transformer.wpe.weight[0, 0] = 1e6
    facts = {"kind": "causal-lm", "settings": {"length": 32}}
    with pytest.raises(ValueError, match=r"model: got transformer.wpe.weight"):
        release(model, bytepieces, facts, {"test": held}, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_release_leaves_the_model_as_it_was(bytepieces, held, tmp_path):
    model = make_model("causal-lm", bytepieces, SMALL).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log = {"kind": "causal-lm", "settings": asdict(SMALL)}
    scores = release(model, bytepieces, log, {"test": held}, tmp_path / "out")
    assert list(scores) == ["test"] and model.training
    assert all(torch.equal(before[n], v) and v.dtype == torch.float32 for n, v in model.state_dict().items())
    assert model.config.dtype != torch.float16


def test_the_central_table_is_whole_and_says_what_the_course_says():
    """Every arm with every seed; copied layers and a teacher beat labels only and a random start in each."""
    found = load_ingredients("masked-lm")
    settings, runs = found["settings"], found["runs"]
    assert settings["arms"] == {name: asdict(arm) for name, arm in ARMS["masked-lm"].items()}
    seeds = range(settings["seeds"])
    assert [(r["arm"], r["seed"]) for r in runs] == [(name, s) for s in seeds for name in settings["arms"]]
    nats = {(r["arm"], r["seed"]): r["cross_entropy"] for r in runs}
    assert len(seeds) >= 3 and len({r["teacher_cross_entropy"] for r in runs}) == 1
    for seed in seeds:
        full = nats["full recipe", seed]
        assert runs[0]["teacher_cross_entropy"] < full
        assert full < nats["labels only", seed] - 0.1 and full < nats["random start", seed] - 1
