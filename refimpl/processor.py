"""What this processor has instructions for, and what to do where it has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["bf16_products", "has_bf16"]

BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # as `torch.cpu.get_capabilities` names them on x86 and ARM


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 by instructions of its own.

    Where it does not, PyTorch multiplies in plain loops: a model in bfloat16 takes five to ten times as long as in fp32.
    """
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if told:
        return any(told.get(name, False) for name in BF16)
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())  # an older PyTorch


@contextmanager
def bf16_products() -> Iterator[None]:
    """Inside it, on a CPU without bfloat16, products of bfloat16 matrices are made in fp32 and rounded once.

    That is what the instructions do (products of bfloat16 are exact in fp32, sums are kept in it), so results are those of a
    processor that has them but for the order of the sum; they take about as long as in fp32. On other processors and devices
    it does nothing.
    """
    if has_bf16():
        yield
        return
    with _Widened():
        yield


class _Widened(TorchFunctionMode):
    PRODUCTS = (torch.nn.functional.linear, torch.matmul, torch.bmm, torch.addmm, torch.Tensor.matmul)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.PRODUCTS and any(_is_bf16(some) for some in args):
            wide = [some.float() if _is_bf16(some) else some for some in args]
            named = {name: some.float() if _is_bf16(some) else some for name, some in kwargs.items()}
            return func(*wide, **named).to(torch.bfloat16)
        return func(*args, **kwargs)


def _is_bf16(some: Any) -> bool:
    return isinstance(some, torch.Tensor) and some.dtype == torch.bfloat16 and some.device.type == "cpu"
