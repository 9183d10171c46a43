"""Embeddings that are computed once on a machine and read back, checked, every later time."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import refimpl
from refimpl.checks import check_choice
from refimpl.files import replace_file
from refimpl.retrieve.encode import POOLINGS, encode, fingerprint

__all__ = ["encode_cached"]


def encode_cached(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    folder: str | os.PathLike[str] | None = None,
    pooling: str = "mean",
    batch_size: int = 32,
    max_length: int = 128,
    normalize: bool = True,
) -> Tensor:
    """`encode`, or what an earlier call with the same encoder, texts and options computed.

    One file for each, named by the SHA-256 over the encoder's `fingerprint`, the options, the texts in their order and autocast; for
    an encoder with layers of `refimpl`, over these and the package's code too, as two layers may keep the same tensors and compute
    differently. One with hooks is run each time: nobody knows what they do. A
    file is only taken if the SHA-256 of its numbers is the one it was written with; else it is computed anew and replaced, in one step. The
    batch size and the number of threads move the last bits only, and are not part of the name.

    Args:
        model, tokenizer, texts, pooling, batch_size, max_length, normalize: as `encode`.
        folder: where the files are; ``None`` takes the environment variable ``REFIMPL_CACHE``, else ``refimpl`` in the user's
            folder for caches. A folder that cannot be written is a warning: the vectors are returned all the same.

    Returns:
        ``[len(texts), D]``, fp32, on the CPU.

    Raises:
        TypeError, ValueError: as `encode`.
    """
    check_choice("pooling", pooling, POOLINGS)
    texts = texts if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("texts: got something that is no list of strings; takes a list of them")
    place = Path(folder) if folder is not None else cache_folder()
    encoder = fingerprint(model, tokenizer, pooling=pooling, max_length=max_length)
    options = [encoder, _rules(tokenizer), bool(normalize), _autocast(model), *_own_layers(model)]
    key = _key(options, texts)
    path = place / f"vectors-{key[:32]}.safetensors"
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    found = None if hooked else _read(path, key)
    if found is None:
        found = encode(
            model,
            tokenizer,
            texts,
            pooling=pooling,
            batch_size=batch_size,
            max_length=max_length,
            normalize=normalize,
        )
        if hooked:
            return found
        try:
            place.mkdir(parents=True, exist_ok=True)
            replace_file(path, _payload(found, key))
        except OSError as error:
            warnings.warn(f"folder: the vectors were not kept ({error})", stacklevel=2)
    return found


def cache_folder() -> Path:
    """``REFIMPL_CACHE``, else ``refimpl`` where the system keeps a user's caches."""
    if given := os.environ.get("REFIMPL_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "refimpl"


def _rules(tokenizer: Any) -> str:
    """What a tokenizer does before it looks into its vocabulary, such as lower-casing; not where it cuts texts off."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else json.loads(backend.to_str())
    kept = {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _autocast(model: nn.Module) -> str | None:
    """The precision in which the model runs now, if not its own."""
    device = next((p.device.type for p in model.parameters()), "cpu")
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None


def _own_layers(model: nn.Module) -> list[Any]:
    """What its layers of this package are, and a checksum of their code; nothing for a model without any."""
    found = [
        [name, type(module).__qualname__, module.extra_repr()]
        for name, module in model.named_modules()
        if type(module).__module__.partition(".")[0] == refimpl.__name__
    ]
    return [found, _code()] if found else []


@cache
def _code() -> str:
    root = Path(refimpl.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _key(options: list[Any], texts: list[str]) -> str:
    digest = hashlib.sha256(json.dumps([*options, len(texts)]).encode())
    for text in texts:  # each hashed by itself: no two lists of texts have the same bytes
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def _digest(vectors: Tensor) -> str:
    return hashlib.sha256(vectors.contiguous().numpy().tobytes()).hexdigest()


def _payload(vectors: Tensor, key: str) -> bytes:
    return safetensors.torch.save(
        {"vectors": vectors.contiguous()}, metadata={"key": key, "sha256": _digest(vectors)}
    )


def _read(path: Path, key: str) -> Tensor | None:
    """The file's vectors; None when there is no file or it is not what was written."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata, vectors = file.metadata() or {}, file.get_tensor("vectors")
    except (OSError, safetensors.SafetensorError):
        return None
    return vectors if metadata == {"key": key, "sha256": _digest(vectors)} else None
