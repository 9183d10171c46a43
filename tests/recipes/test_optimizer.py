"""refimpl.recipes.optimizer: a step by hand from the singular value decomposition, and from AdamW alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from refimpl.recipes.optimizer import MuonAndAdamW
from refimpl.recipes.shapes import make_model
from refimpl.recipes.teachers import train
from tests.recipes.conftest import SMALL
from tests.recipes.test_shapes import Ids


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layer = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 4)])

    def forward(self, ids):
        return self.layer[1](torch.tanh(self.layer[0](self.embedding(ids))))


def stepped(optimizer_of, steps=3):
    torch.manual_seed(0)
    net = Net()
    optimizer = optimizer_of(net)
    for step in range(steps):
        net(torch.tensor([step % 5, 2])).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, optimizer


def test_the_first_step_of_a_matrix_is_nearly_orthogonal():
    """Down to the factors: .2 sqrt(max(m, n)) lr times U V^T, singular values of the step within .5 to 1.5."""
    torch.manual_seed(0)
    net = Net()
    before = copy.deepcopy(net)
    net(torch.arange(5)).square().sum().backward()
    w, old = net.layer[0].weight, before.layer[0].weight.detach()
    u, _, vt = torch.linalg.svd(w.grad.float(), full_matrices=False)
    MuonAndAdamW(net, 0.01, weight_decay=0.5, within="layer.").step()
    moved = (1 - 0.01 * 0.5) * old - w.detach()
    unit = moved / (0.2 * math.sqrt(6) * 0.01)
    found = torch.linalg.svdvals(unit)
    assert found.min() > 0.5 and found.max() < 1.5
    aligned = (unit * (u @ vt)).sum() / (unit.norm() * (u @ vt).norm())
    assert aligned > 0.95, "the directions are those of the gradient's decomposition"


def test_all_else_moves_as_adamw_moves_it():
    """With the matrices frozen, the rest is AdamW with decay on the embedding only."""

    def both(net):
        return MuonAndAdamW(net, 0.01, 0.1, (0.9, 0.98), "layer.0")

    def adamw(net):
        rest = [net.embedding.weight, net.layer[1].weight]
        vectors = [net.layer[0].bias, net.layer[1].bias]
        for p in (net.layer[0].weight,):
            p.grad = None
        groups = [{"params": rest, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98))

    ours, theirs = stepped(both, 1)[0], stepped(adamw, 1)[0]
    for name, p in ours.named_parameters():
        if name != "layer.0.weight":
            torch.testing.assert_close(p, dict(theirs.named_parameters())[name])
    assert not torch.equal(ours.layer[0].weight, theirs.layer[0].weight)


def test_saved_and_loaded_goes_on_the_same():
    whole, _ = stepped(lambda net: MuonAndAdamW(net, 0.01, within="layer."), 4)
    part, optimizer = stepped(lambda net: MuonAndAdamW(net, 0.01, within="layer."), 2)
    other = copy.deepcopy(part)
    again = MuonAndAdamW(other, 0.5, within="layer.")
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in (2, 3):
        other(torch.tensor([step % 5, 2])).square().sum().backward()
        again.step()
        again.zero_grad()
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("kind", "within"), [("masked-lm", ".layer."), ("causal-lm", ".h.")])
def test_what_it_takes_of_the_teachers(kind, within):
    """Six matrices a block of BERT, four of GPT-2 (its three projections are one); no embedding, no head."""
    optimizer = MuonAndAdamW(make_model(kind, Ids(), SMALL), 1e-3, within=within)
    each = 6 if kind == "masked-lm" else 4
    assert len(optimizer.param_groups[0]["params"]) == each * SMALL.layers
    assert all(p.shape[0] != SMALL.vocabulary for p in optimizer.param_groups[0]["params"])


def test_a_schedule_reaches_both_and_no_matrix_is_refused():
    _, optimizer = stepped(lambda net: MuonAndAdamW(net, 0.01, within="layer."), 1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    after = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ValueError, match="within: got '.h.'"):
        MuonAndAdamW(Net(), 0.01, within=".h.")
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_resumed_with_it_is_uninterrupted(training, held, tmp_path):
    settings = replace(SMALL, optimizer="muon", std=0.02)
    given = {"training": training, "validation": held, "test": held}
    once = train("masked-lm", tmp_path / "once", settings, **given)
    train("masked-lm", tmp_path / "twice", settings, **given)
    last = sorted((tmp_path / "twice-training").glob("checkpoint-*"))[-1]
    for file in last.glob("*"):
        file.unlink()
    last.rmdir()
    again = train("masked-lm", tmp_path / "twice", settings, **given, resume=True)
    assert (again / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()
