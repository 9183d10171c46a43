"""The losses against hand cases, torch, naive loops, their analytic gradients, and what must not matter."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import distill
from refimpl.distill import distillation_loss, jsd_loss, kd_loss, losses, positions, soft_cross_entropy

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.1, 0.0]])
TEACHER = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, -1.0]])
LABELS = torch.tensor([0, 1])
INF = float("inf")


def random_logits(*shape, seed=0, dtype=torch.float64, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    return [(scale * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype) for _ in range(2)]


def naive_softmax(row, temperature):
    weights = [math.exp(x / temperature) for x in row]
    return [w / sum(weights) for w in weights]


def naive_kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_mean(kind, student, teacher, temperature, mask=None, beta=0.5):
    """Loops over Python floats, deliberately independent of the implementation."""
    rows_s, rows_t = (
        student.reshape(-1, student.shape[-1]).tolist(),
        teacher.reshape(-1, teacher.shape[-1]).tolist(),
    )
    keep = [True] * len(rows_s) if mask is None else mask.reshape(-1).tolist()
    total, count = 0.0, 0
    for s, t, k in zip(rows_s, rows_t, keep, strict=True):
        if not k:
            continue
        q, p = naive_softmax(s, temperature), naive_softmax(t, temperature)
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        total += {
            "forward": naive_kl(p, q),
            "reverse": naive_kl(q, p),
            "jsd": beta * naive_kl(p, m) + (1 - beta) * naive_kl(q, m),
            "cross": -sum(a * math.log(b) for a, b in zip(p, q, strict=True)),
        }[kind]
        count += 1
    return temperature**2 * total / count


LOSSES = {
    "forward": lambda s, t, **k: kd_loss(s, t, **k),
    "reverse": lambda s, t, **k: kd_loss(s, t, direction="reverse", **k),
    "jsd": lambda s, t, **k: jsd_loss(s, t, **k),
    "cross": lambda s, t, **k: soft_cross_entropy(s, torch.softmax(t / k.get("temperature", 1.0), -1), **k),
}
each_loss = pytest.mark.parametrize("kind", LOSSES)


# ---- hand cases --------------------------------------------------------------------------------------


def test_the_worked_example_at_temperature_four():
    assert kd_loss(STUDENT, TEACHER, 4.0).item() == pytest.approx(0.6667576, abs=2e-6)
    assert distillation_loss(STUDENT, TEACHER, LABELS, 0.0, 4.0).item() == pytest.approx(0.6963196, abs=2e-6)
    assert distillation_loss(STUDENT, TEACHER, LABELS, 1.0, 4.0).item() == pytest.approx(0.6667576, abs=2e-6)
    assert distillation_loss(STUDENT, TEACHER, LABELS, 0.5, 4.0).item() == pytest.approx(0.6815386, abs=2e-6)


def test_alpha_is_the_weight_of_the_soft_term():
    """Swapped weights pass every symmetric test: only an unequal mix sees them."""
    hard, soft = 0.6963196, 0.6667576
    mixed = distillation_loss(STUDENT, TEACHER, LABELS, 0.9, 4.0).item()
    assert mixed == pytest.approx(0.1 * hard + 0.9 * soft, abs=2e-6)


def test_two_classes_that_mirror_each_other():
    student, teacher = torch.tensor([0.1, 0.9]).log(), torch.tensor([0.9, 0.1]).log()
    for direction in ("forward", "reverse"):
        assert kd_loss(student, teacher, direction=direction).item() == pytest.approx(0.8 * math.log(9))
    assert jsd_loss(student, teacher).item() == pytest.approx(0.3680642, abs=2e-7)


def test_forward_is_teacher_over_student():
    """The mirror case cannot tell the directions apart; this one can: KL(p||q) by hand, p = (.8, .1, .1)."""
    p, q = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.7, 0.2, 0.1])
    forward = 0.8 * math.log(8 / 7) + 0.1 * math.log(1 / 2)
    reverse = 0.7 * math.log(7 / 8) + 0.2 * math.log(2)
    assert kd_loss(q.log(), p.log()).item() == pytest.approx(forward, abs=1e-7)
    assert kd_loss(q.log(), p.log(), 1.0, None, "reverse").item() == pytest.approx(reverse, abs=1e-7)


def test_soft_cross_entropy_by_hand():
    p, q = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.7, 0.2, 0.1])
    by_hand = -(0.8 * math.log(0.7) + 0.1 * math.log(0.2) + 0.1 * math.log(0.1))
    assert soft_cross_entropy(q.log(), p).item() == pytest.approx(by_hand, rel=1e-6)


def test_defaults():
    """Temperature 1, beta one half, forward, ignore_index -100."""
    student, teacher = random_logits(5, 7)
    assert kd_loss(student, teacher) == kd_loss(student, teacher, 1.0, direction="forward")
    assert jsd_loss(student, teacher) == jsd_loss(student, teacher, 1.0, beta=0.5)
    target = torch.softmax(teacher, -1)
    assert soft_cross_entropy(student, target) == soft_cross_entropy(student, target, 1.0)
    labels = torch.tensor([0, 1, 2, 3, -100])
    kept = distillation_loss(student[:4], teacher[:4], labels[:4], 0.3, 2.0)
    assert distillation_loss(student, teacher, labels, 0.3, 2.0).item() == pytest.approx(
        kept.item(), rel=1e-12
    )


# ---- against naive loops and against torch -----------------------------------------------------------


@each_loss
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 4),
    vocabulary=st.integers(1, 6),
    temperature=st.floats(0.5, 20),
    seed=st.integers(0, 10**6),
)
def test_equals_loops(kind, batch, length, vocabulary, temperature, seed):
    student, teacher = random_logits(batch, length, vocabulary, seed=seed)
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0, 0] = True
    ours = LOSSES[kind](student, teacher, temperature=temperature, mask=mask)
    assert ours.shape == ()
    assert ours.item() == pytest.approx(naive_mean(kind, student, teacher, temperature, mask), abs=1e-9)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_weights(beta):
    """beta goes with the teacher in the mixture *and* with KL(teacher||M)."""
    student, teacher = random_logits(4, 5)
    expected = naive_mean("jsd", student, teacher, 3.0, beta=beta)
    assert jsd_loss(student, teacher, 3.0, beta=beta).item() == pytest.approx(expected, rel=1e-9)
    swapped = jsd_loss(teacher, student, 3.0, beta=1 - beta)
    assert swapped.item() == pytest.approx(expected, rel=1e-9)


def test_jsd_tends_to_the_two_kl():
    student, teacher = random_logits(4, 5)
    small = 1e-6
    near_forward = jsd_loss(student, teacher, 2.0, beta=small) / small
    near_reverse = jsd_loss(student, teacher, 2.0, beta=1 - small) / small
    assert near_forward.item() == pytest.approx(kd_loss(student, teacher, 2.0).item(), rel=1e-3)
    assert near_reverse.item() == pytest.approx(
        kd_loss(student, teacher, 2.0, direction="reverse").item(), rel=1e-3
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_equals_torch_batchmean(temperature):
    student, teacher = random_logits(6, 11)
    log_q, log_p = (F.log_softmax(x / temperature, -1) for x in (student, teacher))
    torch_kl = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * temperature**2
    assert torch.allclose(kd_loss(student, teacher, temperature), torch_kl, rtol=1e-12)


def test_hard_term_equals_torch_cross_entropy():
    student, teacher = random_logits(3, 4, 5)
    labels = torch.tensor([[0, 4, -1, 2], [1, -1, -1, 3], [2, 2, 0, 1]])
    ours = distillation_loss(student, teacher, labels, 0.0, 2.0, -1)
    expected = F.cross_entropy(student.reshape(-1, 5), labels.reshape(-1), ignore_index=-1)
    assert torch.allclose(ours, expected, rtol=1e-12)
    one_hot = F.one_hot(labels.clamp_min(0), 5).double()
    assert torch.allclose(soft_cross_entropy(student, one_hot, mask=labels != -1), expected, rtol=1e-12)


def test_soft_cross_entropy_is_kl_plus_entropy():
    """T**2 * (CE - KL) = T**2 * H(p): a constant of the teacher, so both have one gradient."""
    student, teacher = random_logits(6, 5)
    student.requires_grad_()
    p = torch.softmax(teacher / 3.0, -1)
    entropy = -(p * p.log()).sum(-1).mean()
    cross, divergence = soft_cross_entropy(student, p, 3.0), kd_loss(student, teacher, 3.0)
    assert (cross - divergence).item() == pytest.approx(9 * entropy.item(), rel=1e-10)
    (g_cross,), (g_kl,) = torch.autograd.grad(cross, student), torch.autograd.grad(divergence, student)
    assert torch.allclose(g_cross, g_kl, atol=1e-14)


# ---- gradients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_analytic_gradients(temperature):
    """Forward: T (q - p) / N. Reverse: T q (log(q/p) - KL(q||p)) / N."""
    student, teacher = random_logits(2, 3, 5)
    student.requires_grad_()
    q, p = torch.softmax(student.detach() / temperature, -1), torch.softmax(teacher / temperature, -1)
    (grad,) = torch.autograd.grad(kd_loss(student, teacher, temperature), student)
    assert torch.allclose(grad, temperature * (q - p) / 6, atol=1e-14)
    (grad,) = torch.autograd.grad(kd_loss(student, teacher, temperature, direction="reverse"), student)
    gap = (q / p).log()
    expected = temperature * q * (gap - (q * gap).sum(-1, keepdim=True)) / 6
    assert torch.allclose(grad, expected, atol=1e-14)


@each_loss
def test_gradcheck(kind):
    student, teacher = random_logits(2, 2, 4)
    mask = torch.tensor([[1, 0], [1, 1]])
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[kind](s, teacher, temperature=3.0, mask=mask), (student,)
    )


@each_loss
def test_gradient_keeps_its_size_when_temperature_grows(kind):
    """What T**2 is for. Without it the gradient falls 10,000-fold from T=20 to T=2000 instead of staying."""
    student, teacher = random_logits(8, 10)
    student.requires_grad_()
    sizes = [
        torch.autograd.grad(LOSSES[kind](student, teacher, temperature=t), student)[0].norm()
        for t in (20.0, 2000.0)
    ]
    assert (sizes[0] / sizes[1]).item() == pytest.approx(1.0, rel=0.1)


def test_high_temperature_limit_is_logit_matching():
    """T (q - p) -> (z - v) / N_classes for zero-mean logits (Hinton et al., equation 4)."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in random_logits(1, 10))
    student.requires_grad_()
    (grad,) = torch.autograd.grad(kd_loss(student, teacher, 1e4), student)
    assert torch.allclose(grad, (student - teacher).detach() / 10, rtol=1e-2, atol=1e-3)


