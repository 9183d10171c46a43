"""What models write, against loops that run one text at a time, without cache, padding or batches."""

import itertools

import pytest
import torch
from transformers import GenerationConfig

from refimpl.distill import generate_targets
from tests.contracts import models
from tests.distill.train_small import lm

PROMPTS = [[3, 14, 15], [9], [2, 6, 5, 3]]


def padded(prompts, side="right", pad=7):
    """The padding is a token like others: only the mask says that it is none."""
    longest = max(map(len, prompts))
    ids, mask = [], []
    for p in prompts:
        fill = longest - len(p)
        row, real = [*p, *[pad] * fill], [1] * len(p) + [0] * fill
        ids.append(row if side == "right" else row[len(p) :] + row[: len(p)])
        mask.append(real if side == "right" else real[::-1])
    return torch.tensor(ids), torch.tensor(mask)


def unpacked(batch):
    """The real tokens and the labels of each row."""
    found = []
    for ids, mask, labels in zip(*(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True):
        keep = mask.bool()
        assert keep.sum() == keep.long().cumprod(0).sum()  # padded on the right
        assert bool((labels[~keep] == -100).all())
        found.append((ids[keep].tolist(), labels[keep].tolist()))
    return found


def next_logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0, -1]


def greedy(model, prompt, steps, end=None):
    written = []
    while len(written) < steps and (not written or written[-1] != end):
        written.append(next_logits(model, prompt + written).argmax().item())
    return written


def wide(**changes):
    """Sharp enough that the likeliest token is no tie, and of more than 50 tokens."""
    model = lm(4, vocab_size=97, **changes).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    return model


@pytest.mark.parametrize("side", ["left", "right"])
def test_greedy_is_the_likeliest_token_each_time(side):
    model = wide()
    ids, mask = padded(PROMPTS, side)
    found = unpacked(generate_targets(model, ids, mask, 5, eos_token_id=96))
    for prompt, (tokens, labels) in zip(PROMPTS, found, strict=True):
        written = greedy(model, prompt, 5)
        assert tokens == prompt + written
        assert labels == [-100] * len(prompt) + written
    plain = generate_targets(model, torch.tensor([PROMPTS[0]]), max_new_tokens=5, eos_token_id=96)
    assert unpacked(plain) == [found[0]]


def test_a_text_ends_with_its_end():
    """The end has a label, what comes after has none and is masked; the model's own end is the default."""
    model = wide()
    ids, mask = padded(PROMPTS)
    end = greedy(model, PROMPTS[0], 5)[2]
    found = unpacked(generate_targets(model, ids, mask, 5, eos_token_id=end))
    lengths = []
    for prompt, (tokens, labels) in zip(PROMPTS, found, strict=True):
        written = greedy(model, prompt, 5, end)
        assert (tokens, labels) == (prompt + written, [-100] * len(prompt) + written)
        lengths.append(len(written))
    assert min(lengths) < 5
    model.generation_config.eos_token_id = [90, end]
    assert unpacked(generate_targets(model, ids, mask, 5)) == found


def test_a_beam_as_wide_as_the_tree_finds_the_likeliest_text():
    """All 5**3 texts of three tokens, scored one by one; greedy finds a worse one."""
    model = lm(3, vocab_size=5).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    model.generation_config.eos_token_id = None

    tree = list(itertools.product(range(5), repeat=3))

    def likeliest(prompt):
        rows = torch.tensor([[*prompt, *text] for text in tree])
        with torch.no_grad():
            log_p = model(input_ids=rows).logits.log_softmax(-1)
        start = len(prompt)
        scores = [sum(log_p[n, start - 1 + i, t].item() for i, t in enumerate(x)) for n, x in enumerate(tree)]
        return list(tree[max(range(125), key=scores.__getitem__)])

    prompts = [[1, 2], [3], [4, 4, 4], [2]]
    found = unpacked(generate_targets(model, *padded(prompts, pad=1), 3, "beam", num_beams=25))
    better = 0
    for prompt, (tokens, _) in zip(prompts, found, strict=True):
        assert tokens == prompt + likeliest(prompt)
        better += likeliest(prompt) != greedy(model, prompt, 3)
    assert better


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_are_drawn_from_the_models_own_distribution(temperature):
    """The same draws from softmax(z / T): no top-k, whatever the model's settings say."""
    model = wide()
    model.generation_config = GenerationConfig(top_k=1, repetition_penalty=9.0, eos_token_id=0, min_length=9)
    settings = model.generation_config
    ids, mask = padded(PROMPTS)
    found = generate_targets(model, ids, mask, 6, "sample", temperature=temperature, seed=5, eos_token_id=96)
    assert model.generation_config is settings
    rows = [list(p) for p in PROMPTS]
    draw = torch.Generator().manual_seed(5)
    for _ in range(6):
        z = torch.stack([next_logits(model, row) for row in rows])
        drawn = torch.multinomial((z / temperature).softmax(-1), 1, generator=draw)
        rows = [[*row, int(t)] for row, t in zip(rows, drawn, strict=True)]
    assert [tokens for tokens, _ in unpacked(found)] == rows
    other = generate_targets(model, ids, mask, 6, "sample", seed=6, eos_token_id=96)
    assert not torch.equal(found["input_ids"], other["input_ids"])


def test_seeded_and_without_a_trace():
    model = lm(1, dropout=0.5).train()
    modes = [m.training for m in model.modules()]
    ids, mask = padded(PROMPTS)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = generate_targets(model, ids, mask, 8, "sample", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = generate_targets(model, ids, mask, 8, "sample", seed=3)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())


def test_the_batch_is_read_as_the_rows_are():
    """Padding on the right: the positions of a row are those it has alone, also where nobody tells them."""
    model = wide()
    batch = generate_targets(model, *padded(PROMPTS, "left"), 4, eos_token_id=96)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for row, (tokens, _) in enumerate(unpacked(batch)):
            alone = model(input_ids=torch.tensor([tokens])).logits[0]
            torch.testing.assert_close(logits[row, : len(tokens)], alone, rtol=1e-4, atol=1e-4)


def test_bad_prompts_are_refused():
    model = lm(1)
    ids, mask = padded(PROMPTS)
    for call, exception, message in (
        (lambda: generate_targets(models.make("mlp"), ids), TypeError, "model: got TinyMLP"),
        (lambda: generate_targets(model, ids[0]), ValueError, "input_ids: got 1 dim"),
        (lambda: generate_targets(model, ids.float()), ValueError, "input_ids: got torch.float32"),
        (lambda: generate_targets(model, ids[:, :0]), ValueError, "input_ids: got"),
        (lambda: generate_targets(model, ids, mask[:, :1]), ValueError, "attention_mask: got shape"),
        (lambda: generate_targets(model, ids, mask * 0), ValueError, "attention_mask: got a row"),
        (lambda: generate_targets(model, ids, mask, 13), ValueError, "takes at most 12"),
        (lambda: generate_targets(model, ids, mask, 0), ValueError, "max_new_tokens: got 0"),
        (lambda: generate_targets(model, ids, mask, 2, "best"), ValueError, "method: got 'best'"),
        (lambda: generate_targets(model, ids, mask, 2, num_beams=1), ValueError, "num_beams: got 1"),
        (lambda: generate_targets(model, ids, mask, 2, temperature=0), ValueError, "temperature: got 0"),
        (lambda: generate_targets(model, ids, mask, 2, seed=-1), ValueError, "seed: got -1"),
    ):
        with pytest.raises(exception, match=message):
            call()
