"""DistilBERT's shape, initialised from a BERT."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    PreTrainedModel,
)

from refimpl.checks import check_choice
from refimpl.distill.students.copying import Origin, StudentRecord, fill_
from refimpl.distill.students.layers import kept_layers

__all__ = ["distilbert_from"]

# DistilBERT's names and BERT's, inside a layer and in the masked-LM head.
LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
HEAD = {
    "vocab_transform.weight": "cls.predictions.transform.dense.weight",
    "vocab_transform.bias": "cls.predictions.transform.dense.bias",
    "vocab_layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "vocab_layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "vocab_projector.weight": "cls.predictions.decoder.weight",
    "vocab_projector.bias": "cls.predictions.decoder.bias",
}
POSITIONS = "embeddings.position_embeddings.weight"
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"


def distilbert_from(
    teacher: BertForMaskedLM | BertModel,
    layers: str | Iterable[int] = "spread",
    *,
    count: int | None = None,
    token_types: str = "drop",
) -> tuple[PreTrainedModel, StudentRecord]:
    """A DistilBERT with some of a BERT's layers: no token types, no pooler, half the depth.

    12 layers become 0, 2, 4, 7, 9, 11 unless told otherwise. Word and position embeddings, their norm, the
    layers and, of a masked LM, the whole head with its transform are copies; the output matrix stays tied to
    the word embeddings. From ``bert-base-uncased``'s shape: 66,362,880 parameters, 66,985,530 with the head.

    BERT adds row 0 of its token-type table to every token of a single text, DistilBERT adds nothing.
    ``"drop"`` leaves the row out, as the published extraction does: the student starts with shifted
    embeddings and has to learn them back. ``"fold"`` adds the row to every position embedding: then the
    embeddings, and with all layers kept the logits too, are the teacher's for texts of token type 0.

    Args:
        teacher: `transformers.BertForMaskedLM`, or `transformers.BertModel` for a student without head.
        layers, count: as in :func:`make_student`.
        token_types: ``"drop"`` or ``"fold"``.

    Returns:
        ``(student, record)``, as :func:`make_student`: a `transformers.DistilBertForMaskedLM` or
        `transformers.DistilBertModel` in eval mode. For a narrower one give a narrower BERT, from
        :func:`make_student`, as the teacher.

    Raises:
        TypeError: another model.
        ValueError: layers that the teacher does not have; a decoder, cross-attention or a norm with another
            epsilon than 1e-12, which DistilBERT's classes cannot express; NaN or infinity in the weights.

    Source: Sanh et al. 2019 (arXiv 1910.01108), section 2, and its scripts/extract_distilbert.py (run with
    ``--vocab_transform``).
    """
    if not isinstance(teacher, BertForMaskedLM | BertModel):
        raise TypeError(f"teacher: got {type(teacher).__name__}; takes BertForMaskedLM or BertModel")
    check_choice("token_types", token_types, ("drop", "fold"))
    old = teacher.config
    for entry, value in (("is_decoder", False), ("add_cross_attention", False), ("layer_norm_eps", 1e-12)):
        if getattr(old, entry) != value:
            raise ValueError(f"teacher: got {entry}={getattr(old, entry)}; takes {value}, as in DistilBERT")
    kept = kept_layers(layers, count, old.num_hidden_layers)
    config = DistilBertConfig(
        vocab_size=old.vocab_size,
        max_position_embeddings=old.max_position_embeddings,
        n_layers=len(kept),
        n_heads=old.num_attention_heads,
        dim=old.hidden_size,
        hidden_dim=old.intermediate_size,
        dropout=old.hidden_dropout_prob,
        attention_dropout=old.attention_probs_dropout_prob,
        activation=old.hidden_act,
        initializer_range=old.initializer_range,
        pad_token_id=old.pad_token_id,
        tie_word_embeddings=old.tie_word_embeddings,
    )
    config._attn_implementation = old._attn_implementation
    kind = DistilBertForMaskedLM if isinstance(teacher, BertForMaskedLM) else DistilBertModel
    with torch.random.fork_rng(devices=[]):  # its random values are overwritten: leave the caller's generator
        student = kind(config).to(teacher.device).eval()  # type: ignore[arg-type]
    given = teacher.state_dict(keep_vars=True)
    prefix = "bert." if isinstance(teacher, BertForMaskedLM) else ""
    sources = {name: _source(name, prefix, kept) for name in student.state_dict()}
    values: dict[str, Tensor] = {}
    for name, source in sources.items():
        if source not in given or given[source].shape != student.get_parameter(name).shape:
            raise ValueError(
                f"teacher: got no {source!r} of the configured shape; takes a BERT as it was built"
            )
        values[name] = given[source].detach()
    folded = next(name for name in values if name.endswith(POSITIONS))
    if token_types == "fold":
        values[folded] = values[folded] + given[prefix + TOKEN_TYPES].detach()[0]  # (positions, hidden)
    fill_(student, values)
    origins = {name: Origin(source, "whole") for name, source in sources.items()}
    used = {id(given[source]) for source in sources.values()}
    if token_types == "fold":
        origins[folded] = Origin(sources[folded], "folded")
        used.add(id(given[prefix + TOKEN_TYPES]))
    return student, StudentRecord(kept, origins, tuple(n for n, t in given.items() if id(t) not in used))


def _source(name: str, prefix: str, kept: tuple[int, ...]) -> str:
    """BERT's name of a tensor of DistilBERT."""
    if name in HEAD:
        return HEAD[name]
    name = name.removeprefix("distilbert.")
    if not name.startswith("transformer.layer."):
        return prefix + name  # the embeddings have the same names
    index, _, inside = name.removeprefix("transformer.layer.").partition(".")
    layer, _, leaf = inside.rpartition(".")
    return f"{prefix}encoder.layer.{kept[int(index)]}.{LAYER[layer]}.{leaf}"