# ---- properties --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.5, 10), shift=st.floats(-50, 50))
def test_divergences_are_not_negative_zero_at_equality_and_blind_to_shifts(seed, temperature, shift):
    student, teacher = random_logits(3, 6, seed=seed)
    for kind in ("forward", "reverse", "jsd"):
        loss = LOSSES[kind]
        value = loss(student, teacher, temperature=temperature)
        assert value > 0
        assert abs(loss(teacher, teacher + shift, temperature=temperature).item()) < 1e-9
        shifted = loss(student + shift, teacher, temperature=temperature)
        assert shifted.item() == pytest.approx(value.item(), rel=1e-7)
    assert jsd_loss(student, teacher, temperature) <= temperature**2 * math.log(2) + 1e-12


@each_loss
def test_value_does_not_scale_with_batch_length_or_vocabulary(kind):
    """[B, L, V]: repeating the batch or the length changes nothing, nor do entries that both exclude."""
    student, teacher = random_logits(2, 3, 5)
    value = LOSSES[kind](student, teacher, temperature=2.0).item()
    for repeats in ((4, 1, 1), (1, 7, 1)):
        repeated = LOSSES[kind](student.repeat(repeats), teacher.repeat(repeats), temperature=2.0)
        assert repeated.item() == pytest.approx(value, rel=1e-12)
    wide = [F.pad(x, (0, 50), value=-INF) for x in (student, teacher)]
    assert LOSSES[kind](*wide, temperature=2.0).item() == pytest.approx(value, rel=1e-12)


