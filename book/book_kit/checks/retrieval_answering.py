"""Checks of the exercises on answering by retrieval: each takes the reader's function and prints ok, or says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["check_datastore", "check_missing", "check_promise", "check_weight", "check_wrong_answers"]


def check_datastore(datastore: Callable[[int, int, int, int, int], tuple[float, float]]) -> None:
    """Gigabytes and ratio for the published model, and for a small one with keys in half precision."""
    for tokens, width, key_bytes, token_bytes, parameters in (
        (103_225_485, 1024, 4, 0, 247_000_000),
        (1_000_000, 128, 2, 2, 3_000_000),
    ):
        size = tokens * (width * key_bytes + token_bytes)
        got = datastore(tokens, width, key_bytes, token_bytes, parameters)
        assert len(got) == 2, "takes two numbers: gigabytes, and how many times the model"
        assert math.isclose(got[0], size / 1e9, rel_tol=1e-6), (
            f"got {got[0]} GB; {tokens} keys of {width} numbers of {key_bytes} bytes and a token of {token_bytes} are {size / 1e9:.3f} GB of 10⁹ bytes"
        )
        times = size / (4 * parameters)
        assert math.isclose(got[1], times, rel_tol=1e-6), (
            f"got {got[1]} times; the model has 4 bytes a parameter, {times:.2f}"
        )
    print("ok")


def check_weight(best_weight: Callable[[Tensor, Tensor], float]) -> None:
    """Against a fine grid; 0 where the mean of p_kNN / p_LM is at most 1, 1 where the store is always better."""
    generator = torch.Generator().manual_seed(0)
    model = torch.rand(400, generator=generator, dtype=torch.double) * 0.5 + 0.01
    found = torch.rand(400, generator=generator, dtype=torch.double)
    found = torch.where(torch.rand(400, generator=generator) < 0.6, 0.0, found)
    cases = {"mixed": (found, model), "useless": (0.2 * model, model), "better": (1.5 * model, model)}
    grid = torch.linspace(0, 1, 2001, dtype=torch.double)
    for name, (p, q) in cases.items():
        cost = -(grid[:, None] * p + (1 - grid[:, None]) * q).log().mean(1)
        best = float(grid[cost.argmin()])
        got = float(best_weight(p.clone(), q.clone()))
        assert 0 <= got <= 1, f"got {got}; a weight is between 0 and 1"
        if name == "useless":
            assert got < 2e-3, (
                f"got {got:.3f} although the mean of p_kNN / p_LM is below 1; the slope at 0 is then positive: 0"
            )
        assert abs(got - best) < 2e-3, f"got {got:.3f}; the smallest mean of -ln p is at {best:.3f}"
    print("ok")


def check_wrong_answers(pays_from: Callable[[float, float, float, float, float], float]) -> None:
    """The hit rate at which both sides cost the same; infinite where a hit costs more than it saves."""
    for encode, search, answer, damage, wrong in (
        (2.0, 1.0, 100.0, 0.0, 0.5),
        (2.0, 1.0, 100.0, 200.0, 0.1),
        (8.0, 0.1, 500.0, 1000.0, 0.05),
    ):
        got = pays_from(encode, search, answer, damage, wrong)
        with_cache = encode + search + (1 - got) * answer + got * wrong * damage
        assert math.isclose(with_cache, answer, rel_tol=1e-6), (
            f"at a hit rate of {got:.4f} the cache costs {with_cache:.3f} a question, the model {answer:.3f}; takes equal costs"
        )
    for damage in (1000.0, 2000.0):
        got = pays_from(1.0, 1.0, 100.0, damage, 0.1)
        assert got == math.inf, (
            f"got {got}: 10 % of the hits cost {damage} each, so that a hit saves nothing; takes math.inf"
        )
    print("ok")


def check_promise(threshold: Callable[[Tensor, float], float]) -> None:
    """The smallest threshold for which (1 + those at or above it) / (M + 1) is within the share; else above every cosine."""
    generator = torch.Generator().manual_seed(0)
    for count, share in ((99, 0.01), (199, 0.01), (500, 0.02), (40, 0.1)):
        other = torch.rand(count, generator=generator, dtype=torch.double)
        got = float(threshold(other.clone(), share))
        allowed = math.floor(share * (count + 1) + 1e-9) - 1
        ordered = other.sort(descending=True).values
        least, most = (
            float(ordered[allowed]),
            float(ordered[allowed - 1]) if allowed else float(ordered[0]) + 0.01,
        )
        above = int((other >= got).sum())
        assert above <= allowed, (
            f"of {count} cosines {above} are at or above {got:.4f}; a share of {share} allows (M + 1) share - 1 = {allowed}"
        )
        assert least < got <= most, (
            f"got {got:.4f}; the threshold lies just above {least:.4f}, and no higher than needed"
        )
    got = float(threshold(torch.rand(50, generator=generator), 0.01))
    assert got > 1, (
        f"got {got:.3f}: 50 examples cannot promise 1 %; takes a threshold above 1, so that nothing is a hit"
    )
    print("ok")


def check_missing(fused: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Weighted means over what is there, by a loop; NaN where it is not; nothing at all gives -inf."""
    generator = torch.Generator().manual_seed(0)
    cosines = torch.rand(3, 4, 6, generator=generator) * 2 - 1
    present = torch.rand(3, 6, generator=generator) < 0.6
    present[:, 2], present[:, 0] = False, True
    weights = torch.tensor([1.0, 0.5, 0.25])
    expected = torch.full((4, 6), -math.inf)
    for n in range(6):
        own = [m for m in range(3) if present[m, n]]
        if own:
            total = sum(float(weights[m]) for m in own)
            expected[:, n] = sum(float(weights[m]) * cosines[m, :, n] for m in own) / total
    got = fused(cosines.clone(), present.clone(), weights.clone())
    assert got.shape == (4, 6), f"got shape {tuple(got.shape)}; takes a score for each query and item, (4, 6)"
    assert bool((got[:, 2] == -math.inf).all()), "an item without any modality cannot be found: -inf"
    assert torch.allclose(got, expected, atol=1e-6), (
        "divide by the weights of what is there, not by all weights"
    )
    holes = cosines.masked_fill(~present[:, None], math.nan)
    assert torch.allclose(fused(holes, present.clone(), weights.clone()), expected, atol=1e-6), (
        "what is not there may be NaN: replace, do not multiply"
    )
    print("ok")
