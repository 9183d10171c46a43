"""Top-k targets: the loss against dense ones, the bound, the files, and an interrupted writer."""

import json
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.distill import (
    DistillationTrainer,
    kd_loss,
    open_targets,
    soft_term,
    stored_term,
    targets,
    topk_kd_loss,
    topk_targets,
    write_targets,
)
from tests.distill.train_small import arguments, lm, texts


def random_logits(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [(3 * torch.randn(*shape, generator=g, dtype=torch.float64)).to(dtype) for _ in range(2)]


def exact_targets(teacher, k, temperature):
    """As `topk_targets`, without rounding."""
    values, indices = teacher.topk(k, -1)
    return values, indices, (teacher / temperature).logsumexp(-1)


# ---- the loss ----------------------------------------------------------------------------------------


def test_by_hand():
    """p = (.5, .3, .15, .05), q = (.4, .2, .3, .1), k = 2: kept .5 and .3, .2 left against .4."""
    p, q = torch.tensor([0.5, 0.3, 0.15, 0.05]), torch.tensor([0.4, 0.2, 0.3, 0.1])
    values, indices, total = topk_targets(p.log(), 2)
    assert indices.tolist() == [0, 1] and values.dtype == torch.float16 and total.dtype == torch.float32
    bucket = 0.5 * math.log(0.5 / 0.4) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.4)
    assert topk_kd_loss(q.log(), values, indices, total).item() == pytest.approx(bucket, abs=1e-3)
    exact = p[:2].log(), indices, torch.tensor(0.0)
    assert topk_kd_loss(q.log(), *exact).item() == pytest.approx(bucket, rel=1e-5)
    kept = 0.625 * math.log(0.625 / (4 / 6)) + 0.375 * math.log(0.375 / (2 / 6))
    assert topk_kd_loss(q.log(), *exact, rest="renormalize").item() == pytest.approx(kept, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 4),
    size=st.integers(2, 9),
    temperature=st.floats(0.5, 10),
    seed=st.integers(0, 10**6),
)
def test_a_lower_bound_that_grows_with_k(rows, size, temperature, seed):
    student, teacher = random_logits(rows, size, seed=seed)
    full = kd_loss(student, teacher, temperature).item()
    before = -1e-12
    for k in range(1, size + 1):
        found = topk_kd_loss(student, *exact_targets(teacher, k, temperature), temperature).item()
        assert before - 1e-9 <= found <= full + 1e-9
        before = found
    assert found == full  # k = V, bit for bit


@pytest.mark.parametrize("rest", ["bucket", "renormalize"])
def test_all_entries_are_the_plain_loss(rest):
    student, teacher = random_logits(3, 5, 8)
    student.requires_grad_()
    mask = torch.rand(3, 5) < 0.7
    ours = topk_kd_loss(student, *exact_targets(teacher, 8, 2.0), 2.0, mask, rest)
    plain = kd_loss(student, teacher, 2.0, mask)
    assert ours.item() == plain.item()
    assert torch.equal(*(torch.autograd.grad(loss, student)[0] for loss in (ours, plain)))


def test_gradient_by_finite_differences():
    student, teacher = random_logits(2, 7)
    student.requires_grad_()
    kept = exact_targets(teacher, 3, 1.5)
    for rest in ("bucket", "renormalize"):
        assert torch.autograd.gradcheck(lambda s, rest=rest: topk_kd_loss(s, *kept, 1.5, rest=rest), student)


def test_masked_positions_and_accumulation():
    student, teacher = random_logits(4, 7)
    kept = exact_targets(teacher, 3, 1.0)
    mask = torch.tensor([1, 0, 1, 1])
    whole = topk_kd_loss(student, *kept, mask=mask)
    dirty = [t.clone() for t in (student, *kept)]
    dirty[0][1] = dirty[1][1] = float("nan")
    dirty[2][1] = -5
    assert topk_kd_loss(*dirty, mask=mask).item() == whole.item()
    parts = [topk_kd_loss(student[i], *(t[i] for t in kept), num_items=3) for i in (0, 2, 3)]
    assert sum(parts).item() == pytest.approx(whole.item())


def test_rounding_is_small_and_masses_add_up():
    """fp16 relative to the largest: the loss errs by less than 1e-3 of itself, also for logits of 500."""
    student, teacher = random_logits(64, 300, dtype=torch.float32)
    for shift in (0.0, 500.0):
        values, indices, total = topk_targets(teacher + shift, 20, 2.0)
        assert values.max() == 0 and (values.diff(dim=-1) <= 0).all()
        mass = (values.float() / 2 - total[:, None]).exp().sum(-1)
        assert (mass < 1).all()
        rounded = topk_kd_loss(student, values, indices, total, 2.0).item()
        exact = topk_kd_loss(student, *exact_targets(teacher, 20, 2.0), 2.0).item()
        assert rounded == pytest.approx(exact, rel=1e-3)


