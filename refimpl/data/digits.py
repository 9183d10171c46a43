"""scikit-learn's handwritten digits: 1,797 images of 8 × 8, bundled with the library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from refimpl.checks import check_int, check_number

__all__ = ["Digits", "digits"]


@dataclass(frozen=True)
class Digits:
    """Images ``[N, 64]`` in fp32, 0 (paper) to 1 (ink), row by row, and labels ``[N]``, int64 from 0 to 9."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(
    *,
    test_fraction: float = 0.3,
    per_class: int | None = None,
    without: int | Iterable[int] = (),
    seed: int = 0,
) -> Digits:
    """The digits, cut into training and test images with every class in the same proportion.

    Pixels x/16, so in [0, 1]. Of a class with n images, ``round(test_fraction · n)`` are test images. The
    test images depend on ``test_fraction`` and ``seed`` alone: those of training runs with fewer labels or
    without a class are the same, and the smaller training set is a subset of the larger.

    Args:
        test_fraction: of each class, over 0 and under 1.
        per_class: keep at most so many training images of each class; all when ``None``.
        without: classes left out of the *training* images (Hinton et al. 2015, section 3, leave out 3).
        seed: of the shuffle inside each class.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: a fraction outside (0, 1) or one that leaves a class without training or test images;
            ``per_class`` below 1; a class that is no digit, or all ten of them.
    """
    check_number("test_fraction", test_fraction, 0, 1, low_open=True, high_open=True)
    check_int("seed", seed, 0)
    if per_class is not None:
        check_int("per_class", per_class, 1)
    left_out = {without} if isinstance(without, int) else set(without)
    for label in left_out:
        check_int("without", label, 0, 9)
    if len(left_out) == 10:
        raise ValueError("without: got all ten classes; takes at most nine")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "digits: scikit-learn is not installed; run: pip install scikit-learn"
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32) / 16  # (1797, 64)
    labels = torch.tensor(classes, dtype=torch.int64)

    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in range(10):
        where = (labels == label).nonzero().squeeze(1)
        where = where[torch.randperm(len(where), generator=generator)]
        n_test = round(test_fraction * len(where))
        if not 0 < n_test < len(where):
            raise ValueError(
                f"test_fraction: got {test_fraction}; takes one that leaves images on both sides"
            )
        test.append(where[:n_test])
        if label not in left_out:
            train.append(where[n_test:][:per_class])
    train_ids = torch.cat(train)
    train_ids = train_ids[torch.randperm(len(train_ids), generator=generator)]
    test_ids = torch.cat(test).sort().values
    return Digits(images[train_ids], labels[train_ids], images[test_ids], labels[test_ids])
