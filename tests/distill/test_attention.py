"""Attention and relation losses: by hand, against naive loops and torch, masks, and what must not matter."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.distill import attention_loss, relation_loss

nan = math.nan


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_mask(batch, length, seed=0):
    mask = randn(batch, length, seed=seed + 7) > 0
    mask[0, 0] = True
    return mask


def softmax(row):
    weights = [math.exp(x) for x in row]
    return [w / sum(weights) for w in weights]


def naive_attention(kind, student, teacher, mask, causal=False):
    """Loops over Python floats, scores in; deliberately independent of the implementation."""
    batch, heads, length, _ = student.shape
    queries = []
    for b in range(batch):
        for i in range(length):
            if not mask[b, i]:
                continue
            keys = [k for k in range(length) if mask[b, k] and (k <= i or not causal)]
            values = []
            for h in range(heads):
                s, t = ([x[b, h, i, k].item() for k in keys] for x in (student, teacher))
                if kind == "mse":
                    values.append(sum((x - y) ** 2 for x, y in zip(s, t, strict=True)) / len(keys))
                else:
                    q, p = softmax(s), softmax(t)
                    values.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
            queries.append(sum(values) / heads)
    return sum(queries) / len(queries)


def probabilities(scores, mask, causal=False):
    """As a model makes them: padding keys get exactly 0."""
    allowed = mask[:, None, None].expand_as(scores).clone()
    if causal:
        allowed &= torch.ones(scores.shape[-2:]).tril().bool()
    return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1) * allowed


def relation(features, heads, b, h):
    width = features.shape[-1] // heads
    x = features[b, :, h * width : (h + 1) * width]
    return (x @ x.T) / math.sqrt(width)


# ---- hand cases -------------------------------------------------------------------------------------------


def test_kl_by_hand():
    q = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).view(1, 1, 2, 2)
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).view(1, 1, 2, 2)
    first, second = math.log(2), 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert attention_loss(q, p).item() == pytest.approx((first + second) / 2)
    assert attention_loss(q, p, torch.tensor([[1, 1]]), num_items=8).item() == pytest.approx(
        (first + second) / 8
    )
    scores = (q * 8).log(), (p[:, :, 1:].expand(1, 1, 2, 2) * 3).log()  # a constant more changes nothing
    expected = (0.0 + second) / 2
    assert attention_loss(*scores, from_scores=True).item() == pytest.approx(expected, abs=1e-6)


def test_mse_by_hand():
    s, t = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert attention_loss(s, t, kind="mse").item() == ((1 + 4) / 2 + (9 + 16) / 2) / 2
    assert attention_loss(s, t, kind="mse", causal=True).item() == (1 + (9 + 16) / 2) / 2
    assert attention_loss(s, t, torch.tensor([[1, 0]]), kind="mse").item() == 1


def test_relation_by_hand():
    """Two positions, one relation head of width 2: scores x·x / sqrt 2."""
    student, teacher = torch.tensor([[[1.0, 1.0], [1.0, -1.0]]]), torch.zeros(1, 2, 2)
    q = softmax([math.sqrt(2), 0.0])  # 2 / sqrt 2 with itself, 0 with the other
    expected = 0.5 * math.log(0.5 / q[0]) + 0.5 * math.log(0.5 / q[1])
    assert relation_loss(student, teacher, 1).item() == pytest.approx(expected)
    assert relation_loss(student, teacher, 1, num_items=8).item() == pytest.approx(expected / 4)


# ---- references -------------------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(0, 9))


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.sampled_from(["mse", "kl scores", "kl"]), st.booleans())
def test_attention_equals_a_naive_loop(shape, kind, causal):
    batch, heads, length, seed = shape
    s, t = randn(batch, heads, length, length, seed=seed), randn(batch, heads, length, length, seed=seed + 50)
    mask = some_mask(batch, length, seed)
    expected = naive_attention(kind[:3].strip(), s, t, mask, causal)
    if kind == "kl":
        ours = attention_loss(probabilities(s, mask, causal), probabilities(t, mask, causal), mask)
    else:
        ours = attention_loss(s, t, mask, kind[:3].strip(), from_scores=kind != "mse", causal=causal)
    assert ours.item() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(1, 3), st.integers(1, 3))
def test_relation_equals_a_naive_loop(shape, student_width, teacher_width):
    batch, heads, length, seed = shape
    s = randn(batch, length, heads * student_width, seed=seed)
    t = randn(batch, length, heads * teacher_width, seed=seed + 50)
    mask = some_mask(batch, length, seed)
    scores = [
        torch.stack([torch.stack([relation(x, heads, b, h) for h in range(heads)]) for b in range(batch)])
        for x in (s, t)
    ]
    expected = naive_attention("kl", *scores, mask)
    assert relation_loss(s, t, heads, mask).item() == pytest.approx(expected, abs=1e-12)


def test_mse_of_scores_is_torchs_mean():
    s, t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(attention_loss(s, t, kind="mse"), F.mse_loss(s, t))


def test_kl_equals_torch():
    s, t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    expected = F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="sum") / (2 * 3 * 4)
    torch.testing.assert_close(attention_loss(s, t, from_scores=True), expected)
    torch.testing.assert_close(attention_loss(s.softmax(-1), t.softmax(-1)), expected)


# ---- properties -------------------------------------------------------------------------------------------


def test_layers_are_averaged():
    s, t = ([randn(2, 3, 4, 4, seed=n + i) for i in range(2)] for n in (0, 10))
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    for options in ({"kind": "mse"}, {"from_scores": True}):
        single = [attention_loss(a, b, mask, **options) for a, b in zip(s, t, strict=True)]
        torch.testing.assert_close(attention_loss(s, t, mask, **options), sum(single) / 2)


@pytest.mark.parametrize("causal", [False, True])
def test_identical_models_give_zero_and_no_gradient(causal):
    x = randn(2, 3, 4, 4, dtype=torch.float32).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    p = probabilities(x, mask.bool(), causal)
    a = randn(2, 4, 6, dtype=torch.float32).requires_grad_()
    for wanted, loss in (
        (x, attention_loss(x, x.detach(), mask, "mse", causal=causal)),
        (x, attention_loss(x, x.detach(), mask, from_scores=True, causal=causal)),
        (x, attention_loss(p, p.detach(), mask)),
        (a, relation_loss(a, a.detach(), 3, mask)),
    ):
        assert loss.item() == 0
        assert torch.autograd.grad(loss, wanted)[0].abs().max() < 1e-7


def test_rotating_inside_a_relation_head_changes_nothing_and_across_heads_does():
    s, t = randn(2, 5, 12), randn(2, 5, 24, seed=1)
    plain = relation_loss(s, t, 3)
    turn = torch.block_diag(*[torch.linalg.qr(randn(4, 4, seed=i)).Q for i in range(3)])
    torch.testing.assert_close(relation_loss(s @ turn, t, 3), plain)
    order = torch.tensor([2, 0, 3, 1])
    permuted = s.unflatten(-1, (3, 4))[..., order].flatten(-2)
    torch.testing.assert_close(relation_loss(permuted, t, 3), plain)
    # whole relation heads may move, if they do so in both models
    both = [x.unflatten(-1, (3, -1))[:, :, [1, 2, 0]].flatten(-2) for x in (s, t)]
    torch.testing.assert_close(relation_loss(*both, 3), plain)
    across = torch.linalg.qr(randn(12, 12, seed=5)).Q
    assert abs(relation_loss(s @ across, t, 3) - plain) > 1e-3
    torch.testing.assert_close(relation_loss(s @ across, t, 1), relation_loss(s, t, 1))


def test_relation_of_a_teacher_that_is_a_rotation_is_zero():
    """Another width and other features, the same inner products: nothing is left to learn."""
    s = randn(2, 5, 8)
    t = torch.cat([s.unflatten(-1, (2, 4)), torch.zeros(2, 5, 2, 12, dtype=s.dtype)], -1) * math.sqrt(2)
    torch.testing.assert_close(relation_loss(s, t.flatten(-2), 2), torch.tensor(0.0, dtype=s.dtype))


def test_padding_changes_nothing_also_when_it_is_cut_off():
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    s, t = randn(1, 2, 5, 5), randn(1, 2, 5, 5, seed=1)
    a, b = randn(1, 5, 4), randn(1, 5, 8, seed=1)
    short = [x[:, :, :3, :3] for x in (s, t)], [x[:, :3] for x in (a, b)]
    for options in ({"kind": "mse"}, {"from_scores": True}, {"from_scores": True, "causal": True}):
        torch.testing.assert_close(
            attention_loss(s, t, mask, **options), attention_loss(*short[0], **options)
        )
    torch.testing.assert_close(relation_loss(a, b, 2, mask), relation_loss(*short[1], 2))
    clean = attention_loss(s, t, mask, from_scores=True), relation_loss(a, b, 2, mask)
    for x in (s, t):
        x[:, :, 3:], x[..., 3:] = nan, nan
    for x in (a, b):
        x[:, 3:] = nan
    s.requires_grad_()
    a.requires_grad_()
    dirty = attention_loss(s, t, mask, from_scores=True), relation_loss(a, b, 2, mask)
    torch.testing.assert_close(clean, dirty)
    sum(dirty).backward()
    assert s.grad.isfinite().all() and not s.grad[..., 3:].any() and not s.grad[:, :, 3:].any()
    assert a.grad.isfinite().all() and not a.grad[:, 3:].any()


def test_a_zero_probability_in_both_has_a_finite_gradient():
    scores = randn(2, 1, 3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
    q, p = scores.softmax(-1)
    q = q[None].requires_grad_()
    attention_loss(q, p[None]).backward()
    assert q.grad.isfinite().all() and q.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    s, t = randn(2, 2, 4, 4, dtype=dtype), randn(2, 2, 4, 4, seed=1, dtype=dtype)
    a, b = randn(2, 4, 64, dtype=dtype), randn(2, 4, 64, seed=1, dtype=dtype)
    p, q = t.float().softmax(-1).to(dtype), s.float().softmax(-1).to(dtype)  # rounded: sums are not quite 1
    for loss, x, y in (
        (lambda x, y: attention_loss(x, y, kind="mse"), s * 500, t * 500),
        (lambda x, y: attention_loss(x, y, from_scores=True), s, t),
        (attention_loss, q, p),
        (lambda x, y: relation_loss(x, y, 2), a, b),
    ):
        half = loss(x, y)
        assert half.dtype == torch.float32
        assert attention_loss(s, t, torch.ones(2, 4), from_scores=True).dtype == torch.float32
        torch.testing.assert_close(half, loss(x.float(), y.float()), rtol=1e-6, atol=0)
    assert attention_loss(p, p).item() >= 0


def test_rounded_probabilities_are_made_to_sum_to_one():
    q, p = randn(1, 2, 3, 3).softmax(-1), randn(1, 2, 3, 3, seed=1).softmax(-1)
    torch.testing.assert_close(attention_loss(q * 1.005, p * 0.995), attention_loss(q, p))


def test_autocast_does_not_reach_the_relations():
    a, b = randn(2, 4, 64).float(), randn(2, 4, 64, seed=1).float()
    plain = relation_loss(a, b, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(relation_loss(a, b, 2), plain)


def test_parts_of_different_length_add_up_with_num_items():
    s, t = randn(3, 2, 5, 5), randn(3, 2, 5, 5, seed=1)
    a, b = randn(3, 5, 4), randn(3, 5, 8, seed=1)
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])

    def both(i, **options):
        return attention_loss(s[i], t[i], mask[i], from_scores=True, **options) + relation_loss(
            a[i], b[i], 2, mask[i], **options
        )

    torch.testing.assert_close(both(slice(3)), sum(both(slice(i, i + 1), num_items=7) for i in range(3)))


# ---- bad input --------------------------------------------------------------------------------------------

S, P = torch.zeros(1, 2, 3, 3), torch.full((1, 2, 3, 3), 1 / 3)
X = torch.ones(1, 3, 4)


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: attention_loss(P, P, kind="l2"), ValueError, "kind: got 'l2'"),
        (lambda: attention_loss("P", P), TypeError, "student: got str"),
        (lambda: attention_loss(3, P), TypeError, "student: got int"),
        (lambda: attention_loss(P, []), TypeError, "teacher: got list"),
        (lambda: attention_loss([P, P], P), ValueError, "teacher: got 1 layers; takes the student's 2"),
        (lambda: attention_loss(P[0], P), ValueError, "student: got 3 dimensions"),
        (lambda: attention_loss([P, None], [P, P]), TypeError, "student: got NoneType"),
        (lambda: attention_loss(P.long(), P), TypeError, "student: got dtype"),
        (lambda: attention_loss(P[..., :2], P), ValueError, r"takes \[B, heads, L, L\]"),
        (lambda: attention_loss(P[:0], P[:0]), ValueError, "not empty"),
        (lambda: attention_loss(P[:, :1], P), ValueError, r"teacher: got shape .* \(relation_loss compares"),
        (lambda: attention_loss(P, P, torch.ones(1, 2)), ValueError, "mask: got shape"),
        (lambda: attention_loss(P, P, torch.full((1, 3), 2)), ValueError, "mask: got entries"),
        (lambda: attention_loss(P, P, torch.zeros(1, 3)), ValueError, "mask: got no position"),
        (lambda: attention_loss(P, P, num_items=-1), ValueError, "num_items: got -1"),
        (lambda: attention_loss(S, P), ValueError, "student: got rows that do not sum to 1"),
        (lambda: attention_loss(P, P * 1.1), ValueError, "teacher: got rows that do not sum to 1"),
        (lambda: attention_loss(P, P, torch.tensor([[1, 1, 0]])), ValueError, "over the unmasked keys"),
        (lambda: attention_loss(P - torch.tensor([0.5, -0.5, 0]), P), ValueError, "takes probabilities"),
        (lambda: attention_loss(S * nan, S, kind="mse"), ValueError, "student, layer 0: got 18 entries"),
        (lambda: attention_loss([P, P], [P, P * nan]), ValueError, "teacher, layer 1: got 18 entries"),
        (lambda: attention_loss(torch.eye(3).expand(1, 2, 3, 3), P), ValueError, "infinite divergence"),
        (
            lambda: attention_loss([P, P[..., :2, :2] * 1.5], [P, P[..., :2, :2] * 1.5]),
            ValueError,
            "layers of one forward pass",
        ),
        (lambda: relation_loss(X, X, 0), ValueError, "relation_heads: got 0"),
        (
            lambda: relation_loss(X, X, 3),
            ValueError,
            "relation_heads: got 3; takes a divisor of the student's width 4",
        ),
        (lambda: relation_loss(X, X[..., :3], 2), ValueError, "takes a divisor of the teacher's width 3"),
        (lambda: relation_loss(X[0], X, 2), ValueError, "student: got 2 dimensions"),
        (lambda: relation_loss(X, X[:, :2], 2), ValueError, "teacher: got shape"),
        (lambda: relation_loss(X.int(), X, 2), TypeError, "student: got dtype"),
        (lambda: relation_loss(X[..., :0], X, 2), ValueError, "not empty"),
        (lambda: relation_loss(X, X, 2, torch.ones(3, 1)), ValueError, "mask: got shape"),
        (lambda: relation_loss(X, X, 2, torch.zeros(1, 3)), ValueError, "mask: got no position"),
        (lambda: relation_loss(X, X * nan, 2), ValueError, "teacher: got 12 entries"),
        (lambda: relation_loss(X * math.inf, X, 2), ValueError, "student: got 12 entries"),
        (lambda: relation_loss(X * 1e30, X, 2), ValueError, "inner products that overflow"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
