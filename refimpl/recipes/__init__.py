"""How the course's two teachers were trained and distilled, and what they and simpler models reach.

`load_teacher` loads one. ``python -m refimpl.recipes.teachers`` trains one (it needs accelerate), with the data
of `texts`, the tokenizers of `vocabulary`, the settings and models of `shapes`, the optimizer of `optimizer` and
the batches of `draws`; `release` writes it down. `scoring` has the held-out scores, `baselines` what counting
tokens reaches.

``python -m refimpl.recipes.ingredients`` measures what each ingredient of distillation is worth: the students of
`arms`, trained and judged as `students` says, on the task of `task`. `load_ingredients` reads its result.
"""

from refimpl.recipes.arms import ARMS, Arm
from refimpl.recipes.baselines import bigram, score_masked, score_next, unigram
from refimpl.recipes.release import KINDS, load_ingredients, load_teacher, release
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
from refimpl.recipes.students import Study, compare_with_teacher, distil
from refimpl.recipes.task import fine_tune
from refimpl.recipes.texts import blocks, chain, held_out, training_texts, without_copies
from refimpl.recipes.vocabulary import byte_bpe, wordpiece

__all__ = [
    "ARMS",
    "DEFAULTS",
    "KINDS",
    "Arm",
    "Evaluation",
    "Settings",
    "Study",
    "bigram",
    "blocks",
    "byte_bpe",
    "causal_rows",
    "chain",
    "compare_with_teacher",
    "distil",
    "evaluate",
    "fine_tune",
    "held_out",
    "load_ingredients",
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
