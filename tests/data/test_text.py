"""refimpl.data.text: no leaks between query and document, between sides, or of the answer."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.data import (
    LIBRARIES,
    SPLITS,
    Doc,
    classification,
    corpus,
    docstrings,
    retrieval_pairs,
    split_of,
    text,
)

LONG = "the rest says a good deal more about what it does and when it fails and so on and on"  # 20 words


def doc(summary, rest, name="f"):
    return Doc("lib", "lib.mod", name, f"{summary}\n\n{rest}")


def test_a_pair_by_hand():
    source = doc(
        "Return the sorted\nlist of items.", f"Notes\n-----\n%(params)s {LONG}\n\n  x ** 2 = y\n  ====="
    )
    pair = text._pair(source)
    assert pair == text.Pair("lib.mod.f", "lib", "lib.mod", "Return the sorted list of items.", pair.document)
    assert pair.document == f"Notes {LONG} x ** 2 = y"


@pytest.mark.parametrize(
    ("summary", "rest", "kept"),
    [
        ("one two three four five", LONG, True),
        ("one two three four", LONG, False),
        (" ".join(f"w{i}" for i in range(25)), LONG, True),
        (" ".join(f"w{i}" for i in range(26)), LONG, False),
        ("one two three four five", LONG.removesuffix(" on"), False),
        ("one two three four five", f"{LONG} One Two\nthree-four *five*", False),
        ("one two three four five", f"{LONG} One Two three-four fives", True),
        ("one two three four five", f"{LONG} none two three four five", True),
        ("one two three four five", "", False),
    ],
)
def test_which_pairs_are_kept(summary, rest, kept):
    """Bounds on the lengths, and no document that repeats its query, whatever the case and punctuation."""
    assert (text._pair(doc(summary, rest)) is not None) == kept


def naive_near_duplicates(lists, similarity):
    kept, found = [], []
    for words in map(set, lists):
        found.append(any(len(words & k) >= similarity * len(words | k) for k in kept))
        if not found[-1]:
            kept.append(words)
    return found


def test_near_duplicates_by_hand():
    lists = [list(word) for word in ("abcde", "edcba", "abcd", "abcx", "abx")]
    # {a..d} against {a..e}: 4/5 is a duplicate; {a,b,c,x} against {a..e}: 3/6; {a,b,x} against {a,b,c,x}: 3/4
    assert text.near_duplicates(lists) == [False, True, True, False, False]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=9), max_size=12),
    st.sampled_from([0.5, 0.6, 0.75, 0.8, 1.0]),
)
def test_near_duplicates_are_those_of_comparing_all(lists, similarity):
    assert text.near_duplicates(lists, similarity) == naive_near_duplicates(lists, similarity)


def test_pairs_are_unique_and_clean():
    pairs = retrieval_pairs()
    assert len(pairs) > 4_500
    assert {p.library for p in pairs} == set(LIBRARIES)
    for field in ("id", "query", "document"):
        values = [getattr(p, field) for p in pairs]
        assert len(set(values)) == len(values), field
    for p in pairs:
        words, document = text._words(p.query), " ".join(text._words(p.document))
        assert 5 <= len(words) <= 25
        assert f" {' '.join(words)} " not in f" {document} "
        assert "----" not in p.document
        assert "  " not in p.document
        assert "\n" not in p.query + p.document
    beginnings = Counter(" ".join(text._words(p.document)[:60]) for p in pairs)
    assert beginnings.most_common(1)[0][1] == 1


def test_no_two_queries_are_nearly_the_same():
    """Compared with a sample of all others, one by one: an answer to one would answer the other."""
    sets = [frozenset(text._words(p.query)) for p in retrieval_pairs("test")]
    assert all(len(a & b) < 0.8 * len(a | b) for a, b in combinations(sets, 2))


def test_sides_are_by_module_and_make_up_the_whole():
    sides = {s: retrieval_pairs(s) for s in SPLITS}
    modules = {s: {p.module for p in pairs} for s, pairs in sides.items()}
    for a, b in combinations(SPLITS, 2):
        assert not modules[a] & modules[b]
    assert all(split_of(p.module) == s for s, pairs in sides.items() for p in pairs)
    assert sorted(p.id for pairs in sides.values() for p in pairs) == sorted(p.id for p in retrieval_pairs())
    assert 900 <= len(sides["test"]) <= 1_100


def test_limits_are_nested_and_seeded():
    everything = retrieval_pairs("test")
    fifty, twenty = retrieval_pairs("test", limit=50), retrieval_pairs("test", limit=20)
    assert (len(fifty), len(twenty)) == (50, 20)
    assert set(twenty) < set(fifty) < set(everything)
    assert fifty == [p for p in everything if p in set(fifty)]  # in the same order
    assert retrieval_pairs("test", limit=50) == fifty == retrieval_pairs("test", limit=50, seed=0)
    assert len(set(retrieval_pairs("test", limit=50, seed=1)) & set(fifty)) < 15
    assert retrieval_pairs("test", limit=10**6) == everything
    assert retrieval_pairs("test", "networkx") == retrieval_pairs("test", ["networkx"])


def test_a_draw_does_not_change():
    """Whoever printed a number from this draw must get the same draw again. Independent of the data."""
    drawn = text.draw(list("abcdefgh"), list("abcdefgh"), 3, 0)
    assert drawn == DRAWN


DRAWN = ["f", "g", "h"]


def test_classification():
    examples = classification("test", limit=50)
    assert Counter(e.label for e in examples) == dict.fromkeys(range(5), 50)
    banned = {"numpy", "np", "scipy", "sklearn", "scikit", "matplotlib", "plt", "networkx", "nx"}
    for e in examples:
        words = text._words(e.text)
        assert not banned & set(words)
        assert len(words) >= 20
        assert ">>>" not in e.text
        assert split_of(e.module) == "test"
        assert e.module.split(".")[0] == ["numpy", "scipy", "sklearn", "matplotlib", "networkx"][e.label]
    assert not {e.text for e in examples} & {e.text for e in classification("train")}


def test_names_of_libraries_are_removed_as_words_only():
    cleaned = text._anonymous(
        "A NumPy array: np.array, numpyro, np_x.\n  >>> np.ones(3)\n  ... + 1\nscikit-learn.", LIBRARIES
    )
    assert cleaned == "A  array: .array, numpyro, _x.\n."


def test_corpus():
    everything = corpus(libraries="networkx")
    assert everything == [d.text for d in docstrings("networkx")]
    sides = [corpus(s, "networkx") for s in SPLITS]
    assert sorted(t for side in sides for t in side) == sorted(everything)
    assert all(sides)


@pytest.mark.parametrize("function", [retrieval_pairs, classification, corpus])
def test_unknown_split(function):
    with pytest.raises(ValueError, match="split: got 'dev'; takes one of None, 'train'"):
        function("dev")


def test_refuses():
    with pytest.raises(ValueError, match="limit: got 0"):
        retrieval_pairs("test", "networkx", limit=0)
    with pytest.raises(ValueError, match="seed: got -1"):
        retrieval_pairs("test", "networkx", seed=-1)
    with pytest.raises(ValueError, match=r"libraries: got \['numpy'\]; takes at least two"):
        classification(libraries=["numpy"])
    with pytest.raises(ValueError, match="libraries: got 'numpy'; takes at least two"):
        classification(libraries="numpy")
