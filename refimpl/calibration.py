"""Run data through a model once and collect, layer by layer, what a method asks for.

For example, X^T X over every position that is not padding::

    with record(model, collect=("gram", "range")) as stats:
        for batch in batches:
            model(**batch)
    stats["encoder.layer.0.output.dense"].gram
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from refimpl.checks import check_choice
from refimpl.modules import features, linear_layers, weight_of

__all__ = ["COLLECTORS", "LayerStats", "calibrate", "record"]

COLLECTORS = ("gram", "norm", "range", "grad_sq")


@dataclass
class LayerStats:
    """What was seen of one linear layer with inputs ``x`` (rows: positions that are not padding).

    Attributes:
        count: number of rows n.
        gram: ``[in, in]``, Σ_n x_n x_nᵀ = XᵀX, in fp64 (fp32 where the device has no fp64).
        sum_sq: ``[in]``, Σ_n x_n², in fp64; `norm` is its square root, ‖X_j‖₂ of each input feature.
        low, high: ``[in]``, smallest and largest input of each feature.
        grad_sq: ``[out, in]``, Σ over backward passes of (dL/dW)², in fp32.
        passes: number of backward passes summed in ``grad_sq``.

    What was not asked for is ``None``.
    """

    count: int = 0
    gram: torch.Tensor | None = None
    sum_sq: torch.Tensor | None = None
    low: torch.Tensor | None = None
    high: torch.Tensor | None = None
    grad_sq: torch.Tensor | None = None
    passes: int = 0

    @property
    def norm(self) -> torch.Tensor:
        """``[in]``: ‖X_j‖₂ = sqrt(Σ_n x_nj²)."""
        if self.sum_sq is None:
            raise ValueError("norm: was not collected; record with collect=('norm', ...)")
        return self.sum_sq.sqrt()

    @property
    def absmax(self) -> torch.Tensor:
        """``[in]``: max_n |x_nj|."""
        if self.low is None or self.high is None:
            raise ValueError("absmax: was not collected; record with collect=('range', ...)")
        return torch.maximum(self.low.abs(), self.high.abs())

    def add(self, x: torch.Tensor, collect: Sequence[str]) -> None:
        """Take in rows ``x`` ``[n, in]``."""
        self.count += x.shape[0]
        if x.shape[0] == 0:
            return
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        x = x.float()
        if "gram" in collect:
            gram = (x.T @ x).to(wide)
            self.gram = gram if self.gram is None else self.gram + gram
        if "norm" in collect:
            sum_sq = x.to(wide).square().sum(0)
            self.sum_sq = sum_sq if self.sum_sq is None else self.sum_sq + sum_sq
        if "range" in collect:
            low, high = x.amin(0), x.amax(0)
            self.low = low if self.low is None else torch.minimum(self.low, low)
            self.high = high if self.high is None else torch.maximum(self.high, high)


@contextmanager
def record(
    model: nn.Module,
    layers: str | Iterable[str] | None = None,
    collect: Sequence[str] = ("gram",),
    mask_key: str = "attention_mask",
) -> Iterator[dict[str, LayerStats]]:
    """Collect statistics of linear layers' inputs while the model runs inside the ``with`` block.

    Positions where the keyword argument ``mask_key`` of the model's call is 0 are left out; without it
    every position counts. With ``"grad_sq"`` each backward pass adds the squared gradient of each chosen
    weight and then clears that weight's ``.grad`` (so that the next pass starts from zero).

    Args:
        model: any module; it is left as it was.
        layers: names or patterns as in `refimpl.modules.linear_layers`; all linear layers when ``None``.
        collect: any of ``"gram"``, ``"norm"``, ``"range"``, ``"grad_sq"``.
        mask_key: the keyword argument that holds the mask ``[batch, positions]``, 1 for real positions.

    Raises:
        TypeError: ``collect`` is one string instead of a sequence.
        ValueError: unknown collector or pattern, a mask that does not fit the layer's input, NaN or
            infinity in what was collected, no data at all, ``"grad_sq"`` of a frozen weight.
    """
    if isinstance(collect, str):
        raise TypeError(f"collect: got the str {collect!r}; takes a sequence such as ({collect!r},)")
    for what in collect:
        check_choice("collect", what, COLLECTORS)
    if not collect:
        raise ValueError(f"collect: got nothing; takes at least one of {COLLECTORS}")
    chosen = linear_layers(model, include=layers)
    if "grad_sq" in collect:
        frozen = [n for n, layer in chosen.items() if not weight_of(layer).requires_grad]
        if frozen:
            raise ValueError(
                f"collect: got 'grad_sq' for frozen layers {frozen[:3]}; takes trainable weights"
            )
    stats = {name: LayerStats() for name in chosen}
    mask: list[torch.Tensor | None] = [None]

    def see_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        mask[0] = kwargs.get(mask_key)

    def see_input(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))
            stats[name].add(_rows(name, x.detach(), mask[0], features(module)[0]), collect)

        return hook

    def see_gradient(name: str, layer: nn.Module) -> Callable[[torch.Tensor], None]:
        def hook(weight: torch.Tensor) -> None:
            assert weight.grad is not None
            gradient = weight.grad.T if isinstance(layer, Conv1D) else weight.grad
            squared = gradient.detach().float().square()
            seen = stats[name].grad_sq
            stats[name].grad_sq = squared if seen is None else seen + squared
            stats[name].passes += 1
            weight.grad = None

        return hook

    handles = [model.register_forward_pre_hook(see_mask, with_kwargs=True)]
    try:
        for name, layer in chosen.items():
            handles.append(layer.register_forward_pre_hook(see_input(name), with_kwargs=True))
            if "grad_sq" in collect:
                parameter: torch.Tensor = layer.weight  # type: ignore[assignment]
                handles.append(parameter.register_post_accumulate_grad_hook(see_gradient(name, layer)))
        yield stats
    finally:
        for handle in handles:
            handle.remove()
    _check_collected(stats)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    layers: str | Iterable[str] | None = None,
    collect: Sequence[str] = ("gram",),
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
) -> dict[str, LayerStats]:
    """Run every batch through ``model`` in inference mode and return the statistics by layer name.

    A batch is a mapping (passed as keyword arguments), a tuple or list (positional), or one tensor.
    Gradients are computed only for ``"grad_sq"``: of ``loss(output, batch)``, or of ``output.loss`` when
    ``loss`` is ``None``. Modes and gradients of the model are afterwards as they were before.

    Raises:
        TypeError: ``batches`` is one batch instead of several.
        ValueError: as `record`; also when ``batches`` is empty.
    """
    if isinstance(batches, Mapping | torch.Tensor | str):
        raise TypeError(
            f"batches: got one {type(batches).__name__}; takes a sequence of batches, such as [batch]"
        )
    training = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    needs_gradient = "grad_sq" in collect
    model.eval()
    try:
        with record(model, layers, collect) as stats:
            for batch in batches:
                for parameter in gradients:
                    parameter.grad = None
                with torch.set_grad_enabled(needs_gradient):
                    output = _call(model, batch)
                    if needs_gradient:
                        value = output.loss if loss is None else loss(output, batch)
                        if value is None:
                            raise ValueError("loss: got None; takes a function, or batches with labels")
                        value.backward()
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
    return stats


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def _rows(name: str, x: torch.Tensor, mask: torch.Tensor | None, in_features: int) -> torch.Tensor:
    """The rows ``[n, in]`` of a layer's input that are not padding."""
    flat = x.reshape(-1, in_features)
    if mask is None:
        return flat
    if mask.ndim != 2:
        raise ValueError(f"mask: got shape {tuple(mask.shape)}; takes [batch, positions]")
    batch, length = mask.shape
    if x.ndim == 3 and x.shape[0] == batch and x.shape[1] <= length:
        # while decoding with a cache the mask also covers the past: the last columns are this input's
        return x[mask[:, length - x.shape[1] :].bool()]
    if flat.shape[0] == batch * length:
        return flat[mask.reshape(-1).bool()]
    if x.ndim == 2 and x.shape[0] == batch:  # one row a sequence (a pooler, a classifier)
        return flat
    raise ValueError(f"mask: got shape {tuple(mask.shape)}; does not fit {name}'s input {tuple(x.shape)}")


def _check_collected(stats: dict[str, LayerStats]) -> None:
    if all(s.count == 0 for s in stats.values()):
        raise ValueError("batches: got no data; takes at least one batch with a position that is not padding")
    for name, s in stats.items():
        for what in ("gram", "sum_sq", "low", "high", "grad_sq"):
            value = getattr(s, what)
            if value is not None and not bool(torch.isfinite(value).all()):
                raise ValueError(f"batches: {name} saw NaN or infinite values ({what}); takes finite data")
