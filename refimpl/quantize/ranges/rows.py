"""What all ranges ask of their argument."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_tensor


def check_rows(x: Tensor) -> Tensor:
    """``x`` without gradient, in fp32 at least; at least one number in each row."""
    check_tensor("x", x, floating=True, finite=True)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"x: got shape {tuple(x.shape)}; takes at least one number in each row [..., n]")
    return x.detach() if x.dtype == torch.float64 else x.detach().float()
