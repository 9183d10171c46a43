"""The one form in which every store takes a filter, and what it means."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from refimpl.retrieve.rows import Metadata

Scalar = str | int | float | bool | None
ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
OPERATORS = ("$eq", "$ne", "$in", *ORDER)


def compile_filter(filter: Any) -> Callable[[Metadata], bool]:
    """A test of one row's metadata for ``{"lang": "en", "year": {"$gte": 2020, "$lt": 2024}}``.

    All conditions must hold. A plain value means equality. ``$ne``, like every other operator, is false
    where the field is missing; an order between a string and a number is false; ``True`` is not 1.

    Raises:
        TypeError: not a dictionary with string keys, or a value of a wrong type.
        ValueError: no conditions, or an unknown operator, which lists the known ones.
    """
    if not isinstance(filter, Mapping) or not all(isinstance(field, str) for field in filter):
        raise TypeError(f"filter: got {filter!r}; takes a dictionary from field names to conditions")
    if not filter:
        raise ValueError("filter: got no condition; takes at least one, or None")
    for field, condition in filter.items():
        if isinstance(condition, Mapping) and not condition:
            raise ValueError(f"filter: got no operator for {field!r}; takes {', '.join(OPERATORS)}")
    tests = conditions(filter)
    for field, name, value in tests:
        _check(field, name, value)
    return lambda row: all(field in row and _holds(name, row[field], value) for field, name, value in tests)


def conditions(filter: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Field, operator and value of each condition; they hold together."""
    return [
        (field, name, value)
        for field, condition in filter.items()
        for name, value in (condition if isinstance(condition, Mapping) else {"$eq": condition}).items()
    ]


def _check(field: str, name: str, value: Any) -> None:
    if name not in OPERATORS:
        raise ValueError(f"filter: got operator {name!r} for {field!r}; takes {', '.join(OPERATORS)}")
    if name == "$in":
        if not isinstance(value, list | tuple | set | frozenset):
            raise TypeError(f"filter: got {type(value).__name__} for {field!r} $in; takes a list")
        for item in value:
            _check(field, "$eq", item)
    elif name in ORDER:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError(f"filter: got {value!r} for {field!r} {name}; takes a number or a string")
    elif not isinstance(value, Scalar):
        raise TypeError(f"filter: got {value!r} for {field!r}; takes a string, number, boolean or None")


def _holds(name: str, got: Any, wanted: Any) -> bool:
    if name == "$eq":
        return _equal(got, wanted)
    if name == "$ne":
        return not _equal(got, wanted)
    if name == "$in":
        return any(_equal(got, item) for item in wanted)
    return kind_of(got) == kind_of(wanted) and ORDER[name](got, wanted)


def _equal(a: Any, b: Any) -> bool:
    return kind_of(a) == kind_of(b) and a == b


def kind_of(value: Any) -> str:
    """Values of different kinds are never equal, and have no order."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__
