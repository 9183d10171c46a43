"""The one verb of the family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import nn

from refimpl.calibration import LayerStats
from refimpl.prune.depth import Layers
from refimpl.prune.magnitude import Magnitude
from refimpl.prune.structured import Heads, Neurons

__all__ = ["prune_"]

M = TypeVar("M", bound=nn.Module)


def prune_(
    model: M,
    config: Magnitude | Neurons | Heads | Layers,
    *,
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    stats: Mapping[str, LayerStats] | None = None,
) -> M:
    """Prune ``model`` in place as ``config`` says, record the step, and return the model.

    Everything is checked before anything is changed. A pruned model saves and loads bit for bit with
    `refimpl.checkpoint`, and may be pruned again.

    Args:
        model: any module with linear layers (`torch.nn.Linear`, GPT-2's `Conv1D`).
        config: `Magnitude`, `Neurons`, `Heads` or `Layers`.
        layers: names or shell patterns of the layers to prune (for neurons and heads: of the layer that
            reads them, e.g. ``"encoder.layer.*.output.dense"``); all when ``None``. A layer tied to another
            is pruned only when named exactly.
        exclude: names or patterns of layers to leave alone.
        stats: calibration by layer name, for scores that look at data.

    Raises:
        TypeError: ``config`` is none of the four, or ``model`` is no module.
        ValueError: nothing to prune, a pattern that matches nothing, weights that are not finite, or what
            ``config`` asks for does not fit the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes a torch.nn.Module")
    if not isinstance(config, Magnitude | Neurons | Heads | Layers):
        raise TypeError(f"config: got {type(config).__name__}; takes Magnitude, Neurons, Heads or Layers")
    config.apply_(model, layers, exclude, stats)
    return model
