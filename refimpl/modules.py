"""Walk, read and replace the layers of a model; keep tied weights tied; remember what was done.

Everything here sees `torch.nn.Linear` and GPT-2's `Conv1D` alike: a weight is always ``[out, in]``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from refimpl.checks import check_int, check_module, check_tensor

__all__ = [
    "Resized",
    "features",
    "get",
    "is_linear",
    "linear_layers",
    "parameters_once",
    "record_step_",
    "replace_",
    "resized_linear",
    "set_weight_",
    "steps_of",
    "tied_parameters",
    "untie_",
    "weight_of",
]


def is_linear(module: nn.Module) -> bool:
    """Whether ``module`` computes y = x Wᵀ + b: a `torch.nn.Linear` or a GPT-2 `Conv1D`."""
    return isinstance(module, nn.Linear | Conv1D)


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The layer's weight as ``[out, in]``; for `Conv1D`, which stores ``[in, out]``, a transposed view.

    Raises:
        TypeError: ``layer`` is neither a `torch.nn.Linear` nor a `Conv1D`.
    """
    if not is_linear(layer):
        raise TypeError(f"layer: got {type(layer).__name__}; takes torch.nn.Linear or transformers' Conv1D")
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    return weight.T if isinstance(layer, Conv1D) else weight


def features(layer: nn.Module) -> tuple[int, int]:
    """``(in_features, out_features)`` of a linear layer.

    Raises:
        TypeError: ``layer`` is neither a `torch.nn.Linear` nor a `Conv1D`.
    """
    out_features, in_features = weight_of(layer).shape
    return in_features, out_features


@torch.no_grad()
def set_weight_(layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor | None = None) -> nn.Module:
    """Copy ``weight`` ``[out, in]`` (and ``bias`` ``[out]``, if given) into a linear layer, in its dtype.

    Raises:
        TypeError: not a linear layer, or not floating-point tensors.
        ValueError: another shape than the layer's, NaN or infinity, or a bias for a layer without one.
    """
    target = weight_of(layer)
    check_tensor("weight", weight, shape=target.shape, floating=True, finite=True)
    if bias is not None:
        if layer.bias is None:
            raise ValueError("bias: got a tensor; this layer has no bias and takes None")
        check_tensor("bias", bias, shape=(target.shape[0],), floating=True, finite=True)
        layer.bias.copy_(bias)  # type: ignore[operator]
    target.copy_(weight)
    return layer


def resized_linear(layer: nn.Module, in_features: int, out_features: int) -> nn.Module:
    """A new layer of the same kind, dtype and device with other sizes; its values are not set.

    Raises:
        TypeError: not a linear layer.
        ValueError: a size below 1.
    """
    weight = weight_of(layer)
    check_int("in_features", in_features, 1)
    check_int("out_features", out_features, 1)
    if isinstance(layer, Conv1D):
        new: nn.Module = Conv1D(out_features, in_features)
    else:
        new = nn.Linear(in_features, out_features, bias=layer.bias is not None)
    new.requires_grad_(weight.requires_grad)
    return new.to(device=weight.device, dtype=weight.dtype).train(layer.training)


class Resized:
    """How a checkpoint rebuilds an ordinary linear layer whose sizes were changed."""

    @classmethod
    def rebuild(cls, old: nn.Module, in_features: int, out_features: int) -> nn.Module:
        """See `resized_linear`."""
        return resized_linear(old, in_features, out_features)


def get(model: nn.Module, name: str) -> nn.Module:
    """The submodule called ``name`` (``""`` is the model itself).

    Raises:
        KeyError: there is no such submodule; the message lists names that are close.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        tail = name.rsplit(".", 1)[-1]
        near = [n for n, _ in model.named_modules() if n.rsplit(".", 1)[-1] == tail][:3]
        hint = f", for example {near}" if near else ""
        raise KeyError(f"name: got {name!r}; takes the name of a submodule{hint}") from None


def replace_(model: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put ``new`` in the place of submodule ``name``, wherever that same module object is used.

    Raises:
        KeyError: there is no such submodule.
        TypeError: ``new`` is no module.
        ValueError: ``name`` is empty: the model itself cannot be replaced in place.
    """
    check_module("new", new)
    if not name:
        raise ValueError("name: got ''; takes the name of a submodule, not the model itself")
    old = get(model, name)
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new
    return model


