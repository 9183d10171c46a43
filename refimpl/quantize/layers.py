"""Linear layers whose weights are integers: plain modules, so they copy, move, save and load like any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refimpl.modules import features, weight_of
from refimpl.quantize.granularity import Granularity, PerChannel, PerGroup, PerTensor
from refimpl.quantize.packing import pack_int4, unpack_int4
from refimpl.quantize.product import int8_linear, integer_path, pack
from refimpl.quantize.tensor import quantize_tensor

__all__ = ["Int4WeightLinear", "Int8DynamicLinear", "Int8WeightLinear"]


class QuantizedLinear(nn.Module):
    """What the three have in common: an integer ``weight``, fp32 ``scale`` and the old layer's own bias.

    The scales stay fp32 when the model is cast to half precision.
    """

    weight: Tensor
    scale: Tensor

    def __init__(
        self, old: nn.Module, weight_shape: tuple[int, ...], dtype: torch.dtype, scales: tuple[int, ...]
    ):
        super().__init__()
        self.in_features, self.out_features = features(old)
        device = weight_of(old).device
        self.register_buffer("weight", torch.zeros(weight_shape, dtype=dtype, device=device))
        self.register_buffer("scale", torch.ones(scales, device=device))
        self.bias: nn.Parameter | None = old.bias  # type: ignore[assignment]  # the same object: a tie would hold
        self.train(old.training)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        scale = self.scale
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:
            self.scale = scale.to(self.scale.device)
        return self

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, scales={tuple(self.scale.shape)}"


def _scales(old: nn.Module, granularity: str, group_size: int | None) -> tuple[int, ...]:
    in_features, out_features = features(old)
    if granularity == "tensor":
        return (1, 1)
    if granularity == "channel":
        return (out_features, 1)
    return (out_features, in_features // int(group_size or in_features))


class Int8WeightLinear(QuantizedLinear):
    """y = x Ŵᵀ + b with Ŵ = scale · weight made anew at each call: a quarter of the bytes, no faster.

    ``weight`` int8 ``[out, in]``; ``scale`` fp32 ``[1, 1]``, ``[out, 1]`` or ``[out, in / group_size]``.
    """

    @classmethod
    def rebuild(
        cls, old: nn.Module, granularity: str = "channel", group_size: int | None = None
    ) -> Int8WeightLinear:
        """An empty layer in the place of the linear layer ``old``."""
        in_features, out_features = features(old)
        return cls(old, (out_features, in_features), torch.int8, _scales(old, granularity, group_size))

    @classmethod
    def from_linear(cls, old: nn.Module, granularity: str, group_size: int | None) -> Int8WeightLinear:
        """``old`` with its weight rounded to the symmetric grid of its absolute maxima."""
        new = cls.rebuild(old, granularity, group_size)
        blocks: dict[str, Granularity] = {
            "tensor": PerTensor(),
            "channel": PerChannel(0),
            "group": PerGroup(group_size or 1),
        }
        found = quantize_tensor(weight_of(old).float(), 8, blocks[granularity])
        new.weight.copy_(found.q.reshape(new.weight.shape))
        new.scale.copy_(found.scale.reshape(new.scale.shape))
        return new

    def dequantized(self) -> Tensor:
        """Ŵ in fp32, ``[out, in]``."""
        blocks = self.weight.reshape(self.scale.shape[0], self.scale.shape[1], -1)  # (1 or out, groups, size)
        return (blocks * self.scale.unsqueeze(-1)).reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``, in the dtype of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.dequantized().to(x.dtype), bias)


class Int4WeightLinear(QuantizedLinear):
    """y = x Ŵᵀ + b with two weights in a byte and one scale for each ``group_size`` inputs of an output.

    ``weight`` uint8 ``[out, in / 2]`` as `pack_int4` makes it; ``scale`` fp32 ``[out, in / group_size]``.
    """

    @classmethod
    def rebuild(cls, old: nn.Module, group_size: int) -> Int4WeightLinear:
        """An empty layer in the place of the linear layer ``old``."""
        in_features, out_features = features(old)
        shape = (out_features, (in_features + 1) // 2)
        return cls(old, shape, torch.uint8, _scales(old, "group", group_size))

    @classmethod
    def from_linear(cls, old: nn.Module, group_size: int) -> Int4WeightLinear:
        """``old`` with its weight rounded to the symmetric grids −7 … 7 of its groups' absolute maxima."""
        new = cls.rebuild(old, group_size)
        found = quantize_tensor(weight_of(old).float(), 4, PerGroup(group_size))
        new.weight.copy_(pack_int4(found.q.reshape(new.out_features, new.in_features)))
        new.scale.copy_(found.scale.reshape(new.scale.shape))
        return new

    def dequantized(self) -> Tensor:
        """Ŵ in fp32, ``[out, in]``."""
        q = unpack_int4(self.weight, self.in_features)
        groups = q.reshape(self.out_features, self.scale.shape[1], -1)  # (out, groups, size)
        return (groups * self.scale.unsqueeze(-1)).reshape(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``, in the dtype of ``x``."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return nn.functional.linear(x, self.dequantized().to(x.dtype), bias)


class Int8DynamicLinear(QuantizedLinear):
    """y = x̂ Ŵᵀ + b, each row of x quantized when it comes in, and the product computed on integers.

    ``weight`` int8 ``[out, in]``, ``scale`` fp32 ``[out, 1]``; see `refimpl.quantize.int8_linear`. What is derived
    from the weight (its packed form, its column sums) is made at the first call, again whenever the weight has
    changed, and never saved or copied. There is no gradient through the rounding.
    """

    def __init__(self, old: nn.Module, *arguments: Any, symmetric: bool = False) -> None:
        super().__init__(old, *arguments)
        self.symmetric = symmetric
        self._derived: tuple[Any, Tensor | None, Tensor] | None = None

    @classmethod
    def rebuild(cls, old: nn.Module, symmetric: bool = False) -> Int8DynamicLinear:
        """An empty layer in the place of the linear layer ``old``."""
        in_features, out_features = features(old)
        return cls(old, (out_features, in_features), torch.int8, (out_features, 1), symmetric=symmetric)

    @classmethod
    def from_linear(cls, old: nn.Module, symmetric: bool) -> Int8DynamicLinear:
        """``old`` with its weight rounded to the symmetric grid of each output's absolute maximum."""
        new = cls.rebuild(old, symmetric)
        found = quantize_tensor(weight_of(old).float(), 8, PerChannel(0))
        new.weight.copy_(found.q)
        new.scale.copy_(found.scale.unsqueeze(1))
        return new

    def dequantized(self) -> Tensor:
        """Ŵ in fp32, ``[out, in]``."""
        return self.weight * self.scale

    def derived(self) -> tuple[Tensor | None, Tensor]:
        """The packed weight, where a product takes one, and s_o Σ_k q_w,ok ``[out]``."""
        w, s = self.weight, self.scale
        key = tuple((t.data_ptr(), 0 if t.is_inference() else t._version, t.device) for t in (w, s))
        if self._derived is None or self._derived[0] != key:
            packed = pack(w) if integer_path(w.device) == "onednn" else None
            self._derived = key, packed, w.sum(1, dtype=torch.int32) * s.squeeze(1)
        return self._derived[1], self._derived[2]

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``, in the dtype of ``x``."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x: got {x.shape[-1]} features; takes {self.in_features}")
        scale, packed, column_sum = self.scale.squeeze(1), None, None
        if not torch.compiler.is_compiling():
            packed, column_sum = self.derived()
        with torch.no_grad():
            rows = x.reshape(x.shape[:-1].numel(), self.in_features)
            y = int8_linear(rows, self.weight, scale, self.bias, self.symmetric, column_sum, packed)
        return y.reshape(*x.shape[:-1], self.out_features)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_derived": None}
