"""Give a student its teacher's values, each tensor checked, and remember what came from where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refimpl.checks import check_tensor

__all__ = ["Origin", "StudentRecord", "fill_"]


class Origin(NamedTuple):
    """Where one tensor of a student came from: the teacher's tensor ``name``, and ``how``.

    ``"whole"``: a copy; ``"part"``: a copy of some of its entries; ``"shared"``: the teacher's memory itself,
    frozen; ``"folded"``: another tensor was added.
    """

    name: str
    how: str


@dataclass(frozen=True)
class StudentRecord:
    """What came from where.

    Attributes:
        layers: for each of the student's layers the teacher's layer it started from, both from 0.
        origins: for each tensor of the student's ``state_dict`` where it came from.
        dropped: the teacher's tensors of which the student has nothing, in the teacher's order.
    """

    layers: tuple[int, ...]
    origins: Mapping[str, Origin]
    dropped: tuple[str, ...]


@torch.no_grad()
def fill_(student: nn.Module, values: Mapping[str, Tensor], shared: Collection[str] = ()) -> nn.Module:
    """Set every tensor of the student's ``state_dict`` to ``values`` (in their dtype and on their device).

    The `torch.nn.Parameter` objects stay, and with them the student's ties. A ``shared`` one uses the given
    memory itself and is frozen; all others are copies and trainable.

    Raises:
        ValueError: NaN or infinity in a value; nothing has been changed then.
    """
    own = student.state_dict(keep_vars=True)
    assert own.keys() == values.keys(), own.keys() ^ values.keys()
    for name, value in values.items():
        assert own[name].shape == value.shape, name
        if value.is_floating_point():
            check_tensor(f"teacher: {name}", value, finite=True)
    for name, value in values.items():
        own[name].data = value.detach() if name in shared else value.detach().clone()
        if name in shared:
            own[name].requires_grad_(False)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, values[name]), name
    return student
