"""The two files of a checkpoint: written so that a crash loses nothing, read with every byte checked."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import nn

from refimpl import modules
from refimpl.checkpoint import rebuild
from refimpl.checkpoint.rebuild import CheckpointError
from refimpl.checks import check_module
from refimpl.files import replace_file, sync_folder

SPEC = "refimpl.json"
FORMAT = 1


@dataclass(frozen=True)
class Size:
    """Bytes of a saved model: ``total = weights + overhead``, as counted on the disk.

    ``weights`` is the raw data of all tensors; ``overhead`` the safetensors header (names, shapes,
    dtypes) and the JSON spec.
    """

    weights: int
    overhead: int

    @property
    def total(self) -> int:
        """All bytes of the folder."""
        return self.weights + self.overhead


def save(model: nn.Module, folder: str | os.PathLike[str]) -> Size:
    """Write ``model`` to ``folder`` and return the bytes written.

    The weights go to a new file named after their SHA-256; then the spec is replaced in one step. Whatever
    interrupts this, the folder holds either the old model or the new one, whole.

    Raises:
        TypeError: ``model`` is no module.
        CheckpointError: the model has state that safetensors cannot hold.
    """
    check_module("model", model)
    target = Path(folder)
    tensors, aliases = _tensors(model)
    payload = safetensors.torch.save(tensors, metadata={"format": "pt"})
    digest = hashlib.sha256(payload).hexdigest()
    spec: dict[str, Any] = {
        "format": FORMAT,
        "base": rebuild.base(model),
        "steps": modules.steps_of(model),
        "aliases": aliases,
        "weights": {"file": f"weights-{digest[:16]}.safetensors", "bytes": len(payload), "sha256": digest},
    }
    try:
        spec["sha256"] = _spec_digest(spec)
        text = json.dumps(spec, indent=1).encode()
    except TypeError as error:
        raise CheckpointError(f"model: got a step or configuration that is not JSON ({error})") from error
    target.mkdir(parents=True, exist_ok=True)
    replace_file(target / spec["weights"]["file"], payload)
    sync_folder(target)  # the spec must not reach the disk before the weights that it names
    replace_file(target / SPEC, text)
    sync_folder(target)
    for stale in target.glob("weights-*.safetensors"):
        if stale.name != spec["weights"]["file"]:
            stale.unlink()
    raw = sum(t.numel() * t.element_size() for t in tensors.values())
    return Size(weights=raw, overhead=len(payload) - raw + len(text))


def size(model: nn.Module) -> Size:
    """The bytes that `save` would write: it writes them, to a temporary folder, and counts."""
    with tempfile.TemporaryDirectory() as folder:
        return save(model, folder)


def load(
    folder: str | os.PathLike[str],
    factory: Callable[[], nn.Module] | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Rebuild the model saved in ``folder``, in evaluation mode.

    Args:
        folder: what `save` wrote.
        factory: for a model that is not from transformers: a function that makes it as it was before the
            first step (its values do not matter).
        device: where the model goes.

    Raises:
        CheckpointError: no checkpoint there; a truncated or altered file; an unknown format, class or
            step; a tensor that is missing, left over or of another shape; no ``factory`` where one is needed.
    """
    source = Path(folder)
    spec = _read_spec(source)
    tensors = _read_weights(source, spec["weights"])
    model = rebuild.build(spec["base"], factory)
    for step in spec["steps"]:
        rebuild.replay(model, step)
    rebuild.fill(model, tensors, spec["aliases"])
    if isinstance(model, transformers.PreTrainedModel) and tensors:
        model.config.dtype = model.dtype
    return model.to(device).eval()


def _tensors(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every parameter and persistent buffer once, and under which first name the others stand."""
    first: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"model: got {type(value).__name__} as state {name!r}; takes tensors only")
        if id(value) in first:
            aliases[name] = first[id(value)]
            continue
        first[id(value)] = name
        # clone: two parameters may be views of one storage, which safetensors refuses
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors, aliases


def _read_spec(folder: Path) -> dict[str, Any]:
    path = folder / SPEC
    if not path.is_file():
        raise CheckpointError(f"folder: got {folder.name!r}; takes a folder with {SPEC}")
    try:
        spec = json.loads(path.read_bytes())
        if spec["format"] != FORMAT:
            raise CheckpointError(f"spec: got format {spec['format']!r}; takes {FORMAT}")
        if spec["sha256"] != _spec_digest(spec):
            raise CheckpointError("spec: its checksum does not fit: the file was truncated or altered")
        return spec
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"spec: not readable ({error}): the file was truncated or altered") from error


def _read_weights(folder: Path, entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    path = folder / str(entry["file"])
    if path.parent != folder or not path.is_file():
        raise CheckpointError(f"weights: got no file {entry['file']!r} beside the spec")
    payload = path.read_bytes()
    if len(payload) != entry["bytes"] or hashlib.sha256(payload).hexdigest() != entry["sha256"]:
        raise CheckpointError(
            f"weights: got {len(payload)} bytes; takes {entry['bytes']} with the spec's checksum: "
            "the file was truncated or altered"
        )
    return safetensors.torch.load(payload)


def _spec_digest(spec: dict[str, Any]) -> str:
    content = {key: value for key, value in spec.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
