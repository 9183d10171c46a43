"""Get at what a model computes inside, without editing it and without a case for each architecture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from refimpl.blocks import ATTENTION, Block, find_blocks, find_stack
from refimpl.checks import check_choice, check_int, check_module
from refimpl.distill.features.common import at_least_fp32, no_autocast
from refimpl.modules import get

__all__ = ["Captured", "capture"]

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")  # of a configuration


@dataclass
class Captured:
    """What the last forward pass inside :func:`capture` computed; with its graph, where gradients are on.

    Layers are keyed by the indices that were asked for, ``-1`` by ``-1``.

    Attributes:
        hidden_states: ``[B, L, H]`` of the embeddings and of every layer; empty if not asked for.
        attentions: layer to ``[B, heads, L, L]``, probabilities or scores.
        queries, keys, values: layer to ``[B, L, heads · width]``, all heads side by side.
        modules: name to the module's output.
    """

    hidden_states: tuple[Tensor, ...] = ()
    attentions: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    modules: dict[str, Any] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget everything."""
        self.hidden_states = ()
        for seen in (self.attentions, self.queries, self.keys, self.values, self.modules):
            seen.clear()


@contextmanager
def capture(
    model: nn.Module,
    layers: Iterable[int] | None = None,
    *,
    hidden_states: bool = False,
    attentions: str | None = None,
    queries_keys_values: bool = False,
    modules: Iterable[str] = (),
) -> Iterator[Captured]:
    """Inside the ``with`` block, every call of ``model`` fills the record that ``as`` names::

        with torch.no_grad(), capture(teacher, [-1], attentions="scores", queries_keys_values=True) as t:
            teacher(**batch)
        with capture(student, [-1], attentions="scores", queries_keys_values=True) as s:
            student(**batch)
        loss = attention_loss(s.attentions[-1], t.attentions[-1], mask, from_scores=True)
        loss = loss + relation_loss(s.values[-1], t.values[-1], 12, mask)

    - Hidden states and probabilities are transformers' own (``output_hidden_states``,
      ``output_attentions``), asked for in your call's place. Probabilities exist in eager attention only: a
      model with another implementation (sdpa, flash) is switched to eager and, at the end, back, also after an
      error. In training mode they would come after dropout, so they are refused there; scores are not.
    - Scores ``Q K' · scaling`` are computed from the captured queries and keys, in fp32 at least, for every
      implementation, before any mask and any dropout: a loss has to leave out padding and, for a causal
      model, later keys.
    - Queries, keys and values are what the projection layers give, read by hooks; attention blocks are found
      by `refimpl.blocks.ATTENTION` (BERT, RoBERTa, DistilBERT, GPT-2).

    For a model inside a wrapper (DistributedDataParallel) give the model inside and call the wrapper. One
    call is one pass over whole sequences: while decoding with a cache, keys of the past are not seen.

    Args:
        model: any module for ``modules``; a Hugging Face model for hidden states and probabilities.
        layers: for attentions, queries, keys and values; from 0, or from the end with negative numbers; all
            when None.
        hidden_states: all of them, as the embeddings' and one a layer.
        attentions: ``"probabilities"``, ``"scores"`` or None.
        queries_keys_values: whether to take them.
        modules: names of modules whose outputs to keep.

    Raises:
        TypeError, ValueError: nothing asked for, a layer that the model does not have, a model of which this
            cannot be had (the message says what can be done).
        KeyError: no module of that name.
    """
    check_module("model", model)
    check_choice("attentions", attentions, (None, "probabilities", "scores"))
    modules = [modules] if isinstance(modules, str) else list(modules)
    if not (hidden_states or attentions or queries_keys_values or modules):
        raise ValueError(
            "hidden_states, attentions, queries_keys_values, modules: got none; takes at least one"
        )
    wanted = None if layers is None else [check_int("layers", index) for index in layers]
    if wanted == []:
        raise ValueError("layers: got none; takes at least one index, or None for all")
    watched = {name: get(model, name) for name in modules}
    from_projections = queries_keys_values or attentions == "scores"
    blocks = _attention_blocks(model, wanted) if from_projections else {}
    asked = {"hidden_states": hidden_states, "attentions": attentions == "probabilities"}
    if any(asked.values()) and not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model: got {type(model).__name__}; takes a model of transformers for hidden_states and "
            "attentions='probabilities', any module for modules=[names]"
        )
    seen = Captured()

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        seen.clear()
        return args, kwargs | {f"output_{name}": True for name, wish in asked.items() if wish}

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if asked["hidden_states"]:
            seen.hidden_states = _outputs(model, output, "hidden_states")
        if asked["attentions"]:
            maps = _outputs(model, output, "attentions")
            seen.attentions.update({i: maps[i] for i in _indices(wanted, len(maps))})
        _refuse_cut_graph(model, blocks, seen)
        if attentions == "scores":
            for index, block in blocks.items():
                seen.attentions[index] = _scores(model, block, seen.queries[index], seen.keys[index])
        if from_projections and not queries_keys_values:  # they were only needed for the scores
            for taken in (seen.queries, seen.keys, seen.values):
                taken.clear()

    with ExitStack() as stack:
        if asked["attentions"]:
            assert isinstance(model, PreTrainedModel)
            _refuse_dropout(model)
            stack.enter_context(_eager(model))
        handles = [model.register_forward_pre_hook(before, with_kwargs=True)]
        for index, block in blocks.items():
            handles += _watch_projections(model, block, index, seen)
        for name, module in watched.items():
            handles.append(module.register_forward_hook(_keep(seen.modules, name)))
        handles.append(model.register_forward_hook(after))
        for handle in handles:
            stack.callback(handle.remove)
        yield seen


