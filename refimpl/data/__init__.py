"""Data that every machine has, and a loader for what the Hub has.

`docs` reads the docstrings of installed packages, `text` makes tasks of them, `passages` cuts them up, `code` puts
the source of functions beside theirs, `digits` loads scikit-learn's images, `hub` loads GLUE, WikiText and the like
by name or from a folder, `batches` turns texts into padded batches.
"""

from refimpl.data.batches import batches
from refimpl.data.code import Function, functions
from refimpl.data.digits import Digits, digits
from refimpl.data.docs import LIBRARIES, SPLITS, Doc, docstrings, split_of, topics
from refimpl.data.hub import load_table
from refimpl.data.passages import Passage, passages
from refimpl.data.text import Example, Pair, classification, corpus, retrieval_pairs

__all__ = [
    "LIBRARIES",
    "SPLITS",
    "Digits",
    "Doc",
    "Example",
    "Function",
    "Pair",
    "Passage",
    "batches",
    "classification",
    "corpus",
    "digits",
    "docstrings",
    "functions",
    "load_table",
    "passages",
    "retrieval_pairs",
    "split_of",
    "topics",
]
