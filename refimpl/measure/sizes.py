"""Parameters, each counted once and by what they do; bytes in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refimpl.modules import is_linear, parameters_once

GROUPS = ("embeddings", "attention", "feed-forward", "norms", "head", "other")


# layout -> the tensors that a sparse tensor consists of
SPARSE = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters: ``total``, and ``groups``, which sum to it.

    Groups: ``embeddings`` (tables), ``attention`` and ``feed-forward`` (the linear layers of the repeated
    blocks), ``norms`` (wherever they stand), ``head`` (what stands outside the blocks: pooler, output
    layers), ``other``. A tied parameter is counted where it appears first: an output layer tied to the
    embedding is in ``embeddings``.
    """

    total: int
    groups: dict[str, int]


def parameters(model: nn.Module) -> Parameters:
    """Count the parameters of ``model``, each tied one once.

    Weights that a layer holds as integers or as a bitmask count as the numbers they stand for: quantization
    makes bytes fewer, not parameters. The groups go by the type of the module that owns a parameter and of those around it (a name of a class
    with "Embedding", "Norm", "Attention"; linear layers inside a `ModuleList` of blocks), not by the model.

    Raises:
        TypeError: not a `torch.nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes torch.nn.Module")
    has_blocks = any(isinstance(m, nn.ModuleList) for m in model.modules())
    groups = dict.fromkeys(GROUPS, 0)
    for name, parameter in model.named_parameters():
        owners = list(_chain(model, name.split(".")[:-1]))
        groups[_group(owners, has_blocks)] += parameter.numel()
    encoded = {name: _encoded(module) for name, module in model.named_modules()}
    for name, number in encoded.items():
        if number:
            groups[_group(list(_chain(model, name.split(".") if name else [])), has_blocks)] += number
    return Parameters(total=parameters_once(model) + sum(encoded.values()), groups=groups)


def _encoded(module: nn.Module) -> int:
    """The weights (and bias) of a linear layer that holds them as codes, not as parameters; otherwise 0.

    Such a layer says ``in_features`` and ``out_features`` and has no parameter but its bias.
    """
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if not all(isinstance(n, int) for n in sizes) or any(n != "bias" for n, _ in module.named_parameters()):
        return 0
    bias = getattr(module, "bias", None)
    packed = bias() if callable(bias) and not isinstance(bias, torch.Tensor) else None  # torch's own layers
    return sizes[0] * sizes[1] + (packed.numel() if packed is not None else 0)  # type: ignore[operator]


def _chain(model: nn.Module, path: list[str]) -> Iterator[nn.Module]:
    """The modules from the model itself down to the one at ``path``."""
    yield model
    for key in path:
        model = model._modules[key]  # type: ignore[assignment]
        yield model


def _group(owners: list[nn.Module], has_blocks: bool) -> str:
    kinds = [type(m).__name__.lower() for m in owners]
    if "norm" in kinds[-1]:
        return "norms"
    if any("embedding" in k for k in kinds):
        return "embeddings"
    in_block = any(isinstance(m, nn.ModuleList) for m in owners)
    if in_block or not has_blocks:
        if any("attention" in k for k in kinds):
            return "attention"
        return "feed-forward" if is_linear(owners[-1]) or _encoded(owners[-1]) else "other"
    return "head"


def bytes_in_memory(model: nn.Module) -> int:
    """Bytes of all parameters and buffers as they are held, each storage once (tied weights, views).

    Weights that a layer keeps packed out of sight (torch's own dynamically quantized layers) are counted by
    the tensors that they give to ``state_dict``.

    Raises:
        TypeError: not a `torch.nn.Module`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}; takes torch.nn.Module")
    held = [*model.parameters(), *model.buffers()]
    packed = [v for v in model.state_dict().values() if not isinstance(v, torch.Tensor)]
    sizes = dict(map(place_and_bytes, plain_tensors([held, packed])))
    return sum(sizes.values())


def place_and_bytes(tensor: torch.Tensor) -> tuple[int, int]:
    """What identifies the memory of a plain tensor (its storage, if it has one), and how many bytes that is."""
    if tensor.layout == torch.strided:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    return id(tensor), tensor.numel() * tensor.element_size()  # packed by oneDNN: opaque, but of this size


def plain_tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors inside a nest of containers, of tensor subclasses that wrap others, of sparse tensors."""
    if isinstance(value, torch.Tensor):
        if hasattr(value, "__tensor_flatten__"):
            for name in value.__tensor_flatten__()[0]:
                yield from plain_tensors(getattr(value, name))
        elif value.layout in SPARSE:
            for part in SPARSE[value.layout]:
                yield from plain_tensors(getattr(value, part)())
        else:
            yield value
    elif isinstance(value, Mapping):
        yield from plain_tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from plain_tensors(entry)
