"""Generation k learns from generation k - 1, the ensemble has them all."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from refimpl.distill import DistillationTrainer, MultiTeacher, average_probabilities, born_again
from tests.distill.train_small import arguments, lm, texts


def test_who_teaches_whom():
    calls = []
    given = nn.Linear(2, 2)

    def make(k):
        model = nn.Linear(2, 2)
        model.k = k
        return model

    models = born_again(make, lambda teacher, student: calls.append((teacher, student)), 3)
    assert [m.k for m in models] == [0, 1, 2, 3]
    assert calls == [(None, models[0]), *pairwise(models)]
    calls.clear()
    models = born_again(make, lambda teacher, student: calls.append((teacher, student)), 2, teacher=given)
    assert models[0] is given and [m.k for m in models[1:]] == [1, 2]
    assert calls == list(pairwise(models))


def test_generations_of_language_models_and_their_ensemble(tmp_path):
    def distill(teacher, student):
        args = arguments(tmp_path, max_steps=2)
        alpha = 0.0 if teacher is None else 1.0
        DistillationTrainer(
            student, teacher, args, alpha=alpha, temperature=1.0, train_dataset=texts(8)
        ).train()

    models = born_again(lm, distill, 2)
    ids = texts(2)[0]["input_ids"][None]
    with torch.no_grad():
        logits = [model.eval()(ids).logits for model in models]
        ensemble = MultiTeacher(models, 1.0)(input_ids=ids).logits
    torch.testing.assert_close(ensemble.softmax(-1), average_probabilities(logits))
    assert all((logits[0] - other).abs().max() > 1e-3 for other in logits[1:])


def test_the_same_model_again_is_refused():
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="make_student: got an earlier model for generation 1"):
        born_again(lambda _: model, lambda *_: None, 1)
    with pytest.raises(ValueError, match="generations: got 0"):
        born_again(lambda _: model, lambda *_: None, 0)
    with pytest.raises(TypeError, match="make_student: got int"):
        born_again(lambda k: k, lambda *_: None, 1)
    with pytest.raises(TypeError, match="make_student: got str; takes a function of"):
        born_again("model", lambda *_: None, 1)
