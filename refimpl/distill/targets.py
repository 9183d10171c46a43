"""Teacher targets on disk: written once, ahead of training, then read in any order.

A folder of safetensors shards and an index. Of every position that counts it holds the k largest logits
(fp16), where they are (2 bytes each up to a vocabulary of 65,536, else 4) and the log-sum-exp of all (fp32):
``4 * k + 4`` bytes a token (``6 * k + 4``), 68 at k = 16, in place of 100,514 for GPT-2's 50,257 logits in fp16.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from refimpl.checks import check_int, check_module, check_number, check_tensor
from refimpl.distill.topk import topk_targets
from refimpl.files import replace_file
from refimpl.measure.sample import at_rest

__all__ = ["Targets", "open_targets", "write_targets"]

INDEX = "targets.json"
FORMAT = 1


def write_targets(
    folder: str | os.PathLike[str],
    batches: Iterable[Any],
    k: int,
    temperature: float = 1.0,
    *,
    teacher: nn.Module | None = None,
    shard_batches: int = 64,
) -> Targets:
    """Write `topk_targets` of every batch to ``folder``; go on where an earlier call was interrupted.

    Each shard, and after it the index, is replaced in one step: whatever interrupts this, the folder holds
    whole shards only, and the same call resumes after the last of them. The batches of those are skipped,
    with ``teacher`` before it is run.

    Args:
        folder: new, or of an interrupted call with the same arguments.
        batches: with ``teacher``, its inputs as dictionaries: positions with ``attention_mask`` 1 are kept.
            Without, its logits ``[B, ..., V]``, or pairs ``(logits, mask)``, ``mask`` ``[B, ...]``. Always in
            the same order, as the examples are numbered in this order.
        k: entries kept a position.
        temperature: at which the loss will be taken.
        teacher: run in eval mode without gradients, where it is; gets its mode back.
        shard_batches: batches a shard; what an interruption costs at most.

    Returns:
        The opened targets.

    Raises:
        TypeError, ValueError: bad arguments; no batches, logits of another vocabulary; a folder with other
            targets.
    """
    check_int("k", k, 1)
    temperature = check_number("temperature", temperature, 0, low_open=True)
    check_int("shard_batches", shard_batches, 1)
    if teacher is not None:
        check_module("teacher", teacher)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    index = _resume(target, {"k": k, "temperature": temperature})
    if not index["complete"]:
        left = islice(batches, sum(shard["batches"] for shard in index["shards"]), None)
        while some := list(islice(left, shard_batches)):
            _write_shard(target, index, [_one(batch, k, temperature, teacher) for batch in some])
        if not index["shards"]:
            raise ValueError("batches: got none; takes at least one")
        index["complete"] = True
        _write_index(target, index)
    return open_targets(target)


def open_targets(folder: str | os.PathLike[str], *, verify: bool = False) -> Targets:
    """Open what `write_targets` wrote. Nothing is read but the index, until an example is asked for.

    Args:
        folder: of complete targets.
        verify: read everything once and compare with the checksums.

    Raises:
        ValueError: no targets there, incomplete ones, another format, a shard that is missing, truncated or
            (with ``verify``) altered.
    """
    source = Path(folder)
    index = _read_index(source)
    if index is None or not index["complete"]:
        state = "no targets" if index is None else "targets that were not written to their end"
        raise ValueError(f"folder: got {state}; takes a folder that write_targets has finished")
    for shard in index["shards"]:
        path = source / Path(shard["file"]).name
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise ValueError(f"folder: got {path.name} missing or truncated; takes {shard['bytes']} bytes")
        if verify and hashlib.sha256(path.read_bytes()).hexdigest() != shard["sha256"]:
            raise ValueError(f"folder: got {path.name} with another checksum; takes it as it was written")
    return Targets(source, index)


class Targets:
    """Teacher targets by example, in the order in which they were written: ``len``, ``[i]``, iteration.

    Attributes:
        k: entries kept a position.
        temperature: at which ``logsumexp`` was taken.
        vocabulary_size: of the teacher.
        positions: how many are stored, in all examples together.

    The n-th stored position of an example is the n-th at which its mask was 1.
    """

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.k: int = index["k"]
        self.temperature: float = index["temperature"]
        self.vocabulary_size: int = index["vocabulary_size"]
        self._shards: list[tuple[Path, int]] = []  # of each: the file, the number of its first example
        first = 0
        for shard in index["shards"]:
            self._shards.append((folder / Path(shard["file"]).name, first))
            first += shard["examples"]
        self._length = first
        self.positions: int = sum(shard["positions"] for shard in index["shards"])
        self._open: tuple[int, Any, Tensor] | None = None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, example: int) -> dict[str, Tensor]:
        """``values`` ``[n, k]`` fp16, ``indices`` ``[n, k]`` int64, ``logsumexp`` ``[n]`` of its n positions."""
        check_int("example", example, -len(self), len(self) - 1)
        example %= len(self)
        number = bisect_right([first for _, first in self._shards], example) - 1
        file, ends = self._shard(number)
        at = example - self._shards[number][1]
        rows = slice(int(ends[at - 1]) if at else 0, int(ends[at]))
        found = {name: file.get_slice(name)[rows] for name in ("values", "indices", "logsumexp")}
        return found | {"indices": found["indices"].long()}

    def gather(self, examples: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A padded batch for `topk_kd_loss`: ``[B, ..., k]``, ``[B, ..., k]``, ``[B, ...]`` on the mask's device.

        Args:
            examples: ``[B]``, their numbers.
            mask: ``[B, ...]``, the mask with which they were written; elsewhere the result is 0, 0 ... k-1, 0.

        Raises:
            ValueError: a mask with another number of positions than were stored.
        """
        parts = [self[int(i)] for i in examples]
        kept = mask.bool()
        counts = kept.reshape(len(parts), -1).sum(-1).tolist()
        stored = [len(part["values"]) for part in parts]
        if counts != stored:
            raise ValueError(f"mask: got {counts} positions; takes those of the targets, {stored}")
        values = torch.zeros(*mask.shape, self.k, dtype=torch.float16)
        indices = torch.arange(self.k).expand(*mask.shape, self.k).clone()
        total = torch.zeros(mask.shape)
        where = kept.cpu()
        values[where] = torch.cat([part["values"] for part in parts])
        indices[where] = torch.cat([part["indices"] for part in parts])
        total[where] = torch.cat([part["logsumexp"] for part in parts])
        return values.to(mask.device), indices.to(mask.device), total.to(mask.device)

    def _shard(self, number: int) -> tuple[Any, Tensor]:
        """The open file and where each of its examples ends; the last one used stays open."""
        if self._open is None or self._open[0] != number:
            file = safe_open(str(self._shards[number][0]), "pt")
            self._open = number, file, file.get_tensor("counts").cumsum(0)
        return self._open[1], self._open[2]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}  # an open file does not go to a DataLoader's worker