def test_half_precision_logits():
    student, teacher = random_logits(6, 9, dtype=torch.bfloat16)
    kept = topk_targets(teacher, 4)
    loss = topk_kd_loss(student, *kept)
    assert loss.dtype == torch.float32
    assert loss.item() == topk_kd_loss(student.float(), *topk_targets(teacher.float(), 4)).item()


# ---- the files ---------------------------------------------------------------------------------------


def some_batches(count=5, size=12):
    """Logits [2, 4, V] and masks with a different number of positions in each example."""
    g = torch.Generator().manual_seed(1)
    for i in range(count):
        mask = torch.arange(4) < torch.tensor([[1 + i % 4], [4 - i % 3]])
        yield torch.randn(2, 4, size, generator=g), mask


@pytest.mark.parametrize(("size", "index_bytes"), [(12, 2), (70_000, 4)])
def test_round_trip(tmp_path, size, index_bytes):
    stored = write_targets(tmp_path, some_batches(size=size), 3, 2.0, shard_batches=2)
    assert (len(stored), stored.k, stored.temperature, stored.vocabulary_size) == (10, 3, 2.0, size)
    expected = []
    for logits, mask in some_batches(size=size):
        expected += [topk_targets(row[kept], 3, 2.0) for row, kept in zip(logits, mask, strict=True)]
    for found, wanted in zip(stored, expected, strict=True):
        for name, tensor in zip(("values", "indices", "logsumexp"), wanted, strict=True):
            assert torch.equal(found[name], tensor)
    order = torch.tensor([7, 0, 9])
    masks = torch.cat([mask for _, mask in some_batches()])[order]
    values, _, total = stored.gather(order, masks)
    assert values.shape == (3, 4, 3) and total.shape == (3, 4)
    assert torch.equal(values[masks], torch.cat([expected[i][0] for i in order.tolist()]))
    assert torch.equal(total[masks], torch.cat([expected[i][2] for i in order.tolist()]))
    assert torch.equal(stored[-1]["values"], stored[9]["values"])
    assert torch.equal(pickle.loads(pickle.dumps(stored))[3]["values"], stored[3]["values"])
    # the bytes a token that the module's docstring says, and the headers of the files
    raw = stored.positions * (3 * (2 + index_bytes) + 4) + len(stored) * 8
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert raw < on_disk < raw + 3 * 400


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("at", ["shard", "index", "batch"])
def test_an_interrupted_writer_goes_on(tmp_path, monkeypatch, at):
    whole = write_targets(tmp_path / "whole", some_batches(), 3, shard_batches=1)
    real, calls = targets.replace_file, []

    def failing(path, payload):
        calls.append(path.name)
        if len(calls) == {"shard": 5, "index": 6, "batch": 99}[at]:  # the third shard, and its index
            raise Interrupted
        real(path, payload)

    def breaking():
        for number, batch in enumerate(some_batches()):
            if at == "batch" and number == 2:
                raise Interrupted
            yield batch

    monkeypatch.setattr(targets, "replace_file", failing)
    with pytest.raises(Interrupted):
        write_targets(tmp_path / "part", breaking(), 3, shard_batches=1)
    monkeypatch.setattr(targets, "replace_file", real)
    with pytest.raises(ValueError, match="not written to their end"):
        open_targets(tmp_path / "part")
    with pytest.raises(ValueError, match=r"got targets with \{'k': 3\}"):
        write_targets(tmp_path / "part", some_batches(), 4, shard_batches=1)
    again = write_targets(tmp_path / "part", some_batches(), 3, shard_batches=1)
    assert len(again) == len(whole) == 10
    for a, b in zip(again, whole, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    # finished: nothing is computed again
    assert len(write_targets(tmp_path / "part", iter(()), 3)) == 10


def test_a_teacher_is_run_only_for_what_is_left(tmp_path):
    teacher, seen = lm(2, dropout=0.5).train(), []
    teacher.register_forward_pre_hook(lambda *_: seen.append(1))
    rows = [{k: v[None] for k, v in row.items()} for row in texts(5)]
    stored = write_targets(tmp_path / "a", rows, 4, teacher=teacher)
    assert teacher.training and len(seen) == 5
    with torch.no_grad():
        row = {k: rows[3][k] for k in ("input_ids", "attention_mask")}
        logits = teacher.eval()(**row).logits[row["attention_mask"].bool()]
    assert torch.equal(stored[3]["values"], topk_targets(logits, 4)[0])

    def two():
        yield from rows[:2]
        raise Interrupted

    with pytest.raises(Interrupted):
        write_targets(tmp_path / "b", two(), 4, teacher=teacher, shard_batches=1)
    seen.clear()
    write_targets(tmp_path / "b", rows, 4, teacher=teacher, shard_batches=1)
    assert len(seen) == 3


def test_training_from_targets_is_training_from_the_teacher(tmp_path):
    """k = V: the student of the files is the student of the teacher, up to the files' fp16; no teacher at hand."""
    teacher, rows = lm(2), texts(16)
    stored = write_targets(
        tmp_path / "t", [{k: v[None] for k, v in r.items()} for r in rows], 31, 2.0, teacher=teacher
    )
    numbered = [{**row, "example": i} for i, row in enumerate(rows)]
    for over in ("tokens", "labels"):
        found = []
        for term, given_ in ((soft_term(2.0, over=over), teacher), (stored_term(stored, over), None)):
            student = lm(1)
            args = arguments(tmp_path, optim="sgd", learning_rate=0.5, gradient_accumulation_steps=2)
            trainer = DistillationTrainer(student, given_, args, losses=[(1.0, term)], train_dataset=numbered)
            trainer.train()
            found.append(student.state_dict())
        gap = max((found[0][n] - found[1][n]).abs().max().item() for n in found[0])
        moved = max((found[0][n] - lm(1).state_dict()[n]).abs().max().item() for n in found[0])
        assert gap < 1e-2 * moved


# ---- bad input ---------------------------------------------------------------------------------------


def test_altered_files_are_refused(tmp_path):
    write_targets(tmp_path, some_batches(), 3, shard_batches=2)
    path = tmp_path / "targets-00001.safetensors"
    payload = path.read_bytes()
    path.write_bytes(payload[:-1] + bytes([payload[-1] ^ 1]))
    open_targets(tmp_path)
    with pytest.raises(ValueError, match="another checksum"):
        open_targets(tmp_path, verify=True)
    path.write_bytes(payload[:-1])
    with pytest.raises(ValueError, match="missing or truncated"):
        open_targets(tmp_path)
    index = tmp_path / "targets.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 9}))
    with pytest.raises(ValueError, match="got format 9"):
        open_targets(tmp_path)
    index.write_text("{")
    with pytest.raises(ValueError, match="not readable"):
        open_targets(tmp_path)


def test_bad_input(tmp_path):
    stored = write_targets(tmp_path / "ok", some_batches(), 3)
    with pytest.raises(ValueError, match="example: got 10"):
        stored[10]
    with pytest.raises(ValueError, match="mask: got"):
        stored.gather(torch.tensor([0]), torch.ones(1, 4))
    with pytest.raises(ValueError, match="batches: got none"):
        write_targets(tmp_path / "none", [], 3)
    with pytest.raises(ValueError, match="another vocabulary"):
        write_targets(tmp_path / "two", [torch.ones(2, 5), torch.ones(2, 6)], 3)
    with pytest.raises(ValueError, match="takes .B, ..., V"):
        write_targets(tmp_path / "flat", [torch.ones(5)], 3)
    with pytest.raises(TypeError, match="batches: got str"):
        write_targets(tmp_path / "str", ["a"], 3)
    with pytest.raises(ValueError, match="k: got 6"):
        write_targets(tmp_path / "k", [torch.ones(2, 5)], 6)


STUDENT, TEACHER = random_logits(3, 6)
KEPT = dict(zip(("values", "indices", "logsumexp"), exact_targets(TEACHER, 2, 1.0), strict=True))
BAD = {
    "rest": ({"rest": "drop"}, "rest: got 'drop'"),
    "temperature": ({"temperature": 0}, "temperature: got 0"),
    "outside": ({"indices": KEPT["indices"] + 6}, "indices: got an entry outside 0 to 5"),
    "twice": ({"indices": torch.zeros(3, 2).long()}, "indices: got an entry twice"),
    "float": ({"indices": torch.zeros(3, 2)}, "indices: got dtype torch.float32"),
    "shape": ({"values": torch.ones(4, 2)}, "values: got shape"),
    "total": ({"logsumexp": torch.ones(3, 2)}, "logsumexp: got shape"),
    "nan": ({"values": torch.full((3, 2), float("nan"))}, "values: got NaN|got NaN"),
    "mask": ({"mask": torch.zeros(3)}, "mask: got no position"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_to_the_loss(kind):
    changes, message = BAD[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        topk_kd_loss(STUDENT, **(KEPT | changes))
