"""The one place where a method joins the contracts of the package.

Append an entry to the list that fits; tests/contracts/test_contracts.py runs every contract over every
entry. Everything is small, seeded and on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refimpl import calibration, distill, lowrank, measure, prune, quantize, recipes, retrieve
from tests.contracts import models


@dataclass(frozen=True)
class Loss:
    """A loss between student and teacher: contracts 1 (padding), 2 (teacher), 3 (batches), 8, 9 (half).

    ``call(student, teacher, mask) -> scalar`` for logits ``[B, L, V]`` and a bool mask ``[B, L]``; the
    scalar is documented as the mean over unmasked positions.
    """

    name: str
    call: Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pooler:
    """Hidden states to one vector a text, ``call(hidden [B, L, D], mask [B, L]) -> [B, D]``: 1, 3, 8, 9."""

    name: str
    call: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Runner:
    """A function that runs a model and returns something: contracts 2 and 8 (mode, gradients, weights).

    ``call(model, batch) -> Any``; ``batch`` has ``input_ids`` and ``attention_mask``.
    """

    name: str
    call: Callable[[nn.Module, dict[str, Tensor]], Any]


@dataclass(frozen=True)
class Sparsifier:
    """``call(scores, sparsity) -> mask`` (True = kept): contract 4, exact counts."""

    name: str
    call: Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Pure:
    """A function of tensors: contract 8 (arguments unchanged) and, with ``half``, contract 9.

    ``make()`` gives the positional arguments. ``half=True``: called with its floating-point arguments in
    fp16 and in bf16 it gives what it gives for the same numbers in fp32.
    """

    name: str
    call: Callable[..., Any]
    make: Callable[[], tuple[Any, ...]]
    half: bool = True


@dataclass(frozen=True)
class Verb:
    """A method that changes a model in place: contracts 5 (Conv1D), 6 (ties), 7 (round trip), 10.

    ``apply(model) -> model``; ``on`` names the makers in tests/contracts/models.py that it takes. ``model``
    is already one of those; a data-driven verb may run it. ``tolerance`` is for contract 5 only.
    """

    name: str
    apply: Callable[[nn.Module], nn.Module]
    on: tuple[str, ...] = ("mlp", "bert", "gpt2")
    tolerance: float = 1e-5


LOSSES: list[Loss] = []
POOLERS: list[Pooler] = []
RUNNERS: list[Runner] = []
SPARSIFIERS: list[Sparsifier] = []
PURE: list[Pure] = []
VERBS: list[Verb] = []


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Seeded normal numbers that fp16 and bf16 hold exactly, so that contract 9 compares like with like."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.bfloat16().half().float()


# -- ground floor ----------------------------------------------------------------------------------------

RUNNERS.append(
    Runner(
        "calibration.calibrate",
        lambda model, batch: calibration.calibrate(model, [batch], collect=("gram", "norm", "range")),
    )
)
RUNNERS.append(
    Runner(
        "calibration.calibrate grad_sq",
        lambda model, batch: calibration.calibrate(
            model, [batch], collect=("grad_sq",), loss=lambda out, _: models.output(out).square().mean()
        ),
    )
)

RUNNERS += [
    Runner("measure.report", lambda model, batch: measure.report(model, batch, repeats=1, warmup=0)),
    Runner("measure.macs", measure.macs),
    Runner("measure.peak_memory", measure.peak_memory),
]

# -- distill ---------------------------------------------------------------------------------------------


def _labels(mask: Tensor, vocabulary: int) -> Tensor:
    return torch.where(mask, torch.arange(mask.shape[-1]) % vocabulary, -100)


LOSSES += [
    Loss("distill.kd_loss", lambda s, t, m: distill.kd_loss(s, t, 2.0, m)),
    Loss("distill.kd_loss reverse", lambda s, t, m: distill.kd_loss(s, t, 2.0, m, "reverse")),
    Loss("distill.jsd_loss", lambda s, t, m: distill.jsd_loss(s, t, 2.0, m, beta=0.3)),
    Loss(
        "distill.soft_cross_entropy",
        lambda s, t, m: distill.soft_cross_entropy(s, torch.softmax(t.float(), -1), 2.0, m),
    ),
    Loss(
        "distill.distillation_loss",
        lambda s, t, m: distill.distillation_loss(s, t, _labels(m, s.shape[-1]), 0.5, 2.0),
    ),
    Loss(
        "distill.distillation_loss with a mask",
        lambda s, t, m: distill.distillation_loss(s, t, _labels(m, s.shape[-1]), 0.5, 2.0, mask=m),
    ),
]


def _maps(x: Tensor) -> Tensor:
    """[B, L, V] as attention scores [B, V heads, L, L]: every query scores a key by the key's entry."""
    return x.transpose(1, 2)[:, :, None].expand(-1, -1, x.shape[1], -1)


