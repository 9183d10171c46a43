"""A sample is what the model is called with; running it leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Sample = torch.Tensor | Mapping[str, Any] | tuple[Any, ...]


def check_sample(model: nn.Module, sample: Any) -> int:
    """The number of positions in ``sample``, after refusing what cannot be run.

    A position is one token: every entry of the first integer tensor (``input_ids`` if the sample is a mapping
    that has it), padding included, because the model computes it too. Without an integer tensor it is one
    row of features: all sizes but the last of a 2- or 3-dimensional tensor, the first size of any other.

    Raises:
        TypeError: ``model`` is no `torch.nn.Module`; ``sample`` is no tensor, mapping or tuple.
        ValueError: no tensor in the sample, an empty one, NaN or infinity, or another device than the
        model's.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes torch.nn.Module")
    if not isinstance(sample, torch.Tensor | Mapping | tuple):
        raise TypeError(f"sample: got {type(sample).__name__}; takes a tensor, a mapping of them, or a tuple")
    tensors = tensors_in(sample)
    if not tensors or not all(t.numel() for t in tensors):
        raise ValueError("sample: got no tensor or an empty one; takes at least one position")
    if not all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point()):
        raise ValueError("sample: got NaN or infinite entries; takes finite values")
    devices = {t.device for t in [*model.parameters(), *model.buffers(), *tensors]}
    if len(devices) > 1:
        raise ValueError(f"sample: got tensors on {sorted(map(str, devices))}; takes the model's one device")
    ids = sample.get("input_ids") if isinstance(sample, Mapping) else None
    if not isinstance(ids, torch.Tensor):
        whole = [t for t in tensors if not t.is_floating_point()]
        ids = whole[0] if whole else None
    if ids is not None:
        return ids.numel()
    first = tensors[0]
    return first.numel() // first.shape[-1] if first.ndim in (2, 3) else first.shape[0] if first.ndim else 1


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Every tensor in a nest of mappings, lists and tuples, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_in(v)]
    return []


def call(model: nn.Module, sample: Sample) -> Any:
    """``model(**sample)``, ``model(*sample)`` or ``model(sample)``, by the kind of the sample."""
    if isinstance(sample, Mapping):
        return model(**sample)
    return model(*sample) if isinstance(sample, tuple) else model(sample)


@contextmanager
def at_rest(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; every module's own mode comes back after it."""
    modes = {module: module.training for model in models for module in model.modules()}
    for model in models:
        model.eval()
    try:
        with (
            torch.no_grad()
        ):  # not inference_mode: a buffer that a model makes lazily must stay trainable with
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def device_of(model: nn.Module, sample: Sample) -> torch.device:
    """Where the model runs (`check_sample` has seen to it that this is one device)."""
    return tensors_in(sample)[0].device


def synchronize(device: torch.device | None = None) -> None:
    """Wait for an accelerator's queue; a CPU has none."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize(device if device is not None and device.type == "cuda" else None)
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
