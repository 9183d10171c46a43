"""Losses between hidden states: squared error over a map of layers, and the cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from refimpl.checks import check_int, check_tensor
from refimpl.distill.features.common import at_least_fp32, check_finite, no_autocast
from refimpl.distill.positions import check_mask, counted_rows, mean_over

__all__ = ["Projections", "cosine_loss", "hidden_loss"]

States = Sequence[Tensor] | Mapping[int, Tensor]


class Projections(nn.Module):
    """One linear map ``[student_width] -> [teacher_width]``, without bias, for each of some layers.

    For :func:`hidden_loss` when the widths differ. It is trained beside the student (give its parameters to
    the optimizer too) and thrown away afterwards: no part of the student, so in none of its checkpoints, and
    without effect on its latency.

    Args:
        student_width, teacher_width: sizes of the hidden states.
        layers: the student's layers, the keys of the layer map.

    Raises:
        TypeError, ValueError: a size below 1, no layer, a layer twice or not an integer.

    Source: the matrix W_h in the hidden-state loss of Jiao et al. 2020, TinyBERT (arXiv 1909.10351).
    """

    def __init__(self, student_width: int, teacher_width: int, layers: Iterable[int]) -> None:
        super().__init__()
        check_int("student_width", student_width, 1)
        check_int("teacher_width", teacher_width, 1)
        self.layers = tuple(check_int("layers", layer) for layer in layers)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers: got {self.layers}; takes at least one layer, none twice")
        self.maps = nn.ModuleDict(
            {str(layer): nn.Linear(student_width, teacher_width, bias=False) for layer in self.layers}
        )

    def forward(self, layer: int, hidden: Tensor) -> Tensor:
        """The student's states of ``layer``, ``[..., student_width] -> [..., teacher_width]``, in fp32 at least.

        Raises:
            ValueError: a layer without a map, or states of another width.
        """
        if layer not in self.layers:
            raise ValueError(f"layer: got {layer}; takes one of {self.layers}")
        weight: Tensor = self.maps[str(layer)].weight  # type: ignore[assignment]
        check_tensor("hidden", hidden, shape=(*hidden.shape[:-1], weight.shape[1]), floating=True)
        hidden, weight = at_least_fp32(hidden), at_least_fp32(weight)
        with no_autocast(hidden):
            return F.linear(hidden, weight.to(hidden.dtype))


def hidden_loss(
    student_states: States,
    teacher_states: States,
    layer_map: Mapping[int, int],
    mask: Tensor | None = None,
    projections: Callable[[int, Tensor], Tensor] | None = None,
    normalize: bool = False,
    *,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """Squared error between hidden states, summed over a map of layers.

    ``sum_(j, k) mean_i d(W_j h_ij, t_ik)`` over the pairs ``j: k`` of the map and the unmasked positions ``i``.
    With ``normalize=False``, ``d(a, b) = mean_w (a_w - b_w)**2``, the *mean* over the width: TinyBERT's loss.
    With ``normalize=True``, ``d(a, b) = sum_w (a_w/|a| - b_w/|b|)**2``, the *sum* over the width of unit
    vectors, ``2 - 2 cos(a, b)``, between 0 and 4: Patient KD's loss, which leaves the lengths free.

    The teacher is detached, masked positions are cut out before any arithmetic, half precision is computed
    in fp32. A vector of length 0 has no direction: normalised it stays 0.

    Args:
        student_states: ``[..., H_s]`` by layer: a model's ``hidden_states`` (0 is the embeddings, ``j`` what
            layer ``j`` gives, counted from 1, -1 the last), or any list or dictionary of features.
        teacher_states: ``[..., H_t]`` by layer, same positions; gets no gradient.
        layer_map: student's index to teacher's index, e.g. ``{1: 2, 2: 4, 3: 6}``.
        mask: ``[...]``, 1 or True where a position counts (an ``attention_mask``); None counts all.
        projections: :class:`Projections`, or any ``(layer, states) -> states`` to the teacher's width;
            applied to every layer of the map. None takes equal widths.
        normalize: compare directions only.
        num_items: divisor in place of the number of unmasked positions, for accumulation, as in `kd_loss`.

    Returns:
        A scalar, at least 0.

    Raises:
        TypeError, ValueError: wrong kind or shape, an index that is not there, widths that differ without
            projections, nothing to average over, NaN or infinity at a position that counts.

    Source: L_PT of Sun et al. 2019, Patient KD (arXiv 1908.09355), which takes the [CLS] position only: give
    ``states[:, :1]``. L_hidn of Jiao et al. 2020, TinyBERT (arXiv 1909.10351).
    """
    if not isinstance(layer_map, Mapping) or not layer_map:
        raise TypeError(
            f"layer_map: got {layer_map!r}; takes a dictionary, student's layer to teacher's layer"
        )
    pairs = {}
    for j, k in layer_map.items():
        student = _pick("student_states", student_states, j)
        teacher = _pick("teacher_states", teacher_states, k)
        check_tensor(f"teacher_states[{k}]", teacher, shape=(*student.shape[:-1], None))
        if projections is None and student.shape[-1] != teacher.shape[-1]:
            raise ValueError(
                f"student_states[{j}]: got width {student.shape[-1]}; takes the teacher's {teacher.shape[-1]}, or "
                "projections=Projections(...)"
            )
        pairs[j, k] = student, teacher
    loss: Tensor | None = None
    seen: dict[str, Tensor] = {}
    for (j, k), (student, teacher) in pairs.items():
        kept = check_mask(mask, student.shape[:-1])
        a, b = counted_rows(student, kept), counted_rows(teacher.detach(), kept)  # [..., H] -> [N, H]
        seen |= {f"student_states[{j}]": a, f"teacher_states[{k}]": b}
        if projections is not None:
            a = at_least_fp32(check_tensor("projections", projections(j, a), shape=b.shape))
        distance = (_unit(a) - _unit(b)).square().sum(-1) if normalize else (a - b).square().mean(-1)
        term = mean_over(distance, num_items)
        loss = term if loss is None else loss + term
    assert loss is not None
    return check_finite(
        loss, lambda: seen, "projections: got NaN or infinity from them; takes finite weights"
    )


def cosine_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, num_items: float | Tensor | None = None
) -> Tensor:
    """``mean_i [1 - cos(student_i, teacher_i)]`` over the unmasked positions: between 0 and 2.

    `torch.nn.CosineEmbeddingLoss` with target 1, DistilBERT's third loss, on the last hidden states. Computed
    as half the squared distance of the unit vectors, which is exactly 0 where both are equal. A vector of
    length 0 has no direction and counts as a cosine of 0.

    Args:
        student: ``[..., H]``, floating point.
        teacher: ``[..., H]``; gets no gradient.
        mask, num_items: as in :func:`hidden_loss`.

    Returns:
        A scalar, at least 0.

    Raises:
        TypeError, ValueError: wrong kind or shape, nothing to average over, NaN or infinity at a position
            that counts.

    Source: Sanh et al. 2019 (arXiv 1910.01108), section 2.
    """
    check_tensor("student", student, floating=True)
    check_tensor("teacher", teacher, shape=student.shape, floating=True)
    if student.ndim == 0 or student.numel() == 0:
        raise ValueError(f"student: got shape {tuple(student.shape)}; takes [..., H], not empty")
    kept = check_mask(mask, student.shape[:-1])
    a, b = counted_rows(student, kept), counted_rows(teacher.detach(), kept)
    u, v = _unit(a), _unit(b)
    zeros = (u == 0).all(-1).to(u.dtype) + (v == 0).all(-1).to(u.dtype)  # |u - v|² lacks 1 for each of them
    loss = mean_over(((u - v).square().sum(-1) + zeros) / 2, num_items)
    return check_finite(
        loss,
        lambda: {"student": a, "teacher": b},
        "student: got vectors whose length overflows; takes smaller ones",
    )


def _pick(name: str, states: States, index: int) -> Tensor:
    if not isinstance(states, Sequence | Mapping) or isinstance(states, str):
        raise TypeError(f"{name}: got {type(states).__name__}; takes a list or dictionary of tensors")
    check_int("layer_map", index)
    there = range(-len(states), len(states)) if isinstance(states, Sequence) else states.keys()
    if index not in there:
        what = f"{len(states)} entries" if isinstance(states, Sequence) else f"entries {list(states)}"
        raise ValueError(f"layer_map: got {index}; takes an index of {name}, which has {what}")
    state = check_tensor(f"{name}[{index}]", states[index], floating=True)
    if state.ndim == 0 or state.numel() == 0:
        raise ValueError(f"{name}[{index}]: got shape {tuple(state.shape)}; takes [..., H], not empty")
    return state


def _unit(rows: Tensor) -> Tensor:
    length = rows.norm(dim=-1, keepdim=True)  # [N, 1]; its gradient at 0 is 0
    return rows / length.masked_fill(length == 0, 1)