def _captured(model: nn.Module, batch: dict[str, Tensor]) -> distill.Captured:
    with torch.no_grad(), distill.capture(model, attentions="scores", queries_keys_values=True) as seen:
        model(**batch)
    return seen


LOSSES += [
    Loss("distill.hidden_loss", lambda s, t, m: distill.hidden_loss([s], [t], {0: 0}, m)),
    Loss(
        "distill.hidden_loss normalized",
        lambda s, t, m: distill.hidden_loss([s, s], [t], {0: 0, 1: 0}, m, normalize=True),
    ),
    Loss("distill.cosine_loss", distill.cosine_loss),
    Loss("distill.relation_loss", lambda s, t, m: distill.relation_loss(s, t, 1, m)),
    Loss(
        "distill.attention_loss kl",
        lambda s, t, m: distill.attention_loss(_maps(s), _maps(t), m, from_scores=True),
    ),
    Loss("distill.attention_loss mse", lambda s, t, m: distill.attention_loss(_maps(s), _maps(t), m, "mse")),
]
RUNNERS += [
    Runner("distill.capture", _captured),
    Runner("distill.make_student", lambda model, _: distill.make_student(model)),  # type: ignore[arg-type]
    Runner("distill.distilbert_from", lambda model, _: distill.distilbert_from(model)),  # type: ignore[arg-type]
]


def _from_hidden(s: Tensor, t: Tensor, m: Tensor, **kwargs: Any) -> Tensor:
    """The chunked loss of given logits: they are the hidden states, the output matrix is the identity."""
    eye = torch.eye(s.shape[-1], dtype=s.dtype)
    return distill.chunked_kd_loss(s, eye, t, eye, 2.0, m, chunk=3, **kwargs)


def _topk(s: Tensor, t: Tensor, m: Tensor, rest: str = "bucket") -> Tensor:
    t = torch.where(m[..., None], t, torch.zeros((), dtype=t.dtype))  # targets are made of finite logits
    return distill.topk_kd_loss(s, *distill.topk_targets(t, 3, 2.0), 2.0, m, rest)


LOSSES += [
    Loss("distill.chunked_kd_loss", _from_hidden),
    Loss("distill.chunked_kd_loss reverse", lambda s, t, m: _from_hidden(s, t, m, direction="reverse")),
    Loss(
        "distill.chunked_kd_loss with labels",
        lambda s, t, m: _from_hidden(s, t, m, labels=_labels(m, s.shape[-1]), alpha=0.5),
    ),
    Loss("distill.topk_kd_loss", _topk),
    Loss("distill.topk_kd_loss renormalize", lambda s, t, m: _topk(s, t, m, "renormalize")),
]

LOSSES += [
    Loss("distill.mutual_losses", lambda s, t, m: distill.mutual_losses([s, t], _labels(m, s.shape[-1]))[0]),
]
PURE += [
    Pure(
        "distill.average_probabilities",
        lambda a, b: distill.average_probabilities([a, b], [1.0, 3.0], 2.0),
        lambda: (randn(3, 5), randn(3, 5, seed=1)),
    ),
    Pure(
        "distill.average_logits",
        lambda a, b: distill.average_logits([a, b]),
        lambda: (randn(3, 5), randn(3, 5, seed=1)),
    ),
]

# -- prune -----------------------------------------------------------------------------------------------

SPARSIFIERS.append(Sparsifier("prune.mask_from_scores", prune.mask_from_scores))
SPARSIFIERS.append(
    Sparsifier("prune.magnitude_masks layer", lambda s, x: prune.magnitude_masks({"a": s}, x)["a"])
)
SPARSIFIERS.append(
    Sparsifier("prune.magnitude_masks global", lambda s, x: prune.magnitude_masks({"a": s}, x, "global")["a"])
)