def test_a_wide_vocabulary_is_summed_not_averaged():
    """Splitting each class into k equal ones adds log k to both logs and leaves the KL as it is."""
    student, teacher = random_logits(4, 5)
    wide = [x.repeat_interleave(20, dim=-1) for x in (student, teacher)]
    assert kd_loss(*wide).item() == pytest.approx(kd_loss(student, teacher).item(), rel=1e-10)


@each_loss
def test_teacher_gets_no_gradient_and_nothing_is_changed(kind):
    student, teacher = random_logits(3, 4)
    before = student.clone(), teacher.clone()
    student.requires_grad_(), teacher.requires_grad_()
    LOSSES[kind](student, teacher, temperature=2.0).backward()
    assert student.grad is not None and student.grad.abs().max() > 0
    assert teacher.grad is None
    assert torch.equal(student.detach(), before[0]) and torch.equal(teacher.detach(), before[1])


def test_distillation_loss_leaves_the_teacher_alone():
    student, teacher = random_logits(3, 4)
    student.requires_grad_(), teacher.requires_grad_()
    distillation_loss(student, teacher, torch.tensor([0, 1, 2]), 0.5, 2.0).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


# ---- positions: padding, accumulation ----------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("garbage", [0.0, 1e4, float("nan"), INF, -INF])
def test_garbage_in_padding_changes_nothing(kind, garbage):
    student, teacher = random_logits(2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    clean = LOSSES[kind](student, teacher, temperature=2.0, mask=mask)
    dirty_s, dirty_t = student.clone(), teacher.clone()
    dirty_s[mask == 0] = garbage
    dirty_t[mask == 0] = garbage
    dirty_s.requires_grad_()
    loss = LOSSES[kind](dirty_s, dirty_t, temperature=2.0, mask=mask)
    loss.backward()
    assert torch.equal(loss.detach(), clean)
    assert torch.equal(dirty_s.grad[mask == 0], torch.zeros(3, 5, dtype=torch.float64))
    assert dirty_s.grad[mask == 1].abs().min() > 0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_garbage_at_ignored_labels_changes_nothing(alpha):
    student, teacher = random_logits(2, 3, 5)
    labels = torch.tensor([[1, 4, -100], [0, -100, -100]])
    clean = distillation_loss(student, teacher, labels, alpha, 2.0)
    student[labels == -100] = float("nan")
    teacher[labels == -100] = float("nan")
    student.requires_grad_()
    loss = distillation_loss(student, teacher, labels, alpha, 2.0)
    loss.backward()
    assert torch.equal(loss.detach(), clean)
    assert torch.equal(student.grad[labels == -100], torch.zeros(3, 5, dtype=torch.float64))


def test_which_positions_each_term_counts():
    student, teacher = random_logits(2, 3, 5)
    labels = torch.tensor([[1, -100, -100], [0, -100, 2]])
    attention = torch.tensor([[1, 1, 0], [1, 1, 1]])
    hard = F.cross_entropy(student.reshape(-1, 5), labels.reshape(-1))
    same = distillation_loss(student, teacher, labels, 0.7, 2.0)
    assert torch.allclose(same, 0.3 * hard + 0.7 * kd_loss(student, teacher, 2.0, labels != -100))
    other = distillation_loss(student, teacher, labels, 0.7, 2.0, mask=attention)
    assert torch.allclose(other, 0.3 * hard + 0.7 * kd_loss(student, teacher, 2.0, attention))
    reverse = distillation_loss(student, teacher, labels, 1.0, 2.0, direction="reverse")
    assert torch.allclose(reverse, kd_loss(student, teacher, 2.0, labels != -100, "reverse"))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.float32])