def _indices(wanted: Sequence[int] | None, total: int) -> Sequence[int]:
    """The layers asked for, checked against how many there are."""
    for index in wanted or ():
        check_int("layers", index, -total, total - 1)
    return range(total) if wanted is None else wanted


def _attention_blocks(model: nn.Module, wanted: Sequence[int] | None) -> dict[int, Block]:
    path, stack = find_stack(model)
    found = find_blocks(model, ATTENTION)
    chosen = {}
    for index in _indices(wanted, len(stack)):
        prefix = f"{path}.{index % len(stack)}."
        block = next((b for name, b in found.items() if name.startswith(prefix)), None)
        if block is None:
            raise ValueError(
                f"layers: got {index}, in which no attention is found; takes layers with known projections, or "
                "modules=[names of the projections]"
            )
        chosen[index] = block
    return chosen


def _watch_projections(model: nn.Module, block: Block, index: int, seen: Captured) -> list[Any]:
    """Hooks on one fused layer, or on three."""
    kinds = (seen.queries, seen.keys, seen.values)

    def fused(_: nn.Module, __: Any, output: Tensor) -> None:
        for kind, part in zip(kinds, output.chunk(block.parts, -1), strict=True):  # (B, L, 3H) -> 3 (B, L, H)
            kind[index] = part

    if block.parts == len(kinds):
        return [get(model, block.inner[0]).register_forward_hook(fused)]
    return [
        get(model, name).register_forward_hook(_keep(kind, index))
        for name, kind in zip(block.inner, kinds, strict=True)
    ]


def _keep(where: dict[Any, Any], key: Any) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        where[key] = output

    return hook


def _scores(model: nn.Module, block: Block, queries: Tensor, keys: Tensor) -> Tensor:
    holder = get(model, next(iter(block.attributes)))  # the attention module, which counts the heads
    scaling = getattr(holder, "scaling", block.width**-0.5)
    q, k = (at_least_fp32(t).unflatten(-1, (block.groups, -1)).transpose(1, 2) for t in (queries, keys))
    with no_autocast(q):
        return q @ k.transpose(-1, -2) * scaling  # (B, heads, L, d) -> (B, heads, L, L)


def _outputs(model: nn.Module, output: Any, name: str) -> tuple[Tensor, ...]:
    found = getattr(output, name, None)
    if not found:
        raise ValueError(
            f"model: got a {type(model).__name__} whose {type(output).__name__} has no {name}; takes a model of "
            "transformers that returns them (not with return_dict=False), or modules=[names]"
        )
    return tuple(found)


def _refuse_dropout(model: PreTrainedModel) -> None:
    rates = {e: getattr(model.config, e) for e in ATTENTION_DROPOUT if getattr(model.config, e, 0)}
    if model.training and rates:
        raise ValueError(
            f"attentions: got 'probabilities' of a model in training mode with {rates}: transformers returns them after "
            "dropout; takes 'scores', eval mode, or a rate of 0"
        )


def _refuse_cut_graph(model: nn.Module, blocks: dict[int, Block], seen: Captured) -> None:
    """Re-entrant gradient checkpointing runs the layers without a graph: a loss on them would train nothing."""
    for index, block in blocks.items():
        weight = get(model, block.inner[0]).weight
        trains = torch.is_grad_enabled() and isinstance(weight, Tensor) and weight.requires_grad
        if trains and not seen.queries[index].requires_grad:
            raise ValueError(
                f"model: got a {type(model).__name__} whose layers run without gradients, as re-entrant gradient "
                'checkpointing does; takes gradient_checkpointing_kwargs={"use_reentrant": False}'
            )


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """Attention in plain PyTorch, the only one that has probabilities; afterwards what it was."""
    config = model.config
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    was = {"": config._attn_implementation}
    was |= {key: part._attn_implementation for key, part in parts.items() if part is not None}
    try:
        if was[""] != "eager":
            model.set_attn_implementation("eager")
        if config._attn_implementation != "eager":
            raise ValueError(
                f"attentions: got 'probabilities' of a {type(model).__name__} with {was['']!r} attention, which has "
                'none and cannot be switched; takes a model loaded with attn_implementation="eager", or '
                "attentions='scores'"
            )
        yield
    finally:
        if config._attn_implementation != was[""]:
            model.set_attn_implementation(was)
