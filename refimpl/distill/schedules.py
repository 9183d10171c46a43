"""Values that change while training goes on: alpha, the temperature, the weight of a loss.

A schedule is a function of progress, from 0 (start) to 1 (end), in whatever way progress is counted. Four are
fixed beforehand; `Feedback` follows what is measured. All are called the same way::

    alpha = LinearDown(1.0, 0.0)
    distillation_loss(..., alpha=alpha(step / steps), ...)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from refimpl.checks import check_number

__all__ = ["Constant", "Cosine", "Feedback", "LinearDown", "LinearUp"]


@dataclass(frozen=True)
class Constant:
    """``value``, always.

    Attributes:
        value: any finite number.

    Raises:
        TypeError, ValueError: no finite number; when called, progress outside [0, 1].
    """

    value: float

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def __call__(self, progress: float) -> float:
        """The value at ``progress``."""
        check_number("progress", progress, 0, 1)
        return float(self.value)


@dataclass(frozen=True)
class LinearUp:
    """``low + (high - low) * progress``: alpha rises, the student leans ever more on the teacher.

    Attributes:
        low: value at the start.
        high: value at the end, at least ``low``.

    Raises:
        TypeError, ValueError: no finite numbers, or falling ones; when called, progress outside [0, 1].
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_number("low", self.low)
        check_number("high", self.high, self.low)

    def __call__(self, progress: float) -> float:
        """The value at ``progress``."""
        return self.low + (self.high - self.low) * check_number("progress", progress, 0, 1)


@dataclass(frozen=True)
class LinearDown:
    """``high + (low - high) * progress``: with alpha this is teacher annealing, from the teacher to the labels.

    Attributes:
        high: value at the start.
        low: value at the end, at most ``high``.

    Raises:
        TypeError, ValueError: no finite numbers, or rising ones; when called, progress outside [0, 1].

    Source: Clark et al., ACL 2019 (arXiv 1907.04829): the target goes from the teacher's prediction to the
    gold label, linearly.
    """

    high: float = 1.0
    low: float = 0.0

    def __post_init__(self) -> None:
        check_number("high", self.high)
        check_number("low", self.low, high=self.high)

    def __call__(self, progress: float) -> float:
        """The value at ``progress``."""
        return self.high + (self.low - self.high) * check_number("progress", progress, 0, 1)


@dataclass(frozen=True)
class Cosine:
    """``end + (start - end) * (1 + cos(pi * progress)) / 2``: half a wave, level at both ends; up or down.

    Attributes:
        start: value at the start.
        end: value at the end.

    Raises:
        TypeError, ValueError: no finite numbers; when called, progress outside [0, 1].
    """

    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        check_number("start", self.start)
        check_number("end", self.end)

    def __call__(self, progress: float) -> float:
        """The value at ``progress``."""
        wave = (1 + math.cos(math.pi * check_number("progress", progress, 0, 1))) / 2
        return self.end + (self.start - self.end) * wave


class Feedback:
    """A value that follows a measured quantity: ``value <- clip(value + gain * (measured - target))``.

    For alpha, measure by how much the student lags behind the teacher on validation data (the teacher's
    accuracy minus the student's, or the student's loss minus the teacher's): while the lag is above
    ``target``, alpha rises and the teacher counts for more; once it is below, alpha falls and the labels
    take over. For the other direction, or a temperature, give another gain. Between two measurements the
    value stays, whatever the progress.

    Args:
        value: at the start, between ``low`` and ``high``.
        target: the measured quantity at which the value stays as it is.
        gain: change of the value for each unit above the target; negative turns the direction.
        low, high: the bounds that the value never leaves.

    Attributes:
        value: the value now.

    Raises:
        TypeError, ValueError: no finite numbers, bounds or a value out of order, a gain of 0.
    """

    def __init__(
        self, value: float, target: float = 0.0, gain: float = 1.0, low: float = 0.0, high: float = 1.0
    ) -> None:
        self.low = check_number("low", low)
        self.high = check_number("high", high, self.low)
        self.value = check_number("value", value, self.low, self.high)
        self.target = check_number("target", target)
        self.gain = check_number("gain", gain)
        if self.gain == 0:
            raise ValueError("gain: got 0; takes another number, or a Constant in place of Feedback")

    def __call__(self, progress: float) -> float:
        """The value now; progress does not change it."""
        check_number("progress", progress, 0, 1)
        return self.value

    def update(self, measured: float) -> float:
        """Take in one measurement and return the next value.

        Raises:
            TypeError, ValueError: no finite number; the value stays.
        """
        moved = self.value + self.gain * (check_number("measured", measured) - self.target)
        self.value = min(max(moved, self.low), self.high)
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to keep: the value (the settings are the constructor's)."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved ``state``.

        Raises:
            TypeError, ValueError: not such a state, or a value outside the bounds.
        """
        if not isinstance(state, dict) or state.keys() != {"value"}:
            raise ValueError(f"state: got {state!r}; takes what state_dict gave, {{'value': number}}")
        self.value = check_number("value", state["value"], self.low, self.high)
