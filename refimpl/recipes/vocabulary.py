"""The teachers' tokenizers: WordPiece as BERT has it, byte-level BPE as GPT-2 has it, small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from refimpl.checks import check_int

__all__ = ["byte_bpe", "wordpiece"]

END = "<|endoftext|>"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ALPHABET = 128  # characters that words may have; a word with a rarer one is [UNK]
PRIVATE = 0xE000  # the first code point for private use


def wordpiece(texts: Sequence[str], size: int = 4096, length: int = 128) -> PreTrainedTokenizerFast:
    """An uncased WordPiece tokenizer of ``size`` tokens, BERT's five special ones included.

    A text becomes ``[CLS] text [SEP]``, a pair ``[CLS] a [SEP] b [SEP]`` with token types 0 and 1.

    Args:
        texts: what it is trained on.
        size: at most so many tokens; fewer where ``texts`` do not give as many.
        length: of the longest input, written into the tokenizer as ``model_max_length``.

    Raises:
        ValueError: no texts, ``size`` below 64.

    Source: Devlin et al. 2019, section 3.
    """
    _check(texts, size, length)
    normalizer, split = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word for text in texts for word, _ in split.pre_tokenize_str(normalizer.normalize_str(text))
    )
    pieces = [*SPECIAL, *_pieces(words, size - len(SPECIAL))]
    core = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer, core.decoder = normalizer, split, decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", core.token_to_id("[CLS]")), ("[SEP]", core.token_to_id("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def byte_bpe(texts: Sequence[str], size: int = 4096, length: int = 128) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of ``size`` tokens, ``<|endoftext|>`` (token 0) and all 256 bytes included.

    Every text is decoded to itself, byte by byte. As GPT-2's it has no padding token of its own and adds
    no special token to a text.

    Args:
        texts: what it is trained on.
        size: at most so many tokens, over 256; fewer where ``texts`` do not give as many.
        length: of the longest input, written into the tokenizer as ``model_max_length``.

    Raises:
        ValueError: no texts, ``size`` below 257.

    Source: Radford et al. 2019, section 2.2.
    """
    _check(texts, size, length)
    check_int("size", size, 257)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
        bos_token=END,
        eos_token=END,
        unk_token=END,
        clean_up_tokenization_spaces=False,
    )


def _pieces(words: Mapping[str, int], size: int) -> list[str]:
    """The ``size`` pieces that pair merges make of counted ``words``; ``##`` marks a piece inside a word.

    What `tokenizers`' own WordPiece trainer computes, but that one numbers the ``##`` letters in the order
    of a hash map, so ties between pairs fall differently in each process. Here each letter inside a word is
    one letter of its own, for private use, and its BPE trainer numbers letters in the alphabet's order.
    """
    counts: Counter[str] = Counter()
    for word, n in words.items():
        for letter in word:
            counts[letter] += n
    known = sorted(counts, key=lambda letter: (-counts[letter], letter))[:ALPHABET]
    inside = {letter: chr(PRIVATE + i) for i, letter in enumerate(known)}
    coded = [
        (word[0] + "".join(inside[letter] for letter in word[1:]) + " ") * n
        for word, n in sorted(words.items())
        if inside.keys() >= set(word)
    ]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.train_from_iterator(coded, trainers.BpeTrainer(vocab_size=size, show_progress=False))
    back = {code: letter for letter, code in inside.items()}
    ordered = sorted(core.get_vocab().items(), key=lambda entry: entry[1])
    return [
        ("##" if piece[0] in back else "") + "".join(back.get(letter, letter) for letter in piece)
        for piece, _ in ordered
    ]


def _check(texts: Sequence[str], size: int, length: int) -> None:
    check_int("size", size, 64)
    check_int("length", length, 3)
    if isinstance(texts, str):
        raise TypeError("texts: got one str; takes a list of them")
    if not texts:
        raise ValueError("texts: got nothing; takes at least one")
