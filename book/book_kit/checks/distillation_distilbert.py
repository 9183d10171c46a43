"""Checks of the exercises on DistilBERT: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from book_kit.checks.distillation import _close, _kd, _logits

__all__ = ["check_greedy_layers", "check_retained_above", "check_triple_loss", "check_whole_words"]


def check_retained_above(answer: Callable[[float, float, float], float]) -> None:
    """``answer(student, teacher, floor)``: per cent of what the teacher has above the floor."""
    _close(answer(75.0, 100.0, 50.0), 50.0, "half of what lies between 50 and 100, in per cent")
    _close(answer(80.0, 80.0, 20.0), 100.0, "a student as good as its teacher keeps all")
    _close(answer(60.0, 80.0, 60.0), 0.0, "a student at the floor keeps nothing")
    _close(answer(77.0, 79.5, 0.0), 100 * 77.0 / 79.5, "from zero it is the plain ratio")
    _close(answer(56.3, 53.5, 50.0), 180.0, "a student may be above its teacher")
    print("ok")


def check_triple_loss(answer: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """``answer(z, v, h, g, labels, mask)``: 5 soft + 2 hard + 1 cosine, with T = 2, padding left out."""
    z, v = (t.view(2, 4, 5) for t in _logits(8, 5))
    h, g = (t.view(2, 4, 3) for t in _logits(8, 3, seed=1))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    labels = torch.tensor([[-100, 2, -100, 4], [0, -100, -100, -100]])
    real, asked = mask.bool(), labels != -100

    def turned(rows: Tensor) -> float:
        pairs = zip(h[rows].tolist(), g[rows].tolist(), strict=True)
        total = [
            1 - sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
            for x, y in pairs
        ]
        return sum(total) / len(total)

    hard = -float(z.log_softmax(-1)[asked].gather(1, labels[asked][:, None]).mean())
    everywhere = torch.ones_like(real)
    soft, cosine = _kd(z[real], v[real], 2.0), turned(real)
    wanted = 5 * soft + 2 * hard + cosine
    wrong = {
        "T² is missing": 5 * soft / 4 + 2 * hard + cosine,
        "that is KL(student ‖ teacher)": 5 * _kd(v[real], z[real], 2.0) + 2 * hard + cosine,
        "the soft loss is at T = 2": 5 * _kd(z[real], v[real], 1.0) + 2 * hard + cosine,
        "the soft loss runs over all real tokens, not the masked ones": 5 * _kd(z[asked], v[asked], 2.0)
        + 2 * hard
        + cosine,
        "padding is in the soft loss and the cosine": 5 * _kd(z[everywhere], v[everywhere], 2.0)
        + 2 * hard
        + turned(everywhere),
        "padding is in the soft loss": 5 * _kd(z[everywhere], v[everywhere], 2.0) + 2 * hard + cosine,
        "padding is in the cosine": 5 * soft + 2 * hard + turned(everywhere),
        "divided by 8": wanted / 8,
        "the soft loss is divided by the vocabulary too": 5 * soft / 5 + 2 * hard + cosine,
        "the cosine loss is 1 − cos": 5 * soft + 2 * hard + (1 - cosine),
    }
    got = answer(z.clone(), v.clone(), h.clone(), g.clone(), labels.clone(), mask.clone())
    assert got.ndim == 0, f"got shape {tuple(got.shape)}; takes one number"
    for message, value in wrong.items():
        assert not math.isclose(float(got), value, rel_tol=1e-6), message
    _close(got, wanted, f"soft is {soft:.4f}, hard {hard:.4f}, cosine {cosine:.4f}")
    with_nan = [t.clone() for t in (z, v, h, g)]
    for t in with_nan:
        t[~real] = math.nan
    again = answer(*with_nan, labels.clone(), mask.clone())
    _close(again, wanted, "NaN in the padding gets into the result: cut the rows out, do not multiply by 0")
    print("ok")


def check_whole_words(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """``answer(chosen, continues)``: all pieces of each word of which one was drawn."""
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.rand(6, 20, generator=draw) < 0.2
        continues = torch.rand(6, 20, generator=draw) < 0.5
        continues[:, 0] = seed % 2 == 1  # a row may begin in the middle of a word
        wanted = chosen.clone()
        for row in range(6):
            begins = [i for i in range(20) if not continues[row, i] or i == 0]
            for start, end in zip(begins, [*begins[1:], 20], strict=True):
                wanted[row, start:end] = bool(chosen[row, start:end].any())
        kept = chosen.clone(), continues.clone()
        got = answer(chosen, continues)
        assert torch.equal(chosen, kept[0]) and torch.equal(continues, kept[1]), (
            "the tensors that were given have been changed: work on a copy"
        )
        assert got.shape == chosen.shape, f"got shape {tuple(got.shape)}; takes {tuple(chosen.shape)}"
        assert got.dtype == torch.bool, f"got {got.dtype}; takes booleans"
        assert bool(got[chosen].all()), "a token that was drawn is not masked"
        if not torch.equal(got, wanted):
            row, column = (got != wanted).nonzero()[0].tolist()
            reason = (
                "the word has no drawn piece" if got[row, column] else "another piece of its word was drawn"
            )
            raise AssertionError(f"row {row}, token {column} is wrong: {reason}")
    print("ok")


def check_greedy_layers(answer: Callable[[Callable[..., float], int, int], tuple[int, ...]]) -> None:
    """``answer(loss_of, total, kept)``: layers left after removing, again and again, the least missed one."""
    # what each layer is worth, and pairs that make up for each other: the second of a pair is missed more
    worth = (5.0, 1.0, 1.2, 3.0, 0.5, 0.6, 4.0, 2.0)
    pairs = {(1, 2): 6.0, (4, 5): 0.1}

    def loss_of(layers: tuple[int, ...]) -> float:
        assert isinstance(layers, tuple), f"loss_of: got {type(layers).__name__}; takes a tuple"
        assert list(layers) == sorted(set(layers)), f"loss_of: got {layers}; takes ascending indices"
        asked.append(layers)
        lost = sum(w for k, w in enumerate(worth) if k not in layers)
        return lost + sum(w for pair, w in pairs.items() if not set(pair) & set(layers))

    asked: list[tuple[int, ...]] = []
    for kept in (7, 4, 1):
        left, now = tuple(range(8)), []
        while len(left) > kept:
            left = min((tuple(x for x in left if x != k) for k in left), key=loss_of)
            now.append(left)
        asked.clear()
        got = answer(loss_of, 8, kept)
        assert isinstance(got, tuple), f"got {type(got).__name__}; takes a tuple of indices"
        assert len(got) == kept, f"got {len(got)} layers; takes {kept}"
        alone = tuple(sorted(sorted(range(8), key=lambda k: -worth[k])[:kept]))
        if got == alone != left:
            raise AssertionError("what a layer is worth changes when others have gone: ask again each time")
        assert got == left, f"{kept} layers: got {got}, not {left}"
        most = sum(range(kept + 1, 9))
        assert len(asked) <= most, f"asked for {len(asked)} losses; {most} are enough"
    print("ok")