PURE += [
    Pure("prune.magnitude_scores", prune.magnitude_scores, lambda: (randn(3, 5),)),
    Pure(
        "prune.mask_from_scores", lambda s: prune.mask_from_scores(s, 0.3), lambda: (randn(4, 6),), half=False
    ),
    Pure("prune.mask_n_of_m", prune.mask_n_of_m, lambda: (randn(3, 8),), half=False),
    Pure("prune.apply_mask", prune.apply_mask, lambda: (randn(3, 4), randn(3, 4, seed=1) > 0), half=False),
    Pure(
        "prune.weight_scores",
        lambda a, b: prune.weight_scores([a], b, 2),
        lambda: (randn(6, 5), randn(4, 6, seed=1)),
    ),
    Pure(
        "prune.output_scores",
        lambda w, x: prune.output_scores(w, x.float().T @ x.float(), 2),
        lambda: (randn(4, 6), randn(9, 6, seed=1)),
    ),
    Pure("prune.encode_csr", prune.encode_csr, lambda: (randn(3, 4).relu(),), half=False),
    Pure("prune.encode_bitmask", prune.encode_bitmask, lambda: (randn(3, 4).relu(),), half=False),
    Pure("prune.encode_two_four", prune.encode_two_four, lambda: (torch.eye(4, 8),), half=False),
]


def _by_output(config: prune.Neurons | prune.Heads) -> Callable[[nn.Module], nn.Module]:
    def apply(model: nn.Module) -> nn.Module:
        stats = calibration.calibrate(model, [models.batch()])
        return prune.prune_(model, config, stats=stats)

    return apply


VERBS += [
    Verb("prune.Magnitude layer", lambda m: prune.prune_(m, prune.Magnitude(0.4))),
    Verb("prune.Magnitude global", lambda m: prune.prune_(m, prune.Magnitude(0.4, "global"))),
    Verb("prune.Neurons", lambda m: prune.prune_(m, prune.Neurons(0.3)), on=("bert", "gpt2")),
    Verb("prune.Heads", lambda m: prune.prune_(m, prune.Heads(0.3, scope="global")), on=("bert", "gpt2")),
    Verb("prune.Neurons output", _by_output(prune.Neurons(0.3, score="output")), on=("bert", "gpt2")),
    Verb("prune.Heads output", _by_output(prune.Heads(0.3, score="output")), on=("bert", "gpt2")),
    Verb(
        "prune.compress_storage_",
        lambda m: prune.compress_storage_(prune.prune_(m, prune.Magnitude(0.6)), prune.Bitmask()),
    ),
]


# -- quantize --------------------------------------------------------------------------------------------


def _rows() -> tuple[Tensor]:
    return (randn(4, 32),)


def _dequantized(x: Tensor, *arguments: Any) -> Tensor:
    return quantize.quantize_tensor(x, *arguments).dequantize()


PURE += [
    Pure("quantize.minmax_range", quantize.minmax_range, _rows),
    Pure("quantize.absmax_range", quantize.absmax_range, _rows),
    Pure("quantize.rms_range", quantize.rms_range, _rows),
    Pure("quantize.percentile_range", quantize.percentile_range, _rows),
    Pure("quantize.mse_range", lambda x: quantize.mse_range(x, 4), _rows),
    Pure("quantize.affine_qparams", lambda x: quantize.affine_qparams(x.amin(1), x.amax(1))[0], _rows),
    Pure("quantize.quantize_tensor", lambda x: _dequantized(x, 4, quantize.PerGroup(8)), _rows),
    Pure("quantize.sqnr", lambda x: quantize.sqnr(x, x.round()), _rows),
    Pure("quantize.quantize_rows", lambda x: quantize.quantize_rows(x)[1], _rows),
    Pure(
        "quantize.quantize",
        lambda x: quantize.quantize(x, torch.tensor(0.1), torch.tensor(3)),
        _rows,
        half=False,
    ),
    Pure(
        "quantize.pack_int4",
        quantize.pack_int4,
        lambda: (torch.arange(-8, 8, dtype=torch.int8),),
        half=False,
    ),
]


def _quantizing(config: Any) -> Callable[[nn.Module], nn.Module]:
    return lambda model: quantize.quantize_(model, config)


VERBS += [
    Verb("quantize.Int8Weights channel", _quantizing(quantize.Int8Weights())),
    Verb("quantize.Int8Weights tensor", _quantizing(quantize.Int8Weights("tensor"))),
    Verb("quantize.Int8Weights group", _quantizing(quantize.Int8Weights("group", 8))),
    Verb("quantize.Int4Weights", _quantizing(quantize.Int4Weights(8))),
    Verb("quantize.Int8Dynamic", _quantizing(quantize.Int8Dynamic())),
    Verb("quantize.Int8Dynamic symmetric", _quantizing(quantize.Int8Dynamic(symmetric=True))),
]

# -- lowrank ---------------------------------------------------------------------------------------------


def _spectrum() -> tuple[Tensor]:
    return (randn(6).abs().sort(descending=True).values,)


