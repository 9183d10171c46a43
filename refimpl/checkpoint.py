"""Save and load a compressed model: one safetensors file and one JSON spec, no pickle.

The spec says how to make the uncompressed model (a transformers class and configuration, or your own
factory) and lists the steps that were taken; `load` replays the steps' shapes and then fills in the
tensors. It names only classes inside refimpl and transformers: a file cannot make `load` run other code.
"""

from __future__ import annotations

import hashlib
import importlib
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

__all__ = ["CheckpointError", "Size", "load", "save", "size"]

SPEC = "refimpl.json"
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is truncated, altered, unknown, or does not fit the model."""


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
        CheckpointError: the model has state that safetensors cannot hold.
    """
    target = Path(folder)
    tensors, aliases = _tensors(model)
    payload = safetensors.torch.save(tensors, metadata={"format": "pt"})
    digest = hashlib.sha256(payload).hexdigest()
    spec: dict[str, Any] = {
        "format": FORMAT,
        "base": _base(model),
        "steps": modules.steps_of(model),
        "aliases": aliases,
        "weights": {"file": f"weights-{digest[:16]}.safetensors", "bytes": len(payload), "sha256": digest},
    }
    spec["sha256"] = _spec_digest(spec)
    try:
        text = json.dumps(spec, indent=1).encode()
    except TypeError as error:
        raise CheckpointError(f"model: got a step or configuration that is not JSON ({error})") from error
    target.mkdir(parents=True, exist_ok=True)
    _write(target / spec["weights"]["file"], payload)
    _write(target / SPEC, text)
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
    model = _build(spec["base"], factory)
    for step in spec["steps"]:
        _replay(model, step)
    _fill(model, tensors, spec["aliases"])
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


def _base(model: nn.Module) -> dict[str, Any]:
    if not isinstance(model, transformers.PreTrainedModel):
        return {"kind": "factory", "class": type(model).__qualname__}
    config = model.__dict__.get("refimpl_base", model.config)
    return {
        "kind": "transformers",
        "class": type(model).__name__,
        "config_class": type(config).__name__,
        "config": json.loads(config.to_json_string(use_diff=False)),
        "attention": model.config._attn_implementation,
    }


def _build(base: dict[str, Any], factory: Callable[[], nn.Module] | None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # random initialisation must not move the caller's generator
        if factory is not None:
            model = factory()
            if not isinstance(model, nn.Module):
                raise TypeError(
                    f"factory: got a function that returns {type(model).__name__}; takes nn.Module"
                )
            return model
        if base.get("kind") != "transformers":
            raise CheckpointError(f"factory: got None; takes a function that makes a {base.get('class')}")
        model_class = getattr(transformers, str(base["class"]), None)
        config_class = getattr(transformers, str(base["config_class"]), None)
        if not _is(model_class, transformers.PreTrainedModel) or not _is(
            config_class, transformers.PreTrainedConfig
        ):
            raise CheckpointError(f"spec: got class {base['class']!r}; takes a model class of transformers")
        config = config_class.from_dict(base["config"])  # type: ignore[union-attr]
        config._attn_implementation = base["attention"]
        return model_class(config)  # type: ignore[misc]


def _is(candidate: Any, parent: type) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, parent)


def _resolve(path: str) -> Any:
    """The object that a dotted name inside refimpl stands for."""
    parts = path.split(".")
    if parts[0] != "refimpl" or len(parts) < 3 or not all(p.isidentifier() for p in parts):
        raise CheckpointError(f"spec: got {path!r}; takes names inside refimpl")
    try:
        found = importlib.import_module(".".join(parts[:-1]))
        return getattr(found, parts[-1])
    except (ImportError, AttributeError):
        raise CheckpointError(f"spec: got {path!r}, which this version of refimpl does not have") from None


def _replay(model: nn.Module, step: dict[str, Any]) -> None:
    """Give the model the shapes that ``step`` left, without its values."""
    _resolve(f"refimpl.{step.get('method')}")
    try:
        for name in step.get("untied", ()):
            modules.untie_(model, name)
        for name, kept in step.get("keep", {}).items():
            blocks = modules.get(model, name)
            parent = modules.get(model, name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], nn.ModuleList(blocks[i] for i in kept))  # type: ignore[index]
        for name, entry in step.get("layers", {}).items():
            made = _resolve(entry["class"])
            if not hasattr(made, "rebuild"):
                raise CheckpointError(f"spec: got {entry['class']!r}; takes a class with a rebuild method")
            modules.replace_(model, name, made.rebuild(modules.get(model, name), **entry["args"]))
        for name, values in step.get("attributes", {}).items():
            module = modules.get(model, name)
            for attribute, value in values.items():
                if not isinstance(getattr(module, attribute, None), int) or not isinstance(value, int):
                    raise CheckpointError(
                        f"spec: got attribute {attribute!r} of {name!r}; takes an integer one"
                    )
                setattr(module, attribute, value)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"spec: step {step.get('method')!r} does not fit the model: {error}") from error
    if step.get("method") != "modules.untie_":  # that one has recorded itself
        modules.record_step_(model, step)


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
    own = model.state_dict(keep_vars=True)
    missing = sorted(set(own) - set(tensors) - set(aliases))
    extra = sorted((set(tensors) | set(aliases)) - set(own))
    if missing or extra:
        raise CheckpointError(
            f"weights: missing {missing[:3]}, left over {extra[:3]}; takes exactly the model's"
        )
    for alias, name in aliases.items():
        if name not in own or own[alias] is not own[name]:
            raise CheckpointError(
                f"weights: {alias!r} was tied to {name!r}; the rebuilt model does not tie them"
            )
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            got, wanted = tuple(value.shape), tuple(own[name].shape)
            raise CheckpointError(f"weights: got {name!r} of shape {got}; takes {wanted}")
    for name, value in tensors.items():
        own[name].data = value  # keeps the Parameter object, so ties hold, and takes over the saved dtype


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


def _write(path: Path, payload: bytes) -> None:
    """Write to a temporary file beside ``path``, bring it to the disk, put it in place in one step."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