def test_mask_dtypes(dtype):
    mask = torch.tensor([1, 0])
    expected = kd_loss(STUDENT[:1], TEACHER[:1], 2.0)
    assert torch.equal(kd_loss(STUDENT, TEACHER, 2.0, mask.to(dtype)), expected)


@each_loss
def test_parts_with_num_items_add_up_to_the_batch(kind):
    """Batches of one, of unequal length: their means do not average to the whole, these sums do."""
    student, teacher = random_logits(4, 6, 5)
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [0]])
    student.requires_grad_()
    whole = LOSSES[kind](student, teacher, temperature=2.0, mask=mask)
    items = mask.sum()
    parts = sum(
        LOSSES[kind](
            student[i : i + 1], teacher[i : i + 1], temperature=2.0, mask=mask[i : i + 1], num_items=items
        )
        for i in range(4)
    )
    assert torch.allclose(whole, parts, rtol=1e-12)
    grads = [torch.autograd.grad(x, student)[0] for x in (whole, parts)]
    assert torch.allclose(*grads, atol=1e-14)
    naive = sum(
        LOSSES[kind](student[i : i + 1], teacher[i : i + 1], temperature=2.0, mask=mask[i : i + 1])
        for i in range(3)
    )
    assert not torch.allclose(whole, naive / 3, rtol=1e-3)


