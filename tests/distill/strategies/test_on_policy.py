"""The student's own texts: which batches are replaced, by what, and that nothing else of training changes."""

import random

import pytest
import torch

from refimpl.distill import (
    DistillationTrainer,
    LinearUp,
    OnPolicyTrainer,
    generate_targets,
    hard_term,
    jsd_loss,
    jsd_term,
    soft_term,
)
from refimpl.distill.strategies.on_policy import prompts_of
from tests.distill.train_small import arguments, lm, texts


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Watched(OnPolicyTrainer):
    """Keeps the batches that it trains on, and the gradient of the first step before clipping."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.batches = []
        self.gradient = {}

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.batches.append(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _clip_grad_norm(self, model):
        self.gradient = self.gradient or {n: p.grad.clone() for n, p in model.named_parameters()}
        return super()._clip_grad_norm(model)


def on_policy(folder, fraction, kind=Watched, student=None, args=None, resume=None, **given):
    trainer = kind(
        student or lm(1, dropout=0.1),
        lm(2),
        arguments(folder, **{"max_steps": 4} | (args or {})),
        fraction=fraction,
        **{"max_new_tokens": 4, "prompt_tokens": 3, "train_dataset": texts(16)} | given,
    )
    trainer.train(resume)
    return trainer


@pytest.mark.parametrize(
    "losses", [{"alpha": 0.5}, {"losses": [(1.0, jsd_term(0.3, 2.0)), (0.2, hard_term())]}], ids=["kd", "jsd"]
)
def test_without_samples_it_is_the_plain_trainer_bit_for_bit(tmp_path, losses):
    ours = on_policy(tmp_path, 0, **losses)
    plain = lm(1, dropout=0.1)
    args = arguments(tmp_path, max_steps=4)
    DistillationTrainer(plain, lm(2), args, train_dataset=texts(16), **losses).train()
    assert equal(weights(plain), weights(ours.model))


def test_a_replaced_batch_is_what_the_student_writes(tmp_path):
    """The prompts of the data, the student's samples as it was at that step, labels on these only."""
    student = lm(1, dropout=0.1)
    before = lm(1)
    trainer = on_policy(tmp_path, 1.0, student=student, args={"max_steps": 1})
    (batch,) = trainer.batches
    draw = random.Random("3 0 0")
    draw.random()
    data = [r for r in texts(16) if any(torch.equal(r["input_ids"][:3], b[:3]) for b in batch["input_ids"])]
    assert len(data) == 4  # three tokens at least are real
    assert bool((batch["labels"][:, :3] == -100).all())
    assert bool(
        (batch["labels"][:, 3:] == batch["input_ids"][:, 3:])
        .logical_or(batch["attention_mask"][:, 3:] == 0)
        .all()
    )
    expected = generate_targets(
        before, batch["input_ids"][:, :3], None, 4, "sample", seed=draw.getrandbits(48)
    )
    assert batch.keys() == expected.keys() and all(torch.equal(batch[k], expected[k]) for k in batch)


def test_the_gradient_is_that_of_a_batch_of_data(tmp_path):
    """The samples are constants, and the loss is the divergence over the tokens that were written."""
    student = lm(1)
    trainer = on_policy(tmp_path, 1.0, student=student, args={"max_steps": 1})
    (batch,) = trainer.batches
    fresh, teacher = lm(1).train(), lm(2)
    given = {k: batch[k] for k in ("input_ids", "attention_mask")}
    mask = batch["labels"][:, 1:] != -100
    loss = jsd_loss(fresh(**given).logits[:, :-1], teacher(**given).logits[:, :-1], 1.0, mask)
    loss.backward()
    assert mask.sum() <= 16
    for name, p in fresh.named_parameters():
        torch.testing.assert_close(trainer.gradient[name], p.grad)


