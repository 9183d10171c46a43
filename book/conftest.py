"""nbval for this book: numbers within a tolerance, times only as words, and a longer wait for slow cells.

- Words and integers must be the same, floats within RTOL (another thread count or instruction set moves
  the last digits).
- In a cell tagged ``timing`` every number may differ: it depends on the machine. The words must still be
  the same, and what the chapter claims of such numbers is asserted in the cell itself.
- In a cell tagged ``processor`` numbers come from long training, which magnifies the last digits, or from kernels that
  PyTorch chooses by the processor. They are compared as all others on one with the instructions of the one that
  printed them (AVX-512), and within LOOSE on others.
"""

from __future__ import annotations

import math
import re
from typing import Any

RTOL, ATOL = 1e-3, 1e-6
LOOSE, UNITS, COUNTS = (
    0.1,
    30,
    3,
)  # of a number, of its last printed digit, of an integer: the largest one counts
EXPONENT = r"(?:[eE][-+]?\d+)"
FLOAT = re.compile(rf"[-+−]?(?:\d+\.\d*{EXPONENT}?|\.\d+{EXPONENT}?|\d+{EXPONENT})")
NUMBER = re.compile(rf"[-+−]?(?:\d[\d,]*\.?\d*|\.\d+){EXPONENT}?")
TEXT = (
    "text/plain",
    "text/html",
    "text/markdown",
    "text/latex",
    "application/papermill.record/text/plain",
)


def close_text(committed: str, new: str, timing: bool = False, loose: bool = False) -> bool:
    """The same words; floats within RTOL and integers equal, with ``loose`` both within LOOSE, with ``timing`` any numbers."""
    pattern = NUMBER if timing or loose else FLOAT

    def shape(text: str) -> str:
        # rules and column widths move with the numbers
        return re.sub(r"\s+", " ", re.sub(r"-{2,}", "--", pattern.sub("#", text))).strip()

    if shape(committed) != shape(new):
        return False
    if timing:
        return True
    numbers = zip(pattern.findall(committed), pattern.findall(new), strict=True)
    return all((_near if loose else _close)(_float(a), _float(b), a, b) for a, b in numbers)


def _float(text: str) -> float:
    return float(text.replace("−", "-").replace(",", ""))


def _near(a: float, b: float, text_a: str, text_b: str) -> bool:
    if FLOAT.fullmatch(text_a) is None and FLOAT.fullmatch(text_b) is None:
        return abs(a - b) <= max(COUNTS, LOOSE * abs(a))
    digits = min(len(t.partition(".")[2].partition("e")[0]) for t in (text_a, text_b))
    return abs(a - b) <= max(LOOSE * abs(a), 0.0 if "e" in text_a.lower() else UNITS * 10.0**-digits)


def _as_printed() -> bool:
    """Whether this processor has the instructions of the one that printed the outputs."""
    import torch

    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _close(a: float, b: float, text_a: str, text_b: str) -> bool:
    # a printed number is rounded: one unit of its last digit is always allowed
    digits = min(len(t.partition(".")[2].partition("e")[0]) for t in (text_a, text_b))
    unit = 0.0 if re.search("[eE]", text_a + text_b) else 1.01 * 10.0**-digits
    return math.isclose(a, b, rel_tol=RTOL, abs_tol=max(ATOL, unit))


def pytest_configure(config: Any) -> None:
    """Teach nbval's cells the comparison above."""
    if not (config.getoption("nbval", False) or config.getoption("nbval_lax", False)):
        return
    from nbval.plugin import IPyNbCell

    init, exact = IPyNbCell.__init__, IPyNbCell.compare_outputs

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.output_timeout = 120  # 5 s is hard-coded (nbval #231)

    def compare_outputs(self: Any, test: Any, ref: Any, skip_compare: Any = None) -> Any:
        tags = self.cell.metadata.get("tags", [])
        timing, loose = "timing" in tags, "processor" in tags and not _as_printed()
        for new, committed in zip(test, ref, strict=False):
            if new.output_type != committed.output_type:
                break
            pairs = (
                (new, committed, ("text",)),
                (new.get("data", {}), committed.get("data", {}), TEXT),
            )
            for got, wanted, keys in pairs:
                for key in keys:
                    a, b = wanted.get(key), got.get(key)
                    if (
                        isinstance(a, str)
                        and isinstance(b, str)
                        and close_text(self.sanitize(a), self.sanitize(b), timing, loose)
                    ):
                        got[key] = a
        return exact(self, test, ref, skip_compare)

    IPyNbCell.__init__, IPyNbCell.compare_outputs = __init__, compare_outputs
