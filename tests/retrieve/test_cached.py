"""`encode_cached`: the same as `encode`, computed once, and never anything that was altered."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from refimpl.quantize import Int8Dynamic, Int8Weights, quantize_
from refimpl.retrieve import cached, encode, encode_cached, fingerprint
from tests.retrieve.test_encode import WordTokenizer as Characters


class WordTokenizer(Characters):
    def get_vocab(self):
        return {}


TEXTS = ["abc", "a longer text", "z"]


@pytest.fixture
def calls(monkeypatch):
    """How often the encoder was really run."""
    made = []
    monkeypatch.setattr(cached, "encode", lambda *a, **o: made.append(1) or encode(*a, **o))
    return made


def test_computed_once_and_equal(tiny_bert, tmp_path, calls):
    first, second = (
        encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path / "deep" / "er") for _ in range(2)
    )
    assert len(calls) == 1
    assert torch.equal(first, second) and torch.equal(first, encode(tiny_bert, WordTokenizer(), TEXTS))
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 1


def test_what_changes_the_numbers_changes_the_name(tiny_bert, tmp_path, calls):
    def run(texts=TEXTS, **options):
        return encode_cached(tiny_bert, WordTokenizer(), texts, folder=tmp_path, **options)

    run()
    for n, change in enumerate(
        (
            lambda: run(texts=TEXTS[::-1]),
            lambda: run(texts=["abca longer text", "z", ""]),
            lambda: run(normalize=False),
            lambda: run(pooling="cls"),
            lambda: run(max_length=2),
        ),
        2,
    ):
        change()
        assert len(calls) == n
    with torch.autocast("cpu", torch.bfloat16):
        run()
    assert len(calls) == 7
    with torch.no_grad():
        next(tiny_bert.parameters()).add_(1)
    run()
    assert len(calls) == 8
    run(batch_size=1)
    assert len(calls) == 8


def test_a_generator_is_read_once_and_rules_of_a_tokenizer_count(tiny_bert, tmp_path, calls):
    found = encode_cached(tiny_bert, WordTokenizer(), (text for text in TEXTS), folder=tmp_path)
    assert torch.equal(found, encode(tiny_bert, WordTokenizer(), TEXTS))

    class Backend:
        def __init__(self, **rules):
            self.rules = rules

        def to_str(self):
            return json.dumps(self.rules)

    for rules, made in (
        ({"normalizer": "lower", "truncation": None}, 2),
        ({"normalizer": "lower", "truncation": {"max_length": 3}}, 2),
        ({"normalizer": None}, 3),
    ):
        tokenizer = WordTokenizer()
        tokenizer.backend_tokenizer = Backend(**rules)
        encode_cached(tiny_bert, tokenizer, TEXTS, folder=tmp_path)
        assert len(calls) == made


@pytest.mark.parametrize("place", [0, 60, -1])
def test_an_altered_file_is_computed_anew(tiny_bert, tmp_path, calls, place):
    first = encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    payload = bytearray(path.read_bytes())
    payload[place] ^= 1
    path.write_bytes(payload)
    for _ in range(2):
        assert torch.equal(encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path), first)
    assert len(calls) == 2
    path.write_bytes(payload[:40])
    assert torch.equal(encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path), first)
    path.write_bytes(next(iter([b""])))
    assert torch.equal(encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path), first)


def test_a_folder_that_cannot_be_written_costs_a_warning(tiny_bert, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="folder: the vectors were not kept"):
        found = encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path / "file")
    assert torch.equal(found, encode(tiny_bert, WordTokenizer(), TEXTS))


def test_where_it_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path))
    assert cached.cache_folder() == tmp_path
    monkeypatch.delenv("REFIMPL_CACHE")
    for platform, variable, folder in (
        ("linux", "XDG_CACHE_HOME", tmp_path / "refimpl"),
        ("win32", "LOCALAPPDATA", tmp_path / "refimpl"),
    ):
        monkeypatch.setattr("sys.platform", platform)
        monkeypatch.setenv(variable, str(tmp_path))
        assert cached.cache_folder() == folder
        monkeypatch.delenv(variable)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cached.cache_folder() == tmp_path / "Library" / "Caches" / "refimpl"


def test_layers_that_keep_the_same_tensors_are_told_apart(tiny_bert, tmp_path, calls, monkeypatch):
    """Bytes that are multiplied as floats, and as bytes with inputs that are rounded: the same state dictionary."""
    two = [quantize_(copy.deepcopy(tiny_bert), config) for config in (Int8Weights(), Int8Dynamic())]
    assert fingerprint(two[0], WordTokenizer()) == fingerprint(two[1], WordTokenizer())
    for _ in range(2):
        found = [encode_cached(m, WordTokenizer(), TEXTS, folder=tmp_path) for m in two]
        assert len(calls) == 2
        for vectors, model in zip(found, two, strict=True):
            assert torch.equal(vectors, encode(model, WordTokenizer(), TEXTS))
    assert not torch.equal(*found)
    monkeypatch.setattr(cached, "_code", lambda: "other code")
    encode_cached(two[0], WordTokenizer(), TEXTS, folder=tmp_path)
    assert len(calls) == 3
    encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path)
    assert len(calls) == 4
    monkeypatch.undo()


def test_an_encoder_with_hooks_is_run_each_time(tiny_bert, tmp_path, calls):
    layer = tiny_bert.encoder.layer[0].output.dense
    plain = encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path)
    handle = layer.register_forward_hook(lambda module, args, output: output * 0)
    for _ in range(2):
        assert not torch.allclose(encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path), plain)
    assert len(calls) == 3
    handle.remove()
    assert torch.equal(encode_cached(tiny_bert, WordTokenizer(), TEXTS, folder=tmp_path), plain)
