"""The structure of a model as JSON, and back: base, steps, then values into the rebuilt shapes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from refimpl import modules


class CheckpointError(ValueError):
    """A checkpoint that is truncated, altered, unknown, or does not fit the model."""


def base(model: nn.Module) -> dict[str, Any]:
    """How to make the model as it was before the first step."""
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


def build(base: dict[str, Any], factory: Callable[[], nn.Module] | None) -> nn.Module:
    """The model of `base`; its values are random."""
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


def replay(model: nn.Module, step: dict[str, Any]) -> None:
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


def fill(model: nn.Module, tensors: dict[str, torch.Tensor], aliases: dict[str, str]) -> None:
    """Put ``tensors`` in, strictly: the same names, shapes and ties; the dtypes are the saved ones."""
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
