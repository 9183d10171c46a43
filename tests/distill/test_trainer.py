"""The Trainer against transformers' own, one large batch, naive loops, a kill, and two processes."""

import copy
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Trainer, TrainerCallback

from refimpl import models
from refimpl.distill import (
    DistillationTrainer,
    Feedback,
    Projections,
    Term,
    attention_loss,
    attention_term,
    capture,
    cosine_loss,
    cosine_term,
    hard_term,
    hidden_loss,
    hidden_term,
    kd_loss,
    relation_loss,
    relation_term,
    resume,
    soft_term,
)
from tests.distill.train_small import arguments, lm, projected, texts

ROOT = Path(__file__).parents[2]


def trained(kind, folder, model, *, args=None, **given):
    """The weights after training, by name."""
    trainer = kind(model=model, args=arguments(folder, **(args or {})), **given)
    trainer.train()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def apart(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


def bert(head, seed=0, **changes):
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return models.build("bert-base-uncased", head=head, seed=seed, num_attention_heads=2, **sizes | changes)


def classified(count=16):
    rows = texts(count)
    return [
        {"input_ids": r["input_ids"], "attention_mask": r["attention_mask"], "labels": torch.tensor(i % 3)}
        for i, r in enumerate(rows)
    ]


# ---- alpha = 0 is plain training ---------------------------------------------------------------------


def declared(dropout=0.1):
    """A GPT-2 that says of itself that it shifts its labels, without which the Trainer counts too many."""
    model = lm(1, dropout=dropout)
    model.loss_type = "ForCausalLM"
    return model


@pytest.mark.parametrize(
    ("model", "data", "accumulate"),
    [
        (declared, texts, 1),
        (declared, texts, 3),
        (lambda: bert("masked-lm"), texts, 1),
        (lambda: bert("sequence-classification", num_labels=3), classified, 1),
    ],
    ids=["causal", "causal-accumulated", "masked", "classification"],
)
def test_alpha_zero_is_plain_training_bit_for_bit(tmp_path, model, data, accumulate):
    args = {"gradient_accumulation_steps": accumulate}
    plain = trained(Trainer, tmp_path, model(), args=args, train_dataset=data())
    teacher = model()
    ours = trained(
        DistillationTrainer, tmp_path, model(), args=args, train_dataset=data(), teacher=teacher, alpha=0.0
    )
    assert equal(plain, ours)
    assert apart(plain, model().state_dict()) > 1e-3  # it did train
    half = trained(
        DistillationTrainer, tmp_path, model(), args=args, train_dataset=data(), teacher=teacher, alpha=0.5
    )
    assert not equal(plain, half)


def test_plain_training_of_gpt2_divides_by_too_many(tmp_path):
    """Why `declared` is needed: the label at position 0, which nothing predicts, is counted."""
    kinds = {"plain": Trainer, "ours": DistillationTrainer}
    logs = {}
    for name, kind in kinds.items():
        given = {} if kind is Trainer else {"teacher": lm(2), "alpha": 0.0}
        trainer = kind(model=lm(1), args=arguments(tmp_path, max_steps=1), train_dataset=texts(4), **given)
        trainer.train()
        logs[name] = trainer.state.log_history[0]["loss"]
    labels = torch.stack([row["labels"] for row in texts(4)])
    counted = [(t != -100).sum().item() for t in (labels, labels[:, 1:])]
    assert logs["plain"] / logs["ours"] == pytest.approx(counted[1] / counted[0], rel=1e-5)


def test_alpha_zero_does_not_run_the_teacher(tmp_path):
    teacher = lm(2)
    teacher.forward = lambda **_: pytest.fail("the teacher ran")
    trained(DistillationTrainer, tmp_path, lm(1), teacher=teacher, alpha=0.0, train_dataset=texts())


# ---- the value and the reduction ---------------------------------------------------------------------


def test_the_loss_by_hand(tmp_path):
    """Shifted once: the logits of position i against the label at i + 1, hard and soft at the same places."""
    student, teacher = lm(1), lm(2)
    batch = {k: torch.stack([row[k] for row in texts(5)]) for k in texts(1)[0]}
    trainer = DistillationTrainer(student, teacher, arguments(tmp_path), alpha=0.3, temperature=3.0)
    with torch.no_grad():
        ours = trainer.compute_loss(student.train(), batch)
        given = {k: batch[k] for k in ("input_ids", "attention_mask")}
        s, t = student(**given), teacher(**given)
    total = {"hard": 0.0, "soft": 0.0}
    count = 0
    for b in range(5):
        for i in range(8):
            label = batch["labels"][b, i + 1].item()
            if label == -100:
                continue
            count += 1
            total["hard"] -= F.log_softmax(s.logits[b, i], -1)[label].item()
            q, p = F.softmax(s.logits[b, i] / 3, -1), F.softmax(t.logits[b, i] / 3, -1)
            total["soft"] += 9 * (p * (p / q).log()).sum().item()
    assert count < 40
    assert ours.item() == pytest.approx((0.7 * total["hard"] + 0.3 * total["soft"]) / count, rel=1e-5)


def squared(student, teacher, inputs):
    """A user's own function: the mean over real tokens of the squared distance of the logits."""
    keep = inputs["attention_mask"].bool()
    return (student.logits[keep] - teacher.logits[keep]).square().mean()


ALL = [(0.7, hard_term()), (0.3, soft_term(2.0)), (0.1, squared)]


def step_gradients(folder, batch, accumulate, losses=None):
    """The gradient of the first step, before clipping."""
    student, seen = lm(1), {}

    class Watched(DistillationTrainer):
        def _clip_grad_norm(self, model):
            seen.update({n: p.grad.clone() for n, p in model.named_parameters()})
            return super()._clip_grad_norm(model)

    args = arguments(
        folder, max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate
    )
    rows = texts(12)
    rows[1]["labels"] = torch.full((9,), -100)  # a batch of one with nothing to learn
    trainer = Watched(student, lm(2), args, losses=losses or ALL, train_dataset=rows)
    trainer.train()
    return seen, trainer.state.log_history[0]


def test_accumulated_batches_are_one_large_batch(tmp_path):
    whole, log = step_gradients(tmp_path, 12, 1)
    for batch, accumulate in ((1, 12), (3, 4), (5, 3)):
        parts, parts_log = step_gradients(tmp_path, batch, accumulate)
        assert apart(whole, parts) < 2e-6
        for name in ("loss", "loss_hard", "loss_soft", "loss_squared"):
            assert parts_log[name] == pytest.approx(log[name], rel=1e-5)
    assert max(g.abs().max().item() for g in whole.values()) > 1e-2


def test_means_of_means_would_differ(tmp_path):
    """The test above can fail: the same function declared as a mean over examples weighs batches otherwise."""
    wrong = [(1.0, Term(squared, over="examples"))]
    assert apart(step_gradients(tmp_path, 12, 1, wrong)[0], step_gradients(tmp_path, 1, 12, wrong)[0]) > 1e-3


def test_identical_models_learn_nothing(tmp_path):
    student = lm(1)
    before = copy.deepcopy(student.state_dict())
    args = {"weight_decay": 0.0, "optim": "sgd"}
    after = trained(
        DistillationTrainer, tmp_path, student, args=args, teacher=lm(1), alpha=1.0, train_dataset=texts()
    )
    assert apart(before, after) < 1e-6


def test_without_labels(tmp_path):
    """A transfer set needs no labels: the soft term over the real tokens, or over examples."""
    rows = [{k: r[k] for k in ("input_ids", "attention_mask")} for r in texts(8)]
    student, teacher = lm(1), lm(2)
    trainer = DistillationTrainer(
        student,
        teacher,
        arguments(tmp_path),
        losses=[(1.0, soft_term(2.0, over="tokens"))],
        train_dataset=rows,
        eval_dataset=rows,
    )
    batch = {k: torch.stack([r[k] for r in rows]) for k in rows[0]}
    with torch.no_grad():
        expected = kd_loss(student(**batch).logits, teacher(**batch).logits, 2.0, batch["attention_mask"])
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert "eval_accuracy" not in before
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before["eval_loss"]
    with pytest.raises(ValueError, match="labels: got none"):
        DistillationTrainer(lm(1), teacher, arguments(tmp_path), alpha=1.0, train_dataset=rows).train()


# ---- the teacher -------------------------------------------------------------------------------------


def test_the_teacher_is_left_alone(tmp_path):
    teacher = lm(2, dropout=0.5)
    teacher.train()
    teacher.transformer.h[0].eval()
    modes = [m.training for m in teacher.modules()]
    before = copy.deepcopy(teacher.state_dict())
    student = lm(1)
    args = arguments(tmp_path, save_strategy="steps", save_steps=3)
    trainer = DistillationTrainer(student, teacher, args, train_dataset=texts(), eval_dataset=texts(4))
    trainer.train()
    assert trainer.evaluate()["eval_kl"] == trainer.evaluate()["eval_kl"]  # no dropout in the teacher
    assert [m.training for m in teacher.modules()] == modes
    assert equal(before, teacher.state_dict())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    ours = {id(p) for p in student.parameters()}
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == ours
    saved = safetensors.torch.load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert saved.keys() <= student.state_dict().keys()


def test_a_column_that_only_the_teacher_takes(tmp_path):
    """DistilBERT has no token types; its teacher does, and gets them."""
    student = models.build(
        "distilbert-base-uncased",
        head="masked-lm",
        vocab_size=31,
        dim=16,
        hidden_dim=24,
        n_layers=1,
        n_heads=2,
    )
    teacher, seen = bert("masked-lm"), []
    teacher.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    rows = [{**row, "token_type_ids": torch.ones(9, dtype=torch.long)} for row in texts(8)]
    trained(DistillationTrainer, tmp_path, student, teacher=teacher, train_dataset=rows)
    assert all(kwargs["token_type_ids"].all() for kwargs in seen) and len(seen) == 6
    assert all("labels" not in kwargs for kwargs in seen)


# ---- evaluation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_metrics_are_means_over_positions(tmp_path, batch):
    student, teacher, rows = lm(1), lm(2), texts(7)
    args = arguments(tmp_path, per_device_eval_batch_size=batch)
    found = DistillationTrainer(student, teacher, args, eval_dataset=rows).evaluate()
    n = correct = agreed = 0
    entropy = entropy_teacher = kl = soft = 0.0
    for row in rows:
        with torch.no_grad():
            s, t = (
                m(input_ids=row["input_ids"][None], attention_mask=row["attention_mask"][None]).logits[0]
                for m in (student, teacher)
            )
        for i in range(8):
            label = row["labels"][i + 1].item()
            if label == -100:
                continue
            q, p = s[i].softmax(-1), t[i].softmax(-1)
            n += 1
            correct += int(q.argmax() == label)
            agreed += int(q.argmax() == p.argmax())
            entropy -= q[label].log().item()
            entropy_teacher -= p[label].log().item()
            kl += (p * (p / q).log()).sum().item()
            q, p = (s[i] / 2).softmax(-1), (t[i] / 2).softmax(-1)
            soft += 4 * (p * (p / q).log()).sum().item()
    assert found["eval_accuracy"] == pytest.approx(correct / n)
    assert found["eval_agreement"] == pytest.approx(agreed / n)
    assert found["eval_cross_entropy"] == pytest.approx(entropy / n, rel=1e-5)
    assert found["eval_perplexity"] == pytest.approx(math.exp(entropy / n), rel=1e-5)
    assert found["eval_teacher_cross_entropy"] == pytest.approx(entropy_teacher / n, rel=1e-5)
    assert found["eval_kl"] == pytest.approx(kl / n, rel=1e-4)
    assert found["eval_loss_hard"] == pytest.approx(entropy / n, rel=1e-5)
    assert found["eval_loss_soft"] == pytest.approx(soft / n, rel=1e-4)
    assert found["eval_loss"] == pytest.approx((entropy + soft) / 2 / n, rel=1e-4)


def test_a_classifier_has_no_perplexity_and_predicts(tmp_path):
    student, teacher = (bert("sequence-classification", seed, num_labels=3) for seed in (1, 2))
    trainer = DistillationTrainer(
        student,
        teacher,
        arguments(tmp_path),
        eval_dataset=classified(6),
        compute_metrics=lambda p: {"right": (p.predictions.argmax(-1) == p.label_ids).mean()},
    )
    found = trainer.evaluate()
    assert found["eval_right"] == pytest.approx(found["eval_accuracy"])
    assert 0 <= found["eval_agreement"] <= 1 and "eval_perplexity" not in found
    assert trainer.predict(classified(6)).predictions.shape == (6, 3)


def test_vocabularies_of_different_size(tmp_path):
    student, teacher = lm(1), lm(2, vocab_size=40)
    rows = texts(4)
    with pytest.raises(ValueError, match="teacher_logits: got a vocabulary of 40"):
        DistillationTrainer(student, teacher, arguments(tmp_path), eval_dataset=rows).evaluate()
    losses = [(1.0, soft_term(2.0, align="truncate"))]
    trainer = DistillationTrainer(student, teacher, arguments(tmp_path), losses=losses, eval_dataset=rows)
    assert trainer.evaluate()["eval_kl"] > 0


# ---- schedules and log -------------------------------------------------------------------------------


def test_schedules_follow_the_progress(tmp_path):
    seen = []

    def note(student, teacher, inputs):
        seen.append(inputs["progress"])
        return student.logits.mean()

    trainer = DistillationTrainer(
        lm(1),
        lm(2),
        arguments(tmp_path),
        losses=[(lambda p: p, soft_term(lambda p: 5 - 4 * p)), (0.0, hard_term()), (1e-9, note)],
        train_dataset=texts(),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert seen == pytest.approx([i / 6 for i in range(6)])
    assert [entry["weight_soft"] for entry in logs] == pytest.approx([i / 6 for i in range(6)])
    assert [entry["temperature"] for entry in logs] == pytest.approx([5 - 4 * i / 6 for i in range(6)])
    assert "loss_soft" not in logs[0] and "loss_soft" in logs[1]  # not computed at weight 0
    assert not any("loss_hard" in entry for entry in logs)
    for entry in logs[1:]:
        assert entry["loss"] == pytest.approx(entry["weight_soft"] * entry["loss_soft"], rel=1e-4)


def test_an_alpha_that_follows_the_progress(tmp_path):
    trainer = DistillationTrainer(lm(1), lm(2), arguments(tmp_path), alpha=lambda p: p, train_dataset=texts())
    trainer.train()
    for entry in trainer.state.log_history[:-1]:
        assert entry["weight_hard"] + entry["weight_soft"] == pytest.approx(1)
    trainer = DistillationTrainer(
        lm(1), lm(2), arguments(tmp_path), alpha=lambda p: 2.0, train_dataset=texts()
    )
    with pytest.raises(ValueError, match="weight: got -1"):
        trainer.train()


# ---- training-only modules and checkpoints -----------------------------------------------------------


def test_projections_are_trained_but_not_the_students(tmp_path):
    student, projection = lm(1), nn.Linear(16, 24)
    names, before = list(student.state_dict()), copy.deepcopy(projection.state_dict())
    trainer = DistillationTrainer(
        student,
        lm(2, n_embd=24),
        arguments(tmp_path, save_strategy="steps", save_steps=3),
        losses=[(1.0, projected(projection))],
        train_dataset=texts(),
    )
    trainer.train()
    assert apart(before, projection.state_dict()) > 1e-3
    assert list(student.state_dict()) == names  # detached again
    trainer.save_model(str(tmp_path / "own"))
    assert not (tmp_path / "own" / "training_only.safetensors").exists()
    for folder in ("own", "checkpoint-6"):
        saved = safetensors.torch.load_file(tmp_path / folder / "model.safetensors")
        assert not any("training_only" in name for name in saved)
    kept = safetensors.torch.load_file(tmp_path / "checkpoint-6" / "training_only.safetensors")
    assert torch.equal(kept["0.weight"], projection.weight)
    (tmp_path / "checkpoint-6" / "training_only.safetensors").unlink()
    with pytest.raises(ValueError, match="without training_only.safetensors"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert list(student.state_dict()) == names  # also after an error


FEATURES = {
    "hidden": lambda: hidden_term({0: 0, 1: 2, 2: 4}, Projections(16, 24, [0, 1, 2])),
    "hidden-normalized": lambda: hidden_term({2: 4}, Projections(16, 24, [2]), normalize=True),
    "cosine": cosine_term,
    "attention": lambda: attention_term({0: 1, 1: 3}),
    "attention-mse": lambda: attention_term({1: 3}, "mse"),
    "relations": lambda: relation_term({0: 1, 1: 3}, 4),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_feature_terms(tmp_path, kind):
    """Each lowers its own loss, and a step of several batches is one large batch."""
    teacher = lm(2, n_layer=4, n_embd=16 if kind == "cosine" else 24)
    found, logs = [], []
    for batch, accumulate in ((12, 1), (4, 3)):
        torch.manual_seed(0)
        student = lm(1, dropout=0.0)
        args = arguments(tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate)
        trainer = DistillationTrainer(
            student, teacher, args, losses=[(1.0, FEATURES[kind]())], train_dataset=texts(12)
        )
        trainer.train()
        found.append({k: v.clone() for k, v in student.state_dict().items()})
        logs.append([entry["loss"] for entry in trainer.state.log_history[:-1]])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    assert logs[0][-1] < logs[0][0]
    assert apart(*found) < 1e-4 < apart(found[0], lm(1).state_dict())


def test_feature_terms_against_the_losses(tmp_path):
    """The right layers, the mask and the causal flag reach the loss."""
    student, teacher, rows = lm(1), lm(2, n_layer=4), texts(5)
    batch = {k: torch.stack([r[k] for r in rows]) for k in ("input_ids", "attention_mask")}
    mask = batch["attention_mask"]
    wish = {"hidden_states": True, "attentions": "scores", "queries_keys_values": True}
    with torch.no_grad(), capture(student, **wish) as s:
        student(**batch)
    with torch.no_grad(), capture(teacher, **wish) as t:
        teacher(**batch)
    expected = {
        "hidden": hidden_loss(s.hidden_states, t.hidden_states, {1: 3}, mask),
        "cosine": cosine_loss(s.hidden_states[-1], t.hidden_states[-1], mask),
        "attention": attention_loss(s.attentions[1], t.attentions[3], mask, from_scores=True, causal=True),
        "relations": relation_loss(s.queries[1], t.queries[3], 2, mask)
        + relation_loss(s.values[1], t.values[3], 2, mask),
    }
    losses = [(1.0, hidden_term({1: 3})), (1.0, cosine_term()), (1.0, attention_term({1: 3}))]
    losses += [(1.0, relation_term({1: 3}, 2, ("queries", "values")))]
    args = arguments(tmp_path, per_device_eval_batch_size=2)
    found = DistillationTrainer(student, teacher, args, losses=losses, eval_dataset=rows).evaluate()
    for name, value in expected.items():
        assert found[f"eval_loss_{name}"] == pytest.approx(value.item(), rel=1e-3)  # tiny differences


class Follow(TrainerCallback):
    """Alpha follows the agreement: a schedule with a state."""

    def __init__(self, schedule):
        self.schedule = schedule

    def on_evaluate(self, args, state, control, metrics, **_):
        self.schedule.update(metrics["eval_cross_entropy"])


def test_a_schedule_with_a_state_is_resumed(tmp_path):
    def run_to(folder, resume_from=None):
        alpha = Feedback(0.9, target=3.0, gain=0.1)
        args = arguments(folder, save_strategy="steps", save_steps=3, eval_strategy="steps", eval_steps=1)
        trainer = DistillationTrainer(
            lm(1, dropout=0.1),
            lm(2),
            args,
            alpha=alpha,
            callbacks=[Follow(alpha)],
            train_dataset=texts(),
            eval_dataset=texts(4),
        )
        trainer.train(resume_from)
        return trainer.model.state_dict(), alpha.value

    whole, alpha = run_to(tmp_path / "a")
    again, alpha_again = run_to(tmp_path / "b", str(tmp_path / "a" / "checkpoint-3"))
    assert alpha == alpha_again != 0.9
    assert equal(whole, again)
    (tmp_path / "a" / "checkpoint-3" / "schedules.json").unlink()
    with pytest.raises(ValueError, match="got the states of 0 schedules; takes 1"):
        run_to(tmp_path / "c", str(tmp_path / "a" / "checkpoint-3"))


def test_only_a_complete_checkpoint_is_taken(tmp_path):
    for step, text in ((5, '{"a": 1}'), (10, '{"a"'), (15, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-best").mkdir()
    assert Path(resume.last_complete(str(tmp_path))).name == "checkpoint-5"
    with pytest.raises(ValueError, match="got no complete checkpoint among 4"):
        resume.last_complete(str(tmp_path), processes=2)
    for rank in (0, 1):
        (tmp_path / "checkpoint-5" / f"rng_state_{rank}.pth").touch()
    assert Path(resume.last_complete(str(tmp_path), processes=2)).name == "checkpoint-5"


def run(*command, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == expect, done.stderr[-3000:]


PROGRAM = "tests.distill.train_small"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(PROGRAM, folder)
    return safetensors.torch.load_file(folder / "final.safetensors")


@pytest.mark.parametrize("kill", [("--kill-at", 5), ("--kill-in-save", 4)], ids=["step", "save"])
def test_killed_and_resumed_is_uninterrupted(tmp_path, uninterrupted, kill):
    """SIGKILL, once between checkpoints and once in the middle of writing one; dropout and projection on."""
    run(PROGRAM, tmp_path, *kill, expect=-signal.SIGKILL)
    assert not (tmp_path / "final.safetensors").exists()
    assert (tmp_path / "checkpoint-4" / "trainer_state.json").exists() == (kill[0] == "--kill-at")
    run(PROGRAM, tmp_path, "--resume")
    assert equal(uninterrupted, safetensors.torch.load_file(tmp_path / "final.safetensors"))


def test_two_processes_are_one(tmp_path):
    """Two processes of batches of 4, accumulated twice, against one of 4 batches of 4: DDP by gloo.

    The metrics too, on 7 texts: the second process gets one of them twice, which must not count.
    """
    small = ("--dropout", 0)
    run(
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        2,
        "-m",
        PROGRAM,
        tmp_path / "two",
        *small,
    )
    run(PROGRAM, tmp_path / "one", "--accumulate", 4, *small)
    two, one = (safetensors.torch.load_file(tmp_path / n / "final.safetensors") for n in ("two", "one"))
    assert apart(one, two) < 2e-5
    found = [json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("two", "one")]
    for name in ("kl", "agreement", "accuracy", "cross_entropy", "teacher_accuracy"):
        assert found[0][f"eval_{name}"] == pytest.approx(found[1][f"eval_{name}"], rel=1e-4)
    start = lm(1).state_dict()
    assert apart(one, start | {k: torch.zeros_like(v) for k, v in one.items() if k not in start}) > 1e-2


# ---- bad input ---------------------------------------------------------------------------------------


def test_shared_trainable_parameters_are_refused(tmp_path):
    student = lm(1)
    teacher = lm(2)
    teacher.transformer.wte = student.transformer.wte
    with pytest.raises(ValueError, match="teacher: got parameters that the student trains"):
        DistillationTrainer(student, teacher, arguments(tmp_path))
    student.transformer.wte.requires_grad_(False)
    DistillationTrainer(student, teacher, arguments(tmp_path))


def test_modules_refuse_what_does_not_sync_them(tmp_path):
    losses = [(1.0, projected(nn.Linear(16, 16)))]
    with pytest.raises(ValueError, match="ddp_find_unused_parameters"):
        DistillationTrainer(lm(1), lm(2), arguments(tmp_path, ddp_find_unused_parameters=True), losses=losses)
    trainer = DistillationTrainer(lm(1), lm(2), arguments(tmp_path), losses=losses)
    assert trainer.args.ddp_find_unused_parameters is False
