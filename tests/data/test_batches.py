"""refimpl.data.batches: nothing lost, nothing that is padding counted, as little padding as possible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from refimpl.data import batches


def word_tokenizer(**special):
    core = Tokenizer(
        WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3, "[PAD]": 9, "<end>": 7}, unk_token="[UNK]")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **special)


TOKENIZER = word_tokenizer(pad_token="[PAD]")


def test_by_hand():
    made = batches(TOKENIZER, ["a", "a b c", "b", "c c"], batch_size=2)
    assert [b["input_ids"].tolist() for b in made] == [[[1, 2, 3], [3, 3, 9]], [[1], [2]]]
    assert [b["attention_mask"].tolist() for b in made] == [[[1, 1, 1], [1, 1, 0]], [[1], [1]]]
    assert all(v.dtype == torch.int64 for b in made for v in b.values())


def test_unsorted_keeps_the_order():
    made = batches(TOKENIZER, ["a", "a b c", "b"], batch_size=2, sort=False)
    assert [b["input_ids"].tolist() for b in made] == [[[1, 9, 9], [1, 2, 3]], [[2]]]


def test_a_tokenizer_without_padding_token():
    """GPT-2 has none: the end-of-text token fills the places, and the mask says that they do not count."""
    (made,) = batches(word_tokenizer(eos_token="<end>"), ["a b", "c"])
    assert made["input_ids"].tolist() == [[1, 2], [3, 7]]
    assert made["attention_mask"].tolist() == [[1, 1], [1, 0]]
    (made,) = batches(word_tokenizer(), ["a b", "c"])
    assert made["input_ids"].tolist() == [[1, 2], [3, 0]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 7),
    st.booleans(),
)
def test_every_text_once_cut_and_no_wider_than_needed(texts, batch_size, max_length, sort):
    lines = [" ".join(text) for text in texts]
    made = batches(TOKENIZER, lines, batch_size=batch_size, max_length=max_length, sort=sort)
    rows = []
    for batch in made:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert len(ids) <= batch_size
        assert mask.sum(1).max() == ids.shape[1] <= max_length
        assert (mask.cummin(1).values == mask).all()  # padding on the right only
        assert (ids[mask == 0] == 9).all()
        rows += [row[: int(n)].tolist() for row, n in zip(ids, mask.sum(1), strict=True)]
    wanted = [["_abc".index(word) for word in text][:max_length] for text in texts]
    assert sorted(rows) == sorted(wanted)
    assert [len(b["input_ids"]) for b in made[:-1]] == [batch_size] * (len(made) - 1)
    if sort:
        assert rows == sorted(wanted, key=len, reverse=True)  # stable: equal lengths stay in order
    else:
        assert rows == wanted


def test_the_same_as_the_tokenizer_pads(minilm):
    """Equality with transformers' own padding, with all that a BERT takes."""
    texts = ["Return the sorted list.", "x", "Compute the singular values of a matrix."]
    (made,) = batches(minilm[1], texts, sort=False)
    wanted = minilm[1](texts, padding=True, return_tensors="pt")
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[key], wanted[key]) for key in made)


def test_defaults():
    long = " ".join("a" * 200)
    assert [tuple(b["input_ids"].shape) for b in batches(TOKENIZER, [long] * 33)] == [(32, 128), (1, 128)]


def test_refuses(minilm):
    with pytest.raises(TypeError, match="texts: got one str"):
        batches(TOKENIZER, "a b")
    with pytest.raises(TypeError, match="texts: got int"):
        batches(TOKENIZER, ["a", 3])
    with pytest.raises(ValueError, match="texts: got nothing"):
        batches(TOKENIZER, [])
    with pytest.raises(ValueError, match="texts: got a text without a token"):
        batches(TOKENIZER, ["a", " "])
    with pytest.raises(ValueError, match="batch_size: got 0"):
        batches(TOKENIZER, ["a"], batch_size=0)
    with pytest.raises(ValueError, match="max_length: got 0"):
        batches(TOKENIZER, ["a"], max_length=0)
    with pytest.raises(ValueError, match="max_length: got 2; takes more than the 2 special tokens"):
        batches(minilm[1], ["a"], max_length=2)
    assert batches(minilm[1], ["a b"], max_length=3)[0]["input_ids"].shape == (1, 3)
