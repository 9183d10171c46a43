"""The one verb of the family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
from torch import nn

from refimpl.checks import check_int, check_number, check_tensor
from refimpl.lowrank.layers import LowRankLinear
from refimpl.lowrank.ranks import break_even_rank, rank_for_energy, rank_for_keep
from refimpl.lowrank.svd import truncated_svd
from refimpl.modules import linear_layers, record_step_, replace_, tied_parameters, weight_of

__all__ = ["TruncatedSVD", "factorize_"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TruncatedSVD:
    """Replace each weight by its truncated singular value decomposition. Give exactly one of:

    Attributes:
        rank: the same rank for every layer. A layer that would not become smaller is an error.
        energy: fraction in (0, 1] of each weight's squared Frobenius norm that is kept, with the smallest
            rank that does. A layer that would not become smaller is left alone, and listed in the step.
        keep: fraction in (0, 1) of each layer's *weight entries* that is kept: rank ⌊keep·mn/(m+n)⌋.

    Raises:
        TypeError, ValueError: none or several given, or a value out of its range.
    """

    rank: int | None = None
    energy: float | None = None
    keep: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in asdict(self).items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"TruncatedSVD: got {given or 'nothing'}; takes one of rank, energy, keep")
        if self.rank is not None:
            check_int("rank", self.rank, 1)
        if self.energy is not None:
            check_number("energy", self.energy, 0, 1, low_open=True)
        if self.keep is not None:
            check_number("keep", self.keep, 0, 1, low_open=True, high_open=True)

    def choose(self, name: str, weight: torch.Tensor) -> int | None:
        """The rank for one weight ``[m, n]``, or None: leave this layer alone.

        Raises:
            ValueError: the rank asked for would not make the layer smaller.
        """
        m, n = weight.shape
        limit = break_even_rank(m, n)
        if self.energy is not None:
            values = torch.linalg.svdvals(weight.detach().float())
            needed = rank_for_energy(values, self.energy)
            return needed if needed <= limit else None
        rank = self.rank if self.rank is not None else rank_for_keep(m, n, self.keep)  # type: ignore[arg-type]
        if not 1 <= rank <= limit:
            what = f"rank: got {rank}" if self.rank is not None else f"keep: got {self.keep} (rank {rank})"
            raise ValueError(
                f"{what} for {name} {m} x {n}; takes a rank from 1 to {limit}, or the layer would not "
                "become smaller (exclude the layer, or ask for less)"
            )
        return rank


def factorize_(
    model: M,
    config: TruncatedSVD,
    *,
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> M:
    """Replace linear layers of ``model`` in place by `LowRankLinear`, record the step, return the model.

    Everything is checked and decomposed before anything is changed; no layer ever becomes larger.

    Args:
        model: any module with linear layers (`torch.nn.Linear`, GPT-2's `Conv1D`).
        config: how the ranks are chosen.
        layers: names or shell patterns of the layers to replace; all when ``None`` (tied ones excepted).
        exclude: names or patterns of layers to leave alone.

    Raises:
        TypeError: ``model`` is no module or ``config`` no `TruncatedSVD`.
        ValueError: a pattern that matches nothing, NaN in a weight, a rank that would enlarge a layer, a
            tied weight (untie it first: `refimpl.modules.untie_`), or no layer that becomes smaller.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes a torch.nn.Module")
    if not isinstance(config, TruncatedSVD):
        raise TypeError(f"config: got {type(config).__name__}; takes TruncatedSVD")
    chosen = linear_layers(model, include=layers, exclude=exclude)
    tied = {name for group in tied_parameters(model) for name in group}
    ranks: dict[str, int] = {}
    for name, layer in chosen.items():
        if f"{name}.weight" in tied:
            raise ValueError(f"layers: got {name}, whose weight is tied; takes untied ones (modules.untie_)")
        check_tensor(f"{name}.weight", weight_of(layer), finite=True)
    for name, layer in chosen.items():
        rank = config.choose(name, weight_of(layer))
        if rank is not None:
            ranks[name] = rank
    if not ranks:
        raise ValueError(f"config: got {config}, with which no layer becomes smaller; takes a lower energy")
    new = {
        name: LowRankLinear.from_factors(chosen[name], *truncated_svd(weight_of(chosen[name]), rank))
        for name, rank in ranks.items()
    }
    for name, layer in new.items():
        replace_(model, name, layer)
    return record_step_(
        model,
        {
            "method": "lowrank.TruncatedSVD",
            "config": asdict(config),
            "left_alone": [name for name in chosen if name not in ranks],
            "layers": {
                name: {"class": "refimpl.lowrank.LowRankLinear", "args": {"rank": rank}}
                for name, rank in ranks.items()
            },
        },
    )
