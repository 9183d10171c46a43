"""Linear layers stored as values and a bitmask, so that zeros leave the disk."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from refimpl.checks import check_tensor
from refimpl.modules import linear_layers, record_step_, replace_, tied_parameters, weight_of
from refimpl.prune.storage import bitmask_bytes, decode_bitmask, dense_bytes, encode_bitmask

__all__ = ["Bitmask", "BitmaskLinear", "compress_storage_"]

M = TypeVar("M", bound=nn.Module)


class BitmaskLinear(nn.Module):
    """y = x Wᵀ + b, with W ``[out, in]`` kept as its entries that are not zero and one bit for each entry.

    The state is ``values`` [nnz] and ``bits`` [⌈out · in / 8⌉]: `bitmask_bytes` bytes. The dense matrix is
    made from them at the first call after they change and stays in memory beside them, so the layer is
    smaller on disk and neither smaller in memory nor faster. It is for inference: ``values`` is a buffer.
    """

    def __init__(self, in_features: int, out_features: int, values: torch.Tensor, bits: torch.Tensor) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias: nn.Parameter | None
        self.values: torch.Tensor
        self.bits: torch.Tensor
        self.register_buffer("values", values)
        self.register_buffer("bits", bits)
        self.register_parameter("bias", None)
        self._dense: tuple[torch.Tensor, int, torch.Tensor] | None = None  # alias of values, version, W

    @classmethod
    def from_linear(cls, layer: nn.Module) -> BitmaskLinear:
        """The same function as ``layer``, a `torch.nn.Linear` or `Conv1D`.

        Raises:
            TypeError, ValueError: not a linear layer, or weights that are not finite.
        """
        weight = weight_of(layer)
        encoded = encode_bitmask(weight)
        new = cls(weight.shape[1], weight.shape[0], encoded["values"], encoded["bits"])
        new.bias = copy.deepcopy(layer.bias)  # type: ignore[assignment]
        return new.train(layer.training)

    @classmethod
    def rebuild(cls, old: nn.Module, nnz: int) -> BitmaskLinear:
        """An empty layer for ``nnz`` entries in the place of ``old``."""
        weight = weight_of(old)
        bits = torch.zeros(-(-weight.numel() // 8), dtype=torch.uint8, device=weight.device)
        new = cls(weight.shape[1], weight.shape[0], weight.new_zeros(nnz, requires_grad=False), bits)
        new.bias = old.bias  # type: ignore[assignment]
        return new.train(old.training)

    @property
    def weight(self) -> torch.Tensor:
        """The dense matrix ``[out, in]``."""
        values = self.values.detach()
        version = 0 if values.is_inference() else values._version
        # the alias keeps the old memory from being reused, so another address means other values
        if (
            self._dense is None
            or self._dense[0].data_ptr() != values.data_ptr()
            or self._dense[0].dtype != values.dtype
            or self._dense[1] != version
        ):
            encoded = {"values": values, "bits": self.bits}
            self._dense = (values, version, decode_bitmask(encoded, (self.out_features, self.in_features)))
        return self._dense[2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., in] -> [..., out]``."""
        return nn.functional.linear(x, self.weight, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dense": None}  # copies and pickles do without the dense matrix

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, nnz={self.values.numel()}"


@dataclass(frozen=True)
class Bitmask:
    """Store linear layers as values and bitmask wherever that takes fewer bytes than dense."""


def compress_storage_(
    model: M,
    config: Bitmask,
    *,
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> M:
    """Give pruned layers a storage that does not keep their zeros; the function stays bit for bit.

    Layers with too few zeros to gain (density at or above `break_even_density`) are left as they are.
    After this the changed layers are no longer seen as linear layers: prune and train before it.

    Args:
        model: any module with linear layers.
        config: `Bitmask`.
        layers, exclude: names or patterns, as in `prune_`.

    Raises:
        TypeError: ``config`` is not `Bitmask`.
        ValueError: no linear layer, a pattern that matches nothing, weights that are not finite, a layer
            whose weight is tied to another, or no layer that would become smaller.
    """
    if not isinstance(config, Bitmask):
        raise TypeError(f"config: got {type(config).__name__}; takes Bitmask")
    chosen = {}
    tied = {name for group in tied_parameters(model) for name in group}
    for name, layer in linear_layers(model, include=layers, exclude=exclude).items():
        weight = weight_of(layer)
        if f"{name}.weight" in tied:
            raise ValueError(f"layers: got {name!r}, which is tied; takes it after modules.untie_")
        check_tensor(f"{name}.weight", weight, floating=True, finite=True)
        nnz, size = int((weight != 0).sum()), weight.element_size()
        if bitmask_bytes(weight.shape, nnz, size) < dense_bytes(weight.shape, size):
            chosen[name] = layer
    if not chosen:
        raise ValueError("model: got no linear layer with enough zeros to gain; takes a pruned model")
    entries = {}
    for name, layer in chosen.items():
        new = BitmaskLinear.from_linear(layer)
        replace_(model, name, new)
        entries[name] = {"class": "refimpl.prune.BitmaskLinear", "args": {"nnz": new.values.numel()}}
    return record_step_(model, {"method": "prune.Bitmask", "config": {}, "layers": entries})  # type: ignore[return-value]
