"""A student of the teacher's own family: fewer layers, narrower ones, or both, with the teacher's weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from refimpl.blocks import ATTENTION, FEED_FORWARD, find_blocks, find_stack
from refimpl.checks import check_int
from refimpl.distill.students.copying import Origin, StudentRecord, fill_
from refimpl.distill.students.layers import kept_layers
from refimpl.modules import get, tied_parameters

__all__ = ["make_student"]

FEED_FORWARD_ENTRIES = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim")  # of a configuration
Picks = dict[str, tuple[int, Tensor]]  # tensor -> a dimension and the teacher's indices there


def make_student(
    teacher: PreTrainedModel,
    layers: str | Iterable[int] = "spread",
    *,
    count: int | None = None,
    hidden_size: int | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
    share_embeddings: bool = False,
) -> tuple[PreTrainedModel, StudentRecord]:
    """A model of the teacher's class with some of its layers, initialised with the teacher's weights.

    Embeddings, norms and head come along; ties stay. Without narrower widths every tensor is a whole copy:
    with all layers kept the student computes what the teacher computes, with some it is the teacher with the
    other layers skipped. 12 to 6 layers of GPT-2 is DistilGPT2's start (81,912,576 parameters).

    A narrower student takes the leading entries of every dimension of every tensor. Heads stay whole: the
    first heads are kept, each with all its features. Only where ``hidden_size`` and ``heads`` together ask
    for narrower heads, each kept head gives its leading features. Such a start is no longer the teacher's
    function, only a better than random one: what the cut entries carried is gone.

    Args:
        teacher: a Hugging Face model with one stack of layers (`refimpl.blocks.find_stack`): shaped like BERT,
            GPT-2, DistilBERT, RoBERTa; of others only the layers can be chosen, not the widths.
        layers: indices from 0, ascending, or a rule of :func:`choose_layers`.
        count: the number of layers, for a rule; half of them when None.
        hidden_size: width of the student; the teacher's when None (with ``heads``: that many whole heads).
        heads: attention heads; as many as fill ``hidden_size`` with the teacher's head width when None.
        intermediate_size: width of the feed-forward layers; when None it falls in step with ``hidden_size``.
        share_embeddings: use the teacher's own embedding tables (and what is tied to them) in place of copies.
            The shared ones are frozen, so that training the student cannot change the teacher.

    Returns:
        ``(student, record)``: the student in eval mode, in the teacher's dtypes and on its devices, with a
        configuration of its own, so that ``save_pretrained`` and `refimpl.checkpoint` save it; and what came
        from where. The teacher is left as it was.

    Raises:
        TypeError: no Hugging Face model.
        ValueError: layers or widths that the teacher does not have, a teacher whose tensors its configuration
            does not describe (compressed layers), NaN or infinity in its weights.

    Source: Sanh et al. 2019 (arXiv 1910.01108), section 2: "we initialize the student from the teacher by
    taking one layer out of two".
    """
    if not isinstance(teacher, PreTrainedModel):
        raise TypeError(f"teacher: got {type(teacher).__name__}; takes a model of transformers")
    path, stack = find_stack(teacher)
    kept = kept_layers(layers, count, len(stack))
    config, narrower = _config(teacher, path, kept, hidden_size, heads, intermediate_size)
    if share_embeddings and config.hidden_size != teacher.config.hidden_size:
        raise ValueError(f"share_embeddings: got True with hidden_size={hidden_size}; takes the same width")
    with torch.random.fork_rng(devices=[]):  # its random values are overwritten: leave the caller's generator
        student = type(teacher)(config).to(teacher.device).eval()  # type: ignore[arg-type]
    _leave_out_absent(student, teacher)

    def source(name: str) -> str:
        """The teacher's name of a student's tensor or layer: another number in the stack, no more."""
        if not name.startswith(f"{path}."):
            return name
        index, _, rest = name.removeprefix(f"{path}.").partition(".")
        return f"{path}.{kept[int(index)]}.{rest}"

    _check_same_structure(student, teacher, path, kept, source)
    _tie_like_(student, teacher, source)
    have, given = student.state_dict(keep_vars=True), teacher.state_dict(keep_vars=True)
    picks = _head_picks(student, teacher, source) if narrower else {}
    values = {name: _leading(name, given[source(name)], tensor.shape, picks) for name, tensor in have.items()}
    shared = _embedding_names(student) if share_embeddings else set()
    fill_(student, values, shared)
    origins = {}
    for name, value in values.items():
        whole = "shared" if name in shared else "whole"
        origins[name] = Origin(source(name), whole if value.shape == given[source(name)].shape else "part")
    used = {origin.name for origin in origins.values()}
    return student, StudentRecord(kept, origins, tuple(name for name in given if name not in used))


def _config(
    teacher: PreTrainedModel,
    path: str,
    kept: tuple[int, ...],
    hidden_size: int | None,
    heads: int | None,
    intermediate_size: int | None,
) -> tuple[Any, bool]:
    """The student's configuration, and whether its attention is narrower than the teacher's."""
    old = teacher.config
    config = copy.deepcopy(old)
    config.num_hidden_layers = len(kept)
    if isinstance(getattr(old, "layer_types", None), list):
        config.layer_types = [old.layer_types[i] for i in kept]
    if getattr(old, "scale_attn_by_inverse_layer_idx", False) and kept != tuple(range(len(kept))):
        raise ValueError(
            f"layers: got {kept} of a teacher with scale_attn_by_inverse_layer_idx, where a layer's place is part "
            "of what it computes; takes the first layers"
        )
    if hidden_size is not None or heads is not None:
        config.hidden_size, config.num_attention_heads = _widths(old, hidden_size, heads)
    _set_intermediate_size_(config, teacher, path, intermediate_size)
    return config, config.hidden_size != old.hidden_size


def _widths(old: Any, hidden_size: int | None, heads: int | None) -> tuple[int, int]:
    """Width and number of heads: whole heads, unless both are given."""
    width = old.hidden_size // old.num_attention_heads
    if heads is not None:
        check_int("heads", heads, 1, old.num_attention_heads)
    hidden_size = (heads or 0) * width if hidden_size is None else hidden_size
    check_int("hidden_size", hidden_size, 1, old.hidden_size)
    heads = hidden_size // width if heads is None else heads
    if heads == 0 or hidden_size % heads or hidden_size // heads > width:
        raise ValueError(
            f"hidden_size: got {hidden_size}; takes a multiple of the teacher's head width {width}, or heads "
            f"that divide it into widths of at most {width}"
        )
    return hidden_size, heads


def _set_intermediate_size_(config: Any, teacher: PreTrainedModel, path: str, wanted: int | None) -> None:
    entry = next((e for e in FEED_FORWARD_ENTRIES if hasattr(config, e)), None)
    old = getattr(config, entry, None) if entry else None
    if wanted is None:
        if entry and old is not None:  # GPT-2's None stands for 4 · hidden_size and is right for any width
            setattr(config, entry, max(1, old * config.hidden_size // teacher.config.hidden_size))
        return
    blocks = find_blocks(teacher, FEED_FORWARD).items()
    check_int("intermediate_size", wanted, 1, min(b.groups for n, b in blocks if n.startswith(f"{path}.")))
    if entry is None:
        raise ValueError(f"intermediate_size: got {wanted}; takes None for a {type(config).__name__}")
    setattr(config, entry, wanted)


def _leave_out_absent(student: nn.Module, teacher: nn.Module) -> None:
    """What the teacher was built without (a BertModel without pooler), the student has not either."""
    for name, _ in list(student.named_modules()):
        parent, _, leaf = name.rpartition(".")
        try:
            counterpart = teacher.get_submodule(parent)
        except AttributeError:
            continue
        if name and getattr(counterpart, leaf, student) is None:
            setattr(get(student, parent), leaf, None)


def _check_same_structure(
    student: nn.Module, teacher: nn.Module, path: str, kept: tuple[int, ...], source: Callable[[str], str]
) -> None:
    """Raise unless the student's tensors are the teacher's, without those of the layers that stay away."""
    given, wanted = teacher.state_dict(), {source(name): t for name, t in student.state_dict().items()}
    stays = {
        n
        for n in given
        if not n.startswith(f"{path}.") or int(n.removeprefix(f"{path}.").split(".")[0]) in kept
    }
    if odd := sorted(stays ^ wanted.keys()):
        raise ValueError(
            f"teacher: got tensors {odd[:3]} that its configuration has not, or the other way round; takes a "
            "model as transformers builds it (make the student before compressing)"
        )
    for name, tensor in wanted.items():
        old = given[name].shape
        if len(old) != tensor.ndim or any(a > b for a, b in zip(tensor.shape, old, strict=True)):
            raise ValueError(
                f"teacher: got {name!r} of shape {tuple(old)}, where its configuration gives the student "
                f"{tuple(tensor.shape)}; takes a model as transformers builds it"
            )


def _tie_like_(student: nn.Module, teacher: nn.Module, source: Callable[[str], str]) -> None:
    """Tie in the student what is one parameter in the teacher; refuse a tie that the teacher has undone."""
    given = dict(teacher.named_parameters(remove_duplicate=False))
    for group in tied_parameters(student):
        if len({id(given[source(name)]) for name in group}) > 1:
            raise ValueError(
                f"teacher: got {[source(n) for n in group]} untied, where its configuration ties them; "
                "takes an untied model that says so (refimpl.modules.untie_)"
            )
    first: dict[int, nn.Parameter] = {}
    for name, parameter in list(student.named_parameters(remove_duplicate=False)):
        owner, _, leaf = name.rpartition(".")
        setattr(get(student, owner), leaf, first.setdefault(id(given[source(name)]), parameter))


def _head_picks(student: nn.Module, teacher: nn.Module, source: Callable[[str], str]) -> Picks:
    """Which features of the teacher's attention layers make up the student's heads."""
    blocks, picks = find_blocks(teacher, ATTENTION), Picks()
    for name, block in find_blocks(student, ATTENTION).items():
        old = blocks[source(name)]
        heads = torch.arange(block.groups)[:, None] * old.width  # (heads, 1): where each begins
        columns = (heads + torch.arange(block.width)).reshape(-1)  # (heads · width,)
        stride = old.groups * old.width
        rows = torch.cat([columns + part * stride for part in range(block.parts)])
        for inner in block.inner:
            transposed = isinstance(get(student, inner), Conv1D)  # stores [in, out]
            picks[f"{inner}.weight"] = (int(transposed), rows)
            picks[f"{inner}.bias"] = (0, rows)
        picks[f"{name}.weight"] = (int(not isinstance(get(student, name), Conv1D)), columns)
    return picks


def _leading(name: str, value: Tensor, shape: torch.Size, picks: Picks) -> Tensor:
    """The leading entries of every dimension, but the picked ones where a dimension is made of heads."""
    dimension, indices = picks.get(name, (-1, None))
    for d, size in enumerate(shape):
        if d == dimension and indices is not None:
            value = value.index_select(d, indices.to(value.device))
        else:
            value = value.narrow(d, 0, size)
    return value


def _embedding_names(student: nn.Module) -> set[str]:
    """Names of all embedding tables, and of what is tied to them."""
    tables = {id(m.weight) for m in student.modules() if isinstance(m, nn.Embedding)}
    return {name for name, p in student.named_parameters(remove_duplicate=False) if id(p) in tables}
