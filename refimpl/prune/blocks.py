"""How to take neurons and heads out of a block that `refimpl.blocks` has found."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from refimpl.blocks import Block
from refimpl.checks import check_tensor
from refimpl.modules import get, replace_, resized_linear, set_weight_, weight_of

__all__ = ["check_block", "keep_groups_"]


def check_block(model: nn.Module, block: Block) -> None:
    """Raise before anything is changed if a parameter of the block is not finite or not a plain one."""
    for name in block.layers:
        layer = get(model, name)
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(f"{name}.weight: got a reparametrised weight; takes a plain parameter")
        check_tensor(f"{name}.weight", layer.weight, finite=True)
        if layer.bias is not None:
            check_tensor(f"{name}.bias", layer.bias, finite=True)


def keep_groups_(model: nn.Module, block: Block, keep: torch.Tensor) -> dict[str, Any]:
    """Leave only the groups with indices ``keep`` in the block; the entries of the step to record.

    The inner layers lose rows and biases, the outer layer columns; the block's integer attributes follow.
    """
    device = weight_of(get(model, block.name)).device
    offsets = torch.arange(block.width, device=device)
    columns = (keep.to(device)[:, None] * block.width + offsets).reshape(-1)  # (K,) -> (K · width,)
    stride = block.groups * block.width
    rows = torch.cat([columns + part * stride for part in range(block.parts)])
    entries: dict[str, Any] = {}
    for name in block.inner:
        entries[name] = _take_(model, name, rows, None)
    entries[block.name] = _take_(model, block.name, None, columns)
    attributes = {
        holder: {attribute: value * len(keep) for attribute, value in values.items()}
        for holder, values in block.attributes.items()
    }
    for holder, values in attributes.items():
        for attribute, number in values.items():
            setattr(get(model, holder), attribute, number)
    return {"layers": entries, "attributes": attributes}


def _take_(
    model: nn.Module, name: str, rows: torch.Tensor | None, columns: torch.Tensor | None
) -> dict[str, Any]:
    """Replace a linear layer by the one with only these rows (and biases) or columns."""
    old = get(model, name)
    weight: torch.Tensor = weight_of(old).detach()
    bias: torch.Tensor | None = old.bias  # type: ignore[assignment]
    if rows is not None:
        weight = weight[rows]
        bias = bias.detach()[rows] if bias is not None else None
    if columns is not None:
        weight = weight[:, columns]
    sizes = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
    replace_(model, name, set_weight_(resized_linear(old, **sizes), weight, bias))
    return {"class": "refimpl.modules.Resized", "args": sizes}
