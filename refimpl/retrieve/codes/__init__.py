"""Codes of vectors: how many bytes one needs, and what of its neighbours is found again.

A `Code` encodes, decodes and scores; `search_codes` searches, and `rescore` looks again at what was found with a finer code.
"""

from refimpl.retrieve.codes.common import Code, rescore, search_codes
from refimpl.retrieve.codes.linear import LinearCode, matryoshka, principal, truncation
from refimpl.retrieve.codes.product import ProductCode
from refimpl.retrieve.codes.scalar import BinaryCode, FloatCode, Int8Code

__all__ = [
    "BinaryCode",
    "Code",
    "FloatCode",
    "Int8Code",
    "LinearCode",
    "ProductCode",
    "matryoshka",
    "principal",
    "rescore",
    "search_codes",
    "truncation",
]
