"""What the losses between features share: the precision, and the name of what is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

__all__ = ["at_least_fp32", "check_finite", "no_autocast"]


def at_least_fp32(t: Tensor) -> Tensor:
    """Half precision becomes fp32; fp64 stays."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def no_autocast(t: Tensor) -> AbstractContextManager[None]:
    """Inside it a matrix product is computed in the dtype of its factors, also under ``torch.autocast``."""
    return torch.autocast(t.device.type, enabled=False)


def check_finite(loss: Tensor, counted: Callable[[], Mapping[str, Tensor]], otherwise: str) -> Tensor:
    """Return a finite loss; raise for NaN or infinity, reading what was counted only then, to see whose it is."""
    if bool(torch.isfinite(loss)):
        return loss
    for name, rows in counted().items():
        bad = ~torch.isfinite(rows)
        if bool(bad.any()):
            raise ValueError(
                f"{name}: got {int(bad.sum())} entries that are NaN or infinite where they count; "
                "takes finite values"
            )
    raise ValueError(otherwise)
