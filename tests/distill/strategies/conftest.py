"""Every training of the Trainer ends with a garbage collection, which walks all that was ever imported."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def frozen_imports():
    """Leave out what is there already: a training of three small steps is 0.2 s, the collection 0.3 s."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
