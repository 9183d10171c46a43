"""Checks of the exercises on quantization: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["check_bits", "check_longest_sum", "check_qparams", "check_shifted_product"]


def check_qparams(answer: Callable[[float, float], tuple[float, int]]) -> None:
    """``answer(low, high)``: scale and zero point of unsigned 8 bits."""
    for low, high, scale, zero_point in (
        (-2.0, 10.0, 12 / 255, 42),
        (-1.0, 0.5, 1.5 / 255, 170),
        (0.0, 6.0, 6 / 255, 0),
        (-4.0, -1.0, 4 / 255, 255),
        (3.0, 9.0, 9 / 255, 0),
    ):
        got_scale, got_zero = answer(low, high)
        hint = "first widen the range until it contains 0" if low * high > 0 else "255 steps, not 256"
        assert math.isclose(float(got_scale), scale, rel_tol=1e-5), (
            f"[{low}, {high}]: got scale {float(got_scale):.5f}, not {scale:.5f}: {hint}"
        )
        assert int(got_zero) == zero_point, (
            f"[{low}, {high}]: got zero point {int(got_zero)}, not {zero_point}: it is the integer of 0.0, so low + "
            "scale · zero_point = 0"
        )
    print("ok")


def check_longest_sum(answer: Callable[[int], int]) -> None:
    """``answer(bits)``: how many products of int8 numbers (−128 … 127) a signed sum of ``bits`` bits always holds."""
    for bits in (16, 24, 32):
        wanted = (2 ** (bits - 1) - 1) // (128 * 128)
        got = int(answer(bits))
        assert got == wanted, (
            f"{bits} bits: got {got}, not {wanted}: the largest product is (−128)·(−128), the largest sum 2^(bits−1) − 1"
        )
    print("ok")


def check_bits(answer: Callable[[int, int, int], float]) -> None:
    """``answer(bits, group_size, scale_bits)``: bits a weight with one scale to a group."""
    for bits, group, scale in ((4, 32, 32), (4, 128, 16), (8, 384, 32), (3, 16, 8)):
        got, wanted = float(answer(bits, group, scale)), bits + scale / group
        assert math.isclose(got, wanted, rel_tol=1e-9), (
            f"{bits} bits, groups of {group}, scales of {scale} bits: got {got:.4f}, not {wanted:.4f}: a scale is "
            "shared by its group"
        )
    print("ok")


def check_shifted_product(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """``answer(q_x, zero_point, q_w)`` = Σ_k (q_x − z) q_w with one zero point a row."""
    draw = torch.Generator().manual_seed(0)
    q_x = torch.randint(-128, 128, (5, 16), generator=draw, dtype=torch.int8)
    q_w = torch.randint(-127, 128, (3, 16), generator=draw, dtype=torch.int8)
    zero_point = torch.randint(-128, 128, (5, 1), generator=draw, dtype=torch.int32)
    wanted = (q_x.int() - zero_point) @ q_w.int().T
    got = answer(q_x, zero_point, q_w)
    assert got.shape == wanted.shape, f"got shape {tuple(got.shape)}; takes {tuple(wanted.shape)}"
    if not torch.equal(got.long(), wanted.long()):
        plain = q_x.int() @ q_w.int().T
        hint = (
            "the zero points are missing"
            if torch.equal(got.long(), plain.long())
            else (
                "subtract z · Σ_k q_w: the sum runs over the inputs of each output; and 8 bits do not hold it"
            )
        )
        raise AssertionError(hint)
    print("ok")