def linear_layers(
    model: nn.Module,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    tied: bool = False,
) -> dict[str, nn.Module]:
    """The linear layers of ``model`` by name, in the model's order.

    Args:
        model: any module.
        include: names or shell patterns (``"encoder.layer.*.output.dense"``) to take; all when ``None``.
        exclude: names or shell patterns to leave out.
        tied: also take layers whose weight another module uses too (an output layer tied to the
            embedding). Otherwise such a layer is taken only when ``include`` gives its exact name.

    Raises:
        ValueError: a pattern that matches no linear layer, or nothing left.
    """
    shared = {name for group in tied_parameters(model) for name in group}
    every = {name: m for name, m in model.named_modules() if is_linear(m)}
    wanted = _patterns("include", include, every)
    unwanted = _patterns("exclude", exclude, every)
    chosen = {}
    for name, layer in every.items():
        if include is not None and not any(fnmatchcase(name, p) for p in wanted):
            continue
        if any(fnmatchcase(name, p) for p in unwanted):
            continue
        if f"{name}.weight" in shared and not tied and name not in wanted:
            continue
        chosen[name] = layer
    if not chosen:
        raise ValueError(
            f"model: got {type(model).__name__} with include={include!r}, exclude={exclude!r}; "
            "takes a choice that leaves at least one linear layer"
        )
    return chosen


def _patterns(argument: str, given: str | Iterable[str] | None, names: Iterable[str]) -> list[str]:
    patterns = [] if given is None else [given] if isinstance(given, str) else list(given)
    names = list(names)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{argument}: got {type(pattern).__name__}; takes names or patterns (str)")
        if not any(fnmatchcase(n, pattern) for n in names):
            raise ValueError(
                f"{argument}: got {pattern!r}, which matches nothing; takes a pattern for {names[:4]} ..."
            )
    return patterns


def tied_parameters(model: nn.Module) -> list[list[str]]:
    """Groups of parameter names that are one and the same parameter, in the model's order.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module("model", model)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def parameters_once(model: nn.Module) -> int:
    """Number of parameters, each tied one counted once.

    Raises:
        TypeError: ``model`` is no module.
    """
    check_module("model", model)
    return sum(p.numel() for p in model.parameters())


def untie_(model: nn.Module, name: str) -> nn.Module:
    """Give the parameter ``name`` its own copy, so that it is no longer tied to others.

    The model's configuration, if it has one, is told (``tie_word_embeddings = False``), or the next
    call of ``tie_weights`` would tie it again.

    Raises:
        ValueError: ``name`` is not one of `tied_parameters`.
    """
    groups = tied_parameters(model)
    if not any(name in group for group in groups):
        raise ValueError(f"name: got {name!r}; takes one of the tied parameters {groups}")
    owner_name, _, leaf = name.rpartition(".")
    owner = get(model, owner_name)
    parameter = getattr(owner, leaf)
    setattr(owner, leaf, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    step: dict[str, Any] = {"method": "modules.untie_", "untied": [name]}
    if getattr(getattr(model, "config", None), "tie_word_embeddings", False):
        step["config_changes"] = {"tie_word_embeddings": False}
    return record_step_(model, step)


def record_step_(model: nn.Module, step: dict[str, Any]) -> nn.Module:
    """Append ``step`` to the model's history, from which `refimpl.checkpoint` rebuilds it.

    Keys of a step, all JSON: ``method`` (``"prune.Heads"``, a name inside refimpl), ``config``, and, as
    needed, in the order in which a checkpoint replays them: ``untied`` (parameter names), ``keep``
    (``{"encoder.layer": [0, 2, 4]}``: which entries of a ModuleList stay), ``layers`` (``{name: {"class":
    "refimpl....", "args": {...}}}``), ``attributes`` (``{module name: {attribute: int}}``), and
    ``config_changes``, which this function itself writes to ``model.config``.

    Raises:
        TypeError: ``model`` is no module, or ``step`` no dictionary with a ``method``.
    """
    check_module("model", model)
    if not isinstance(step, dict) or not isinstance(step.get("method"), str):
        raise TypeError(f"step: got {step!r}; takes a dictionary with a method")
    if "refimpl_base" not in model.__dict__ and hasattr(model, "config"):
        # the configuration before the first change: from it the checkpoint starts to replay
        model.__dict__["refimpl_base"] = copy.deepcopy(model.config)
    model.__dict__.setdefault("refimpl_steps", []).append(copy.deepcopy(step))
    for key, value in step.get("config_changes", {}).items():
        setattr(model.config, key, value)
    return model


def steps_of(model: nn.Module) -> list[dict[str, Any]]:
    """A copy of the steps recorded for ``model``, oldest first."""
    return copy.deepcopy(model.__dict__.get("refimpl_steps", []))