def test_num_items_divides_both_terms():
    student, teacher = random_logits(3, 5)
    labels = torch.tensor([0, 1, 2])
    value = distillation_loss(student, teacher, labels, 0.25, 2.0)
    tenth = distillation_loss(student, teacher, labels, 0.25, 2.0, num_items=30)
    assert tenth.item() == pytest.approx(value.item() / 10, rel=1e-12)
    nothing = distillation_loss(student, teacher, torch.full((3,), -100), 0.25, 2.0, num_items=30)
    assert nothing.item() == 0


# ---- numerics ----------------------------------------------------------------------------------------


@each_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(kind, dtype):
    """The only loss of precision is in the inputs: same value as from the rounded logits in fp32."""
    student, teacher = random_logits(3, 1000, dtype=dtype)
    loss = LOSSES[kind](student, teacher.float(), temperature=2.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[kind](student.float(), teacher.float(), temperature=2.0))
    both = distillation_loss(student, teacher, torch.tensor([0, 1, 2]), 0.5, 2.0)
    assert both.dtype == torch.float32
    assert torch.equal(
        both, distillation_loss(student.float(), teacher.float(), torch.tensor([0, 1, 2]), 0.5, 2.0)
    )


def test_fp64_stays_fp64():
    student, teacher = random_logits(3, 4)
    assert kd_loss(student, teacher).dtype == torch.float64
    assert distillation_loss(student, teacher, torch.tensor([0, 1, 2]), 0.5, 2.0).dtype == torch.float64


@each_loss
def test_logits_of_a_thousand_are_finite(kind):
    student = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1000.0, 1000.0, 0.0]])
    loss = LOSSES[kind](student, teacher, temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    expected = {"forward": 2000.0, "reverse": 2000.0, "jsd": math.log(2), "cross": 2000.0}[kind]
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@each_loss
def test_minus_infinity_in_both_is_a_smaller_vocabulary(kind):
    student, teacher = random_logits(3, 5)
    wide = [
        torch.cat([x[:, :2], torch.full((3, 1), -INF, dtype=x.dtype), x[:, 2:]], -1)
        for x in (student, teacher)
    ]
    student.requires_grad_(), wide[0].requires_grad_()
    narrow_loss = LOSSES[kind](student, teacher, temperature=2.0)
    wide_loss = LOSSES[kind](*wide, temperature=2.0)
    assert torch.allclose(narrow_loss, wide_loss, rtol=1e-12)
    narrow_loss.backward(), wide_loss.backward()
    assert torch.allclose(wide[0].grad[:, [0, 1, 3, 4, 5]], student.grad, atol=1e-14)
    assert torch.equal(wide[0].grad[:, 2], torch.zeros(3, dtype=torch.float64))


def test_minus_infinity_on_one_side():
    """0 log 0 = 0: the reference may exclude what the other side allows, and the gradient stays q - p."""
    full, cut = (
        torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.float64),
        torch.tensor([[0.5, -INF, 0.1]], dtype=torch.float64),
    )
    student = full.clone().requires_grad_()
    loss = kd_loss(student, cut)
    loss.backward()
    q, p = torch.softmax(full, -1), torch.softmax(cut, -1)
    kept = [0, 2]
    assert loss.item() == pytest.approx((p * (p.log() - q.log()))[:, kept].sum().item())
    assert torch.allclose(student.grad, q - p)
    student = cut.clone().requires_grad_()
    loss = kd_loss(student, full, direction="reverse")
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all() and student.grad[0, 1] == 0
    for pair in ((full, cut), (cut, full)):
        student = pair[0].clone().requires_grad_()
        loss = jsd_loss(student, pair[1])
        loss.backward()
        assert 0 < loss < math.log(2) and torch.isfinite(student.grad).all()


