"""A chain of length one is direct distillation; a longer one hands on what the link before has learned."""

import copy

import pytest
import torch
from torch import nn

from refimpl.distill import DistillationTrainer, distill_chain
from tests.distill.train_small import arguments, lm, texts


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(folder):
    def distill(teacher, student):
        DistillationTrainer(student, teacher, arguments(folder, max_steps=3), train_dataset=texts(12)).train()

    return distill


def test_a_chain_of_length_one_is_direct_distillation_bit_for_bit(tmp_path):
    teacher, direct, student = lm(2), lm(1, dropout=0.1), lm(1, dropout=0.1)
    trained(tmp_path)(teacher, direct)
    before = copy.deepcopy(teacher)
    chain = distill_chain([teacher, student], trained(tmp_path))
    assert chain[0] is teacher and chain[1] is student and len(chain) == 2
    assert equal(direct, student) and equal(before, teacher)
    assert not equal(student, lm(1))  # it did train


def test_the_assistant_teaches_what_it_was_taught(tmp_path):
    """teacher -> assistant -> student against the two distillations written out."""
    distill = trained(tmp_path)
    teacher, assistant, student = lm(2, n_embd=24), lm(3, n_embd=20), lm(1)
    distill(teacher, assistant)
    distill(assistant, student)
    chain = distill_chain((lm(2, n_embd=24), lm(3, n_embd=20), lm(1)), distill)
    assert all(equal(a, b) for a, b in zip(chain, (teacher, assistant, student), strict=True))
    straight = distill_chain([lm(3, n_embd=20), lm(1)], distill)[-1]
    assert not equal(chain[-1], straight)  # from the assistant as it was before it was taught


def test_bad_chains_are_refused_before_any_training():
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    for models in ([a], [], [a, b, a]):
        with pytest.raises(ValueError, match="models: got"):
            distill_chain(models, pytest.fail)
    with pytest.raises(TypeError, match="models: got str"):
        distill_chain([a, "b"], pytest.fail)
    with pytest.raises(TypeError, match="distill: got NoneType"):
        distill_chain([a, b], None)
