"""Where a transformer keeps its layers, its neurons and its heads.

Neurons and heads are the same thing in two widths: a *group* of ``width`` consecutive features that some
layers write (their rows) and one layer reads (its columns).

    x ──> inner [groups·width, in] ──> elementwise, or attention ──> outer [out, groups·width] ──> y

Without a group's rows, biases and columns y lacks exactly this group's term; nothing else changes.
A `Layout` says by attribute names where these layers sit. A module that has them, with sizes that fit, is
a block, whatever its class is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from refimpl.modules import features, get, is_linear, linear_layers, tied_parameters

__all__ = ["ATTENTION", "FEED_FORWARD", "Block", "Layout", "find_blocks", "find_stack"]


@dataclass(frozen=True)
class Layout:
    """Attribute names, relative to the module that holds a block.

    Attributes:
        inner: linear layers whose rows are the groups.
        outer: the linear layer whose columns are the groups.
        parts: how many times the groups are stacked in each inner layer (3 where q, k, v are one matrix).
        heads: the integer attribute that counts the groups; ``None`` where every feature is a group.
        width: the integer attribute that holds groups · features of each, if there is one.
        carriers: how many of the inner parts, counted from the last, make what the outer layer reads: the
            value of an attention (query and key only weight it), every inner layer of a feed-forward.
    """

    inner: tuple[str, ...]
    outer: str
    parts: int = 1
    heads: str | None = None
    width: str | None = None
    carriers: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.inner, str) or not self.inner:
            raise TypeError(f"inner: got {type(self.inner).__name__}; takes a tuple of attribute names")


FEED_FORWARD = (
    Layout(("intermediate.dense",), "output.dense"),  # BERT, RoBERTa, ELECTRA
    Layout(("lin1",), "lin2"),  # DistilBERT
    Layout(("c_fc",), "c_proj"),  # GPT-2
    Layout(("fc1",), "fc2"),  # OPT, BART
    Layout(("gate_proj", "up_proj"), "down_proj"),  # Llama, Mistral, Qwen: two layers write one neuron
)

ATTENTION = (
    Layout(  # BERT, RoBERTa, ELECTRA
        ("self.query", "self.key", "self.value"),
        "output.dense",
        heads="self.num_attention_heads",
        width="self.all_head_size",
        carriers=1,
    ),
    Layout(("q_lin", "k_lin", "v_lin"), "out_lin", heads="n_heads", width="dim", carriers=1),  # DistilBERT
    Layout(("c_attn",), "c_proj", parts=3, heads="num_heads", width="split_size", carriers=1),  # GPT-2
)

# Between two layers of an nn.Sequential: what works on each feature alone, and so keeps groups apart.
ELEMENTWISE = (
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Dropout,
    nn.Identity,
)


@dataclass(frozen=True)
class Block:
    """A found feed-forward or attention block; names are full names in the model."""

    name: str  # of the outer layer
    inner: tuple[str, ...]
    parts: int
    groups: int
    width: int  # features of a group
    carriers: int
    attributes: Mapping[str, Mapping[str, int]]  # module name -> attribute -> its value per group

    @property
    def layers(self) -> tuple[str, ...]:
        """All linear layers of the block."""
        return (*self.inner, self.name)


def find_blocks(
    model: nn.Module,
    layouts: Sequence[Layout] = FEED_FORWARD,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
) -> dict[str, Block]:
    """The blocks of ``model`` that one of ``layouts`` describes, by the name of their outer layer.

    In a `torch.nn.Sequential`, two linear layers with only elementwise modules between them are a
    feed-forward block too. Blocks with a layer whose weight another module shares are left out.

    Args:
        model: any module.
        layouts: `FEED_FORWARD`, `ATTENTION`, or your own.
        include, exclude: names or patterns of outer layers, as in `refimpl.modules.linear_layers`.

    Raises:
        ValueError: no such block, or a pattern that matches no linear layer.
    """
    chosen = linear_layers(model, include, exclude)
    shared = _shared_layers(model)
    found: dict[str, Block] = {}
    for owner, module in model.named_modules():
        for block in _blocks_of(owner, module, layouts):
            if block.name in chosen and not shared.intersection(block.layers):
                found.setdefault(block.name, block)
    if not found:
        where = "".join(f" with {k}={v!r}" for k, v in (("layers", include), ("exclude", exclude)) if v)
        raise ValueError(
            f"model: got {type(model).__name__}{where}, in which none of {len(layouts)} layouts is found; "
            "takes a model with such blocks, or its own Layout(inner, outer, ...) in layouts="
        )
    return found


def find_stack(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and the `torch.nn.ModuleList` of a transformer's layers: each entry holds a block.

    ``encoder.layer`` in BERT, ``transformer.layer`` in DistilBERT, ``h`` in GPT-2.

    Raises:
        ValueError: no block at all, or not exactly one such list (an encoder and a decoder are two).
    """
    blocks = list(find_blocks(model, (*FEED_FORWARD, *ATTENTION)))
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and all(any(b.startswith(f"{name}.{key}.") for b in blocks) for key, _ in module.named_children())
    ]
    if len(found) != 1:
        raise ValueError(
            f"model: got {type(model).__name__} with {len(found)} stacks of layers {[n for n, _ in found]}; "
            "takes a model with one"
        )
    return found[0]


def _blocks_of(owner: str, module: nn.Module, layouts: Sequence[Layout]) -> Iterator[Block]:
    prefix = f"{owner}." if owner else ""
    for layout in layouts:
        block = _match(prefix, module, layout)
        if block is not None:
            yield block
    if isinstance(module, nn.Sequential) and any(layout.heads is None for layout in layouts):
        last: str | None = None
        for key, child in module.named_children():
            if is_linear(child):
                if last is not None and features(module.get_submodule(last))[1] == features(child)[0]:
                    yield Block(prefix + key, (prefix + last,), 1, features(child)[0], 1, 1, {})
                last = key
            elif not isinstance(child, ELEMENTWISE):
                last = None


def _match(prefix: str, module: nn.Module, layout: Layout) -> Block | None:
    inner = [_reach(module, path) for path in layout.inner]
    outer = _reach(module, layout.outer)
    if outer is None or not is_linear(outer) or not all(m is not None and is_linear(m) for m in inner):
        return None
    columns = features(outer)[0]
    if any(features(layer)[1] != layout.parts * columns for layer in inner):
        return None
    groups = columns if layout.heads is None else _reach(module, layout.heads)
    if type(groups) is not int or groups < 1 or columns % groups:
        return None
    width = columns // groups
    attributes: dict[str, dict[str, int]] = {}
    for path, value in ((layout.heads, 1), (layout.width, width)):
        if path is not None:
            if _reach(module, path) != groups * value:
                return None
            holder, _, attribute = path.rpartition(".")
            attributes.setdefault((prefix + holder).rstrip("."), {})[attribute] = value
    carriers = layout.carriers or layout.parts * len(inner)
    names = tuple(prefix + path for path in layout.inner)
    return Block(prefix + layout.outer, names, layout.parts, groups, width, carriers, attributes)


def _reach(module: nn.Module, path: str) -> Any:
    reached: Any = module
    for key in path.split("."):
        reached = getattr(reached, key, None)
    return reached


def _shared_layers(model: nn.Module) -> set[str]:
    """Names of layers one of whose parameters belongs to another module object as well."""
    shared = set()
    for group in tied_parameters(model):
        owners = [name.rpartition(".")[0] for name in group]
        if len({id(get(model, owner)) for owner in owners}) > 1:
            shared.update(owners)
    return shared
