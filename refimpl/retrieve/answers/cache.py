"""A semantic cache: the answer to an earlier question, if the new one is near enough; and when that pays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from refimpl.checks import check_number, check_tensor
from refimpl.retrieve.store import Store, StoreError

__all__ = ["Calibration", "SemanticCache", "break_even_hit_rate", "calibrate"]


class SemanticCache:
    """Questions' vectors in a store, answers in their metadata; a question above the threshold is answered from there.

    Two texts with a cosine above the threshold need not have the same answer ("… in Python 2", "… in Python 3"): choose it
    with `calibrate` on pairs of both kinds, and know the false hits that are left.

    Args:
        store: any `refimpl.retrieve.Store`.
        threshold: least cosine of a hit, -1 to 1; or the next number above 1, at which nothing is one, as `calibrate` says where
            a pair with other answers has a cosine of 1.

    Raises:
        TypeError, ValueError: no store, a threshold out of bounds.
    """

    def __init__(self, store: Store, threshold: float) -> None:
        if not isinstance(store, Store):
            raise TypeError(f"store: got {type(store).__name__}; takes a Store, from open_store")
        self.store, self.threshold = store, check_number("threshold", threshold, -1, math.nextafter(1, 2))

    def get(self, vector: np.ndarray | Tensor) -> str | None:
        """The answer to the nearest question, ``[dim]``, if it is near enough; else None.

        Raises:
            TypeError, ValueError: no array or tensor of one dimension, or not that of the store.
            StoreError: the nearest row of the store is no question with an answer.
        """
        (hits,) = self.store.search(_row(vector), k=1)
        if not hits or hits[0].score < self.threshold:
            return None
        if not isinstance(answer := hits[0].metadata.get("answer"), str):
            raise StoreError(f"store: row {hits[0].id!r} has no answer; a cache takes a store of its own")
        return answer

    def put(self, question: str, vector: np.ndarray | Tensor, answer: str) -> None:
        """Keep an answer; the same question again replaces it."""
        for name, value in (("question", question), ("answer", answer)):
            if not isinstance(value, str):
                raise TypeError(f"{name}: got {type(value).__name__}; takes a string")
        self.store.upsert([question], _row(vector), [{"answer": answer}])


def _row(vector: np.ndarray | Tensor) -> np.ndarray | Tensor:
    if not isinstance(vector, np.ndarray | Tensor) or vector.ndim != 1:
        got = tuple(vector.shape) if isinstance(vector, np.ndarray | Tensor) else type(vector).__name__
        raise TypeError(f"vector: got {got}; takes an array or a tensor of one dimension")
    return vector[None]


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it does to the pairs it was chosen on.

    Attributes:
        threshold: least cosine of a hit.
        hit_rate: share of the pairs with the same answer that are hits.
        false_hit_rate: share of the pairs with another answer that are hits.
    """

    threshold: float
    hit_rate: float
    false_hit_rate: float


def calibrate(same: Tensor, other: Tensor, most_false: float = 0.01) -> Calibration:
    """The lowest threshold at which at most ``most_false`` of the pairs with other answers would be hits.

    Args:
        same: ``[N]`` cosines of questions with the same answer (paraphrases).
        other: ``[M]`` cosines of each question with the nearest one that has another answer.
        most_false: share of ``other`` that may lie at or above the threshold, 0 to 1.

    Raises:
        TypeError, ValueError: no tensors of finite floats with one dimension, or empty ones; a share out of bounds.
    """
    for name, value in (("same", same), ("other", other)):
        check_tensor(name, value, ndim=1, floating=True, finite=True)
        if not len(value):
            raise ValueError(f"{name}: got none; takes at least one")
    check_number("most_false", most_false, 0, 1)
    wrong = other.double().sort(descending=True).values
    allowed = int(most_false * len(wrong) + 1e-9)  # that many may be hits, the next one may not
    if allowed >= len(wrong):
        threshold = float(min(wrong[-1], same.double().min()))
    else:
        threshold = float(torch.nextafter(wrong[allowed], torch.tensor(torch.inf, dtype=torch.float64)))
    return Calibration(
        threshold,
        float((same.double() >= threshold).double().mean()),
        float((wrong >= threshold).double().mean()),
    )


def break_even_hit_rate(encode: float, search: float, answer: float) -> float:
    """The hit rate above which a cache is cheaper than asking the model every time: ``(c_e + c_s) / c_LLM``.

    With a cache a question costs c_e + c_s + (1 − h)·c_LLM, without c_LLM. Above 1 no hit rate pays. Any unit, the same for
    all three: seconds, money, energy.

    Args:
        encode: c_e, of a question's vector.
        search: c_s, of finding the nearest question.
        answer: c_LLM, of asking the model.

    Raises:
        TypeError, ValueError: negative costs, ``answer`` of 0.
    """
    check_number("encode", encode, 0)
    check_number("search", search, 0)
    return (encode + search) / check_number("answer", answer, 0, low_open=True)
