"""A recipe so small that a teacher is trained in a second: 300 texts, 2 layers of 32, 12 steps."""

from __future__ import annotations

import pytest

from refimpl.data import corpus
from refimpl.recipes import Settings, byte_bpe, wordpiece

SMALL = Settings(
    steps=12,
    batch=4,
    length=32,
    layers=2,
    width=32,
    heads=2,
    vocabulary=400,
    warmup=2,
    peak=5e-3,
    every=4,
    held_blocks=8,
)


@pytest.fixture(scope="session")
def training():
    return corpus("train", "scikit-learn")[:300]


@pytest.fixture(scope="session")
def held():
    return corpus("test", "scikit-learn")[:12]


@pytest.fixture(scope="session")
def wordpieces(training):
    return wordpiece(training, SMALL.vocabulary, SMALL.length)


@pytest.fixture(scope="session")
def bytepieces(training):
    return byte_bpe(training, SMALL.vocabulary, SMALL.length)
