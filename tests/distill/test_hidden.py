"""Hidden-state losses: the papers' forms by hand, torch's own, naive loops, masks, and training-only maps."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from refimpl.distill import Projections, cosine_loss, hidden_loss

nan = math.nan


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def states(layers, *shape, seed=0):
    return [randn(*shape, seed=seed + i) for i in range(layers)]


def naive_hidden(student, teacher, layer_map, mask, normalize, maps=None):
    """Loops over Python floats, deliberately independent of the implementation."""
    total = 0.0
    for j, k in layer_map.items():
        terms = []
        for s, t, keep in zip(
            student[j].reshape(-1, student[j].shape[-1]).tolist(),
            teacher[k].reshape(-1, teacher[k].shape[-1]).tolist(),
            mask.reshape(-1).tolist(),
            strict=True,
        ):
            if not keep:
                continue
            if maps is not None:
                s = [sum(w * x for w, x in zip(row, s, strict=True)) for row in maps[j].tolist()]
            if normalize:
                s, t = ([x / math.sqrt(sum(y * y for y in v)) for x in v] for v in (s, t))
            squares = [(a - b) ** 2 for a, b in zip(s, t, strict=True)]
            terms.append(sum(squares) if normalize else sum(squares) / len(squares))
        total += sum(terms) / len(terms)
    return total


# ---- hand cases -------------------------------------------------------------------------------------------


def test_tinyberts_form_is_the_mean_over_the_width():
    student, teacher = [torch.tensor([[1.0, 2.0]])], [torch.tensor([[3.0, 5.0]])]
    assert hidden_loss(student, teacher, {0: 0}).item() == (4 + 9) / 2


def test_patient_kds_form_is_the_sum_over_the_width_of_unit_vectors():
    student, teacher = [torch.tensor([[3.0, 4.0]])], [torch.tensor([[0.0, 10.0]])]
    # (0.6, 0.8) against (0, 1): 0.36 + 0.04, which is 2 - 2 · cos = 2 - 2 · 0.8
    assert hidden_loss(student, teacher, {0: 0}, normalize=True).item() == pytest.approx(0.4, abs=1e-6)
    opposite = hidden_loss(student, [-student[0]], {0: 0}, normalize=True)
    assert opposite.item() == pytest.approx(4, abs=1e-6)


def test_layers_are_summed_and_positions_averaged():
    student = [torch.zeros(2, 1, 1), torch.ones(2, 1, 1)]
    teacher = [torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), torch.tensor([3.0, 1.0]).view(2, 1, 1)]
    assert hidden_loss(student, teacher, {0: 2, 1: 1}).item() == (9 + 1) / 2 + 1
    assert hidden_loss(student, teacher, {-1: 2}).item() == (4 + 0) / 2
    assert hidden_loss({5: student[1]}, {7: teacher[0]}, {5: 7}).item() == 1
    assert hidden_loss(student, teacher, {0: 2}, num_items=10).item() == 1
    assert hidden_loss(student, teacher, {0: 2}, num_items=torch.tensor(5)).item() == 2


def test_cosine_by_hand():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    assert cosine_loss(a, b).item() == pytest.approx((1 + 0) / 2)
    assert cosine_loss(a, -a).item() == pytest.approx(2)
    assert cosine_loss(a, b, num_items=4).item() == pytest.approx(1 / 4)


# ---- established and naive references --------------------------------------------------------------------


def test_equals_torch():
    a, b = randn(3, 5, 8).requires_grad_(), randn(3, 5, 8, seed=1)
    torch.testing.assert_close(hidden_loss([a], [b], {0: 0}), F.mse_loss(a, b))
    flat = a.view(-1, 8), b.view(-1, 8)
    expected = nn.CosineEmbeddingLoss()(*flat, torch.ones(15))
    torch.testing.assert_close(cosine_loss(a, b), expected)
    torch.testing.assert_close(hidden_loss([a], [b], {0: 0}, normalize=True), 2 * expected)
    ours, theirs = (torch.autograd.grad(loss, a)[0] for loss in (cosine_loss(a, b), expected))
    torch.testing.assert_close(ours, theirs)


def test_vectors_without_direction_are_as_in_torch_and_have_a_finite_gradient():
    zero, one = torch.zeros(1, 4, requires_grad=True), torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    for a, b in ((zero, one), (one, zero), (zero, zero)):
        expected = nn.CosineEmbeddingLoss()(a, b, torch.ones(1))
        assert cosine_loss(a, b).item() == pytest.approx(expected.item()) == pytest.approx(1)
    for loss in (cosine_loss(zero, one), hidden_loss([zero], [one], {0: 0}, normalize=True)):
        assert torch.autograd.grad(loss, zero)[0].isfinite().all()


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.booleans(), st.booleans(), st.integers(0, 9)
)
def test_equals_a_naive_loop(batch, length, width, normalize, project, seed):
    student, teacher = (
        states(3, batch, length, width, seed=seed),
        states(4, batch, length, width + project, seed=50),
    )
    mask = randn(batch, length, seed=seed + 7) > 0
    mask[0, 0] = True
    layer_map = {2: 0, 0: 3}
    maps = Projections(width, width + 1, layer_map).double() if project else None
    weights = {j: maps.maps[str(j)].weight for j in layer_map} if project else None
    ours = hidden_loss(student, teacher, layer_map, mask, maps, normalize)
    assert ours.item() == pytest.approx(naive_hidden(student, teacher, layer_map, mask, normalize, weights))


# ---- properties -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
def test_identical_states_give_zero_and_no_gradient(normalize):
    a = randn(2, 3, 8, dtype=torch.float32).requires_grad_()
    for loss in (hidden_loss([a], [a.detach()], {0: 0}, normalize=normalize), cosine_loss(a, a.detach())):
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, a)[0].any()


def test_lengths_do_not_matter_where_directions_are_compared():
    a, b = randn(2, 3, 8), randn(2, 3, 8, seed=1)
    scale = randn(2, 3, 1, seed=2).abs() + 0.1
    torch.testing.assert_close(cosine_loss(a * scale, b), cosine_loss(a, b))
    normalized = [hidden_loss([x], [b], {0: 0}, normalize=True) for x in (a, a * scale)]
    torch.testing.assert_close(*normalized)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    a, b = (
        randn(2, 3, 64, dtype=dtype) * 300,
        randn(2, 3, 64, seed=1, dtype=dtype) * 300,
    )  # squares overflow fp16
    maps = Projections(64, 64, [0]).to(dtype)
    for loss in (
        lambda a, b: hidden_loss([a], [b], {0: 0}),
        lambda a, b: hidden_loss([a], [b], {0: 0}, normalize=True),
        lambda a, b: hidden_loss([a], [b], {0: 0}, projections=copy.deepcopy(maps).to(a.dtype)),
        cosine_loss,
    ):
        half, full = loss(a, b), loss(a.float(), b.float())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=1e-6, atol=0)


def test_a_projection_of_half_precision_gives_fp32():
    maps, x = Projections(64, 32, [0]).bfloat16(), randn(3, 64, dtype=torch.bfloat16)
    assert torch.equal(maps(0, x), x.float() @ maps.maps["0"].weight.float().T)
    assert maps(0, x.double()).dtype == torch.float64


def test_autocast_does_not_reach_the_projection():
    a, b, maps = randn(2, 3, 64).float(), randn(2, 3, 32, seed=1).float(), Projections(64, 32, [0])
    plain = hidden_loss([a], [b], {0: 0}, projections=maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(hidden_loss([a], [b], {0: 0}, projections=maps), plain)


def test_parts_of_different_length_add_up_with_num_items():
    a, b = states(2, 3, 5, 4), states(2, 3, 5, 4, seed=9)
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])
    whole = hidden_loss(a, b, {0: 1}, mask) + cosine_loss(a[0], b[0], mask)
    parts = 0
    for i in range(3):
        one = [x[i : i + 1] for x in a], [x[i : i + 1] for x in b], mask[i : i + 1]
        parts += hidden_loss(one[0], one[1], {0: 1}, one[2], num_items=7)
        parts += cosine_loss(one[0][0], one[1][0], one[2], num_items=7)
    torch.testing.assert_close(whole, parts)


# ---- projections ------------------------------------------------------------------------------------------


def test_projections_are_trained_and_no_part_of_the_student():
    student = nn.Linear(4, 4)
    names = list(student.state_dict())
    maps = Projections(4, 6, [1, -1])
    assert [tuple(p.shape) for p in maps.parameters()] == [(6, 4), (6, 4)]
    hidden = student(randn(2, 3, 4).float())
    before = [p.detach().clone() for p in maps.parameters()]
    optimizer = torch.optim.SGD([*student.parameters(), *maps.parameters()], 0.1)
    loss = hidden_loss([None, hidden, hidden], [randn(2, 3, 6).float()], {1: 0, -1: 0}, projections=maps)
    loss.backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, maps.parameters(), strict=True))
    assert list(student.state_dict()) == names
    assert torch.equal(maps(1, torch.eye(4)), maps.maps["1"].weight.T)


def test_any_function_can_be_the_projection():
    a, b = randn(2, 3, 4), randn(2, 3, 2, seed=1)
    loss = hidden_loss([a], [b], {0: 0}, projections=lambda layer, x: x[:, :2] * (layer + 2))
    torch.testing.assert_close(loss, F.mse_loss(2 * a[..., :2], b))


# ---- bad input --------------------------------------------------------------------------------------------

A, B = [torch.ones(2, 3, 4)], [torch.zeros(2, 3, 4)]
WIDE = [torch.zeros(2, 3, 6)]


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: hidden_loss(A, B, {}), TypeError, "layer_map: got {}"),
        (lambda: hidden_loss(A, B, [0]), TypeError, r"layer_map: got \[0\]"),
        (lambda: hidden_loss(A, B, {1: 0}), ValueError, "layer_map: got 1; takes an index of student_states"),
        (
            lambda: hidden_loss(A, B, {0: -2}),
            ValueError,
            "layer_map: got -2; .* teacher_states, which has 1 entries",
        ),
        (lambda: hidden_loss({3: A[0]}, B, {0: 0}), ValueError, r"which has entries \[3\]"),
        (lambda: hidden_loss(A, B, {"0": 0}), TypeError, "layer_map: got '0'"),
        (lambda: hidden_loss(A[0], B, {0: 0}), TypeError, "student_states: got Tensor"),
        (lambda: hidden_loss([1], B, {0: 0}), TypeError, r"student_states\[0\]: got int"),
        (lambda: hidden_loss([A[0].int()], B, {0: 0}), TypeError, r"student_states\[0\]: got dtype"),
        (lambda: hidden_loss([A[0][:1]], B, {0: 0}), ValueError, r"teacher_states\[0\]: got shape"),
        (lambda: hidden_loss([A[0][:0]], B, {0: 0}), ValueError, "not empty"),
        (lambda: hidden_loss([torch.tensor(1.0)], B, {0: 0}), ValueError, r"takes \[\.\.\., H\]"),
        (
            lambda: hidden_loss(A, WIDE, {0: 0}),
            ValueError,
            "got width 4; takes the teacher's 6, or projections=",
        ),
        (lambda: hidden_loss(A, B, {0: 0}, torch.ones(2)), ValueError, "mask: got shape"),
        (lambda: hidden_loss(A, B, {0: 0}, torch.full((2, 3), 2)), ValueError, "mask: got entries"),
        (lambda: hidden_loss(A, B, {0: 0}, torch.zeros(2, 3)), ValueError, "mask: got no position"),
        (lambda: hidden_loss(A, B, {0: 0}, num_items=0), ValueError, "num_items: got 0"),
        (lambda: hidden_loss([A[0] * nan], B, {0: 0}), ValueError, r"student_states\[0\]: got 24 entries"),
        (
            lambda: hidden_loss(A, [B[0] + math.inf], {0: 0}),
            ValueError,
            r"teacher_states\[0\]: got 24 entries",
        ),
        (
            lambda: hidden_loss(A, WIDE, {0: 0}, projections=Projections(4, 6, [1])),
            ValueError,
            "layer: got 0",
        ),
        (
            lambda: hidden_loss(A, WIDE, {0: 0}, projections=Projections(4, 5, [0])),
            ValueError,
            "projections: got shape",
        ),
        (
            lambda: hidden_loss(A, WIDE, {0: 0}, projections=Projections(5, 6, [0])),
            ValueError,
            "hidden: got shape",
        ),
        (
            lambda: hidden_loss(A, B, {0: 0}, projections=lambda _, x: x * nan),
            ValueError,
            "projections: got NaN",
        ),
        (lambda: Projections(0, 4, [0]), ValueError, "student_width: got 0"),
        (lambda: Projections(4, 0, [0]), ValueError, "teacher_width: got 0"),
        (lambda: Projections(4, 4, []), ValueError, r"layers: got \(\)"),
        (lambda: Projections(4, 4, [1, 1]), ValueError, "none twice"),
        (lambda: Projections(4, 4, ["a"]), TypeError, "layers: got 'a'"),
        (lambda: cosine_loss(A[0], WIDE[0]), ValueError, "teacher: got shape"),
        (lambda: cosine_loss(A[0].int(), B[0]), TypeError, "student: got dtype"),
        (lambda: cosine_loss(A[0][:0], B[0][:0]), ValueError, "not empty"),
        (lambda: cosine_loss(torch.tensor(1.0), torch.tensor(1.0)), ValueError, r"student: got shape \(\)"),
        (lambda: cosine_loss(A[0], B[0], torch.zeros(2, 3)), ValueError, "mask: got no position"),
        (lambda: cosine_loss(A[0], B[0], torch.zeros(3, 2)), ValueError, "mask: got shape"),
        (lambda: cosine_loss(A[0], B[0] * nan), ValueError, "teacher: got 24 entries"),
        (lambda: cosine_loss(A[0] * nan, B[0]), ValueError, "student: got 24 entries"),
    ],
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
