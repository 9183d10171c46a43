"""Multiply-accumulates: the work that the matrix products, convolutions and attention products ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from refimpl.measure.sample import Sample, at_rest, call, check_sample
from refimpl.measure.sizes import place_and_bytes, plain_tensors

aten = torch.ops.aten


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one run of a sample.

    Attributes:
        total: of the whole sample.
        positions: tokens in the sample, padding included.
        by_module: of each module by name, those inside it included.
        by_format: by the number format of the factors (``"float32"``, ``"int8"``).
        weight_bytes: bytes of the weights that the run read, each once; of an embedding table only the rows
            that were looked up.
    """

    total: int
    positions: int
    by_module: dict[str, int]
    by_format: dict[str, int]
    weight_bytes: int

    @property
    def per_token(self) -> float:
        """``total / positions``."""
        return self.total / self.positions


def macs(model: nn.Module, sample: Sample) -> Macs:
    """Count the multiply-accumulates of ``model`` on ``sample`` by running it once.

    Half of what `torch.utils.flop_counter.FlopCounterMode` counts (it counts a multiplication and an
    addition), with formulas added for what torch leaves out: attention on a CPU, integer products, recurrent
    layers, matrix times vector. Attention counts L·L products for each head dimension, also when a causal
    mask makes half of them useless, as torch does on every device. Not counted: what is done element by
    element (bias, activation, normalisation, softmax) and looking up embeddings, which multiplies nothing.

    Raises:
        TypeError, ValueError: as `refimpl.measure.report`.
    """
    positions = check_sample(model, sample)
    formats: Counter[str] = Counter()
    flops = FlopCounterMode(
        display=False,
        custom_mapping={op: _counting(op, f, formats) for op, f in {**flop_registry, **MISSING}.items()},
    )
    weights = _WeightReads(model)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operator for a whole layer cannot be counted
    try:
        with at_rest(model), weights, flops:
            call(model, sample)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    root = type(model).__name__
    by_module = {
        name.removeprefix(f"{root}."): sum(counts.values()) // 2
        for name, counts in flops.get_flop_counts().items()
        if name.startswith(f"{root}.")
    }
    return Macs(
        total=flops.get_total_flops() // 2,
        positions=positions,
        by_module=by_module,
        by_format=dict(formats),
        weight_bytes=weights.total(),
    )


def _counting(operator: Any, formula: Callable[..., int], formats: Counter[str]) -> Callable[..., int]:
    """``formula``, which also books what it counts under the number format of the factors."""

    def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        flops = formula(*args, out_val=out_val, **kwargs)
        if str(operator).startswith(("quantized.", "onednn.")):
            name = "int8"
        else:  # the first argument of addmm and its like is what the product is added to
            factor = args[1] if operator in (aten.addmm, aten.baddbmm, aten.addmv) else args[0]
            name = str(factor.dtype).removeprefix("torch.")
        formats[name] += flops // 2
        return flops

    count._get_raw = True  # type: ignore[attr-defined]  # FlopCounterMode then passes tensors, not shapes
    return count


def _out_times_in(x: torch.Tensor, *args: Any, out_val: torch.Tensor, **kwargs: Any) -> int:
    """x ``[..., in]`` times a weight in any packing, to ``[..., out]``."""
    return 2 * out_val.numel() * x.shape[-1]


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _matrix_vector(matrix: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(start: torch.Tensor, matrix: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _recurrent(x: torch.Tensor, w_in: torch.Tensor, w_hidden: torch.Tensor, *args: Any, **kwargs: Any) -> int:
    """One layer, one direction of an LSTM: x ``[time, batch, in]``, every step uses both weights once."""
    return 2 * x.shape[0] * x.shape[1] * (w_in.numel() + w_hidden.numel())


# What torch 2.13's registry lacks. Looked up by name, because not every build of torch has them all.
MISSING: dict[Any, Callable[..., int]] = {}
for _namespace, _names, _formula in (
    ("aten", ("_scaled_dot_product_flash_attention_for_cpu",), _attention),
    ("aten", ("_int_mm", "_weight_int8pack_mm"), _out_times_in),
    ("aten", ("mv", "dot", "vdot"), _matrix_vector),
    ("aten", ("addmv",), _added_matrix_vector),
    ("aten", ("mkldnn_rnn_layer",), _recurrent),
    (
        "quantized",
        ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16"),
        _out_times_in,
    ),
    ("onednn", ("qlinear_pointwise", "linear_dynamic_fp16"), _out_times_in),
    ("mkldnn", ("_linear_pointwise",), _out_times_in),
):
    for _name in _names:
        if hasattr(getattr(torch.ops, _namespace), _name):
            MISSING[getattr(getattr(torch.ops, _namespace), _name)] = _formula


class _WeightReads(TorchDispatchMode):
    """Sees every operator and keeps, for each weight, the most bytes of it that one operator read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        held = [*model.parameters(), *model.buffers()]
        self.sizes = dict(map(place_and_bytes, plain_tensors(held)))
        self.read: dict[int, int] = {}
        self.packed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "is_view", False):
            return result
        if func.namespace == "quantized" and isinstance(result, torch.Tensor):
            self.packed += args[0].shape[-1] * result.shape[-1]  # int8 weights inside an opaque object
        for tensor in plain_tensors([args, kwargs or {}]):
            key, _ = place_and_bytes(tensor)
            if key in self.sizes:
                part = result if func is aten.embedding.default else tensor
                size = min(part.numel() * tensor.element_size(), self.sizes[key])
                self.read[key] = max(self.read.get(key, 0), size)
        return result

    def total(self) -> int:
        return sum(self.read.values()) + self.packed