def test_disjoint_supports_have_jsd_log_two():
    a, b = torch.tensor([0.0, -INF]), torch.tensor([-INF, 0.0])
    assert jsd_loss(a, b, 3.0).item() == pytest.approx(9 * math.log(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda full, cut: kd_loss(cut, full),
        lambda full, cut: kd_loss(full, cut, direction="reverse"),
        lambda full, cut: soft_cross_entropy(cut, torch.softmax(full, -1)),
        lambda full, cut: distillation_loss(cut, full, torch.tensor([0]), 1.0, 1.0),
        lambda full, cut: distillation_loss(cut, full, torch.tensor([1]), 0.0, 1.0),
    ],
)
def test_an_infinite_divergence_raises(call):
    with pytest.raises(ValueError, match="infinite divergence"):
        call(torch.tensor([[0.3, -0.2, 1.0]]), torch.tensor([[0.5, -INF, 0.1]]))


# ---- vocabularies of different size ------------------------------------------------------------------


def test_truncate_takes_the_shared_entries_and_renormalises():
    student, teacher = random_logits(4, 7)
    for kind in (kd_loss, jsd_loss):
        assert torch.equal(
            kind(student[:, :5], teacher, align="truncate"), kind(student[:, :5], teacher[:, :5])
        )
        assert torch.equal(
            kind(student, teacher[:, :5], align="truncate"), kind(student[:, :5], teacher[:, :5])
        )
        assert torch.equal(kind(student, teacher, align="truncate"), kind(student, teacher))


def test_truncate_leaves_the_hard_term_on_the_whole_vocabulary():
    student, teacher = random_logits(4, 7)
    labels = torch.tensor([0, 6, 5, 2])
    loss = distillation_loss(student, teacher[:, :5], labels, 0.5, 2.0, align="truncate")
    expected = 0.5 * F.cross_entropy(student, labels) + 0.5 * kd_loss(student[:, :5], teacher[:, :5], 2.0)
    assert torch.allclose(loss, expected, rtol=1e-12)


# ---- bad input ---------------------------------------------------------------------------------------

