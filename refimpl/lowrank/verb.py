"""The one verb of the family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from refimpl.calibration import LayerStats
from refimpl.checks import check_choice, check_int, check_number, check_tensor
from refimpl.lowrank.layers import LowRankLinear
from refimpl.lowrank.rank import break_even_rank, rank_for_energy, rank_for_keep
from refimpl.lowrank.svd import Factors, truncated_svd
from refimpl.modules import get, linear_layers, record_step_, replace_, tied_parameters, weight_of

__all__ = ["TruncatedSVD", "factorize_"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TruncatedSVD:
    """Replace W ``[m, n]`` by its nearest matrix of rank r, kept as two factors.

    Exactly one of the first three says how large r is. No layer is ever made larger.

    Attributes:
        rank: the same r for every chosen layer. An r above `break_even_rank` of any of them raises.
        energy: for each layer the smallest r that keeps this fraction of ‖W‖_F², in (0, 1]. A layer that
            would not become smaller is left as it is, and listed in the step under ``left_alone``.
        keep: for each layer the largest r whose factors have at most this fraction of the *parameters* of its
            weight, in (0, 1): r = ⌊keep · mn / (m + n)⌋. So ``keep=0.8`` of a square matrix has
            rank 0.4 n, not 0.8 n.
        method: ``"exact"`` or ``"randomized"``, as in `truncated_svd`; ``energy`` needs all singular
            values and takes ``"exact"`` only.

    Raises:
        TypeError, ValueError: none or several of the three, one outside its bounds, an unfit method.
    """

    rank: int | None = None
    energy: float | None = None
    keep: float | None = None
    method: Literal["exact", "randomized"] = "exact"

    def __post_init__(self) -> None:
        given = [n for n in ("rank", "energy", "keep") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"rank, energy, keep: got {given or 'none'}; takes exactly one of them")
        if self.rank is not None:
            check_int("rank", self.rank, 1)
        if self.energy is not None:
            check_number("energy", self.energy, 0, 1, low_open=True)
        if self.keep is not None:
            check_number("keep", self.keep, 0, 1, low_open=True, high_open=True)
        check_choice("method", self.method, ("exact", "randomized"))
        if self.energy is not None and self.method != "exact":
            raise ValueError(f"method: got {self.method!r} with energy; takes 'exact' there")

    def factors(self, name: str, layer: nn.Module) -> tuple[int, Factors | None]:
        """The rank for this layer and its factors; no factors when the layer is to be left alone."""
        weight = weight_of(layer)
        m, n = weight.shape
        limit = break_even_rank(m, n)
        if self.energy is not None:
            full = truncated_svd(weight, min(m, n))
            rank = rank_for_energy(full.s, self.energy)
            if rank > limit:
                return rank, None
            return rank, Factors(full.u[:, :rank], full.s[:rank], full.vh[:rank])
        if self.keep is not None:
            rank, asked = rank_for_keep(m, n, self.keep), f"keep: got {self.keep}"
        else:
            rank, asked = self.rank or 0, f"rank: got {self.rank}"
        if not 1 <= rank <= limit:
            raise ValueError(
                f"{asked} for {name} ({m} x {n}), rank {rank}; takes what gives a rank from 1 to {limit}"
            )
        return rank, truncated_svd(weight, rank, self.method)


def factorize_(
    model: M,
    config: TruncatedSVD,
    *,
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    stats: Mapping[str, LayerStats] | None = None,
) -> M:
    """Factorise linear layers of ``model`` in place as ``config`` says, record the step, return the model.

    Everything is checked and computed before anything is changed. Each chosen layer becomes a `LowRankLinear`
    in its own dtype, with the bias it had. Saves and loads bit for bit with `refimpl.checkpoint`. Which rank
    each layer got stands in ``modules.steps_of(model)[-1]["layers"]``.

    Args:
        model: any module with linear layers (`torch.nn.Linear`, GPT-2's `Conv1D`).
        config: `TruncatedSVD`.
        layers: names or shell patterns of the layers to factorise; all when ``None``. Layers tied to others
            and the factors of an earlier call are passed over.
        exclude: names or patterns of layers to leave alone.
        stats: calibration by layer name, for methods that look at data; `TruncatedSVD` takes ``None``.

    Raises:
        TypeError: ``config`` is no `TruncatedSVD`, or ``model`` no module.
        ValueError: no linear layer left to factorise, a pattern that matches nothing, weights that are
            not finite, a tied layer that was named, a layer that would not become smaller (by energy: none
            that would).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes a torch.nn.Module")
    if not isinstance(config, TruncatedSVD):
        raise TypeError(f"config: got {type(config).__name__}; takes TruncatedSVD")
    if stats is not None:
        raise ValueError("stats: got calibration; TruncatedSVD looks at weights only and takes None")
    chosen = _choose(model, layers, exclude)
    found = {name: config.factors(name, layer) for name, layer in chosen.items()}
    if all(factors is None for _, factors in found.values()):
        raise ValueError(
            f"energy: got {config.energy}, at which none of {len(found)} layers becomes smaller; takes less"
        )
    entries: dict[str, Any] = {}
    for name, (rank, factors) in found.items():
        if factors is not None:
            replace_(model, name, LowRankLinear.from_linear(chosen[name], factors))
            entries[name] = {"class": "refimpl.lowrank.LowRankLinear", "args": {"rank": rank}}
    record_step_(
        model,
        {
            "method": "lowrank.TruncatedSVD",
            "config": asdict(config),
            "layers": entries,
            "left_alone": {name: rank for name, (rank, factors) in found.items() if factors is None},
        },
    )
    return model


def _choose(
    model: nn.Module, include: str | Iterable[str] | None, exclude: str | Iterable[str] | None
) -> dict[str, nn.Module]:
    chosen = {
        name: layer
        for name, layer in linear_layers(model, include=include, exclude=exclude).items()
        if not isinstance(get(model, name.rpartition(".")[0]), LowRankLinear)
    }
    if not chosen:
        raise ValueError("model: got only layers that are factorised already; takes others")
    tied = {name for group in tied_parameters(model) for name in group}
    for name, layer in chosen.items():
        if not isinstance(layer.weight, nn.Parameter):
            raise ValueError(f"{name}.weight: got a reparametrised weight; takes a plain parameter")
        if f"{name}.weight" in tied:
            raise ValueError(f"layers: got {name!r}, which is tied; takes it after modules.untie_")
        check_tensor(f"{name}.weight", layer.weight, floating=True, finite=True)
    return chosen
