"""Structured pruning: neurons, heads and whole layers leave, and the tensors shrink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from refimpl.blocks import ATTENTION, FEED_FORWARD, Block, Layout, find_blocks
from refimpl.calibration import LayerStats
from refimpl.checks import check_choice, check_int, check_number
from refimpl.modules import get, record_step_, weight_of
from refimpl.prune.blocks import check_block, keep_groups_
from refimpl.prune.masks import keep_highest, removed_count
from refimpl.prune.scores import output_scores, weight_scores

__all__ = ["Heads", "Neurons", "group_scores"]

Remove = Mapping[str | int, Sequence[int]]


@dataclass(frozen=True)
class _Groups:
    """What neurons and heads have in common: which groups leave, by number or by name."""

    sparsity: float | None = None
    keep: int | None = None
    remove: Remove | None = None
    scope: Literal["layer", "global"] = "layer"
    score: Literal["weight", "output"] = "weight"
    layouts: tuple[Layout, ...] = ()

    method: ClassVar[str]

    def __post_init__(self) -> None:
        given = [name for name in ("sparsity", "keep", "remove") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"sparsity, keep, remove: got {given or 'none'}; takes exactly one of them")
        if self.sparsity is not None:
            check_number("sparsity", self.sparsity, 0, 1, high_open=True)
        if self.keep is not None:
            check_int("keep", self.keep, 1)
        if self.remove is not None and not isinstance(self.remove, Mapping):
            raise TypeError(f"remove: got {type(self.remove).__name__}; takes {{block: [indices]}}")
        check_choice("scope", self.scope, ("layer", "global"))
        check_choice("score", self.score, ("weight", "output"))
        if self.scope == "global" and self.sparsity is None:
            raise ValueError("scope: got 'global' without sparsity; takes it with sparsity only")

    def apply_(
        self,
        model: nn.Module,
        layers: str | Iterable[str] | None,
        exclude: str | Iterable[str] | None,
        stats: Mapping[str, LayerStats] | None,
    ) -> nn.Module:
        """See `refimpl.prune.prune_`."""
        blocks = find_blocks(model, self.layouts, layers, exclude)
        for block in blocks.values():
            check_block(model, block)
        kept = self._kept(model, blocks, stats)
        step: dict[str, Any] = {
            "method": self.method,
            "config": {
                "sparsity": self.sparsity,
                "keep": self.keep,
                "remove": None if self.remove is None else {str(k): list(v) for k, v in self.remove.items()},
                "scope": self.scope,
                "score": self.score,
            },
            "kept": {name: len(keep) for name, keep in kept.items()},
            "layers": {},
            "attributes": {},
        }
        for name, keep in kept.items():
            if len(keep) < blocks[name].groups:
                entries = keep_groups_(model, blocks[name], keep)
                step["layers"].update(entries["layers"])
                step["attributes"].update(entries["attributes"])
        return record_step_(model, step)

    def _kept(
        self, model: nn.Module, blocks: dict[str, Block], stats: Mapping[str, LayerStats] | None
    ) -> dict[str, torch.Tensor]:
        """Indices that stay, ascending, for every block; at least one each."""
        if self.remove is not None:
            return _kept_by_name(blocks, self.remove)
        scores = {n: group_scores(model, b, self.score, stats) for n, b in blocks.items()}
        if self.keep is not None:
            for name, block in blocks.items():
                check_int(f"keep ({name})", self.keep, 1, block.groups)
            masks = {n: keep_highest(s, len(s) - self.keep) for n, s in scores.items()}
        elif self.scope == "layer":
            masks = {n: keep_highest(s, removed_count(len(s), self.sparsity)) for n, s in scores.items()}  # type: ignore[arg-type]
        else:
            masks = _global_masks(scores, self.sparsity)  # type: ignore[arg-type]
        return {name: mask.nonzero().reshape(-1) for name, mask in masks.items()}


@dataclass(frozen=True)
class Neurons(_Groups):
    """Remove feed-forward neurons: rows and biases of the first matrix, columns of the second.

    Attributes (exactly one of the first three):
        sparsity: fraction removed, in [0, 1): ⌊sparsity · n⌋ of each layer's n neurons, or of all together.
        keep: how many neurons stay in each layer.
        remove: ``{outer layer's name or number of the block: [indices]}``.
        scope: ``"layer"`` or ``"global"`` (one competition of raw scores; one neuron stays in each layer).
        score: ``"weight"`` or ``"output"`` (needs ``stats``), see `group_scores`.
        layouts: where the matrices sit; `refimpl.prune.FEED_FORWARD`.

    Raises:
        TypeError, ValueError: not exactly one of the three, or a value out of range.
    """

    layouts: tuple[Layout, ...] = FEED_FORWARD
    method: ClassVar[str] = "prune.Neurons"


@dataclass(frozen=True)
class Heads(_Groups):
    """Remove attention heads: rows of query, key and value, columns of the output matrix.

    Layers may keep different numbers of heads. Attributes as in `Neurons`, for heads.

    Raises:
        TypeError, ValueError: not exactly one of sparsity, keep, remove, or a value out of range.

    Source: Michel, Levy, Neubig 2019 (arXiv 1905.10650) remove heads (by a gradient score).
    """

    layouts: tuple[Layout, ...] = ATTENTION
    method: ClassVar[str] = "prune.Heads"


def group_scores(
    model: nn.Module,
    block: Block,
    score: Literal["weight", "output"] = "weight",
    stats: Mapping[str, LayerStats] | None = None,
) -> torch.Tensor:
    """One score for each neuron or head of a block; higher is more important.

    ``"weight"``: product over the matrices that make and read the group of their norms there, see
    `weight_scores`. ``"output"``: ‖X_g W_gᵀ‖_F, what the group adds to the outer layer's output on
    calibration data, see `output_scores`; for neurons ``stats`` need ``"norm"`` or ``"gram"`` of the
    outer layer, for heads ``"gram"``.

    Returns:
        ``[groups]``, fp32 at least.

    Raises:
        ValueError: an unknown score; ``stats`` missing or without what is needed.
    """
    check_choice("score", score, ("weight", "output"))
    outer = weight_of(get(model, block.name)).detach()
    if score == "weight":
        parts = [p for n in block.inner for p in weight_of(get(model, n)).detach().chunk(block.parts)]
        return weight_scores(parts[-block.carriers :], outer, block.width)
    seen = None if stats is None else stats.get(block.name)
    if seen is None:
        raise ValueError(f"stats: got none for {block.name!r}; takes calibration of it for score='output'")
    if seen.gram is not None:
        return output_scores(outer, seen.gram, block.width)
    if seen.sum_sq is None or block.width > 1:
        need = "'gram'" if block.width > 1 else "'norm' or 'gram'"
        raise ValueError(f"stats: got {block.name!r} without {need}; takes calibration that collects it")
    return output_scores(outer, seen.sum_sq, 1)


def _global_masks(scores: dict[str, torch.Tensor], sparsity: float) -> dict[str, torch.Tensor]:
    """One competition, in which the best of each block cannot leave."""
    flat = torch.cat([s.cpu() for s in scores.values()])
    sizes = [len(s) for s in scores.values()]
    remove = removed_count(len(flat), sparsity)
    if remove > len(flat) - len(sizes):
        raise ValueError(
            f"sparsity: got {sparsity}, {remove} of {len(flat)}; takes at most {len(flat) - len(sizes)}, "
            "so that every block keeps one"
        )
    immune = torch.cat(
        [torch.arange(n) == s.cpu().argmax() for n, s in zip(sizes, scores.values(), strict=True)]
    )
    mask = immune.clone()
    mask[~immune] = keep_highest(flat[~immune], remove)
    return dict(zip(scores, mask.split(sizes), strict=True))


def _kept_by_name(blocks: dict[str, Block], remove: Remove) -> dict[str, torch.Tensor]:
    names = list(blocks)
    kept = {name: torch.arange(block.groups) for name, block in blocks.items()}
    named: set[str] = set()
    for key, indices in remove.items():
        if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(names):
            key = names[key]
        if key not in blocks:
            raise ValueError(f"remove: got {key!r}; takes 0 to {len(names) - 1} or one of {names[:4]} ...")
        if key in named:
            raise ValueError(f"remove: got {key!r} twice, by name and by number; takes it once")
        named.add(str(key))
        groups = blocks[str(key)].groups
        gone = {check_int(f"remove[{key!r}]", index, 0, groups - 1) for index in indices}
        if len(gone) == groups:
            raise ValueError(f"remove: got all {groups} of {key!r}; takes at most {groups - 1}")
        kept[str(key)] = torch.tensor([i for i in range(groups) if i not in gone])
    return kept
