"""refimpl.recipes.vocabulary: the same tokenizer in every process, and what BERT's and GPT-2's do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from transformers import AutoTokenizer

from refimpl.recipes import byte_bpe, vocabulary, wordpiece

AWKWARD = "Tabs\tand\n\n  spaces, Ünïcödé, 数学, 🤗 and \x00 control; x = y**2  "


def naive_pieces(words, size):
    """Pair merges as in the papers: the most frequent pair of neighbours becomes one piece."""
    spelled = {w: [w[0], *("##" + c for c in w[1:])] for w in words}
    pieces = {piece for s in spelled.values() for piece in s}
    while len(pieces) < size:
        pairs = Counter()
        for w, s in spelled.items():
            for pair in pairwise(s):
                pairs[pair] += words[w]
        top = max(pairs.values())
        assert sum(n == top for n in pairs.values()) == 1, "a tie: this reference does not settle it"
        (a, b) = max(pairs, key=pairs.get)
        pieces.add(a + b.removeprefix("##"))
        for w, s in spelled.items():
            joined = []
            for piece in s:
                if joined and (joined[-1], piece) == (a, b):
                    joined[-1] = a + b.removeprefix("##")
                else:
                    joined.append(piece)
            spelled[w] = joined
    return pieces


@pytest.mark.parametrize("merges", [0, 1, 20])
def test_pieces_are_those_of_the_naive_algorithm(merges, training):
    words = Counter(re.findall("[a-z]+", " ".join(training).lower()))
    letters = len(naive_pieces(words, 0))
    assert set(vocabulary._pieces(words, letters + merges)) == naive_pieces(words, letters + merges)


def test_rare_letters_are_left_out(monkeypatch):
    monkeypatch.setattr(vocabulary, "ALPHABET", 3)
    pieces = vocabulary._pieces({"ab": 5, "ba": 5, "caz": 1, "ac": 2}, 100)
    assert "c" in "".join(pieces) and "z" not in "".join(pieces)
    assert {"ab", "ba", "ac"} <= set(pieces)


def test_wordpiece_does_what_berts_tokenizer_does(wordpieces):
    assert wordpieces.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(wordpieces) == 400
    single = wordpieces("The Model's shape")["input_ids"]
    assert (single[0], single[-1]) == (wordpieces.cls_token_id, wordpieces.sep_token_id)
    assert wordpieces("the model's SHAPE")["input_ids"] == single
    assert wordpieces.decode(single, skip_special_tokens=True) == "the model ' s shape"
    pair = wordpieces("a model", "a tree")
    where = pair["input_ids"].index(wordpieces.sep_token_id) + 1
    assert pair["token_type_ids"] == [0] * where + [1] * (len(pair["input_ids"]) - where)
    assert wordpieces("数")["input_ids"][1:-1] == [wordpieces.unk_token_id]


def test_byte_bpe_decodes_every_text_to_itself(bytepieces):
    assert len(bytepieces) == 400 and bytepieces.eos_token_id == 0
    assert bytepieces.decode(bytepieces(AWKWARD)["input_ids"]) == AWKWARD
    assert bytepieces.pad_token is None
    assert 0 not in bytepieces("a model")["input_ids"]


@pytest.mark.parametrize("make", [wordpiece, byte_bpe])
def test_the_order_of_the_texts_does_not_matter_and_a_folder_keeps_all(make, training, tmp_path):
    one, two = make(training, 400), make(training[::-1], 400)
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    one.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(AWKWARD)["input_ids"] == one(AWKWARD)["input_ids"]
    assert again.special_tokens_map == one.special_tokens_map
    assert (again.model_max_length, len(again)) == (128, 400)


@pytest.mark.slow
def test_every_process_makes_the_same(tmp_path):
    """Hash maps differ from process to process; two must agree, ties between pairs included."""
    program = (
        "from refimpl.recipes import byte_bpe, wordpiece\n"
        "texts = ['ab cd ef gh ' * 3, 'ba dc fe hg ' * 3, 'acegbdfh hfdbgeca']\n"
        "print(wordpiece(texts, 64).backend_tokenizer.to_str(), byte_bpe(texts, 300).backend_tokenizer.to_str())"
    )
    command = [sys.executable, "-c", program]
    said = {
        subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
        for _ in range(2)
    }
    assert len(said) == 1