def _one(batch: Any, k: int, temperature: float, teacher: nn.Module | None) -> dict[str, Any]:
    """The targets of one batch, positions packed."""
    if teacher is not None:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        with at_rest(teacher):
            logits = teacher(**inputs).logits
        mask = inputs.get("attention_mask") if logits.ndim > 2 else None
    else:
        logits, mask = batch if isinstance(batch, tuple | list) else (batch, None)
    check_tensor("batches", logits, floating=True)
    if logits.ndim < 2:
        raise ValueError(f"batches: got logits of shape {tuple(logits.shape)}; takes [B, ..., V]")
    shape = logits.shape[:-1]
    kept = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
    check_tensor("mask", kept, shape=shape)
    values, indices, total = topk_targets(logits[kept.to(logits.device)], k, temperature)
    narrow = torch.uint16 if logits.shape[-1] <= 2**16 else torch.int32
    return {
        "size": logits.shape[-1],
        "values": values.cpu(),
        "indices": indices.cpu().to(narrow),
        "logsumexp": total.cpu(),
        "counts": kept.reshape(len(kept), -1).sum(-1).cpu(),
    }


def _write_shard(folder: Path, index: dict[str, Any], parts: list[dict[str, Any]]) -> None:
    """The shard first, then the index that names it."""
    known = index.setdefault("vocabulary_size", parts[0]["size"])
    for part in parts:
        if part.pop("size") != known:
            raise ValueError(f"batches: got logits of another vocabulary; takes {known} entries throughout")
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    payload = safetensors.torch.save(tensors)
    name = f"targets-{len(index['shards']):05d}.safetensors"
    replace_file(folder / name, payload)
    index["shards"].append(
        {
            "file": name,
            "batches": len(parts),
            "examples": len(tensors["counts"]),
            "positions": len(tensors["values"]),
            "bytes": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
    )
    _write_index(folder, index)


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    replace_file(folder / INDEX, json.dumps(index, indent=1).encode())


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        found = index["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"folder: got a {INDEX} that is not readable ({error}); takes it as written"
        ) from error
    if found != FORMAT:
        raise ValueError(f"folder: got format {found!r}; takes {FORMAT}")
    return index


def _resume(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The index of an earlier call, or a new one."""
    index = _read_index(folder) or {"format": FORMAT, "complete": False, "shards": [], **settings}
    other = {name: index.get(name) for name in settings if index.get(name) != settings[name]}
    if other:
        raise ValueError(f"folder: got targets with {other}; takes the same as this call's, or a new folder")
    return index
