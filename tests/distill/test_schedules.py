"""Schedules: by hand at the ends and in the middle, never outside their bounds, and back from a checkpoint."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.distill import Constant, Cosine, Feedback, LinearDown, LinearUp

UNIT = st.floats(0, 1)


def test_by_hand():
    assert [Constant(0.3)(p) for p in (0, 0.5, 1)] == [0.3, 0.3, 0.3]
    assert [LinearUp(1, 3)(p) for p in (0, 0.25, 1)] == [1, 1.5, 3]
    assert [LinearDown(4, 1)(p) for p in (0, 0.5, 1)] == [4, 2.5, 1]
    assert [LinearUp()(0.2), LinearDown()(0.25)] == [0.2, 0.75]
    assert [Cosine(3, 1)(p) for p in (0, 0.5, 1)] == pytest.approx([3, 2, 1])
    assert Cosine()(1 / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2) == pytest.approx(0.75)
    assert Cosine(0, 1)(1 / 3) == pytest.approx(0.25)


@given(UNIT, UNIT)
def test_they_go_one_way_and_stay_between_their_ends(a, b):
    a, b = sorted((a, b))
    for rising in (LinearUp(0.2, 0.9), Cosine(0.2, 0.9)):
        assert 0.2 - 1e-12 <= rising(a) <= rising(b) + 1e-12 <= 0.9 + 2e-12
    for falling in (LinearDown(0.9, 0.2), Cosine(0.9, 0.2)):
        assert 0.9 + 1e-12 >= falling(a) >= falling(b) - 1e-12 >= 0.2 - 2e-12


@given(UNIT)
def test_equal_ends_are_constant(p):
    for schedule in (LinearUp(2, 2), LinearDown(2, 2), Cosine(2, 2), Constant(2)):
        assert schedule(p) == 2


def test_schedules_are_values():
    assert LinearUp(0, 1) == LinearUp() and hash(Cosine(1, 0)) == hash(Cosine())
    with pytest.raises(AttributeError):
        Constant(1).value = 2


def test_feedback_by_hand():
    """The student lags by 0.3 where 0.1 is tolerated: alpha rises by half of the 0.2 too much."""
    alpha = Feedback(0.5, target=0.1, gain=0.5)
    assert alpha(0.0) == alpha(0.9) == 0.5
    assert alpha.update(0.3) == alpha(0.2) == pytest.approx(0.6)
    assert alpha.update(0.1) == pytest.approx(0.6)
    assert alpha.update(-0.1) == pytest.approx(0.5)
    assert alpha.update(100) == 1 and alpha.update(-100) == 0
    temperature = Feedback(4, gain=-2, low=1, high=8)
    assert temperature.update(0.5) == 3 and temperature.update(-9) == 8 and temperature.update(9) == 1


@given(st.lists(st.floats(-10, 10), max_size=20), st.floats(-3, 3).filter(bool))
def test_feedback_never_leaves_its_bounds(measurements, gain):
    value = Feedback(0.4, 0.05, gain, low=0.1, high=0.9)
    for measured in measurements:
        assert 0.1 <= value.update(measured) <= 0.9


def test_a_resumed_feedback_goes_on_as_the_uninterrupted_one():
    whole, first, second = (Feedback(0.5, gain=0.3) for _ in range(3))
    for measured in (0.2, -0.4, 0.1):
        whole.update(measured)
        first.update(measured)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second(0.5) == whole(0.5) != 0.5
    assert second.update(0.7) == whole.update(0.7)


nan = math.nan


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: Constant("1"), TypeError, "value: got str"),
        (lambda: Constant(nan), ValueError, "value: got nan"),
        (lambda: LinearUp(1, 0), ValueError, r"high: got 0; takes a finite number in \[1"),
        (lambda: LinearDown(0, 1), ValueError, r"low: got 1; takes a finite number in .*, 0\]"),
        (lambda: LinearUp(nan, 1), ValueError, "low: got nan"),
        (lambda: LinearDown(nan, 1), ValueError, "high: got nan"),
        (lambda: Cosine(0, math.inf), ValueError, "end: got inf"),
        (lambda: Cosine(None), TypeError, "start: got NoneType"),
        *[
            (lambda s=s, p=p: s(p), ValueError, f"progress: got {p}")
            for s in (Constant(1), LinearUp(), LinearDown(), Cosine(), Feedback(0.5))
            for p in (-0.1, 1.1, nan)
        ],
        (lambda: Feedback(2), ValueError, "value: got 2"),
        (lambda: Feedback(0.5, low=1, high=0), ValueError, "high: got 0"),
        (lambda: Feedback(0.5, gain=0), ValueError, "gain: got 0"),
        (lambda: Feedback(0.5, target=nan), ValueError, "target: got nan"),
        (lambda: Feedback(0.5).load_state_dict({"value": 2}), ValueError, "value: got 2"),
        (lambda: Feedback(0.5).load_state_dict({}), ValueError, "state: got {}"),
        (lambda: Feedback(0.5).load_state_dict(1), ValueError, "state: got 1"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


def test_a_bad_measurement_leaves_the_value():
    alpha = Feedback(0.5)
    with pytest.raises(ValueError, match="measured: got nan"):
        alpha.update(nan)
    assert alpha(0) == 0.5
