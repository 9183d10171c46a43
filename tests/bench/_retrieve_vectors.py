"""The vectors of the benchmark: all-MiniLM-L6-v2 on passages of documentation, computed once a machine.

The passages are the docstrings of packages that are installed with the book, in runs of about 18 words that do not overlap;
none occurs twice. They are taken in the order of their ids' hashes: the first 1,000 are the queries, held out, the next
50,000 or 200,000 are searched. So passages of one docstring are on both sides, but no passage is.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import torch

from refimpl.data import passages
from refimpl.models import load_minilm
from refimpl.retrieve import encode, encode_cached

LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "matplotlib", "networkx", "torch", "transformers", "sympy", "pandas",
    "sqlalchemy", "huggingface_hub", "playwright", "IPython", "gymnasium", "datasets", "sphinx", "docutils", "mypy",
    "optuna", "accelerate", "fontTools", "sentence_transformers",
)  # fmt: skip
QUERIES, PART = 1000, 10_000  # a part is computed and kept at a time: what was interrupted goes on from there


def load(count: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` vectors ``[count, 384]`` to search, and 1,000 queries; fp32, of length one."""
    found = sorted(
        passages(libraries=LIBRARIES, words=18), key=lambda p: hashlib.sha256(p.id.encode()).digest()
    )
    texts = [passage.text for passage in found[: QUERIES + count]]
    if len(texts) < QUERIES + count:
        raise RuntimeError(f"{len(found)} passages are installed; {QUERIES + count} are needed")
    model, tokenizer = load_minilm()

    def embed(some: list[str]) -> torch.Tensor:
        return encode_cached(model, tokenizer, some, batch_size=64, max_length=64)

    begun, parts = time.perf_counter(), []
    half = _bf16_pays(model, tokenizer, texts[:64])
    for start in [0, *range(QUERIES, len(texts), PART)]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            parts.append(embed(texts[start : min(start + PART, len(texts)) if start else QUERIES]))
    cosine = (parts[0] * embed(texts[:QUERIES])).sum(1)
    print(
        f"{count:,} passages embedded in {'bf16 autocast' if half else 'fp32'}, or read, in {time.perf_counter() - begun:.0f} s; "
        f"cosine of the queries with fp32: mean {cosine.mean():.5f}, least {cosine.min():.5f}"
    )
    return torch.cat(parts[1:]).numpy(), parts[0].numpy()


def _bf16_pays(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> bool:
    """Whether this processor has bf16: then it is three times as fast as fp32, and the vectors are the same but for the fourth
    digit; where it is emulated, it takes eight times as long."""
    took = {}
    for half in (False, True, False, True):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            encode(model, tokenizer, texts, batch_size=64, max_length=64)
        took[half] = time.perf_counter() - begun
    return took[True] < took[False] / 1.5
