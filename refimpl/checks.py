"""Checks of arguments: every message names the argument, what was got and what is taken."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["check_choice", "check_int", "check_module", "check_number", "check_tensor"]


def check_module(name: str, value: Any) -> nn.Module:
    """Return ``value`` if it is a `torch.nn.Module`; raise otherwise.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: got {type(value).__name__}; takes a torch.nn.Module")
    return value


def check_tensor(
    name: str,
    value: Any,
    *,
    ndim: int | Sequence[int] | None = None,
    shape: Sequence[int | None] | None = None,
    floating: bool = False,
    finite: bool = False,
) -> torch.Tensor:
    """Return ``value`` if it is a tensor of the wanted kind; raise otherwise.

    Args:
        name: the argument's name, for the message.
        value: what was given.
        ndim: number of dimensions taken, or several.
        shape: sizes taken; ``None`` in a place takes any size.
        floating: take floating-point tensors only.
        finite: refuse NaN and infinities (reads the whole tensor once).

    Raises:
        TypeError: not a tensor, or not floating point when ``floating``.
        ValueError: wrong number of dimensions, wrong size, NaN or infinity.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}; takes a torch.Tensor")
    if floating and not value.is_floating_point():
        raise TypeError(f"{name}: got dtype {value.dtype}; takes a floating-point tensor")
    if ndim is not None:
        allowed = (ndim,) if isinstance(ndim, int) else tuple(ndim)
        if value.ndim not in allowed:
            listed = " or ".join(map(str, allowed))
            raise ValueError(f"{name}: got {value.ndim} dimensions {tuple(value.shape)}; takes {listed}")
    if shape is not None:
        same = len(shape) == value.ndim and all(
            w is None or w == g for w, g in zip(shape, value.shape, strict=True)
        )
        if not same:
            wanted = tuple("any" if w is None else w for w in shape)
            raise ValueError(f"{name}: got shape {tuple(value.shape)}; takes {wanted}")
    if finite and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: got NaN or infinite entries; takes finite values")
    return value


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Return ``value`` as a float if it is a finite real number in the interval; raise otherwise.

    Raises:
        TypeError: not a real number (booleans are refused).
        ValueError: NaN, infinite, or outside ``[low, high]`` (an end marked open is itself refused).
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {type(value).__name__}; takes a real number")
    number = float(value)
    below = number <= low if low_open else number < low
    above = number >= high if high_open else number > high
    if not math.isfinite(number) or below or above:
        left = "(" if low_open or low == -math.inf else "["
        right = ")" if high_open or high == math.inf else "]"
        raise ValueError(f"{name}: got {value}; takes a finite number in {left}{low:g}, {high:g}{right}")
    return number


def check_int(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return ``value`` as an int if it is an integer in ``[low, high]``; raise otherwise.

    Raises:
        TypeError: not an integer (booleans and floats are refused).
        ValueError: outside the interval.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}); takes an integer")
    number = int(value)
    if (low is not None and number < low) or (high is not None and number > high):
        left = "-inf" if low is None else str(low)
        right = "inf" if high is None else str(high)
        raise ValueError(f"{name}: got {number}; takes an integer from {left} to {right}")
    return number


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``; raise otherwise.

    Raises:
        ValueError: not one of ``choices``, which the message lists.
    """
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name}: got {value!r}; takes one of {listed}")
    return value
