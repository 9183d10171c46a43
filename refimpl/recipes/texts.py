"""The teachers' texts: which are for training, which are held out, and blocks of tokens made of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from importlib.metadata import packages_distributions, version
from typing import Any

import torch
from torch import Tensor

from refimpl.checks import check_int, check_tensor
from refimpl.data import LIBRARIES, corpus

__all__ = ["FURTHER", "blocks", "chain", "held_out", "training_texts", "versions", "without_copies"]

# Packages of the book's environment with the most documentation beside the default ones; "stdlib" is
# left out because it changes with Python's patch release.
FURTHER = (
    *("torch", "transformers", "sympy", "pandas", "sqlalchemy", "mpmath", "playwright", "huggingface_hub"),
    *("sentence_transformers", "datasets", "narwhals", "mypy", "IPython", "tornado", "pydantic", "docutils"),
    *("pygments", "prompt_toolkit", "hypothesis", "sphinx", "rich", "PIL", "babel", "pyparsing", "jinja2"),
    *("click", "fsspec", "coverage", "pyarrow", "joblib", "urllib3", "packaging"),
)
PARAGRAPH = 200


def held_out(split: str = "test") -> list[str]:
    """The texts of ``split`` of the default libraries, which every reader has; see `refimpl.data.corpus`.

    Raises:
        ValueError: unknown split.
    """
    return corpus(split, LIBRARIES)


def training_texts(repeats: int = 2, seed: int = 0) -> list[str]:
    """One pass over the teachers' training texts, shuffled by ``seed``.

    The training side of the default libraries, each text ``repeats`` times because the held-out texts are
    of their kind, and of the packages in `FURTHER` once; `without_copies` of held-out texts and of each
    other. Takes a minute, to read the packages.

    Raises:
        ValueError: ``repeats`` below 1.
        ModuleNotFoundError: a package is not installed (they belong to the extras ``book`` and ``test``).
    """
    check_int("repeats", repeats, 1)
    check_int("seed", seed, 0)
    ours = set(corpus("train", LIBRARIES))
    kept = without_copies(corpus("train", (*LIBRARIES, *FURTHER)), held_out("validation") + held_out("test"))
    texts = [text for text in kept for _ in range(repeats if text in ours else 1)]
    random.Random(seed).shuffle(texts)
    return texts


def versions() -> dict[str, str]:
    """The installed version of each package of `training_texts`, by its name there."""
    distributions = packages_distributions()
    return {name: version(distributions.get(name, [name])[0]) for name in (*LIBRARIES, *FURTHER)}


def without_copies(texts: Iterable[str], held: Iterable[str]) -> list[str]:
    """``texts`` without copies of ``held`` ones, nor of earlier ones that were kept.

    Left out is a text that is in ``held``, one that has a paragraph of 200 characters or more in common
    with it, and one of which half the characters or more are such paragraphs of texts before it. White
    space is normalised before paragraphs are compared.

    Raises:
        TypeError: ``texts`` or ``held`` is one string.
    """
    for name, given in (("texts", texts), ("held", held)):
        if isinstance(given, str):
            raise TypeError(f"{name}: got one str; takes a list of them")
    listed = list(held)
    refused = set(listed) | {paragraph for text in listed for paragraph in _paragraphs(text)}
    seen: set[str] = set()
    kept = []
    for text in texts:
        own = _paragraphs(text)
        repeated = sum(len(paragraph) for paragraph in own if paragraph in seen)
        if text in refused or not refused.isdisjoint(own) or 2 * repeated >= len(text):
            continue
        seen.update(own)
        kept.append(text)
    return kept


def chain(tokenizer: Any, texts: Sequence[str], separator: int) -> Tensor:
    """The texts' tokens ``[N]``, int64, in their order, the token ``separator`` after each text.

    Raises:
        TypeError: ``texts`` is one string.
        ValueError: no texts.
    """
    if isinstance(texts, str):
        raise TypeError("texts: got one str; takes a list of them")
    if not texts:
        raise ValueError("texts: got nothing; takes at least one")
    # not verbose: a text longer than the model's input is no mistake here
    ids = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return torch.tensor([token for text in ids["input_ids"] for token in (*text, separator)])


def blocks(tokens: Tensor, length: int, start: int | None = None, end: int | None = None) -> Tensor:
    """Cut ``[N]`` tokens into rows ``[B, length]``; what is left at the end and fills no row is dropped.

    With ``start`` and ``end`` each row is ``[start, length - 2 tokens, end]``, as BERT's input is.

    Raises:
        ValueError: too few tokens for one row; ``length`` below 3.
    """
    check_tensor("tokens", tokens, ndim=1)
    check_int("length", length, 3)
    body = length - (start is not None) - (end is not None)
    count = len(tokens) // body
    if not count:
        raise ValueError(f"tokens: got {len(tokens)}; takes at least {body}")
    rows = [tokens[: count * body].view(count, body)]  # (B, body)
    if start is not None:
        rows.insert(0, rows[0].new_full((count, 1), start))
    if end is not None:
        rows.append(rows[0].new_full((count, 1), end))
    return torch.cat(rows, dim=1)


def _paragraphs(text: str) -> list[str]:
    parts = (" ".join(part.split()) for part in text.split("\n\n"))
    return [part for part in parts if len(part) >= PARAGRAPH]