PURE += [
    Pure("lowrank.truncated_svd", lambda w: lowrank.truncated_svd(w, 3), lambda: (randn(8, 6),)),
    Pure(
        "lowrank.truncated_svd randomized",
        lambda w: lowrank.truncated_svd(w, 3, "randomized"),
        lambda: (randn(20, 16),),
    ),
    Pure("lowrank.rank_for_energy", lambda s: lowrank.rank_for_energy(s, 0.8), _spectrum),
    Pure("lowrank.cumulative_energy", lowrank.cumulative_energy, _spectrum),
    Pure("lowrank.truncation_error", lambda s: lowrank.truncation_error(s, 3), _spectrum),
    Pure("lowrank.stable_rank", lowrank.stable_rank, _spectrum),
    Pure("lowrank.effective_rank", lowrank.effective_rank, _spectrum),
]
VERBS += [
    Verb("lowrank.TruncatedSVD rank", lambda m: lowrank.factorize_(m, lowrank.TruncatedSVD(rank=5))),
    Verb("lowrank.TruncatedSVD keep", lambda m: lowrank.factorize_(m, lowrank.TruncatedSVD(keep=0.6))),
    Verb("lowrank.TruncatedSVD energy", lambda m: lowrank.factorize_(m, lowrank.TruncatedSVD(energy=0.5))),
    Verb(
        "lowrank.TruncatedSVD randomized",
        lambda m: lowrank.factorize_(m, lowrank.TruncatedSVD(rank=5, method="randomized")),
        tolerance=1e-4,
    ),
]

# -- retrieve --------------------------------------------------------------------------------------------


class _Bytes:
    """A tokenizer: one token a character."""

    pad_token_id = 0

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(c) % models.VOCABULARY for c in text] for text in texts]}


POOLERS += [
    Pooler("retrieve.pool mean", retrieve.pool),
    Pooler("retrieve.pool cls", lambda h, m: retrieve.pool(h, m, "cls")),
]
RUNNERS.append(Runner("retrieve.encode", lambda model, _: retrieve.encode(model, _Bytes(), ["ab", "c"])))
PURE += [
    Pure("retrieve.pool", retrieve.pool, lambda: (randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]]))),
    Pure(
        "retrieve.exact_search",
        lambda q, d: retrieve.exact_search(q, d, 2),
        lambda: (randn(3, 4), randn(5, 4, seed=1)),
    ),
    Pure(
        "retrieve.recall_at_k",
        lambda a, b: retrieve.recall_at_k(a, b, 2),
        lambda: (torch.tensor([[3, 1, 2]]), torch.tensor([1])),
        half=False,
    ),
    Pure(
        "retrieve.mean_reciprocal_rank",
        retrieve.mean_reciprocal_rank,
        lambda: (torch.tensor([[3, 1, 2]]), torch.tensor([1])),
        half=False,
    ),
]

# -- recipes ---------------------------------------------------------------------------------------------


def _ids() -> Tensor:
    return torch.arange(24).view(3, 8) % 7


def _middle() -> Tensor:
    """Labels of `_ids` in two columns, none at an end of a row."""
    return torch.where(torch.isin(torch.arange(8), torch.tensor([2, 3])), _ids(), -100)


PURE += [
    Pure("recipes.blocks", lambda x: recipes.blocks(x, 5, 8, 9), lambda: (_ids().flatten(),), half=False),
    Pure("recipes.windows", lambda x: recipes.windows(x, 5), lambda: (_ids().flatten(),), half=False),
    Pure("recipes.next_tokens", recipes.next_tokens, lambda: (_ids(),), half=False),
    Pure(
        "recipes.mask_tokens",
        lambda x: recipes.mask_tokens(x, 8, 9, [0], torch.Generator().manual_seed(0)),
        lambda: (_ids(),),
        half=False,
    ),
    Pure("recipes.unigram", lambda x: recipes.unigram(x, 7), lambda: (_ids().flatten(),), half=False),
    Pure("recipes.bigram", lambda x: recipes.bigram(x, 7), lambda: (_ids().flatten(),), half=False),
    Pure(
        "recipes.score_next",
        recipes.score_next,
        lambda: (torch.full((7, 7), 0.125), _ids(), _middle()),
        half=False,
    ),
    Pure(
        "recipes.score_masked",
        lambda one, two, ids, labels: recipes.score_masked(one, two, ids, labels, 6),
        lambda: (torch.full((7,), 0.125), torch.full((7, 7), 0.125), _ids(), _middle()),
        half=False,
    ),
]
