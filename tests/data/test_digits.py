"""refimpl.data.digits: stratified, deterministic, and the same test for every choice of training images."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.datasets import load_digits

from refimpl.data import digits

PUBLISHED_COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's documentation


def rows(images):
    return {tuple(row) for row in (images * 16).int().tolist()}


def test_all_of_it_once():
    d = digits()
    images = torch.cat([d.train_images, d.test_images])
    labels = torch.cat([d.train_labels, d.test_labels])
    original = load_digits()
    assert images.shape == (1797, 64)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert labels.bincount().tolist() == PUBLISHED_COUNTS
    together = sorted(
        (*map(int, row), label) for row, label in zip((images * 16).tolist(), labels.tolist(), strict=True)
    )
    wanted = sorted(
        (*map(int, row), label) for row, label in zip(original.data, original.target.tolist(), strict=True)
    )
    assert together == wanted


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_stratified(fraction):
    d = digits(test_fraction=fraction)
    assert d.test_labels.bincount().tolist() == [round(fraction * n) for n in PUBLISHED_COUNTS]


def test_the_default_fraction_is_three_tenths():
    assert torch.equal(digits().test_images, digits(test_fraction=0.3).test_images)
    assert len(digits().test_labels) == sum(round(0.3 * n) for n in PUBLISHED_COUNTS) == 539


def test_seeded_and_apart_from_the_global_generator():
    torch.manual_seed(1)
    a = digits()
    drawn = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(2))
    b, zero, other = digits(), digits(seed=0), digits(seed=1)
    assert torch.equal(a.train_images, b.train_images)
    assert torch.equal(a.train_images, zero.train_images)
    assert not torch.equal(a.train_images, other.train_images)
    assert not torch.equal(a.test_images, other.test_images)


def test_training_images_are_shuffled_over_the_classes():
    """A plain loop over slices must not see one class after the other."""
    assert len(digits().train_labels[:64].unique()) >= 8


def test_few_labels():
    few, fewer, everything = digits(per_class=10), digits(per_class=4), digits()
    assert few.train_labels.bincount().tolist() == [10] * 10
    assert fewer.train_labels.bincount().tolist() == [4] * 10
    assert rows(fewer.train_images) < rows(few.train_images) < rows(everything.train_images)
    assert torch.equal(few.test_images, everything.test_images)
    assert torch.equal(few.test_labels, everything.test_labels)


def test_a_class_left_out():
    """Hinton's experiment: no 3 in training, all of them in the test."""
    d, everything = digits(without=3), digits()
    assert (d.train_labels == 3).sum() == 0
    assert torch.equal(d.test_labels, everything.test_labels)
    kept = everything.train_labels != 3
    assert rows(d.train_images) == rows(everything.train_images[kept])
    assert set(digits(without=[7, 8]).train_labels.tolist()) == {0, 1, 2, 3, 4, 5, 6, 9}
    assert set(digits(without=0).train_labels.tolist()) == set(range(1, 10))


def test_refuses():
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="test_fraction: got"):
            digits(test_fraction=fraction)
    with pytest.raises(
        ValueError, match=r"test_fraction: got 0\.001; takes one that leaves images on both sides"
    ):
        digits(test_fraction=0.001)
    with pytest.raises(
        ValueError, match=r"test_fraction: got 0\.999; takes one that leaves images on both sides"
    ):
        digits(test_fraction=0.999)
    with pytest.raises(ValueError, match="per_class: got 0"):
        digits(per_class=0)
    with pytest.raises(ValueError, match="without: got 10"):
        digits(without=10)
    with pytest.raises(ValueError, match="without: got -1"):
        digits(without=[-1])
    with pytest.raises(ValueError, match="without: got all ten"):
        digits(without=range(10))
    with pytest.raises(ValueError, match="seed: got -1"):
        digits(seed=-1)
    with pytest.raises(TypeError, match="without: got '3'"):
        digits(without="3")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ModuleNotFoundError, match="digits: scikit-learn is not installed; run: pip install scikit-learn"
    ):
        digits()