def test_seeded_and_resumed(tmp_path):
    """Half of the batches are replaced; the same again; another seed is another training."""
    save = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    given = {"train_dataset": texts(32)}
    whole = on_policy(tmp_path / "a", 0.5, args=save, **given)
    kinds = ["replaced" if bool((b["labels"][:, :3] == -100).all()) else "data" for b in whole.batches]
    assert len(kinds) == 8 and len(set(kinds)) == 2
    resumed = on_policy(tmp_path / "b", 0.5, args=save, resume=str(tmp_path / "a" / "checkpoint-2"), **given)
    assert len(resumed.batches) == 4
    assert equal(weights(whole.model), weights(resumed.model))
    assert {"replaced", "data"} == set(kinds[4:])  # after the resumption, too
    other = on_policy(tmp_path / "c", 0.5, args={"seed": 4, "data_seed": 3}, **given)
    assert not equal(weights(whole.model), weights(other.model))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0, LinearUp(0.0, 1.0)])
def test_the_fraction_of_replaced_batches(tmp_path, fraction):
    """2,000 draws; with a schedule what it says at the step."""

    class Marked(OnPolicyTrainer):
        def _written(self, batch, seed):
            return {"mark": seed}

    trainer = Marked(lm(1), lm(2), arguments(tmp_path), fraction=fraction)
    trainer.state.max_steps, found, seeds = 2000, 0, set()
    for step in range(2000):
        trainer.state.global_step = step
        (batch,) = trainer._replaced(iter([{}]))
        found += bool(batch)
        seeds |= {batch["mark"]} if batch else set()
    assert found == len(seeds)  # every sample with a seed of its own
    assert found / 2000 == pytest.approx(0.5 if callable(fraction) else fraction, abs=0.03)


def test_what_is_the_prompt():
    ids = torch.arange(10).view(2, 5)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    labels = torch.tensor([[-100, -100, -100, 7, 8], [-100, 6, 7, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    found = prompts_of(batch, None)["attention_mask"]
    assert found.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert prompts_of(batch, 2)["attention_mask"].tolist() == [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert prompts_of({"input_ids": ids}, 9)["attention_mask"].tolist() == [[1] * 5] * 2
    assert torch.equal(prompts_of({"input_ids": ids, "attention_mask": mask}, None)["attention_mask"], mask)
    with pytest.raises(ValueError, match="labels: got a row that has one at its first token"):
        prompts_of({"input_ids": ids, "labels": ids}, None)


def test_the_term_is_the_loss(tmp_path):
    student, teacher = lm(1), lm(2)
    batch = {k: torch.stack([row[k] for row in texts(5)]) for k in texts(1)[0]}
    trainer = DistillationTrainer(student, teacher, arguments(tmp_path), losses=[(1.0, jsd_term(0.2, 3.0))])
    with torch.no_grad():
        ours = trainer.compute_loss(student, batch)
        given = {k: batch[k] for k in ("input_ids", "attention_mask")}
        keep = batch["labels"][:, 1:] != -100
        p, q = ((m(**given).logits[:, :-1][keep] / 3).softmax(-1) for m in (teacher, student))
    m = 0.2 * p + 0.8 * q
    expected = 9 * (0.2 * (p * (p / m).log()).sum(-1) + 0.8 * (q * (q / m).log()).sum(-1)).mean()
    torch.testing.assert_close(ours, expected)


def test_bad_settings_are_refused(tmp_path):
    args = arguments(tmp_path)
    for given, message in (
        ({"fraction": 1.5}, "fraction: got 1.5"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"prompt_tokens": 0}, "prompt_tokens: got 0"),
        ({"alpha": 0.5}, "losses: got the terms .'hard'. without teacher"),
        (
            {"fraction": LinearUp(), "losses": [(0.1, hard_term()), (1.0, soft_term())]},
            "losses: got the terms",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            OnPolicyTrainer(lm(1), lm(2), args, **given)
    OnPolicyTrainer(lm(1), lm(2), args, alpha=1.0)
    for beta in (0, 1):
        with pytest.raises(ValueError, match="beta: got"):
            jsd_term(beta)
    with pytest.raises(ValueError, match="takes at most 13"):
        on_policy(tmp_path, 1.0, max_new_tokens=14)
