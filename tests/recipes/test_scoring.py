"""refimpl.recipes.scoring: the definitions, against transformers' own losses and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DataCollatorForLanguageModeling

from refimpl import models
from refimpl.recipes import (
    Evaluation,
    causal_rows,
    chain,
    evaluate,
    mask_tokens,
    masked_rows,
    next_tokens,
    token_scores,
    windows,
)
from refimpl.recipes.shapes import make_model
from tests.recipes.conftest import SMALL


@pytest.fixture
def bert(wordpieces):
    torch.manual_seed(0)
    return make_model("masked-lm", wordpieces, SMALL).eval()


@pytest.fixture
def gpt2(bytepieces):
    torch.manual_seed(0)
    return make_model("causal-lm", bytepieces, SMALL).eval()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_masks_by_a_loop():
    ids = torch.randint(5, 50, (6, 40), generator=generator(1))
    ids[:, 0], ids[2, 5] = 2, 3
    masked, labels = mask_tokens(ids, 4, 50, [0, 1, 2, 3, 4], generator(7), share=0.3)
    again = generator(7)
    chosen, kind = torch.rand(2, 6, 40, generator=again)
    other = torch.randint(50, (6, 40), generator=again)
    for b in range(6):
        for i in range(40):
            token = ids[b, i].item()
            want = (token, -100)
            if chosen[b, i] < 0.3 and token > 4:
                put = 4 if kind[b, i] < 0.8 else token if kind[b, i] < 0.9 else other[b, i].item()
                want = (put, token)
            assert (masked[b, i].item(), labels[b, i].item()) == want


def test_masks_are_distributed_as_those_of_transformers(wordpieces):
    ids = torch.randint(5, 400, (400, 128), generator=generator(1))
    ids[:, 0], ids[:, -1] = wordpieces.cls_token_id, wordpieces.sep_token_id
    ours = mask_tokens(ids, wordpieces.mask_token_id, 400, wordpieces.all_special_ids, generator())
    collator = DataCollatorForLanguageModeling(wordpieces, mlm_probability=0.15, seed=0)
    batch = collator([{"input_ids": row} for row in ids])
    theirs = (batch["input_ids"], batch["labels"])

    def shares(masked, labels):
        chosen = labels != -100
        assert not chosen[:, [0, -1]].any()
        is_mask = masked[chosen] == wordpieces.mask_token_id
        same = masked[chosen] == labels[chosen]
        assert torch.equal(masked[~chosen], ids[~chosen])
        return [float(x.float().mean()) for x in (chosen[:, 1:-1], is_mask, same)]

    for mine, his, expected in zip(shares(*ours), shares(*theirs), (0.15, 0.8, 0.1), strict=True):
        assert mine == pytest.approx(expected, abs=0.015)
        assert mine == pytest.approx(his, abs=0.015)


def test_windows_by_hand():
    ids, labels = windows(torch.arange(6), 2)
    assert ids.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert labels.tolist() == [[1, 2], [3, 4], [5, -100]]
    ids, labels = windows(torch.arange(5), 2)
    assert ids.tolist() == [[0, 1], [2, 3]] and labels.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("length", [1, 3, 32, 1000])
def test_every_token_is_predicted_once(bytepieces, held, length):
    ids, labels = causal_rows(bytepieces, held, length)
    whole = chain(bytepieces, held, bytepieces.eos_token_id)
    assert labels[labels != -100].tolist() == whole.tolist()
    assert ids[0, 0] == bytepieces.eos_token_id


def test_token_scores_are_transformers_losses(bert, gpt2, wordpieces, bytepieces, held):
    ids, labels = masked_rows(wordpieces, held, 32)
    nats, right = token_scores(bert, ids[:5], labels[:5])
    out = bert(input_ids=ids[:5], labels=labels[:5])
    chosen = labels[:5] != -100
    torch.testing.assert_close(nats.mean(), out.loss)
    assert torch.equal(right, out.logits.argmax(-1)[chosen] == labels[:5][chosen])

    ids = causal_rows(bytepieces, held, 32)[0][:5]
    nats, right = token_scores(gpt2, ids, next_tokens(ids))
    out = gpt2(input_ids=ids, labels=ids)
    torch.testing.assert_close(nats.mean(), out.loss)
    assert torch.equal(right.view(5, 31), out.logits.argmax(-1)[:, :-1] == ids[:, 1:])


def test_token_scores_have_gradients_in_every_weight(bert, gpt2, wordpieces, bytepieces, held):
    token_scores(bert, *masked_rows(wordpieces, held, 32))[0].mean().backward()
    token_scores(gpt2, *causal_rows(bytepieces, held, 32))[0].mean().backward()
    for model in (bert, gpt2):
        assert all(p.grad is not None for p in model.parameters())


def test_evaluate_a_causal_model_naively(gpt2, bytepieces, held):
    """Token by token: each from the tokens of its window before it; bytes of the texts as they are."""
    length, texts = 8, held[:2]
    whole = [0, *chain(bytepieces, texts, 0).tolist()]
    nats, hits = [], 0
    for start in range(0, len(whole) - 1, length):
        for place in range(start, min(start + length, len(whole) - 1)):
            with torch.no_grad():
                logits = gpt2(torch.tensor([whole[start : place + 1]])).logits[0, -1]
            nats.append(-F.log_softmax(logits, -1)[whole[place + 1]].item())
            hits += logits.argmax().item() == whole[place + 1]
    found = evaluate(gpt2, bytepieces, texts, length=length)
    n_bytes = sum(len(t.encode("utf-8")) for t in texts)
    assert found.tokens == len(nats) == len(whole) - 1
    assert found.nats == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert found.accuracy == hits / len(nats)
    assert found.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / n_bytes, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.nats))


def test_a_model_that_knows_nothing(gpt2, bert, bytepieces, wordpieces):
    """Equal logits: ln V nats, perplexity V, and log2(V) bits for each token and end token."""
    text = "größer"  # 8 bytes
    with torch.no_grad():
        gpt2.lm_head.weight.zero_()
        bert.cls.predictions.decoder.weight.zero_()
    found = evaluate(gpt2, bytepieces, [text], length=32)
    n = len(bytepieces(text)["input_ids"]) + 1
    assert found.tokens == n
    assert found.perplexity == pytest.approx(400, rel=1e-4)
    assert found.bits_per_byte == pytest.approx(n * math.log2(400) / 8, rel=1e-5)
    assert evaluate(bert, wordpieces, ["a model " * 100], length=32).perplexity == pytest.approx(
        400, rel=1e-4
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_batches_limits_and_the_model_itself(kind, request, held):
    model = request.getfixturevalue(kind).train()
    tokenizer = request.getfixturevalue("wordpieces" if kind == "bert" else "bytepieces")
    next(m for m in model.modules() if isinstance(m, nn.LayerNorm)).eval()  # a frozen part stays frozen
    modes = [m.training for m in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    whole = evaluate(model, tokenizer, held, length=32)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"
    assert [m.training for m in model.modules()] == modes and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (whole.bits_per_byte is None) == (kind == "bert")
    for batch_size in (1, 7):
        other = evaluate(model, tokenizer, held, length=32, batch_size=batch_size)
        assert (other.tokens, other.accuracy) == (whole.tokens, pytest.approx(whole.accuracy, abs=2e-3))
        assert other.nats == pytest.approx(whole.nats, rel=1e-5)
    part = evaluate(model, tokenizer, held, length=32, limit=5)
    assert part.bits_per_byte is None and part.tokens < whole.tokens / 2
    other_seed = evaluate(model, tokenizer, held, length=32, seed=1)
    assert (other_seed == whole) == (kind == "gpt2")


def test_perplexity_is_of_the_mean():
    assert Evaluation(math.log(7.0), 0.5, 3).perplexity == pytest.approx(7.0)


def test_distilberts_head_is_not_apart(wordpieces, held):
    """A model whose output layer is none of the two is run whole: DistilBERT, the chapter's student."""
    model = models.build(
        "distilbert-base-uncased",
        head="masked-lm",
        vocab_size=400,
        dim=32,
        n_heads=2,
        n_layers=1,
        hidden_dim=64,
        max_position_embeddings=32,
    )
    ids, labels = masked_rows(wordpieces, held, 32)
    nats, _ = token_scores(model, ids[:5], labels[:5])
    torch.testing.assert_close(nats.mean(), model(input_ids=ids[:5], labels=labels[:5]).loss)
    assert evaluate(model, wordpieces, held, length=32).tokens == (labels != -100).sum()
