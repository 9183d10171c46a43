"""Muon for the weight matrices of the layers, AdamW for all else, as one optimizer that `Trainer` can save."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from refimpl.checks import check_module, check_number

__all__ = ["MuonAndAdamW"]


class MuonAndAdamW(Optimizer):
    """Each step moves the blocks' matrices by an orthogonal matrix, everything else as AdamW does.

    For a weight ``W [m, n]`` with momentum ``M``: ``W ← (1 − lr·decay)·W − .2·√max(m, n)·lr·O``, where ``O ≈ U Vᵀ``
    of the singular value decomposition ``M = U Σ Vᵀ``: all directions of the gradient move alike, the rare ones too.
    The factor makes the size of a step AdamW's, so that one learning rate serves both. Embeddings and heads, where a
    row stands for one token, stay with AdamW; vectors are not decayed.

    Args:
        model: its trainable parameters; ``matrices`` are those with two dimensions and ``within`` in their name.
        lr: learning rate of both.
        weight_decay: of both.
        betas: of AdamW.
        within: part of the names of the blocks' parameters: ``".layer."`` of BERT, ``".h."`` of GPT-2.

    Raises:
        TypeError: no module.
        ValueError: no matrix whose name has ``within``; negative numbers.

    Source: Jordan et al. 2024 (Muon), the factor: Liu et al. 2025 (arXiv 2502.16982), section 2.2.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        within: str = ".layer.",
    ) -> None:
        check_module("model", model)
        check_number("lr", lr, 0)
        check_number("weight_decay", weight_decay, 0)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and within in name]
        if not matrices:
            raise ValueError(f"within: got {within!r}; takes a part of the names of the blocks' matrices")
        taken = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in taken]
        decay = [{"params": [p for p in rest if p.ndim > 1]}]
        plain = [{"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
        groups = [group for group in decay + plain if group["params"]]
        self.muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = (
            AdamW(groups, lr=lr, weight_decay=weight_decay, betas=betas, fused=True) if groups else None
        )
        both = [*self.muon.param_groups, *(self.adamw.param_groups if self.adamw else [])]
        super().__init__(both, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        if closure is not None:
            raise ValueError("closure: got one; takes None")
        # handed over each time: loading a checkpoint puts other lists and dictionaries in their place
        for part, groups in ((self.muon, self.param_groups[:1]), (self.adamw, self.param_groups[1:])):
            if part is not None:
                part.param_groups, part.state = groups, self.state
                part.step()
