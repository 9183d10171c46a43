"""Losses between attention maps: KL of the probabilities, squared error of the scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from refimpl.checks import check_choice, check_tensor
from refimpl.distill.features.common import at_least_fp32, check_finite
from refimpl.distill.losses import SUM_TOLERANCE
from refimpl.distill.positions import check_mask, kl_rows, mean_over

__all__ = ["attention_loss", "kl_over_keys", "query_rows"]


def attention_loss(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    mask: Tensor | None = None,
    kind: str = "kl",
    *,
    from_scores: bool = False,
    causal: bool = False,
    num_items: float | Tensor | None = None,
) -> Tensor:
    """How differently two models attend: a mean over layers, heads and unmasked query positions.

    ``"kl"``: ``sum_k p_ik log(p_ik / q_ik)`` for each query ``i``, with the teacher's probabilities ``p`` and
    the student's ``q`` over the keys ``k``, in nats. ``"mse"``: ``mean_k (s_ik - t_ik)**2``, meant for scores
    before the softmax. Only unmasked keys take part (with ``causal`` those up to the query): what stands in
    padding changes nothing.

    Take scores where you can (:func:`capture` with ``attentions="scores"``): in training mode transformers
    returns probabilities *after* dropout, which no longer sum to 1, and half precision rounds small ones to 0.

    Args:
        student: ``[B, heads, L, L]`` (query, key) of one layer, or a sequence of layers.
        teacher: as many layers of the same shape, paired in order; gets no gradient.
        mask: ``[B, L]``, 1 or True for real positions; None counts all.
        kind: ``"kl"`` or ``"mse"``.
        from_scores: ``"kl"`` takes scores in place of probabilities and makes the softmax itself. (``"mse"``
            compares what it is given.)
        causal: leave out keys after the query. Needed for the scores of a causal model; its probabilities
            are 0 there anyway.
        num_items: divisor in place of the number of unmasked queries, for accumulation, as in `kd_loss`.

    Returns:
        A scalar, at least 0 up to rounding.

    Raises:
        TypeError, ValueError: wrong kind or shape (for other numbers of heads see :func:`relation_loss`),
            probabilities that do not sum to 1 over the unmasked keys, nothing to average over, NaN or
            infinity where it counts, an infinite divergence.

    Source: KL, of the last layer only: L_AT of Wang et al. 2020, MiniLM (arXiv 2002.10957). Squared error of
    scores: L_attn of Jiao et al. 2020, TinyBERT (arXiv 1909.10351).
    """
    check_choice("kind", kind, ("kl", "mse"))
    layers = _layers("student", student), _layers("teacher", teacher)
    if len(layers[0]) != len(layers[1]):
        raise ValueError(
            f"teacher: got {len(layers[1])} layers; takes the student's {len(layers[0])}, pair by pair"
        )
    terms: list[Tensor] = []
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for number, (s, t) in enumerate(zip(*layers, strict=True)):
        if s.shape != t.shape:
            raise ValueError(
                f"teacher: got shape {tuple(t.shape)} at layer {number}; takes the student's {tuple(s.shape)} "
                "(relation_loss compares models with other numbers of heads)"
            )
        kept = check_mask(mask, s.shape[:1] + s.shape[2:3])
        a, keys = query_rows(s, kept, causal)
        b, _ = query_rows(t.detach(), kept, causal)
        seen |= {f"student, layer {number}": (a, keys), f"teacher, layer {number}": (b, keys)}
        if kind == "mse":
            term = (a - b).masked_fill(~keys, 0).square().sum(-1) / keys.sum(-1)
        elif from_scores:
            term = kl_over_keys(a, b, keys)
        else:
            term = _kl_of_probabilities(a, b, keys)
        terms.append(term.mean(-1))  # over heads: (N, heads) -> (N,)
    if len({len(term) for term in terms}) > 1:
        raise ValueError("student: got layers of different batch or length; takes layers of one forward pass")
    loss = mean_over(torch.stack(terms).mean(0), num_items)
    return check_finite(
        loss,
        lambda: {name: t.masked_fill(~keys, 0) for name, (t, keys) in seen.items()},
        "student, teacher: got an infinite divergence, the student's probability is 0 (rounded?) where the "
        "teacher's is not; takes pairs for which it is finite, or scores with from_scores=True",
    )


def kl_over_keys(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax over the allowed keys, ``(N, heads, L) -> (N, heads)``."""
    log_q, log_p = (F.log_softmax(t.masked_fill(~keys, -torch.inf), dim=-1) for t in (student, teacher))
    return kl_rows(log_p, log_q)


def _kl_of_probabilities(student: Tensor, teacher: Tensor, keys: Tensor) -> Tensor:
    rows = []
    for name, t in (("student", student), ("teacher", teacher)):
        t = t.masked_fill(~keys, 0)
        sums = t.detach().sum(-1)
        if bool(((sums - 1).abs() > SUM_TOLERANCE).any()) or bool((t < 0).any()):
            raise ValueError(
                f"{name}: got rows that do not sum to 1 over the unmasked keys; takes probabilities of a model that "
                "was given the mask and is in eval mode (in training mode dropout has changed them), or scores with "
                "from_scores=True"
            )
        rows.append(t / t.sum(-1, keepdim=True))  # (N, heads, L)
    q, p = rows
    # where p is 0 the term is 0, whatever q is: log(1) there, as the gradient of log(0) would be NaN
    return kl_rows(p.log(), q.masked_fill(p == 0, 1).log())


def _layers(name: str, given: Tensor | Sequence[Tensor]) -> list[Tensor]:
    layers = [given] if isinstance(given, Tensor) else list(given) if isinstance(given, Sequence) else given
    if not isinstance(layers, list) or not layers:
        raise TypeError(
            f"{name}: got {type(given).__name__} {given!r}; takes a tensor, or a sequence of tensors"
        )
    for t in layers:
        check_tensor(name, t, ndim=4, floating=True)
        if t.shape[2] != t.shape[3] or t.numel() == 0:
            raise ValueError(f"{name}: got shape {tuple(t.shape)}; takes [B, heads, L, L], not empty")
    return layers


def query_rows(t: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """The rows of the queries that count, ``(N, heads, L)``, and which keys each may see, ``(N, 1, L)``."""
    batch, _, length, _ = t.shape
    keys = torch.ones(batch, length, length, dtype=torch.bool, device=t.device)
    if causal:
        keys = keys.tril()
    rows = t.transpose(1, 2)  # (B, heads, L, L) -> (B, L, heads, L)
    if mask is None:
        return at_least_fp32(rows.flatten(0, 1)), keys.flatten(0, 1)[:, None]
    return at_least_fp32(rows[mask]), (keys & mask[:, None])[mask][:, None]
