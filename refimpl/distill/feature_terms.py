"""Terms on what the layers know: the losses of `refimpl.distill.features`, ready for `DistillationTrainer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from refimpl.checks import check_choice, check_int
from refimpl.distill.features import attention_loss, cosine_loss, hidden_loss, relation_loss
from refimpl.distill.terms import Term

__all__ = ["attention_term", "cosine_term", "hidden_term", "relation_term"]

FEATURES = ("queries", "keys", "values")


def hidden_term(
    layer_map: Mapping[int, int], projections: nn.Module | None = None, normalize: bool = False
) -> Term:
    """`hidden_loss` of the two models' hidden states over the real tokens.

    Args:
        layer_map: student's index to teacher's index; 0 is the embeddings, -1 the last layer.
        projections: `Projections` for widths that differ: trained with the student, not part of it.
        normalize: compare directions only.

    Raises:
        TypeError, ValueError: no layer map, ``projections`` that are no module.
    """
    _check_map(layer_map)

    def loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        return hidden_loss(
            student.hidden_states,
            teacher.hidden_states,
            layer_map,
            inputs.get("attention_mask"),
            projections,  # type: ignore[arg-type]
            normalize,
            num_items=1,
        )

    return Term(loss, reduction="sum", needs=("hidden_states",), modules=projections, name="hidden")


def cosine_term() -> Term:
    """`cosine_loss` of the last hidden states over the real tokens; the widths are equal."""

    def loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        last = student.hidden_states[-1], teacher.hidden_states[-1]
        return cosine_loss(*last, inputs.get("attention_mask"), num_items=1)

    return Term(loss, reduction="sum", needs=("hidden_states",), name="cosine")


def attention_term(layer_map: Mapping[int, int], kind: str = "kl") -> Term:
    """`attention_loss` of the attention scores ``Q K' / sqrt(d)`` over the real tokens, as queries.

    Scores are captured before the mask and before dropout, for every implementation of attention.

    Args:
        layer_map: student's layer to teacher's layer, from 0.
        kind: ``"kl"`` of their softmax, ``"mse"`` of the scores.

    Raises:
        TypeError, ValueError: no layer map, an unknown kind.
    """
    _check_map(layer_map, 0)
    check_choice("kind", kind, ("kl", "mse"))

    def loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        return attention_loss(
            [student.captured.attentions[j] for j in layer_map],
            [teacher.captured.attentions[k] for k in layer_map.values()],
            inputs.get("attention_mask"),
            kind,
            from_scores=True,
            causal=inputs["causal"],
            num_items=1,
        )

    return Term(loss, reduction="sum", needs=("attention_scores",), name="attention")


def relation_term(
    layer_map: Mapping[int, int],
    relation_heads: int,
    features: Sequence[str] = ("queries", "keys", "values"),
) -> Term:
    """`relation_loss` of queries, keys and values over the real tokens, summed over ``features`` and the layer map.

    MiniLM v2 is one pair of layers, the last ones, and all three features. Widths and numbers of attention heads may
    differ; no projection is needed. What a layer does with its values gets no gradient from its own term.

    Args:
        layer_map: student's layer to teacher's layer, from 0.
        relation_heads: divides both widths.
        features: which ones, each once.

    Raises:
        TypeError, ValueError: no layer map, no or unknown features, ``relation_heads`` below 1.
    """
    _check_map(layer_map, 0)
    check_int("relation_heads", relation_heads, 1)
    if isinstance(features, str) or not features or len(set(features)) < len(features):
        raise ValueError(f"features: got {features!r}; takes some of {', '.join(FEATURES)}, each once")
    chosen = [check_choice("features", name, FEATURES) for name in features]

    def loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
        mask = inputs.get("attention_mask")
        pairs = [
            (getattr(student.captured, name)[j], getattr(teacher.captured, name)[k])
            for j, k in layer_map.items()
            for name in chosen
        ]
        return torch.stack([relation_loss(s, t, relation_heads, mask, num_items=1) for s, t in pairs]).sum()

    return Term(loss, reduction="sum", needs=("queries_keys_values",), name="relations")


def _check_map(layer_map: Any, low: int | None = None) -> None:
    if not isinstance(layer_map, Mapping) or not layer_map:
        raise TypeError(
            f"layer_map: got {layer_map!r}; takes a dictionary, student's layer to teacher's layer"
        )
    for j, k in layer_map.items():
        check_int("layer_map", j, low)
        check_int("layer_map", k, low)
