"""What a filter means, by hand."""

from __future__ import annotations

import pytest

from refimpl.retrieve.filters import compile_filter

ROW = {"lang": "en", "year": 2020, "draft": True, "rate": 0.5, "none": None, "list": [1]}


@pytest.mark.parametrize(
    ("filter", "holds"),
    [
        ({"lang": "en"}, True),
        ({"lang": "de"}, False),
        ({"lang": "en", "year": 2020}, True),
        ({"lang": "en", "year": 2021}, False),
        ({"year": 2020.0}, True),
        ({"year": "2020"}, False),
        ({"draft": True}, True),
        ({"draft": 1}, False),
        ({"year": {"$eq": 2020}}, True),
        ({"year": {"$ne": 2020}}, False),
        ({"year": {"$ne": 2021}}, True),
        ({"year": {"$ne": "2020"}}, True),
        ({"missing": {"$ne": 1}}, False),
        ({"missing": None}, False),
        ({"none": None}, True),
        ({"year": {"$gte": 2020}}, True),
        ({"year": {"$gte": 2021}}, False),
        ({"year": {"$gt": 2020}}, False),
        ({"year": {"$gt": 2019}}, True),
        ({"year": {"$lte": 2020}}, True),
        ({"year": {"$lte": 2019}}, False),
        ({"year": {"$lt": 2020}}, False),
        ({"year": {"$lt": 2021}}, True),
        ({"year": {"$gte": 2019, "$lt": 2021}}, True),
        ({"year": {"$gte": 2019, "$lt": 2020}}, False),
        ({"year": {"$gte": "2019"}}, False),
        ({"lang": {"$gte": "ea", "$lt": "eo"}}, True),
        ({"lang": {"$gt": 1}}, False),
        ({"draft": {"$gte": 0}}, False),
        ({"list": {"$gte": 0}}, False),
        ({"lang": {"$in": ["de", "en"]}}, True),
        ({"lang": {"$in": ("de", "fr")}}, False),
        ({"lang": {"$in": []}}, False),
        ({"draft": {"$in": {1, 2}}}, False),
        ({"none": {"$in": [None]}}, True),
    ],
)
def test_by_hand(filter, holds):
    assert compile_filter(filter)(ROW) is holds


@pytest.mark.parametrize(
    ("filter", "exception", "message"),
    [
        ("lang", TypeError, "filter: got 'lang'"),
        ({1: 2}, TypeError, "filter: got {1: 2}"),
        ({}, ValueError, "filter: got no condition"),
        ({"year": {}}, ValueError, "got no operator for 'year'; takes \\$eq, \\$ne, \\$in, \\$gt"),
        ({"year": {"gte": 1}}, ValueError, "got operator 'gte'"),
        ({"year": {"$gte": None}}, TypeError, "takes a number or a string"),
        ({"year": {"$gte": True}}, TypeError, "takes a number or a string"),
        ({"year": {"$in": "ab"}}, TypeError, "\\$in; takes a list"),
        ({"year": {"$in": [[1]]}}, TypeError, "got \\[1\\]"),
        ({"year": [1, 2]}, TypeError, "got \\[1, 2\\]"),
    ],
)
def test_bad_input(filter, exception, message):
    with pytest.raises(exception, match=message):
        compile_filter(filter)
