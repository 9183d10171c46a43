"""The chunked loss against the plain one: value and gradients, what counts, precision, and what is held."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.distill import chunked_kd_loss, distillation_loss, kd_loss, vocabulary

NAMES = ("student_hidden", "student_weight", "student_bias")


def layers(rows=7, vocabulary_size=11, width=4, teacher_width=6, seed=0, dtype=torch.float64, bias=True):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    rows = rows if isinstance(rows, tuple) else (rows,)
    made = {
        "student_hidden": draw(*rows, width).requires_grad_(),
        "student_weight": draw(vocabulary_size, width).requires_grad_(),
        "teacher_hidden": draw(*rows, teacher_width),
        "teacher_weight": draw(vocabulary_size, teacher_width),
    }
    if bias:
        made |= {
            "student_bias": draw(vocabulary_size).requires_grad_(),
            "teacher_bias": draw(vocabulary_size),
        }
    return made


def logits(given):
    return [
        F.linear(given[f"{who}_hidden"], given[f"{who}_weight"], given.get(f"{who}_bias"))
        for who in ("student", "teacher")
    ]


def gradients(loss, given):
    wanted = [given[n] for n in NAMES if n in given and given[n].requires_grad]
    return torch.autograd.grad(loss, wanted)


def assert_same(ours, plain, given, rtol):
    assert ours.shape == () and ours.dtype == plain.dtype
    assert ours.item() == pytest.approx(plain.item(), rel=rtol, abs=rtol * 1e-2)
    for a, b in zip(gradients(ours, given), gradients(plain, given), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * b.abs().max().item())


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 5),
    size=st.integers(1, 13),
    temperature=st.floats(0.5, 20),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    chunk=st.integers(1, 9),
    masked=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_equals_the_plain_loss(direction, batch, length, size, temperature, alpha, chunk, masked, bias, seed):
    given_ = layers((batch, length), size, seed=seed, bias=bias)
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, size, (batch, length), generator=g)
    labels[torch.rand(batch, length, generator=g) < 0.4] = -100
    labels[0, 0] = 0
    mask = torch.rand(batch, length, generator=g) < 0.6 if masked else None
    if masked:
        mask[-1, -1] = True
    ours = chunked_kd_loss(
        **given_,
        temperature=temperature,
        mask=mask,
        direction=direction,
        labels=labels,
        alpha=alpha,
        chunk=chunk,
    )
    plain = distillation_loss(*logits(given_), labels, alpha, temperature, mask=mask, direction=direction)
    assert_same(ours, plain, given_, 1e-10)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_fp32_to_five_digits(direction, scale):
    """A vocabulary of thousands, chunks that do not divide the rows; large logits too."""
    given_ = layers(300, 5000, 32, 48, dtype=torch.float32)
    with torch.no_grad():
        given_["student_hidden"] *= scale
    labels = torch.arange(300) % 5000
    ours = chunked_kd_loss(
        **given_, temperature=2.0, direction=direction, labels=labels, alpha=0.7, chunk=128
    )
    plain = distillation_loss(*logits(given_), labels, 0.7, 2.0, direction=direction)
    assert_same(ours, plain, given_, 1e-5)


def test_without_labels_and_with_num_items():
    given_ = layers()
    mask = torch.arange(7) % 2
    for kwargs in ({}, {"mask": mask}, {"num_items": 20.0}, {"mask": mask, "num_items": torch.tensor(3)}):
        assert_same(
            chunked_kd_loss(**given_, chunk=2, **kwargs), kd_loss(*logits(given_), **kwargs), given_, 1e-10
        )
    nothing = chunked_kd_loss(**given_, mask=torch.zeros(7), num_items=5)
    assert nothing.item() == 0 and all(not g.any() for g in gradients(nothing, given_))


def test_masked_rows_may_hold_anything():
    given_ = layers()
    mask = torch.tensor([1, 1, 0, 1, 0, 1, 1])
    clean = chunked_kd_loss(**given_, mask=mask, chunk=3)
    with torch.no_grad():
        garbage = {k: v.clone() for k, v in given_.items()}
        for name in ("student_hidden", "teacher_hidden"):
            garbage[name][mask == 0] = float("nan")
    garbage = {k: v.requires_grad_(given_[k].requires_grad) for k, v in garbage.items()}
    dirty = chunked_kd_loss(**garbage, mask=mask, chunk=3)
    assert dirty.item() == clean.item()
    for a, b in zip(gradients(dirty, garbage), gradients(clean, given_), strict=True):
        assert torch.equal(a, b)


def test_a_teacher_row_that_only_the_hard_term_counts():
    """The two terms count different rows of one chunk: neither touches the other's."""
    given_ = layers()
    given_["teacher_hidden"][3] = float("nan")
    labels = torch.tensor([-100, 1, 2, 3, -100, 4, 5])
    mask = torch.tensor([1, 1, 0, 0, 1, 0, 1])
    ours = chunked_kd_loss(**given_, mask=mask, labels=labels, alpha=0.4, chunk=4)
    assert_same(ours, distillation_loss(*logits(given_), labels, 0.4, 1.0, mask=mask), given_, 1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_fp32(dtype):
    half = layers(dtype=dtype)
    full = {k: v.detach().float().requires_grad_(v.requires_grad) for k, v in half.items()}
    ours = chunked_kd_loss(**half, temperature=2.0)
    assert ours.dtype == torch.float32
    assert ours.item() == chunked_kd_loss(**full, temperature=2.0).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert chunked_kd_loss(**full, temperature=2.0).item() == ours.item()
    exact = gradients(chunked_kd_loss(**full, temperature=2.0), full)
    for a, b in zip(gradients(ours, half), exact, strict=True):
        assert a.dtype == dtype and torch.equal(a, b.to(dtype))


def test_only_the_gradients_that_are_wanted(monkeypatch):
    """A frozen output matrix gets none, and none is computed; the teacher never gets one."""
    given_ = {k: v.detach().requires_grad_() for k, v in layers(bias=False).items()}
    chunked_kd_loss(**given_).backward()
    assert given_["teacher_hidden"].grad is None and given_["teacher_weight"].grad is None
    expected = given_["student_hidden"].grad.clone()
    frozen = {k: v.detach() for k, v in given_.items()}
    frozen["student_hidden"].requires_grad_()
    monkeypatch.setattr(torch.Tensor, "addmm_", lambda *_: pytest.fail("computed the weight's gradient"))
    chunked_kd_loss(**frozen).backward()
    assert torch.equal(frozen["student_hidden"].grad, expected)
    with torch.no_grad():
        assert not chunked_kd_loss(**given_).requires_grad


def test_backward_scales_and_repeats():
    given_ = layers()
    loss = chunked_kd_loss(**given_)
    once = gradients(3 * loss, given_)
    for a, b in zip(once, gradients(chunked_kd_loss(**given_), given_), strict=True):
        torch.testing.assert_close(a, 3 * b)
    loss = chunked_kd_loss(**given_)
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(given_["student_weight"].grad, 2 * once[1] / 3)


def test_gradients_of_gradients_are_refused():
    given_ = layers()
    with pytest.raises(RuntimeError, match="got create_graph=True"):
        torch.autograd.grad(chunked_kd_loss(**given_), [given_["student_hidden"]], create_graph=True)


def test_identical_models_have_no_loss_and_no_gradient():
    given_ = layers(width=6)
    for name in ("hidden", "weight", "bias"):
        given_[f"teacher_{name}"] = given_[f"student_{name}"].detach().clone()
    for direction in ("forward", "reverse"):
        loss = chunked_kd_loss(**given_, temperature=3.0, direction=direction)
        assert loss.item() == 0 and all(not g.any() for g in gradients(loss, given_))


def test_the_logits_are_never_held():
    """Of 512 rows of 4,000 no tensor of more than a few chunks is allocated, forward or backward."""
    given_ = layers(512, 4000, 8, 8, dtype=torch.float32)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest.append(out.untyped_storage().nbytes() // out.element_size())
            return out

    with Watch():
        chunked_kd_loss(**given_, chunk=16).backward()
    assert max(largest) == 16 * 4000  # one chunk; the matrix has 4,000 x 8
    assert given_["student_weight"].grad.shape == (4000, 8)


BAD = {
    "chunk": ({"chunk": 0}, "chunk: got 0"),
    "temperature": ({"temperature": 0}, "temperature: got 0"),
    "direction": ({"direction": "both"}, "direction: got 'both'"),
    "alpha": ({"alpha": 2.0}, "alpha: got 2.0"),
    "labels": ({"alpha": 0.5}, "labels: got None"),
    "label": ({"labels": torch.full((7,), 11)}, "labels: got a label outside 0 to 10"),
    "kind": ({"labels": torch.ones(7)}, "labels: got dtype torch.float32"),
    "mask": ({"mask": torch.zeros(7)}, "mask: got no position that counts"),
    "mask-values": ({"mask": torch.full((7,), 2)}, "mask: got entries other than 0 and 1"),
    "mask-shape": ({"mask": torch.ones(6)}, "mask: got shape"),
    "counts": (
        {"mask": torch.ones(7), "labels": torch.ones(7).long(), "num_items": 3},
        "num_items: got a value",
    ),
    "rows": ({"teacher_hidden": torch.ones(6, 6).double()}, "teacher_hidden: got shape"),
    "width": ({"student_weight": torch.ones(11, 5).double()}, "student_weight: got shape"),
    "size": ({"teacher_weight": torch.ones(12, 6).double(), "teacher_bias": None}, "got a vocabulary of 12"),
    "bias": ({"student_bias": torch.ones(10)}, "student_bias: got shape"),
    "nan": ({"teacher_hidden": torch.full((7, 6), float("nan")).double()}, "got NaN or infinite logits"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(kind):
    changes, message = BAD[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        chunked_kd_loss(**(layers() | changes))


def test_default_chunk():
    given_ = layers()
    assert chunked_kd_loss(**given_).item() == chunked_kd_loss(**given_, chunk=vocabulary.CHUNK).item()
