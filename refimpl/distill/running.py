"""Run a student or a teacher so that its outputs hold what the terms ask for."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from refimpl.distill.features import capture


def forward_takes(model: nn.Module | None) -> list[str]:
    """The names of the arguments of ``forward``, in order, without ``*args`` and ``**kwargs``; none of None."""
    if model is None:
        return []
    found = inspect.signature(model.forward).parameters.values()
    return [p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def run_with(model: nn.Module, inside: nn.Module, given: dict[str, Any], needs: set[str]) -> Any:
    """The outputs of ``model``, a wrapper of ``inside`` or itself, with what the terms need."""
    wanted = {"output_hidden_states": True} if "hidden_states" in needs else {}
    if not needs - {"hidden_states"}:
        return model(**given, **wanted)
    scores = "scores" if "attention_scores" in needs else None
    with capture(inside, attentions=scores, queries_keys_values="queries_keys_values" in needs) as captured:
        outputs = model(**given, **wanted)
    outputs.captured = captured
    return outputs
