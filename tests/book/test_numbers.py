"""The comparison of notebook outputs itself: it must see what matters and forgive what does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

path = Path(__file__).resolve().parents[2] / "book" / "conftest.py"
spec = importlib.util.spec_from_file_location("book_conftest", path)
comparison = importlib.util.module_from_spec(spec)
spec.loader.exec_module(comparison)


@pytest.mark.parametrize(
    ("committed", "new", "same"),
    [
        ("loss 0.68153", "loss 0.68153", True),
        ("loss 0.68153", "loss 0.68154", True),
        ("loss 0.68153", "loss 0.69153", False),
        ("recall 0.68", "recall 0.69", True),  # one unit of the last printed digit
        ("recall 0.68", "recall 0.70", False),
        ("1.000e-03", "1.0004e-03", True),
        ("1.00e-03", "1.10e-03", False),
        ("2e-11", "7e-9", True),  # rounding noise,
        ("x -0.50", "x 0.50", False),
        ("x −0.50", "x -0.50", True),
        ("12 heads", "12 heads", True),
        ("12 heads", "11 heads", False),
        ("better 0.50", "worse 0.50", False),
        ("a  0.50\n--- ---", "a 0.50\n---- --", True),
        ("a 0.50 0.60", "a 0.50", False),
    ],
)
def test_close_text(committed, new, same):
    assert comparison.close_text(committed, new) is same


@pytest.mark.parametrize(
    ("committed", "new", "same"),
    [
        ("1.85x faster, 12 ms", "2.41x faster, 9 ms", True),
        ("1.85x faster", "1.85x slower", False),
        ("1,024 queries/s", "987 queries/s", True),
        ("a 1 b 2", "a 1 b", False),
    ],
)
def test_times_are_compared_as_words(committed, new, same):
    assert comparison.close_text(committed, new, timing=True) is same


@pytest.mark.parametrize(
    ("committed", "new", "same"),
    [
        ("62.2 ± 2.2", "62.0 ± 2.5", True),
        ("62.2 ± 2.2", "62.2 ± 5.4", False),
        ("+0.3 of 10", "+0.2 of 10", True),
        ("8 of 10", "7 of 10", True),
        ("8 of 10", "3 of 10", False),
        ("loss 1.682574", "loss 1.690383", True),
        ("loss 1.682574", "loss 2.690383", False),
        ("1,024 steps", "1,000 steps", True),
        ("1,024 steps", "824 steps", False),
        ("1.00e-03", "1.05e-03", True),
        ("1.00e-03", "1.20e-03", False),
        ("better 0.50", "worse 0.50", False),
    ],
)
def test_what_hangs_on_the_processor_is_compared_loosely_on_others(committed, new, same):
    assert comparison.close_text(committed, new, loose=True) is same


def test_loosely_only_where_the_instructions_differ(monkeypatch):
    import torch

    for capability, same in (("AVX512", True), ("AVX2", False), ("DEFAULT", False)):
        monkeypatch.setattr(
            torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability
        )
        assert comparison._as_printed() is same
