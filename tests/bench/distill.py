"""The loss of a large vocabulary: hidden 768, 50,257 entries, 2,048 tokens, fp32, forward and backward.

Each way runs in a process of its own, whose peak resident memory is read; the times are paired, interleaved in
one process. What both must have in the end, the gradients (of the matrix, 154 MB, and of the states), is
counted apart: "extra" is what comes on top of inputs and gradients.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from refimpl import measure
from refimpl.distill import chunked_kd_loss, kd_loss

TOKENS, WIDTH, VOCABULARY, TEMPERATURE = 2048, 768, 50257, 2.0
CHUNKS = (64, 128, 256)
GOALS = 0.15, 1.1  # of the plain loss's extra memory, of its time

Layers = dict[str, Tensor]


def layers() -> Layers:
    g = torch.Generator().manual_seed(0)
    made = {}
    for who in ("student", "teacher"):
        made[f"{who}_hidden"] = torch.randn(TOKENS, WIDTH, generator=g)
        made[f"{who}_weight"] = torch.randn(VOCABULARY, WIDTH, generator=g).div_(WIDTH**0.5)
    for name in ("student_hidden", "student_weight"):
        made[name].requires_grad_()
        # there before, and written to (zeros would take no memory until used), so that it counts for no one
        made[name].grad = torch.full_like(made[name], 1e-30)
    return made


def logits(x: Layers) -> tuple[Tensor, Tensor]:
    student = F.linear(x["student_hidden"], x["student_weight"])
    with torch.no_grad():
        return student, F.linear(x["teacher_hidden"], x["teacher_weight"])


def plain(x: Layers) -> Tensor:
    return kd_loss(*logits(x), TEMPERATURE)


def plain_torch(x: Layers) -> Tensor:
    z, t = (F.log_softmax(y / TEMPERATURE, -1) for y in logits(x))
    return TEMPERATURE**2 * F.kl_div(z, t, log_target=True, reduction="batchmean")


def chunked(chunk: int) -> Callable[[Layers], Tensor]:
    return lambda x: chunked_kd_loss(**x, temperature=TEMPERATURE, chunk=chunk)


def ways() -> dict[str, Callable[[Layers], Tensor]]:
    found: dict[str, Callable[[Layers], Tensor]] = {"plain kd_loss": plain, "plain F.kl_div": plain_torch}
    return found | {f"chunked, {chunk}": chunked(chunk) for chunk in CHUNKS}


def _resident(name: str, threads: int, out: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(threads)
    x = layers()
    warm = {k: v[:8].detach().requires_grad_(v.requires_grad) for k, v in x.items()}
    ways()[name](warm).backward()  # what a library makes once and keeps

    def peak() -> float:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6

    before = peak()
    ways()[name](x).backward()
    out.send(peak() - before)


def extra_memory(name: str) -> float:
    """MB by which the process grew at its peak, gradients not counted, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_resident, args=(name, torch.get_num_threads(), there))
    child.start()
    found: float = here.recv()
    child.join()
    return found


def step(way: Callable[[Layers], Tensor], x: Layers) -> Callable[[], None]:
    return lambda: way(x).backward()


def main(repeats: int = 5) -> None:
    """Print the table and the goals."""
    memory = {name: extra_memory(name) for name in ways()}
    x = layers()
    taken = measure.latency({n: step(way, x) for n, way in ways().items()}, repeats, warmup=1)
    exact = plain(x).item()
    print(
        f"{torch.get_num_threads()} threads; gradients: {sum(x[f'student_{n}'].numel() for n in ('hidden', 'weight')) * 4e-6:.0f} MB for each, not counted"
    )
    print(
        f"{TOKENS} tokens, {WIDTH} wide, {VOCABULARY} entries   {'extra MB':>9}{'of plain':>10}{'ms':>8}{'of plain':>10}{'error':>10}"
    )
    for name, way in ways().items():
        share = memory[name] / memory["plain kd_loss"]
        time = taken.median(name) / taken.median("plain kd_loss")
        error = abs(way(x).item() / exact - 1)
        print(f"{name:40}{memory[name]:10.0f}{share:10.1%}{taken.median(name):8.0f}{time:9.2f}x{error:10.0e}")
        if name.startswith("chunked"):
            met = share <= GOALS[0] and time <= GOALS[1]
            print(
                f"  goal of {GOALS[0]:.0%} of the memory in {GOALS[1]}x the time: {'met' if met else 'NOT met'}"
            )
