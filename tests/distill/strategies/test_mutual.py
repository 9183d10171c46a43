"""Students that teach each other: the published loss, whose gradient reaches whom, and training on the Trainer."""

import copy

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from refimpl import models
from refimpl.distill import DistillationTrainer, average_probabilities, kd_loss, mutual_losses, mutual_term
from tests.distill.train_small import arguments, lm, texts


def drawn(count, requires_grad=False):
    draw = torch.Generator().manual_seed(count)
    logits = [2 * torch.randn(2, 4, 5, generator=draw, dtype=torch.float64) for _ in range(count)]
    labels = torch.tensor([[0, 1, -100, 4], [3, -100, -100, 2]])
    return [z.requires_grad_(requires_grad) for z in logits], labels


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_published_loss(count):
    """CE + mean of KL(p_j || p_k) at T = 1, written out position by position: twice alpha = 0.5."""
    logits, labels = drawn(count)
    for k, found in enumerate(mutual_losses(logits, labels, 0.5, 1.0)):
        total, positions = 0.0, 0
        for place in (labels != -100).nonzero().tolist():
            q = logits[k][*place].softmax(-1)
            total -= q[labels[*place]].log().item()
            for j in range(count):
                p = logits[j][*place].softmax(-1)
                total += (p * (p / q).log()).sum().item() / (count - 1)
            positions += 1
        assert 2 * found.item() == pytest.approx(total / positions)


def test_by_hand():
    """Equal students learn from the labels only; alpha and T weigh the rest."""
    z = torch.tensor([[0.0, 0.0]])
    other = torch.tensor([[3.0, 1.0]]).log()
    labels = torch.tensor([0])
    first, second = mutual_losses([z, z.clone()], labels, 0.25)
    assert first.item() == second.item() == pytest.approx(0.75 * 0.693147, rel=1e-5)
    first, _ = mutual_losses([z, other], labels, 0.25)
    assert first.item() == pytest.approx(0.75 * 0.693147 + 0.25 * 0.130812, rel=1e-5)  # KL((3/4, 1/4) || 1/2)


def test_each_student_gets_the_gradient_of_its_own_loss():
    logits, labels = drawn(3, requires_grad=True)
    sum(mutual_losses(logits, labels, 0.6, 2.0)).backward()
    together = [z.grad.clone() for z in logits]
    for k in range(3):
        alone = [z.detach().clone().requires_grad_() for z in logits]
        mutual_losses(alone, labels, 0.6, 2.0)[k].backward()
        torch.testing.assert_close(alone[k].grad, together[k])
        assert all(z.grad is None for j, z in enumerate(alone) if j != k)


def test_peers_are_as_good_as_their_average():
    """mean_j KL(p_j || q) has the gradient of KL(mean_j p_j || q)."""
    logits, labels = drawn(4, requires_grad=True)
    mutual_losses(logits, labels, 1.0, 2.0)[0].backward()
    q = logits[0].detach().clone().requires_grad_()
    p = average_probabilities(logits[1:], temperature=2.0)
    kd_loss(q, 2.0 * p.log(), 2.0, labels != -100).backward()
    torch.testing.assert_close(logits[0].grad, q.grad)


def test_positions_without_label_do_not_count():
    logits, labels = drawn(2)
    clean = mutual_losses(logits, labels)
    for z in logits:
        z[labels == -100] = float("nan")
    assert [a.item() for a in mutual_losses(logits, labels)] == [a.item() for a in clean]


def test_the_trainers_loss_by_hand(tmp_path):
    student, peer = lm(1), lm(2, n_embd=24)
    batch = {k: torch.stack([row[k] for row in texts(5)]) for k in texts(1)[0]}
    trainer = DistillationTrainer(
        student, None, arguments(tmp_path), losses=[(1.0, mutual_term([peer], 0.3, 2.0))]
    )
    with torch.no_grad():
        ours = trainer.compute_loss(student, batch)
        given = {k: batch[k] for k in ("input_ids", "attention_mask")}
        keep, target = batch["labels"][:, 1:] != -100, batch["labels"][:, 1:]
        rows = [m(**given).logits[:, :-1][keep] for m in (student, peer)]
    expected = 0.0
    for own, other in (rows, rows[::-1]):
        p, log_q = (other / 2).softmax(-1), (own / 2).log_softmax(-1)
        expected += (
            0.7 * F.cross_entropy(own, target[keep]) + 0.3 * 4 * (p * (p.log() - log_q)).sum(-1).mean()
        )
    torch.testing.assert_close(ours, expected)


def classifier(seed, **changes):
    """Unlike GPT-2 without tied weights."""
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return models.build(
        "bert-base-uncased",
        head="sequence-classification",
        seed=seed,
        num_labels=3,
        num_attention_heads=2,
        **sizes | changes,
    )


def classified(count=16):
    return [
        {k: row[k] for k in ("input_ids", "attention_mask")} | {"labels": torch.tensor(i % 3)}
        for i, row in enumerate(texts(count))
    ]


def test_all_are_trained_saved_and_resumed(tmp_path):
    def run(folder, resume=None):
        student, peers = classifier(1), [classifier(2), classifier(3, hidden_size=24)]
        args = arguments(folder, max_steps=4, save_strategy="steps", save_steps=2)
        trainer = DistillationTrainer(
            student,
            None,
            args,
            losses=[(1.0, mutual_term(peers))],
            train_dataset=classified(),
            eval_dataset=classified(4),
        )
        trainer.train(resume)
        return trainer, [student, *peers]

    trainer, whole = run(tmp_path / "a")
    fresh = [classifier(1), classifier(2), classifier(3, hidden_size=24)]
    for trained, start in zip(whole, fresh, strict=True):
        gaps = [(a - b).abs().max() for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
        assert max(gaps) > 1e-3
    saved = safetensors.torch.load_file(tmp_path / "a" / "checkpoint-4" / "model.safetensors")
    assert saved.keys() == classifier(1).state_dict().keys()  # the student alone
    _, resumed = run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-2"))
    for a, b in zip(whole, resumed, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    for model in whole:
        model.train()  # dropout 0.1
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
    assert all(model.training for model in whole[1:])


def test_peers_with_tied_weights_are_saved(tmp_path):
    peer = lm(2)
    args = arguments(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    losses = [(1.0, mutual_term([peer]))]
    DistillationTrainer(lm(1), None, args, losses=losses, train_dataset=texts(4)).train()
    wanted = copy.deepcopy(peer)
    again = DistillationTrainer(lm(1), None, args, losses=losses, train_dataset=texts(4))
    again._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert torch.equal(wanted.lm_head.weight, peer.lm_head.weight)
    assert peer.lm_head.weight is peer.transformer.wte.weight


def test_bad_peers_are_refused():
    logits, labels = drawn(2)
    with pytest.raises(ValueError, match="logits: got fewer than two"):
        mutual_losses(logits[:1], labels)
    with pytest.raises(ValueError, match="logits: got fewer than two"):
        mutual_losses(logits[0], labels)
    with pytest.raises(TypeError, match="labels: got NoneType"):
        mutual_losses(logits, None)
    with pytest.raises(ValueError, match="peers: got none"):
        mutual_term([])
    with pytest.raises(TypeError, match="peers: got str"):
        mutual_term(["bert"])
    with pytest.raises(ValueError, match="alpha: got 2"):
        mutual_term([lm(1)], 2)
    with pytest.raises(ValueError, match="temperature: got 0"):
        mutual_term([lm(1)], 0.5, 0)
