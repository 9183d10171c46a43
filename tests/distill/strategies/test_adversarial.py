"""The two players: their losses by hand, each with its own gradient, its own step, and a place outside the student."""

import math
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from refimpl.distill import (
    AdversarialTrainer,
    Discriminator,
    DistillationTrainer,
    adversarial_terms,
    hard_term,
    jsd_loss,
    soft_term,
)
from tests.distill.train_small import arguments, lm, texts


class Table(nn.Module):
    """A discriminator that knows two kinds of rows, by which entry is larger; a trainable factor on its verdict."""

    def __init__(self, first, second):
        super().__init__()
        self.verdicts = torch.tensor([first, second], dtype=torch.float64)
        self.factor = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, rows):
        return self.factor * self.verdicts[rows.argmax(-1)][:, None]


def rows_of(*kinds):
    """Logits [N, 2] whose larger entry is the kind."""
    return torch.nn.functional.one_hot(torch.tensor(kinds), 2).double()


def losses(discriminator, student, teacher, over="examples", **batch):
    (_, fool), (_, told) = adversarial_terms(discriminator, over=over)
    student, teacher = SimpleNamespace(logits=student), SimpleNamespace(logits=teacher)
    return fool.loss(student, None, batch), told.loss(student, teacher, batch)


def test_by_hand():
    """Teacher rows of kind 0 (D = 2), student rows of kind 1 (D = -1): sums over positions."""
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    fool, told = losses(Table(2.0, -1.0), rows_of(1, 1, 1), rows_of(0, 0, 0))
    assert told.item() == pytest.approx(-3 * math.log(sigmoid(2)) - 3 * math.log(1 - sigmoid(-1)))
    assert fool.item() == pytest.approx(-3 * math.log(sigmoid(-1)))
    fool, told = losses(Table(0.0, 0.0), rows_of(1, 0), rows_of(0, 1))
    assert (fool.item(), told.item()) == pytest.approx((2 * math.log(2), 4 * math.log(2)))


def test_the_best_discriminator_measures_the_divergence():
    """With D = log(p_t / p_s) the loss is 2 log 2 - 2 JSD of the two distributions of rows."""
    student, teacher = rows_of(0, 0, 0, 1, 1, 1, 1, 1, 1, 1), rows_of(0, 0, 0, 0, 0, 0, 1, 1, 1, 1)
    p, q = torch.tensor([0.6, 0.4]), torch.tensor([0.3, 0.7])
    _, told = losses(Table(*(p / q).log().tolist()), student, teacher)
    assert told.item() / 10 == pytest.approx(2 * math.log(2) - 2 * jsd_loss(q.log(), p.log()).item())
    for other in (Table(0.1, -0.1), Table(3.0, -3.0)):
        assert losses(other, student, teacher)[1] > told


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_loss_moves_one_player_only():
    discriminator = Discriminator(5, 8)
    student = drawn(0, 4, 5).requires_grad_()
    teacher = drawn(1, 4, 5)
    fool, told = losses(discriminator, student, teacher)
    told.backward()
    assert student.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in discriminator.parameters())
    discriminator.zero_grad()
    fool.backward()
    assert student.grad.abs().sum() > 0
    assert all(p.grad is None for p in discriminator.parameters())


def test_what_no_probability_sees_gives_nobody_away():
    discriminator = Discriminator(5, 8)
    student, teacher = drawn(0, 4, 5), drawn(1, 4, 5)
    plain = losses(discriminator, student, teacher)
    torch.testing.assert_close(losses(discriminator, student + 7, teacher - 3), plain)
    excluded = teacher.clone()
    excluded[0, 0] = -math.inf
    assert all(torch.isfinite(v) for v in losses(discriminator, excluded, excluded))


@pytest.mark.parametrize(("over", "batch"), [("labels", "labels"), ("tokens", "attention_mask")])
def test_padding_does_not_reach_the_players(over, batch):
    discriminator = Discriminator(5, 8)
    student, teacher = drawn(0, 2, 3, 5), drawn(1, 2, 3, 5)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    given = {batch: mask if over == "tokens" else mask.where(mask == 1, -100)}
    clean = losses(discriminator, student, teacher, over, **given)
    rows = losses(discriminator, student[mask == 1], teacher[mask == 1])
    torch.testing.assert_close(clean, rows)
    student[mask == 0] = teacher[mask == 0] = math.nan
    torch.testing.assert_close(losses(discriminator, student, teacher, over, **given), clean, rtol=0, atol=0)


