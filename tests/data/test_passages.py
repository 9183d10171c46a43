"""`refimpl.data.passages`: whole, in order, of nearly equal length, and without the queries."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from refimpl.data import docstrings, passages, retrieval_pairs
from refimpl.data.passages import cut


@given(st.integers(0, 300), st.integers(4, 60))
def test_parts_are_whole_and_nearly_equal(count, size):
    words = [f"w{i}" for i in range(count)]
    parts = cut(words, size)
    lengths = [len(part.split()) for part in parts]
    if count < size / 2:
        assert parts == []
    else:
        assert " ".join(parts).split() == words
        assert max(lengths) - min(lengths) <= 1
        assert size / 2 <= min(lengths) and max(lengths) <= 1.5 * size
        assert len(parts) == max(1, round(count / size))


def test_passages_of_a_library():
    found = passages(libraries="networkx")
    assert len({p.id for p in found}) == len({p.text for p in found}) == len(found) > 3000
    docs = {doc.id: doc for doc in docstrings("networkx")}
    for p in found[::97]:
        name, _, place = p.id.rpartition("#")
        assert place.isdigit() and p.library == "networkx" and docs[name].module == p.module
        words = " ".join(docs[name].text.split())
        assert sum(word in words for word in p.text.split()) == len(p.text.split())


def test_no_question_is_part_of_its_own_passages():
    parts = defaultdict(list)
    for p in passages():
        parts[p.id.rpartition("#")[0]].append(p.text)
    pairs = retrieval_pairs("test")
    assert sum(pair.id in parts for pair in pairs) > 0.95 * len(pairs)
    assert not any(pair.query in " ".join(parts[pair.id]) for pair in pairs)


def test_splits_limits_and_seeds():
    every = passages(libraries="networkx")
    sides = [passages(side, "networkx") for side in ("train", "validation", "test")]
    assert sorted(p.id for side in sides for p in side) == sorted(p.id for p in every)
    few, more = passages(libraries="networkx", limit=50), passages(libraries="networkx", limit=200)
    assert len(few) == 50 and set(few) < set(more) < set(every)
    assert [p for p in every if p in set(few)] == few, "in the order of the docstrings"
    assert passages(libraries="networkx", limit=50, seed=1) != few
    assert len(passages(libraries="networkx", words=16)) > 1.7 * len(every)
