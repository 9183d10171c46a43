"""Which of the teacher's layers the student starts from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from refimpl.checks import check_choice, check_int

__all__ = ["choose_layers", "kept_layers"]

RULES = ("spread", "every_other", "first", "last")


def choose_layers(total: int, how: str = "spread", count: int | None = None) -> tuple[int, ...]:
    """``count`` of ``total`` layers by a rule, as ascending indices that start at 0.

    - ``"spread"``: evenly from the first to the last, ``floor(i * (total - 1) / (count - 1) + 1/2)``. 12 to 6
      gives ``(0, 2, 4, 7, 9, 11)``, DistilBERT's and DistilGPT2's choice; 2 takes the first and the last.
    - ``"every_other"``: 0, 2, 4, ..., whatever their number (``count`` is not taken).
    - ``"first"`` and ``"last"``: the lowest and the highest ones.

    Args:
        total: the teacher's number of layers.
        how: the rule.
        count: the student's number of layers; half of ``total``, rounded down, at least 1, when None.

    Raises:
        TypeError, ValueError: an unknown rule, a count below 1 or above ``total``, a count with
            ``"every_other"``.

    Source: scripts/extract.py and extract_distilbert.py of Sanh et al. 2019 (arXiv 1910.01108).
    """
    total = check_int("total", total, 1)
    check_choice("how", how, RULES)
    if how == "every_other":
        if count is not None:
            raise ValueError(f"count: got {count} with 'every_other'; takes None, the rule gives the number")
        return tuple(range(0, total, 2))
    count = max(1, total // 2) if count is None else check_int("count", count, 1, total)
    if how == "first":
        return tuple(range(count))
    if how == "last":
        return tuple(range(total - count, total))
    gaps = max(1, count - 1)
    return tuple((2 * i * (total - 1) + gaps) // (2 * gaps) for i in range(count))  # floor(x + 1/2), exactly


def kept_layers(layers: str | Iterable[int], count: int | None, total: int) -> tuple[int, ...]:
    """The indices that ``layers`` stands for: a rule's, or those that are given, checked."""
    if isinstance(layers, str):
        check_choice("layers", layers, RULES)
        return choose_layers(total, layers, count)
    if count is not None:
        raise ValueError(f"count: got {count} with given layers; takes None, the layers give the number")
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers: got {type(layers).__name__}; takes indices, or one of {RULES}")
    kept = tuple(check_int("layers", index, 0, total - 1) for index in layers)
    if not kept or any(a >= b for a, b in itertools.pairwise(kept)):
        raise ValueError(f"layers: got {kept}; takes at least one index, ascending, none twice")
    return kept
