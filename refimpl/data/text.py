"""Three tasks on documentation: find the text of a summary line, tell the library, model the language.

Each is cut into training, validation and test sides by module (`refimpl.data.docs.split_of`); texts that
are the same or nearly so are removed *before* the cut, so that none has its like on another side.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from refimpl.checks import check_choice, check_int
from refimpl.data.docs import LIBRARIES, SPLITS, Doc, docstrings, split_of

__all__ = ["Example", "Pair", "classification", "corpus", "retrieval_pairs"]

QUERY_WORDS = (5, 25)  # a summary has so many words; fewer say too little, more are no summary
DOCUMENT_WORDS = 20  # the rest has at least so many
BEGINNING = 60  # two documents are near-duplicates when so many first words are equal
RULERS = r"[-=~^*#]{3,}|%\(\w+\)s"  # and templates: no words
SAME_WORDS = 0.8  # two summaries are near-duplicates from this Jaccard similarity of their words on


# Under which names code and prose know a library, besides its own.
ALIASES = {
    "numpy": ("np",),
    "scipy": ("sp",),
    "scikit-learn": ("sklearn", "scikit", "learn"),
    "matplotlib": ("mpl", "plt", "pyplot"),
    "networkx": ("nx",),
    "torch": ("pytorch",),
    "stdlib": ("python", "cpython"),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A query and the one document that answers it: ``id`` is the dotted name both come from."""

    id: str
    library: str
    module: str
    query: str
    document: str


@dataclass(frozen=True)
class Example:
    """A text and its class, an index into the libraries that were asked for."""

    text: str
    label: int
    module: str


def retrieval_pairs(
    split: str | None = None,
    libraries: str | Iterable[str] = LIBRARIES,
    limit: int | None = None,
    seed: int = 0,
) -> list[Pair]:
    """Summary lines of docstrings as queries, the rest of each docstring as its document.

    A pair is left out when its summary has under 5 or over 25 words, its document under 20 words, or the
    document repeats the summary; and when an earlier pair has a summary of nearly the same words
    (Jaccard similarity of at least 0.8) or a document that begins with the same 60 words. Rulers
    ("-----") and templates ("%(name)s") are dropped and white space is collapsed.

    Args:
        split: ``"train"``, ``"validation"``, ``"test"`` (by module: `split_of`), or ``None`` for all.
        libraries: as in `docstrings`. The default ones have about 5,000 pairs, 1,000 of them in the test.
        limit: at most so many pairs, drawn by ``seed``; a smaller limit gives a subset of a larger one's.
        seed: of that draw; it changes nothing without ``limit``.

    Returns:
        Pairs in the order of `docstrings`; ids, queries and documents are each unique.

    Raises:
        ValueError: unknown split, a limit below 1; and as `docstrings`.
    """
    check_choice("split", split, (None, *SPLITS))
    check_draw(limit, seed)
    names = (libraries,) if isinstance(libraries, str) else tuple(libraries)
    pairs = [p for p in _all_pairs(names) if split is None or split_of(p.module) == split]
    return draw(pairs, [p.id for p in pairs], limit, seed)


def classification(
    split: str | None = None, libraries: Sequence[str] = LIBRARIES, limit: int | None = None, seed: int = 0
) -> list[Example]:
    """Docstrings with the library that each describes: ``label`` is the index into ``libraries``.

    What would give the answer away is removed: lines of code (``>>>``), and the names under which the
    libraries are known (``numpy``, ``np``, ...). Texts under 20 words are left out.

    Args:
        split: as in `retrieval_pairs`.
        libraries: at least two names, as in `docstrings`.
        limit: at most so many examples *of each library*, drawn by ``seed``.
        seed: of that draw.

    Raises:
        ValueError: fewer than two libraries, one twice, unknown split, a limit below 1; and as `docstrings`.
    """
    check_choice("split", split, (None, *SPLITS))
    if isinstance(libraries, str) or len(libraries) < 2:
        raise ValueError(f"libraries: got {libraries!r}; takes at least two")
    names = tuple(libraries)
    if len(set(names)) < len(names):
        raise ValueError(f"libraries: got {libraries!r}, one of them twice; takes each once")
    check_draw(limit, seed)
    kept = []
    for label, name in enumerate(names):
        # docstrings of all libraries together, so that a text found in two of them is in neither's test
        docs = [
            d
            for d in docstrings(names)
            if d.library == name and (split is None or split_of(d.module) == split)
        ]
        cleaned = [(d, _anonymous(d.text, names)) for d in docs]
        long = [(d, text) for d, text in cleaned if len(_words(text)) >= DOCUMENT_WORDS]
        examples = [Example(text, label, d.module) for d, text in long]
        kept += draw(examples, [d.id for d, _ in long], limit, seed)
    return kept


