"""refimpl.recipes.texts: nothing held out is trained on, and every token keeps its place."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from refimpl.data import LIBRARIES, corpus
from refimpl.recipes import blocks, chain, held_out, texts, training_texts, without_copies

LONG = "a sentence that is long enough to be told apart from what everybody writes " * 3  # 225 characters
OTHER = "another sentence, as long as the first, about something else entirely, if you ask " * 3


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("short", True),
        ("held", False),  # equal to a held-out text, however short
        (f"own words\n\n{LONG}", False),  # a paragraph of a held-out text
        (f"own words\n\n  {LONG.replace(' ', chr(10))}  ", False),  # in other white space
        (f"own words\n\n{LONG[:199]}", True),  # too short to tell
        (f"own words {LONG}", True),  # another paragraph
    ],
)
def test_what_is_a_copy_of_held_out_texts(text, kept):
    assert (without_copies([text], ["held", f"x\n\n{LONG}\n\ny"]) == [text]) == kept


def test_copies_within_the_training_texts():
    own = "w" * 400
    texts_given = [f"one\n\n{LONG}", f"two\n\n{LONG}", f"{own}\n\n{LONG}", f"{OTHER}\n\n{own}"]
    # the second is mostly a copy, the third is not, and of the fourth a little more than half is the third's
    assert without_copies(texts_given, []) == [texts_given[0], texts_given[2]]


def test_held_out_texts_are_never_in_training(monkeypatch):
    """Checked anew, by paragraphs as a naive search finds them, on the default libraries and one more."""
    monkeypatch.setattr(texts, "FURTHER", ("joblib",))
    training = training_texts(repeats=2, seed=0)
    held = held_out("validation") + held_out("test")
    assert held == corpus("validation", LIBRARIES) + corpus("test", LIBRARIES)
    assert set(training).isdisjoint(held)
    held_paragraphs = {" ".join(p.split()) for t in held for p in t.split("\n\n")}
    for text in set(training):
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            assert len(words) < 200 or words not in held_paragraphs
    ours = set(corpus("train", LIBRARIES))
    assert all(n == (2 if text in ours else 1) for text, n in Counter(training).items())
    assert len(set(training)) > 0.8 * len(ours), "most texts stay"
    assert training == training_texts(2, 0) != training_texts(2, 1)
    assert sorted(training) == sorted(training_texts(2, 1))


def test_versions_name_every_package():
    found = texts.versions()
    assert list(found) == [*LIBRARIES, *texts.FURTHER]
    assert found["torch"] == torch.__version__
    assert found["PIL"] and found["sqlalchemy"]


def test_a_chain_by_hand(bytepieces):
    made = chain(bytepieces, ["ab", "", "c"], 7)
    letters = [bytepieces(letter)["input_ids"] for letter in ("ab", "c")]
    assert made.tolist() == [*letters[0], 7, 7, *letters[1], 7]
    assert made.dtype == torch.int64


def test_a_chain_has_no_special_tokens_of_its_own(wordpieces):
    made = chain(wordpieces, ["a model", "a tree"], wordpieces.sep_token_id)
    assert wordpieces.cls_token_id not in made
    assert (made == wordpieces.sep_token_id).sum() == 2


def test_blocks_by_hand():
    assert blocks(torch.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert blocks(torch.arange(5), 4, 90, 91).tolist() == [[90, 0, 1, 91], [90, 2, 3, 91]]
