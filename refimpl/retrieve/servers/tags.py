"""Metadata and filters for RediSearch, which has to be told the fields of a schema, while rows may have any metadata.

So equality goes by tags, one for each field and value and one for the field alone, which says that it is there: hashes, so that nothing needs
quoting. Order goes by a numeric field for each name. What is left to the rows themselves is the order of strings.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Mapping
from typing import Any

from refimpl.retrieve.filters import ORDER, Scalar, conditions, kind_of
from refimpl.retrieve.rows import Metadata
from refimpl.retrieve.servers.language import sure

EVERY = "all"  # the tag that every row has


def fields(metadata: Metadata) -> dict[str, str]:
    """What is written beside a row's vector: ``tags``, and a number as `number_field` names it."""
    tags, found = [EVERY], {}
    for field, value in metadata.items():
        tags.append(_token(field))
        if isinstance(value, Scalar):
            tags.append(_tag(field, value))
        if kind_of(value) == "number":
            found[number_field(field)] = repr(_float(value))
    return {"tags": ",".join(tags), **found}


def numbers(metadata: Collection[Metadata]) -> set[str]:
    """The numeric fields of these rows."""
    return {
        number_field(field) for row in metadata for field, value in row.items() if kind_of(value) == "number"
    }


def number_field(field: str) -> str:
    """The name, in the schema, of a field of the metadata."""
    return f"n{_token(field)}"


def every_row(words: Any) -> Any:
    """A condition that all rows meet, in the words of ``redisvl.query.filter``."""
    return words.Tag("tags") == EVERY


def condition(filter: Mapping[str, Any], known: Collection[str], words: Any) -> Any:
    """A filter in the words of ``redisvl.query.filter``; None where they may not say the same as `compile_filter`.

    Args:
        filter: as `Store.search` takes it, and checked.
        known: the numeric fields that the schema has.
        words: the module.
    """
    found = every_row(words)
    for field, operator, value in conditions(filter):
        tags = words.Tag("tags")
        if operator in ORDER:
            if kind_of(value) != "number" or not sure(value) or number_field(field) not in known:
                return None
            found &= ORDER[operator](words.Num(number_field(field)), value)
        elif operator == "$ne":
            found &= (tags == _token(field)) & (words.Tag("tags") != _tag(field, value))
        else:
            some = list(value) if operator == "$in" else [value]
            if not some:
                return None
            found &= tags == [_tag(field, one) for one in some]
    return found


def _tag(field: str, value: Any) -> str:
    """The same for values that are equal in a filter, 1 and 1.0, and for no others: not for 1, "1" and True."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return _token([field, kind_of(value), value])


def _token(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer that float64 cannot hold: its order with those that it can
        return sys.float_info.max if value > 0 else -sys.float_info.max