def corpus(split: str | None = None, libraries: str | Iterable[str] = LIBRARIES) -> list[str]:
    """Texts for language modelling: every docstring of the libraries, one string each.

    With more libraries there is more text: the default ones have about 10 MB; ``"torch"``, ``"stdlib"`` and
    ``"topics"`` (Python's language reference) can be added.

    Raises:
        ValueError: unknown split; and as `docstrings`.
    """
    check_choice("split", split, (None, *SPLITS))
    return [d.text for d in docstrings(libraries) if split is None or split_of(d.module) == split]


def check_draw(limit: int | None, seed: int) -> None:
    """A limit of at least 1, or None, and a seed of at least 0."""
    check_int("seed", seed, 0)
    if limit is not None:
        check_int("limit", limit, 1)


def draw(items: list[T], ids: list[str], limit: int | None, seed: int) -> list[T]:
    """The ``limit`` items whose hashes come first: no generator, so equal on every Python, and nested."""
    if limit is None:
        return items
    order = sorted(range(len(items)), key=lambda i: hashlib.sha256(f"{seed}:{ids[i]}".encode()).digest())
    return [items[i] for i in sorted(order[:limit])]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _anonymous(text: str, libraries: Sequence[str]) -> str:
    """``text`` without lines of code and without the names of ``libraries``."""
    prose = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith((">>>", "...")))
    names = {name.lower() for library in libraries for name in (library, *ALIASES.get(library, ()))}
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.sub(rf"(?i)(?<![a-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![a-z0-9])", "", prose)


@lru_cache(maxsize=8)
def _all_pairs(libraries: tuple[str, ...]) -> tuple[Pair, ...]:
    pairs = [pair for doc in docstrings(libraries) if (pair := _pair(doc)) is not None]
    kept: list[Pair] = []
    seen: set[str] = set()
    for pair, is_near in zip(pairs, near_duplicates([_words(p.query) for p in pairs]), strict=True):
        beginning = " ".join(_words(pair.document)[:BEGINNING])
        if not is_near and pair.id not in seen and beginning not in seen:
            seen |= {pair.id, beginning}
            kept.append(pair)
    return tuple(kept)


def _pair(doc: Doc) -> Pair | None:
    head, _, rest = doc.text.partition("\n\n")
    rest = re.sub(RULERS, " ", rest)
    query, document = " ".join(head.split()), " ".join(rest.split())
    words, document_words = _words(query), _words(document)
    low, high = QUERY_WORDS
    if not low <= len(words) <= high or len(document_words) < DOCUMENT_WORDS:
        return None
    if f" {' '.join(words)} " in f" {' '.join(document_words)} ":
        return None
    return Pair(doc.id, doc.library, doc.module, query, document)


def near_duplicates(texts: Sequence[Sequence[str]], similarity: float = SAME_WORDS) -> list[bool]:
    """Of each list of words, whether an earlier one that is itself no duplicate has nearly the same words.

    Nearly the same is |A∩B| ≥ ``similarity``·|A∪B| for the sets A, B of words. Of two such sets, the
    first ``|A| − ⌈similarity·|A|⌉ + 1`` words of each have one in common when both are sorted alike: so
    only sets that share one of these are compared, and with rare words sorted first there are few.
    """
    count = Counter(word for words in texts for word in set(words))
    filed: dict[str, list[frozenset[str]]] = defaultdict(list)
    found = []
    for words in texts:
        new = frozenset(words)
        first = sorted(new, key=lambda word: (count[word], word))
        first = first[: len(new) - math.ceil(similarity * len(new)) + 1]
        found.append(
            any(len(new & old) >= similarity * len(new | old) for word in first for old in filed[word])
        )
        if not found[-1]:
            for word in first:
                filed[word].append(new)
    return found
