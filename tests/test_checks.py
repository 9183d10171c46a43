"""checks: good values pass through unchanged (bad ones: tests/test_bad_input.py)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from refimpl import checks


def test_what_is_taken_comes_back():
    x = torch.ones(2, 3)
    assert checks.check_tensor("x", x, ndim=2, shape=(None, 3), floating=True, finite=True) is x
    assert checks.check_tensor("x", x, ndim=(1, 2)) is x
    assert checks.check_tensor("x", torch.tensor(float("nan"))).isnan()
    assert checks.check_number("x", 0, 0, 1) == 0.0
    assert checks.check_number("x", np.float32(1), 0, 1) == 1.0
    assert checks.check_number("x", Fraction(1, 4)) == 0.25
    assert isinstance(checks.check_number("x", 1), float)
    assert checks.check_int("x", np.int64(3), 3, 3) == 3
    assert checks.check_int("x", -5) == -5
    assert isinstance(checks.check_int("x", np.int64(3)), int)
    assert checks.check_choice("x", "a", ("a", "b")) == "a"
