"""Depth: whole layers leave; the others move up."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from refimpl.blocks import find_stack
from refimpl.checks import check_int
from refimpl.modules import get, record_step_

__all__ = ["Layers"]


@dataclass(frozen=True)
class Layers:
    """Keep only some of a transformer's layers, in their order.

    The stack is the one `torch.nn.ModuleList` each of whose entries holds a feed-forward or attention
    block. ``config.num_hidden_layers`` and each layer's ``layer_idx`` (its place in the key-value cache)
    follow.

    Attributes:
        keep: indices that stay, ascending, without repetition, e.g. ``(0, 2, 4)``.

    Raises:
        TypeError, ValueError: nothing kept, indices that are negative or not ascending.

    Source: Sanh et al. 2019 (arXiv 1910.01108) start DistilBERT so; Fan et al. 2019 (arXiv 1909.11556).
    """

    keep: tuple[int, ...]

    def __post_init__(self) -> None:
        if isinstance(self.keep, str) or not isinstance(self.keep, Iterable):
            raise TypeError(f"keep: got {type(self.keep).__name__}; takes a sequence of layer indices")
        kept = tuple(check_int("keep", index, 0) for index in self.keep)
        if not kept or any(a >= b for a, b in itertools.pairwise(kept)):
            raise ValueError(f"keep: got {kept}; takes at least one index, ascending, none twice")
        object.__setattr__(self, "keep", kept)

    def apply_(
        self,
        model: nn.Module,
        layers: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
        stats: Mapping[str, Any] | None,
    ) -> nn.Module:
        """See `refimpl.prune.prune_`; ``layers`` and ``exclude`` are not taken."""
        if layers is not None or exclude is not None:
            raise ValueError(f"layers, exclude: got {layers!r}, {exclude!r}; Layers takes neither, but keep")
        name, stack = find_stack(model)
        check_int("keep", self.keep[-1], 0, len(stack) - 1)
        parent, _, attribute = name.rpartition(".")
        shorter = nn.ModuleList(stack[i] for i in self.keep)
        setattr(get(model, parent), attribute, shorter)
        step: dict[str, Any] = {
            "method": "prune.Layers",
            "config": {"keep": list(self.keep)},
            "keep": {name: list(self.keep)},
            "attributes": {},
        }
        for index, layer in enumerate(shorter):
            for inside, module in layer.named_modules():
                if type(getattr(module, "layer_idx", None)) is int:
                    module.layer_idx = index  # type: ignore[assignment]
                    step["attributes"][f"{name}.{index}.{inside}".rstrip(".")] = {"layer_idx": index}
        if hasattr(getattr(model, "config", None), "num_hidden_layers"):
            step["config_changes"] = {"num_hidden_layers": len(shorter)}
        return record_step_(model, step)
