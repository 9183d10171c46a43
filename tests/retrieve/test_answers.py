"""refimpl.retrieve.answers: neighbours' labels, kNN-LM, the semantic cache; hand cases and naive references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from refimpl.retrieve import StoreError, open_store
from refimpl.retrieve.answers import (
    Datastore,
    SemanticCache,
    break_even_hit_rate,
    calibrate,
    contexts,
    interpolate,
    neighbour_probabilities,
)

pytest.importorskip("faiss")
INF = math.inf


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=17, n_embd=8, n_layer=2, n_head=2, n_positions=12, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).train()


# -- neighbours -----------------------------------------------------------------------------------------


def test_neighbours_by_hand():
    """Weights e^0 : e^-1 : e^-2 for labels 1, 0, 1."""
    scores, labels = torch.tensor([[0.0, -1.0, -2.0]]), torch.tensor([[1, 0, 1]])
    total = 1 + math.exp(-1) + math.exp(-2)
    expected = [math.exp(-1) / total, (1 + math.exp(-2)) / total, 0.0]
    torch.testing.assert_close(neighbour_probabilities(scores, labels, 3), torch.tensor([expected]))


def test_temperature_goes_from_the_nearest_to_votes():
    scores, labels = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[2, 0, 0]])
    cold = neighbour_probabilities(scores, labels, 3, 0.01)
    warm = neighbour_probabilities(scores, labels, 3, 1e6)
    torch.testing.assert_close(cold, torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(warm, torch.tensor([[2 / 3, 0.0, 1 / 3]]))


def test_what_was_not_found_has_no_say():
    scores = torch.tensor([[1.0, -INF, -INF], [-INF, -INF, -INF]])
    labels = torch.tensor([[1, -1, -1], [-1, -1, -1]])
    found = neighbour_probabilities(scores, labels, 4)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1, 0, 0], [0.25] * 4]))


def test_neighbours_naively():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 5, generator=generator)
    labels = torch.randint(0, 4, (6, 5), generator=generator)
    found = neighbour_probabilities(scores, labels, 4, 0.7)
    for q in range(6):
        weights = [math.exp(s / 0.7) for s in scores[q].tolist()]
        for y in range(4):
            own = sum(w for w, label in zip(weights, labels[q].tolist(), strict=True) if label == y)
            assert found[q, y].item() == pytest.approx(own / sum(weights), rel=1e-5)


# -- kNN-LM ---------------------------------------------------------------------------------------------


def test_contexts_are_the_models_own_and_leave_it_alone(model):
    ids = torch.randint(0, 17, (5, 9), generator=torch.Generator().manual_seed(1))
    keys, log_p = contexts(model, ids, batch_size=2)
    assert model.training
    model.eval()
    out = model(input_ids=ids, output_hidden_states=True)
    model.train()
    torch.testing.assert_close(keys, out.hidden_states[-1].detach())
    torch.testing.assert_close(log_p, out.logits.log_softmax(-1).detach())


def test_the_datastore_naively():
    generator = torch.Generator().manual_seed(2)
    keys, queries = torch.randn(40, 6, generator=generator), torch.randn(7, 6, generator=generator)
    tokens = torch.randint(0, 11, (40,), generator=generator)
    store = Datastore(keys, tokens)
    assert len(store) == 40 and store.nbytes == 40 * (6 * 4 + 8)
    distance = (queries[:, None] - keys[None]).square().sum(-1)
    nearest = distance.topk(5, largest=False)
    scores, found = store.search(queries, 5)
    torch.testing.assert_close(scores, -nearest.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, tokens[nearest.indices])
    p = store.probabilities(queries, 11, 5, 2.0)
    for q in range(7):
        weights = (-nearest.values[q] / 2).softmax(0)
        for y in range(11):
            assert p[q, y].item() == pytest.approx(weights[found[q] == y].sum().item(), abs=1e-5)
    assert store.search(queries, 100)[0].shape == (7, 40)


def test_a_context_that_was_seen_knows_its_token(model):
    """k = 1 and weight 1: the training text itself is recalled without a miss."""
    ids = torch.arange(12).view(1, 12) % 17
    keys, log_p = contexts(model, ids)
    keys, log_p, following = keys[0, :-1], log_p[0, :-1], ids[0, 1:]
    retrieved = Datastore(keys, following).probabilities(keys, 17, 1)
    mixed = interpolate(log_p, retrieved, 1.0)
    assert torch.equal(mixed.argmax(-1), following)
    torch.testing.assert_close(mixed.max(-1).values, torch.zeros(11))
    some = interpolate(log_p, retrieved, 0.25)
    torch.testing.assert_close(some.exp().sum(-1), torch.ones(11))
    expected = (0.25 + 0.75 * log_p.exp().gather(1, following[:, None])[:, 0]).log()
    torch.testing.assert_close(some.gather(1, following[:, None])[:, 0], expected)
    assert interpolate(log_p, retrieved, 0.0) is log_p


# -- the cache ------------------------------------------------------------------------------------------


def test_the_cache_answers_what_is_near_enough():
    with open_store("memory://", dim=2) as store:
        cache = SemanticCache(store, 0.9)
        assert cache.get(np.array([1.0, 0.0], dtype=np.float32)) is None
        cache.put("how do I sort?", np.array([1.0, 0.0], dtype=np.float32), "sorted(x)")
        cache.put("how do I read a file?", np.array([0.0, 1.0], dtype=np.float32), "open(path)")
        near = np.array([1.0, 0.3], dtype=np.float32)  # cosine .958
        assert cache.get(near) == "sorted(x)"
        assert cache.get(np.array([1.0, 0.6], dtype=np.float32)) is None  # .857
        assert SemanticCache(store, 0.97).get(near) is None
        cache.put("how do I sort?", np.array([1.0, 0.0], dtype=np.float32), "x.sort()")
        assert cache.get(near) == "x.sort()" and store.count() == 2


@pytest.mark.parametrize(
    ("most", "threshold", "hits", "false"),
    [(0.0, 0.8, 0.5, 0.0), (0.25, 0.6, 0.75, 0.25), (1.0, 0.2, 1.0, 1.0)],
)
def test_calibration_by_hand(most, threshold, hits, false):
    """Others at .2 .4 .6 .8, same at .5 .7 .85 .9: to let one of four through, the threshold lies just above .6."""
    found = calibrate(torch.tensor([0.5, 0.7, 0.85, 0.9]), torch.tensor([0.4, 0.8, 0.2, 0.6]), most)
    assert found.threshold == pytest.approx(threshold, abs=1e-6)
    assert (found.hit_rate, found.false_hit_rate) == (hits, false)


def test_calibration_never_lets_more_through_and_is_the_lowest():
    generator = torch.Generator().manual_seed(0)
    same = 0.8 + 0.1 * torch.randn(200, generator=generator)
    other = (0.6 + 0.15 * torch.randn(300, generator=generator)).mul(20).round().div(20)  # with ties
    for most in (0.0, 0.01, 0.1, 0.5):
        found = calibrate(same, other, most)
        assert found.false_hit_rate == (other.double() >= found.threshold).double().mean() <= most
        below = other.double()[other.double() < found.threshold].max()
        assert (other.double() >= below).double().mean() > most, (
            "a lower threshold would let too many through"
        )


def test_when_a_cache_pays():
    assert break_even_hit_rate(2.0, 1.0, 100.0) == pytest.approx(0.03)
    hit, costs = 0.03, (2.0, 1.0, 100.0)
    assert costs[0] + costs[1] + (1 - hit) * costs[2] == pytest.approx(costs[2])
    assert break_even_hit_rate(80.0, 40.0, 100.0) > 1


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: neighbour_probabilities(torch.ones(2), torch.ones(2).long(), 2), ValueError, "scores: got"),
        (lambda: neighbour_probabilities(torch.ones(1, 2), torch.ones(1, 2), 2), TypeError, "labels: got dtype"),
        (lambda: neighbour_probabilities(torch.ones(1, 2), torch.tensor([[0, 2]]), 2), ValueError, "labels: got one"),
        (lambda: neighbour_probabilities(torch.full((1, 1), INF), torch.zeros(1, 1).long(), 2), ValueError, "scores"),
        (lambda: neighbour_probabilities(torch.ones(1, 1), torch.zeros(1, 1).long(), 2, 0), ValueError, "temperature"),
        (lambda: contexts(torch.nn.Linear(2, 2), torch.ones(1, 2).long()), TypeError, "model: got Linear"),
        (lambda: Datastore(torch.ones(0, 2), torch.ones(0).long()), ValueError, "keys: got none"),
        (lambda: Datastore(torch.ones(2, 2), torch.ones(3).long()), ValueError, "tokens"),
        (lambda: Datastore(torch.ones(2, 2), torch.ones(2)), TypeError, "tokens: got dtype"),
        (lambda: Datastore(torch.full((1, 2), INF), torch.ones(1).long()), ValueError, "keys"),
        (lambda: Datastore(torch.ones(2, 2), torch.ones(2).long()).search(torch.ones(1, 3)), ValueError, "queries"),
        (lambda: interpolate(torch.zeros(1, 2), torch.zeros(1, 2), 1.5), ValueError, "weight: got 1.5"),
        (lambda: interpolate(torch.zeros(1, 2), torch.zeros(2, 2), 0.5), ValueError, "retrieved"),
        (lambda: SemanticCache(None, 0.5), TypeError, "store: got NoneType"),
        (lambda: SemanticCache(open_store("memory://", dim=2), 1.5), ValueError, "threshold: got 1.5"),
        (lambda: calibrate(torch.ones(0), torch.ones(1)), ValueError, "same: got none"),
        (lambda: calibrate(torch.ones(1), torch.ones(1), 2), ValueError, "most_false: got 2"),
        (lambda: break_even_hit_rate(-1, 0, 1), ValueError, "encode: got -1"),
        (lambda: break_even_hit_rate(1, 0, 0), ValueError, "answer: got 0"),
    ],
)  # fmt: skip
def test_bad_input(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_a_wrong_answer_changes_nothing():
    with open_store("memory://", dim=2) as store:
        with pytest.raises(TypeError, match="answer: got int"):
            SemanticCache(store, 0.5).put("q", np.ones(2, dtype=np.float32), 3)
        assert store.count() == 0


@pytest.mark.parametrize("temperature", [1e-39, 1e-6, 1.0, 1e30])
def test_any_temperature_gives_a_distribution(temperature):
    scores = torch.tensor([[0.9, 0.8, -0.5], [-30000.0, -40000.0, -torch.inf], [0.5, 0.5, 0.1]])
    p = neighbour_probabilities(scores, torch.tensor([[0, 1, 2]] * 3), 3, temperature)
    torch.testing.assert_close(p.sum(1), torch.ones(3))
    if temperature < 1e-3:
        torch.testing.assert_close(p, torch.tensor([[1.0, 0, 0], [1, 0, 0], [0.5, 0.5, 0]]))


def test_a_cache_that_must_never_hit_and_one_that_shares_its_store():
    same, other = torch.tensor([0.9, 1.0]), torch.tensor([1.0, 0.2])
    found = calibrate(same, other, 0.0)
    with open_store("memory://", dim=2) as store:
        cache = SemanticCache(store, found.threshold)
        cache.put("q", np.array([1.0, 0.0]), "a")
        assert cache.get(np.array([1.0, 0.0])) is None
        assert SemanticCache(store, 1.0).get(np.array([3.0, 0.0])) == "a"
        store.upsert(["no question"], np.array([[0.0, 1.0]]))
        with pytest.raises(StoreError, match="row 'no question' has no answer"):
            SemanticCache(store, 0.5).get(np.array([0.0, 1.0]))
        for bad in ([1.0, 0.0], np.array([[1.0, 0.0]])):
            with pytest.raises(TypeError, match="vector: got"):
                cache.get(bad)
