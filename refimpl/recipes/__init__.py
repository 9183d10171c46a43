"""How the course's two teachers were trained, and what they and simpler models reach on held-out texts.

`load_teacher` loads one. ``python -m refimpl.recipes.teachers`` trains one (it needs accelerate), with the data
of `texts`, the tokenizers of `vocabulary`, the settings and models of `shapes` and the batches of `draws`;
`release` writes it down. `scoring` has the held-out scores, `baselines` what counting tokens reaches.
"""

from refimpl.recipes.baselines import bigram, score_masked, score_next, unigram
from refimpl.recipes.release import KINDS, load_teacher, release
from refimpl.recipes.scoring import (
    Evaluation,
    causal_rows,
    evaluate,
    mask_tokens,
    masked_rows,
    next_tokens,
    token_scores,
    windows,
)
from refimpl.recipes.shapes import DEFAULTS, Settings
from refimpl.recipes.texts import blocks, chain, held_out, training_texts, without_copies
from refimpl.recipes.vocabulary import byte_bpe, wordpiece

__all__ = [
    "DEFAULTS",
    "KINDS",
    "Evaluation",
    "Settings",
    "bigram",
    "blocks",
    "byte_bpe",
    "causal_rows",
    "chain",
    "evaluate",
    "held_out",
    "load_teacher",
    "mask_tokens",
    "masked_rows",
    "next_tokens",
    "release",
    "score_masked",
    "score_next",
    "token_scores",
    "training_texts",
    "unigram",
    "windows",
    "without_copies",
    "wordpiece",
]
