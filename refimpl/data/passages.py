"""Documentation cut into passages of similar length: what a vector database holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from refimpl.checks import check_choice, check_int
from refimpl.data.docs import LIBRARIES, SPLITS, docstrings, split_of
from refimpl.data.text import RULERS, check_draw, draw

__all__ = ["Passage", "passages"]


@dataclass(frozen=True)
class Passage:
    """Some words of a docstring: ``id`` is its dotted name, ``#`` and the place of the passage in it."""

    id: str
    library: str
    module: str
    text: str


def passages(
    split: str | None = None,
    libraries: str | Iterable[str] = LIBRARIES,
    words: int = 32,
    limit: int | None = None,
    seed: int = 0,
) -> list[Passage]:
    """Docstrings, without their summaries, in parts of nearly equal length, about ``words`` words each.

    The paragraph before the first empty line is left out: it is the query of `retrieval_pairs`, so that a question is never
    found as a part of what is searched. A rest of n words makes max(1, round(n / words)) parts; one under words / 2
    makes none. Rulers and templates are dropped, white space is collapsed, and of equal parts the first is kept.

    Args:
        split: ``"train"``, ``"validation"``, ``"test"`` (by module: `split_of`), or ``None`` for all.
        libraries: as in `docstrings`. The default ones have about 46,000 passages of 32 words.
        words: at least 4.
        limit: at most so many, drawn by ``seed``; a smaller limit gives a subset of a larger one's.
        seed: of that draw.

    Returns:
        Passages in the order of `docstrings`; ids and texts are each unique.

    Raises:
        ValueError: unknown split, a limit below 1, fewer words than 4; and as `docstrings`.
    """
    check_choice("split", split, (None, *SPLITS))
    check_int("words", words, 4)
    check_draw(limit, seed)
    names = (libraries,) if isinstance(libraries, str) else tuple(libraries)
    kept = [p for p in _all_passages(names, words) if split is None or split_of(p.module) == split]
    return draw(kept, [p.id for p in kept], limit, seed)


@lru_cache(maxsize=4)
def _all_passages(libraries: tuple[str, ...], words: int) -> tuple[Passage, ...]:
    found: dict[str, Passage] = {}
    ids: set[str] = set()
    for doc in docstrings(libraries):
        _, _, rest = doc.text.partition("\n\n")
        parts = cut(re.sub(RULERS, " ", rest).split(), words)
        if parts and doc.id not in ids:  # a name defined twice in one module is one id
            ids.add(doc.id)
            for i, part in enumerate(parts):
                found.setdefault(part, Passage(f"{doc.id}#{i}", doc.library, doc.module, part))
    return tuple(found.values())


def cut(words: list[str], size: int) -> list[str]:
    """The words in max(1, round(n / size)) runs whose lengths differ by one at most; none when n < size / 2."""
    if len(words) < size / 2:
        return []
    count = max(1, round(len(words) / size))
    ends = [len(words) * i // count for i in range(count + 1)]
    return [" ".join(words[start:end]) for start, end in pairwise(ends)]