S, T, L = STUDENT, TEACHER, LABELS
NAN_ROW = torch.tensor([[float("nan"), 0.0, 0.0], [0.0, 0.0, 0.0]])
INF_ROW = torch.tensor([[INF, 0.0, 0.0], [0.0, 0.0, 0.0]])
EMPTY_ROW = torch.tensor([[-INF, -INF, -INF], [0.0, 0.0, 0.0]])
BAD = {
    "not a tensor": (lambda: kd_loss([[1.0]], T), TypeError, "student_logits: got list"),
    "teacher not a tensor": (lambda: kd_loss(S, None), TypeError, "teacher_logits: got NoneType"),
    "integer logits": (lambda: kd_loss(L, T), TypeError, "student_logits: got dtype"),
    "integer teacher": (lambda: kd_loss(S, T.long()), TypeError, "teacher_logits: got dtype"),
    "scalar": (
        lambda: kd_loss(torch.tensor(1.0), torch.tensor(1.0)),
        ValueError,
        "student_logits: got shape",
    ),
    "empty": (lambda: kd_loss(S[:0], T[:0]), ValueError, "student_logits: got shape"),
    "no classes": (
        lambda: kd_loss(S, T[:, :0], align="truncate"),
        ValueError,
        "teacher_logits: got an empty",
    ),
    "positions": (lambda: kd_loss(S, T[:1]), ValueError, "teacher_logits: got shape"),
    "vocabulary": (
        lambda: kd_loss(S, T[:, :2]),
        ValueError,
        "vocabulary of 2; takes the student's 3, or align",
    ),
    "vocabulary jsd": (lambda: jsd_loss(S, T[:, :2]), ValueError, "vocabulary of 2"),
    "vocabulary mix": (lambda: distillation_loss(S, T[:, :2], L, 0.5, 1.0), ValueError, "vocabulary of 2"),
    "vocabulary target": (
        lambda: soft_cross_entropy(S, T[:, :2]),
        ValueError,
        "target: got a vocabulary of 2",
    ),
    "align": (lambda: kd_loss(S, T, align="zeros"), ValueError, "align: got 'zeros'"),
    "direction": (lambda: kd_loss(S, T, direction="back"), ValueError, "direction: got 'back'"),
    "direction mix": (
        lambda: distillation_loss(S, T, L, 0.0, 1.0, direction="back"),
        ValueError,
        "direction: got 'back'",
    ),
    "temperature 0": (lambda: kd_loss(S, T, 0.0), ValueError, "temperature: got 0.0"),
    "temperature jsd": (lambda: jsd_loss(S, T, 0.0), ValueError, "temperature: got 0.0"),
    "temperature soft": (lambda: soft_cross_entropy(S, T, 0), ValueError, "temperature: got 0"),
    "temperature mix": (lambda: distillation_loss(S, T, L, 0.0, 0), ValueError, "temperature: got 0"),
    "temperature text": (lambda: kd_loss(S, T, "2"), TypeError, "temperature: got str"),
    "beta 0": (lambda: jsd_loss(S, T, beta=0.0), ValueError, "beta: got 0.0"),
    "beta 1": (lambda: jsd_loss(S, T, beta=1), ValueError, "beta: got 1"),
    "alpha high": (lambda: distillation_loss(S, T, L, 1.01, 1.0), ValueError, "alpha: got 1.01"),
    "alpha low": (lambda: distillation_loss(S, T, L, -0.01, 1.0), ValueError, "alpha: got -0.01"),
    "mask shape": (lambda: kd_loss(S, T, mask=torch.ones(2, 3)), ValueError, "mask: got shape"),
    "mask values": (lambda: kd_loss(S, T, mask=torch.tensor([0.0, -1e4])), ValueError, "mask: got entries"),
    "mask kind": (lambda: kd_loss(S, T, mask=[1, 0]), TypeError, "mask: got list"),
    "all masked": (lambda: kd_loss(S, T, mask=torch.zeros(2)), ValueError, "mask: got no position"),
    "all masked jsd": (lambda: jsd_loss(S, T, mask=torch.zeros(2)), ValueError, "mask: got no position"),
    "all ignored": (
        lambda: distillation_loss(S, T, torch.tensor([-100, -100]), 0.5, 1.0),
        ValueError,
        "labels: got no position",
    ),
    "all ignored, soft only": (
        lambda: distillation_loss(S, T, torch.tensor([-100, -100]), 1.0, 1.0),
        ValueError,
        "labels: got no position",
    ),
    "nothing for the soft term": (
        lambda: distillation_loss(S, T, L, 0.5, 1.0, mask=torch.zeros(2)),
        ValueError,
        "mask: got no position",
    ),
    "NaN where only the soft term counts": (
        lambda: distillation_loss(NAN_ROW, T, torch.tensor([-100, 1]), 0.5, 1.0, mask=torch.ones(2)),
        ValueError,
        "student_logits: got NaN",
    ),
    "num_items 0": (lambda: kd_loss(S, T, num_items=0), ValueError, "num_items: got 0"),
    "num_items shape": (lambda: kd_loss(S, T, num_items=torch.ones(2)), ValueError, "num_items: got shape"),
    "num_items and mask": (
        lambda: distillation_loss(S, T, L, 0.5, 1.0, mask=torch.ones(2), num_items=2),
        ValueError,
        "num_items: got a value together with mask",
    ),
    "labels shape": (lambda: distillation_loss(S, T, L[:1], 0.5, 1.0), ValueError, "labels: got shape"),
    "labels dtype": (lambda: distillation_loss(S, T, L.float(), 0.5, 1.0), TypeError, "labels: got dtype"),
    "labels bool": (lambda: distillation_loss(S, T, L.bool(), 0.5, 1.0), TypeError, "labels: got dtype"),
    "labels complex": (lambda: distillation_loss(S, T, L.cfloat(), 0.5, 1.0), TypeError, "labels: got dtype"),
    "label too large": (lambda: distillation_loss(S, T, L + 2, 0.5, 1.0), ValueError, "outside 0 to 2"),
    "label negative": (lambda: distillation_loss(S, T, L - 1, 0.5, 1.0), ValueError, "outside 0 to 2"),
    "ignore_index": (lambda: distillation_loss(S, T, L, 0.5, 1.0, 0.5), TypeError, "ignore_index: got 0.5"),
    "target logits": (lambda: soft_cross_entropy(S, T), ValueError, "target: got rows"),
    "target sum": (lambda: soft_cross_entropy(S, torch.full((2, 3), 0.34)), ValueError, "target: got rows"),
    "target negative": (
        lambda: soft_cross_entropy(S, torch.tensor([[1.5, -0.5, 0.0]] * 2)),
        ValueError,
        "target: got rows",
    ),
    "target NaN": (lambda: soft_cross_entropy(S, NAN_ROW), ValueError, "target: got rows"),
    "student NaN": (lambda: kd_loss(NAN_ROW, T), ValueError, "student_logits: got NaN, .* at 1 counted"),
    "student inf": (lambda: jsd_loss(INF_ROW, T), ValueError, "student_logits: got NaN"),
    "student nothing": (lambda: kd_loss(EMPTY_ROW, T), ValueError, "student_logits: got NaN"),
    "teacher NaN": (lambda: kd_loss(S, NAN_ROW), ValueError, "teacher_logits: got NaN"),
    "teacher inf": (lambda: kd_loss(S, INF_ROW), ValueError, "teacher_logits: got NaN"),
    "teacher nothing": (lambda: jsd_loss(S, EMPTY_ROW), ValueError, "teacher_logits: got NaN"),
    "NaN in the mix": (
        lambda: distillation_loss(NAN_ROW, T, L, 0.0, 1.0),
        ValueError,
        "student_logits: got NaN",
    ),
    "NaN in soft ce": (
        lambda: soft_cross_entropy(NAN_ROW, torch.softmax(T, -1)),
        ValueError,
        "student_logits: got NaN",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_limits_are_inclusive_where_they_should_be():
    assert distillation_loss(S, T, L, 0, 1).item() == pytest.approx(F.cross_entropy(S, L).item())
    assert distillation_loss(S, T, L, 1, 1).item() == pytest.approx(kd_loss(S, T).item())
    assert torch.isfinite(distillation_loss(S, T, torch.tensor([0, 2]), 0.5, 1.0))
    torch.testing.assert_close(
        soft_cross_entropy(S, torch.full((2, 3), 0.336)), -0.336 * F.log_softmax(S, -1).sum() / 2
    )


def test_a_term_of_weight_zero_is_not_computed():
    """0 * inf is NaN: a teacher of NaN must not matter at alpha 0, nor an impossible label at alpha 1."""
    assert torch.isfinite(distillation_loss(S, NAN_ROW, L, 0.0, 1.0))
    cut = torch.tensor([[0.5, -INF, 0.1], [0.2, -INF, 0.0]])
    assert torch.isfinite(distillation_loss(cut, cut + 1, torch.tensor([1, 1]), 1.0, 1.0))


def test_repeated_calls_agree():
    student, teacher = random_logits(3, 4)
    kept = copy.deepcopy((student, teacher))
    assert kd_loss(student, teacher, 2.0) == kd_loss(*kept, 2.0)


@pytest.mark.parametrize("module", [distill, losses, positions])
def test_what_is_listed_exists(module):
    assert all(hasattr(module, name) for name in module.__all__)
    assert set(losses.__all__) <= set(distill.__all__)
