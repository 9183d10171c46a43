"""Filters in a server's own language, as far as it surely says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from refimpl.retrieve.filters import conditions

WORDS = {"$eq": "==", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
EXACT = 2**53  # below it a server's float64 tells integers apart


def expression(filter: Mapping[str, Any] | None, field: str) -> str | None:
    """Conditions joined by ``and``; "" for no filter, None where the server may read them otherwise than `compile_filter`.

    Sure are equality and ``$in`` of strings and numbers, and order of numbers; fields are identifiers, and strings plain letters without
    quotes. What null, booleans, quoting or numbers beyond 2^53 mean differs from one server to the next. Whatever
    meets the filter meets the expression; what a server finds is to be tested again, as it may take "1" for 1.

    Args:
        filter: as `Store.search` takes it, and checked.
        field: how the server writes a field, e.g. ``".{}"``.
    """
    parts = []
    for name, operator, value in conditions(filter or {}):
        left = field.format(name)
        if not (name.isidentifier() and name.isascii()):
            return None
        if operator == "$in" and value and all(sure(some) for some in value):
            parts.append("(" + " or ".join(f"{left} == {json.dumps(some)}" for some in value) + ")")
        elif operator in WORDS and sure(value) and (operator == "$eq" or not isinstance(value, str)):
            parts.append(f"{left} {WORDS[operator]} {json.dumps(value)}")
        else:
            return None
    return " and ".join(parts)


def sure(value: Any) -> bool:
    """Whether every server reads this value as Python does: plain strings, and numbers that float64 tells apart."""
    if isinstance(value, str):
        return value.isascii() and value.isprintable() and not set(value) & set("\"'\\")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < EXACT and "e" not in repr(value)