def test_the_student_learns_to_pass_for_the_teacher():
    """Both players step at once, in plain PyTorch: the clouds meet, though no pair was ever compared.

    After 40 steps, that is: later they circle around each other, as two players do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = Discriminator(2, 16)
    teacher = torch.tensor([2.0, 0.0]) + 0.3 * drawn(1, 64, 2)
    student = drawn(0, 64, 2).mul(0.3).requires_grad_()
    steps = [torch.optim.Adam(p, lr) for p, lr in (([student], 0.02), (discriminator.parameters(), 0.003))]

    def gap():
        return (student.softmax(-1).mean(0) - teacher.softmax(-1).mean(0)).abs().max().item()

    before = gap()
    for _ in range(40):
        for optimizer in steps:
            optimizer.zero_grad()
        sum(losses(discriminator, student, teacher)).backward()
        for optimizer in steps:
            optimizer.step()
    assert before > 0.3 and gap() < before / 4


# ---- on the Trainer ----------------------------------------------------------------------------------


def fresh(features=31):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Discriminator(features, 8)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_with_weight_zero_the_student_learns_as_without(tmp_path):
    """Bit for bit, so neither loss, nor clipping, nor the optimizer's step couples the players."""
    args = {"max_steps": 3, "max_grad_norm": 0.1}
    plain, ours, drawn_in = lm(1, dropout=0.1), lm(1, dropout=0.1), lm(1, dropout=0.1)
    DistillationTrainer(plain, lm(2), arguments(tmp_path, **args), train_dataset=texts(12)).train()
    discriminator = fresh()
    AdversarialTrainer(
        ours,
        lm(2),
        arguments(tmp_path, **args),
        discriminator=discriminator,
        weight=0.0,
        train_dataset=texts(12),
    ).train()
    assert equal(weights(plain), weights(ours))
    assert not equal(weights(discriminator), weights(fresh()))  # and it does learn
    AdversarialTrainer(
        drawn_in, lm(2), arguments(tmp_path, **args), discriminator=fresh(), train_dataset=texts(12)
    ).train()
    assert not equal(weights(plain), weights(drawn_in))


def test_the_discriminator_steps_by_itself(tmp_path):
    """The same steps taken by hand: its own learning rate and clipping, no decay, a linear schedule."""
    args = arguments(tmp_path, max_steps=2, max_grad_norm=0.05, weight_decay=0.5, optim="sgd")
    args.learning_rate = 0.0  # the student stays, so both steps see the same outputs
    student, teacher, discriminator = lm(1), lm(2), fresh()
    rows = texts(4)
    trainer = AdversarialTrainer(
        student,
        teacher,
        args,
        discriminator=discriminator,
        discriminator_learning_rate=0.5,
        train_dataset=rows,
    )
    trainer.train()
    assert equal(weights(student), weights(lm(1)))
    batch = {k: torch.stack([row[k] for row in rows]) for k in rows[0]}
    given = {k: batch[k] for k in ("input_ids", "attention_mask")}
    keep = batch["labels"][:, 1:] != -100
    with torch.no_grad():
        real, fake = (m.eval()(**given).logits[:, :-1][keep].log_softmax(-1) for m in (teacher, student))
    expected = fresh()
    for rate in (0.5, 0.25):
        expected.zero_grad()
        loss = -expected(real).sigmoid().log().mean() - (1 - expected(fake).sigmoid()).log().mean()
        loss.backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in expected.parameters()))
        assert norm > 0.05  # it is clipped
        with torch.no_grad():
            for p in expected.parameters():
                p -= rate * p.grad * 0.05 / norm
    for p, q in zip(expected.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_saved_beside_the_student_and_resumed(tmp_path):
    def run(folder, resume=None):
        student, discriminator = lm(1, dropout=0.1), fresh(16)
        args = arguments(folder, max_steps=4, save_strategy="steps", save_steps=2)
        trainer = AdversarialTrainer(
            student,
            lm(2),
            args,
            discriminator=discriminator,
            on="hidden",
            over="tokens",
            losses=[(1.0, soft_term()), (0.5, hard_term())],
            train_dataset=texts(16),
        )
        trainer.train(resume)
        return weights(student), weights(discriminator), trainer

    student, discriminator, trainer = run(tmp_path / "a")
    saved = safetensors.torch.load_file(tmp_path / "a" / "checkpoint-4" / "model.safetensors")
    assert saved.keys() == weights(lm(1)).keys()
    assert {id(p) for p in trainer.optimizer.param_groups[-1]["params"]} == {
        id(p) for p in trainer.discriminator.parameters()
    }
    again = run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-2"))
    assert equal(student, again[0]) and equal(discriminator, again[1])
    log = trainer.state.log_history[0]
    assert {"loss_fool", "loss_discriminator", "loss_soft", "loss_hard"} <= log.keys()


def test_accumulated_batches_are_one_large_batch(tmp_path):
    def step(batch, accumulate):
        student, discriminator = lm(1), fresh()
        args = arguments(
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
            optim="sgd",
            max_grad_norm=0.0,
        )
        AdversarialTrainer(
            student, lm(2), args, discriminator=discriminator, weight=1.0, train_dataset=texts(8)
        ).train()
        return weights(student) | {f"discriminator.{k}": v for k, v in weights(discriminator).items()}

    whole, parts = step(8, 1), step(2, 4)
    assert max((whole[k] - parts[k]).abs().max() for k in whole) < 1e-6


def test_bad_players_are_refused(tmp_path):
    with pytest.raises(TypeError, match="discriminator: got function"):
        adversarial_terms(losses)
    with pytest.raises(ValueError, match="on: got 'scores'"):
        adversarial_terms(fresh(), on="scores")
    with pytest.raises(ValueError, match="over: got 'words'"):
        adversarial_terms(fresh(), over="words")
    with pytest.raises(ValueError, match="weight: got -1"):
        adversarial_terms(fresh(), -1)
    with pytest.raises(ValueError, match="features: got 0"):
        Discriminator(0)
    with pytest.raises(ValueError, match="discriminator_learning_rate: got 0"):
        AdversarialTrainer(
            lm(1), lm(2), arguments(tmp_path), discriminator=fresh(), discriminator_learning_rate=0
        )
    with pytest.raises(ValueError, match="teacher: got None"):
        AdversarialTrainer(lm(1), None, arguments(tmp_path), discriminator=fresh())
