"""What counting reaches: unigram and bigram models, scored on the very tokens that `evaluate` scores."""

from __future__ import annotations

import torch
from torch import Tensor

from refimpl.checks import check_int, check_tensor
from refimpl.distill.positions import IGNORED
from refimpl.recipes.scoring import Evaluation

__all__ = ["bigram", "score_masked", "score_next", "unigram"]


def unigram(tokens: Tensor, vocabulary: int) -> Tensor:
    """p(b) = (c(b) + 1) / (N + V), ``[V]`` in fp32: counts of training tokens ``[N]``, one added to each.

    Raises:
        TypeError: ``tokens`` is no tensor.
        ValueError: no tokens, or one that is not in 0 ... V − 1.
    """
    _check(tokens, vocabulary)
    counts = torch.bincount(tokens, minlength=vocabulary).double() + 1
    return (counts / counts.sum()).float()


def bigram(tokens: Tensor, vocabulary: int) -> Tensor:
    """p(b | a) = (c(ab) + T(a)·p(b)) / (c(a) + T(a)), ``[V, V]`` in fp32, row a, column b.

    Interpolated after Witten and Bell: c(ab) counts the pairs of neighbours in ``tokens`` ``[N]``, c(a) those
    that begin with a, T(a) how many different tokens follow a, and p(b) is `unigram`. Where a is followed by
    nothing the row is p(b). There is nothing to tune. For V = 4,096 the table has 67 MB.

    Raises:
        TypeError: ``tokens`` is no tensor.
        ValueError: no tokens, or one that is not in 0 ... V − 1.

    Source: Witten and Bell 1991; Chen and Goodman 1999, section 2.4.
    """
    backoff = unigram(tokens, vocabulary)
    pairs = torch.bincount(tokens[:-1] * vocabulary + tokens[1:], minlength=vocabulary**2)
    pairs = pairs.view(vocabulary, vocabulary)  # (V, V)
    followers = (pairs > 0).sum(1, keepdim=True)  # T(a), (V, 1)
    followers[followers == 0] = 1  # then c(a) = 0, and any T(a) gives the row p(b)
    return (pairs + followers * backoff) / (pairs.sum(1, keepdim=True) + followers)


def score_next(table: Tensor, ids: Tensor, labels: Tensor) -> Evaluation:
    """Predict each label ≥ 0 from the id at its place: mean −ln p and accuracy, as `evaluate` of a causal LM.

    Args:
        table: of `unigram` or of `bigram`.
        ids: ``[B, L]``, of `refimpl.recipes.causal_rows`.
        labels: ``[B, L]``, with them.

    Raises:
        ValueError: shapes that do not fit; no label ≥ 0.
    """
    check_tensor("table", table, ndim=(1, 2), floating=True)
    check_tensor("ids", ids, ndim=2)
    check_tensor("labels", labels, shape=ids.shape)
    before, wanted = ids[labels != IGNORED], labels[labels != IGNORED]  # (M,) each
    if table.ndim == 1:
        return _score(table[wanted], table.argmax().expand_as(wanted) == wanted)
    return _score(table[before, wanted], table.argmax(1)[before] == wanted)


def score_masked(one: Tensor, two: Tensor | None, ids: Tensor, labels: Tensor, mask_token: int) -> Evaluation:
    """Predict each label ≥ 0 of a masked LM's input: p(b), or p(b | left, right) ∝ p(b | left)·p(right | b).

    The second is what a chain of bigrams says of a token between two known ones. A neighbour that is itself
    masked says nothing: p(b) takes the place of p(b | left), and p(right | b) is left out. The token that
    stands at the place, in one of five cases not the mask, is not looked at.

    Args:
        one: of `unigram`.
        two: of `bigram`, or ``None`` for p(b).
        ids: ``[B, L]``, of `refimpl.recipes.masked_rows`.
        labels: ``[B, L]``, with them; none ≥ 0 in the first and the last column.
        mask_token: the id of the mask.

    Raises:
        ValueError: shapes that do not fit; no label ≥ 0, or one in the first or last column.
    """
    check_tensor("one", one, ndim=1, floating=True)
    check_tensor("ids", ids, ndim=2)
    check_tensor("labels", labels, shape=ids.shape)
    row, column = (labels != IGNORED).nonzero(as_tuple=True)  # (M,) each
    wanted = labels[row, column]
    if two is None:
        return _score(one[wanted], one.argmax().expand_as(wanted) == wanted)
    check_tensor("two", two, shape=(len(one), len(one)), floating=True)
    if bool(((column == 0) | (column == ids.shape[1] - 1)).any()):
        raise ValueError("labels: got one in the first or last column; takes those with two neighbours")
    left, right = ids[row, column - 1], ids[row, column + 1]
    chosen, hits = [], []
    for a, c, b in zip(left.split(1024), right.split(1024), wanted.split(1024), strict=True):
        given_left = torch.where((a == mask_token)[:, None], one, two[a])  # (m, V)
        given_right = torch.where((c == mask_token)[:, None], 1.0, two.T[c])  # (m, V)
        p = given_left * given_right
        p = p / p.sum(1, keepdim=True)
        chosen.append(p[torch.arange(len(b)), b])
        hits.append(p.argmax(1) == b)
    if not chosen:
        raise ValueError("labels: got none; takes at least one")
    return _score(torch.cat(chosen), torch.cat(hits))


def _score(p: Tensor, hits: Tensor) -> Evaluation:
    if not len(p):
        raise ValueError("labels: got none; takes at least one")
    return Evaluation(float(-p.double().log().mean()), float(hits.double().mean()), len(p))


def _check(tokens: Tensor, vocabulary: int) -> None:
    check_int("vocabulary", vocabulary, 1)
    check_tensor("tokens", tokens, ndim=1)
    if tokens.is_floating_point():
        raise TypeError(f"tokens: got dtype {tokens.dtype}; takes integers")
    if not len(tokens) or int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise ValueError(f"tokens: got none, or one outside the vocabulary; takes 0 to {vocabulary - 1}")
