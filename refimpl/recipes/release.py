"""What a finished teacher is published as: fp16 weights, tokenizer, log and model card in one folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from refimpl import models
from refimpl.checks import check_choice
from refimpl.recipes.scoring import Evaluation, evaluate

__all__ = ["KINDS", "OPTIMIZERS", "load_ingredients", "load_teacher", "release"]

KINDS = ("masked-lm", "causal-lm")
VERSIONS = ("torch", "transformers", "tokenizers", "accelerate", "safetensors")
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon (AdamW for embeddings, head and vectors)"}
HERE = Path(__file__).parent


def load_teacher(kind: str) -> tuple[PreTrainedModel, Any]:
    """A teacher of the course, trained by `refimpl.recipes.teachers`: ``(model, tokenizer)``.

    The weights are stored in fp16; the model is in fp32 and in evaluation mode.

    Args:
        kind: ``"masked-lm"``, a BERT of 12 layers, 128 wide, with an uncased WordPiece vocabulary of 4,096; or
            ``"causal-lm"``, a GPT-2 of 12 layers, 128 wide, with a byte-level BPE vocabulary of 4,096. Both
            take up to 128 tokens.

    Raises:
        ValueError: unknown kind.
        FileNotFoundError: the package was installed without the teachers' files.
    """
    return models.load(HERE / check_choice("kind", kind, KINDS), task=kind)


def load_ingredients(kind: str) -> dict[str, Any]:
    """The central table's numbers for a teacher of the course: what `refimpl.recipes.ingredients.compare` wrote.

    Raises:
        ValueError: unknown kind.
        FileNotFoundError: the package has none for that teacher.
    """
    file = HERE / check_choice("kind", kind, KINDS) / "ingredients.json"
    return json.loads(file.read_text(encoding="utf-8"))


def release(
    model: PreTrainedModel,
    tokenizer: Any,
    facts: Mapping[str, Any],
    held: Mapping[str, Sequence[str]],
    output: str | os.PathLike[str],
) -> dict[str, Evaluation]:
    """Write the folder ``output`` of a trained teacher, whole or not at all, and return its scores.

    config.json, model.safetensors in fp16, the tokenizer's files, log.json (``facts``, versions, scores) and
    README.md. The files are written to a folder beside it, read back as a reader would and scored, and then
    take the place of ``output``. ``model`` itself is left as it was.

    Args:
        model: the trained model.
        tokenizer: its tokenizer.
        facts: what the log says of the training: ``kind``, ``settings``, ``curve`` and more, as JSON.
        held: texts to score, by the name of their split.
        output: the folder.

    Raises:
        ValueError: an unknown ``kind`` in ``facts``, or a weight too large for fp16.
    """
    kind = check_choice("kind", facts.get("kind"), KINDS)
    state = {name: value.detach().half() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"model: got {name} with entries beyond fp16; takes finite weights")
    target = Path(output)
    fresh, old = target.with_name(target.name + ".new"), target.with_name(target.name + ".old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = type(model)(model.config).half()
    half.load_state_dict(state)
    half.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    again, read = models.load(fresh, task=kind)
    length = facts["settings"]["length"]
    scores = {name: evaluate(again, read, texts, length=length) for name, texts in held.items()}
    log = {
        **facts,
        "parameters": sum(p.numel() for p in model.parameters()),
        "scores": {name: {**asdict(s), "perplexity": s.perplexity} for name, s in scores.items()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    (fresh / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    (fresh / "README.md").write_text(_card(log), encoding="utf-8")
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)
    return scores


def _card(log: Mapping[str, Any]) -> str:
    s, causal = log["settings"], log["kind"] == "causal-lm"
    shape = "GPT-2" if causal else "BERT"
    seen = s["steps"] * s["batch"] * s["length"]
    masks = "" if causal else f", {100 * s['share']:.0f} % of the tokens masked, anew at each draw"
    lines = [
        "---",
        "license: apache-2.0",
        "language: en",
        "library_name: transformers",
        "---",
        f"# The course's {'causal' if causal else 'masked'} language model",
        "",
        f"A {shape}-shaped teacher for the course's case study: {s['layers']} layers, {s['width']} wide, "
        f"{s['heads']} heads, {log['parameters']:,} parameters, {s['length']} positions, a "
        f"{'byte-level BPE' if causal else 'WordPiece (uncased)'} vocabulary of {s['vocabulary']:,}.",
        "",
        "Data: docstrings of open-source Python packages (log.json lists them with their versions), "
        "the modules of the training split only; copies of held-out texts are left out.",
        "",
        f"Recipe: `python -m refimpl.recipes.teachers {log['kind']}`: {s['steps']:,} steps of {s['batch']} blocks "
        f"of {s['length']} tokens ({seen / 1e6:.1f}M), {OPTIMIZERS[s.get('optimizer', 'adamw')]}, learning rate {s['peak']:g} at its peak, then a "
        f"cosine to 0, weight decay {s['weight_decay']:g}, dropout {s['dropout']:g}"
        f"{masks}.",
        "",
    ]
    for name, score in log["scores"].items():
        bits = f", {score['bits_per_byte']:.3f} bits per byte" if score["bits_per_byte"] is not None else ""
        lines.append(
            f"- {name}: perplexity {score['perplexity']:.2f}, accuracy {score['accuracy']:.3f}{bits} "
            f"over {score['tokens']:,} predicted tokens"
        )
    lines += [
        "",
        "It knows the vocabulary of numerical Python and nothing else; it is for teaching compression.",
    ]
    return "\n".join(lines) + "\n"
