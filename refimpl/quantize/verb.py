"""The one verb of the family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from refimpl.calibration import LayerStats
from refimpl.checks import check_choice, check_int, check_tensor
from refimpl.modules import features, linear_layers, record_step_, replace_, tied_parameters
from refimpl.quantize.layers import Int4WeightLinear, Int8DynamicLinear, Int8WeightLinear

__all__ = ["Int4Weights", "Int8Dynamic", "Int8Weights", "quantize_"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Int8Weights:
    """Keep weights as int8 and multiply by them in floating point: a quarter of the bytes, no faster.

    Attributes:
        granularity: what shares a scale: the ``"tensor"``, an output ``"channel"``, or a ``"group"`` of inputs
            of one output.
        group_size: inputs in a group; must divide the layer's inputs. Only with ``"group"``.

    Raises:
        TypeError, ValueError: an unknown granularity, a group size without groups or groups without a size.
    """

    granularity: Literal["tensor", "channel", "group"] = "channel"
    group_size: int | None = None

    def __post_init__(self) -> None:
        check_choice("granularity", self.granularity, ("tensor", "channel", "group"))
        if self.granularity == "group":
            check_int("group_size", self.group_size, 1)
        elif self.group_size is not None:
            raise ValueError(f"group_size: got {self.group_size}; takes None unless granularity is 'group'")

    def layer(self, old: nn.Module) -> nn.Module:
        """The quantized layer for ``old``."""
        return Int8WeightLinear.from_linear(old, self.granularity, self.group_size)


@dataclass(frozen=True)
class Int4Weights:
    """Keep weights as 4-bit integers, two in a byte, and multiply by them in floating point.

    Attributes:
        group_size: so many inputs of one output share an fp32 scale, which costs 32 / group_size bits a weight;
            must divide the layer's inputs.

    Raises:
        TypeError, ValueError: ``group_size`` is no integer, or below 1.
    """

    group_size: int = 32

    def __post_init__(self) -> None:
        check_int("group_size", self.group_size, 1)

    def layer(self, old: nn.Module) -> nn.Module:
        """The quantized layer for ``old``."""
        return Int4WeightLinear.from_linear(old, self.group_size)


@dataclass(frozen=True)
class Int8Dynamic:
    """Weights int8 per channel, inputs int8 per token on the fly, products on integers: smaller and faster.

    Attributes:
        symmetric: grids of the inputs without zero points: a pass less, but one bit less for one-sided inputs
            such as those behind a GELU.

    Raises:
        TypeError: ``symmetric`` is no bool.
    """

    symmetric: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.symmetric, bool):
            raise TypeError(f"symmetric: got {self.symmetric!r}; takes True or False")

    def layer(self, old: nn.Module) -> nn.Module:
        """The quantized layer for ``old``."""
        return Int8DynamicLinear.from_linear(old, self.symmetric)


def quantize_(
    model: M,
    config: Int8Weights | Int8Dynamic | Int4Weights,
    *,
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    stats: Mapping[str, LayerStats] | None = None,
) -> M:
    """Quantize linear layers of ``model`` in place as ``config`` says, record the step, return the model.

    Everything is checked and computed before anything is changed. Scales are fp32, biases and all other layers
    stay as they are. Saves and loads bit for bit with `refimpl.checkpoint`.

    Args:
        model: any module with linear layers (`torch.nn.Linear`, GPT-2's `Conv1D`).
        config: `Int8Weights`, `Int8Dynamic` or `Int4Weights`.
        layers: names or shell patterns of the layers to quantize; all when ``None``. Layers tied to others are
            passed over.
        exclude: names or patterns of layers to leave alone.
        stats: calibration by layer name, for methods that look at data; these three take ``None``.

    Raises:
        TypeError: ``config`` is none of the three, or ``model`` is no module.
        ValueError: no linear layer left, a pattern that matches nothing, weights that are not finite, a tied
            layer that was named, a group size that does not divide a layer's inputs.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes a torch.nn.Module")
    if not isinstance(config, Int8Weights | Int8Dynamic | Int4Weights):
        raise TypeError(f"config: got {type(config).__name__}; takes Int8Weights, Int8Dynamic or Int4Weights")
    if stats is not None:
        raise ValueError("stats: got calibration; these methods look at weights only and take None")
    chosen = linear_layers(model, include=layers, exclude=exclude)
    tied = {name for group in tied_parameters(model) for name in group}
    size = getattr(config, "group_size", None)
    for name, layer in chosen.items():
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(f"{name}.weight: got a reparametrised weight; takes a plain parameter")
        if f"{name}.weight" in tied:
            raise ValueError(f"layers: got {name!r}, which is tied; takes it after modules.untie_")
        check_tensor(f"{name}.weight", layer.weight, floating=True, finite=True)
        if size is not None and features(layer)[0] % size:
            raise ValueError(f"group_size: got {size} for {name}; takes a divisor of {features(layer)[0]}")
    with torch.no_grad():
        new = {name: config.layer(layer) for name, layer in chosen.items()}
    for name, layer in new.items():
        replace_(model, name, layer)
    entry: dict[str, Any] = {"args": asdict(config)}
    return record_step_(  # type: ignore[return-value]
        model,
        {
            "method": f"quantize.{type(config).__name__}",
            "config": asdict(config),
            "layers": {n: {"class": f"refimpl.quantize.{type(m).__name__}", **entry} for n, m in new.items()},
        },
    )
