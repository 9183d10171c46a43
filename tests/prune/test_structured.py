"""Structured removal: a pruned model computes what the same model computes with the groups masked."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from refimpl import calibration, checkpoint, modules
from refimpl.prune import (
    ATTENTION,
    FEED_FORWARD,
    Heads,
    Layout,
    Magnitude,
    Neurons,
    find_blocks,
    group_scores,
    prune_,
)
from tests.contracts import models


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))  # biases that are not zero
    return model


SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def distilbert():
    return DistilBertModel(
        DistilBertConfig(
            vocab_size=61, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=32
        )
    )


def roberta():
    return RobertaModel(RobertaConfig(**SMALL, intermediate_size=48, max_position_embeddings=40))


def llama():
    return LlamaForCausalLM(LlamaConfig(**SMALL, intermediate_size=48, max_position_embeddings=32))


def opt():
    return OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=32, dropout=0.0)
    )


MAKERS = {**models.MAKERS, "distilbert": distilbert, "roberta": roberta, "llama": llama, "opt": opt}
NEURONS = ["bert", "gpt2", "distilbert", "roberta", "llama", "opt"]
HEADS = ["bert", "gpt2", "distilbert", "roberta"]


def make(name, implementation="sdpa"):
    model = seeded(MAKERS[name])
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(implementation)
    return model


@torch.no_grad()
def masked(model, blocks, removed):
    """The same model with the columns of the removed groups set to zero: shapes stay."""
    twin = copy.deepcopy(model)
    for name, groups in removed.items():
        width = blocks[name].width
        for g in groups:
            modules.weight_of(modules.get(twin, name))[:, g * width : (g + 1) * width] = 0
    return twin


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_removed_equal_neurons_masked(name):
    model = make(name)
    blocks = find_blocks(model, FEED_FORWARD)
    assert [b.groups for b in blocks.values()] == [48, 48] if name != "gpt2" else [128, 128]
    first, second = blocks
    removed = {first: [0, 5, 47], second: list(range(1, 40))}
    expected = models.run(masked(model, blocks, removed))
    parameters = modules.parameters_once(model)
    prune_(model, Neurons(remove=removed))
    torch.testing.assert_close(models.run(model), expected, rtol=1e-5, atol=1e-5)
    assert modules.features(modules.get(model, first))[0] == blocks[first].groups - 3
    gone = len(removed[first]) + len(removed[second])
    inner = len(blocks[first].inner)
    bias = modules.get(model, blocks[first].inner[0]).bias is not None
    assert parameters - modules.parameters_once(model) == gone * (inner * (32 + bias) + 32)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_removed_equal_heads_masked(name, implementation, tmp_path):
    """Each layer another number of heads; and the checkpoint brings them back."""
    model = make(name, implementation)
    blocks = find_blocks(model, ATTENTION)
    assert [(b.groups, b.width) for b in blocks.values()] == [(4, 8), (4, 8)]
    first, second = blocks
    expected = models.run(masked(model, blocks, {first: [2], second: [0, 1, 3]}))
    parameters = modules.parameters_once(model)
    prune_(model, Heads(remove={0: [2], second: [3, 0, 1]}))
    torch.testing.assert_close(models.run(model), expected, rtol=1e-5, atol=1e-5)
    assert parameters - modules.parameters_once(model) == 4 * (3 * 8 * 33 + 8 * 32)
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    assert torch.equal(models.run(again), models.run(model))
    assert [b.groups for b in find_blocks(again, ATTENTION).values()] == [3, 1]


def attributes(model, suffix, *names):
    module = next(m for n, m in model.named_modules() if n.endswith(suffix))
    return tuple(getattr(module, name) for name in names)


def test_integer_attributes_follow():
    bert = prune_(make("bert"), Heads(keep=3))
    assert attributes(bert, "attention.self", "num_attention_heads", "all_head_size") == (3, 24)
    distil = prune_(make("distilbert"), Heads(keep=1))
    assert attributes(distil, "attention", "n_heads", "dim") == (1, 8)
    gpt2 = prune_(make("gpt2"), Heads(keep=2))
    assert attributes(gpt2, "attn", "num_heads", "split_size", "head_dim") == (2, 16, 8)
    assert modules.steps_of(bert)[0]["attributes"]["encoder.layer.1.attention.self"] == {
        "num_attention_heads": 3,
        "all_head_size": 24,
    }


def test_gpt2_generates_with_its_cache_as_without():
    model = prune_(make("gpt2"), Heads(remove={0: [1], 1: [0, 2, 3]}))
    prune_(model, Neurons(0.4))
    ids = models.batch()["input_ids"][:1, :4]
    texts = [
        model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=cache, pad_token_id=0)
        for cache in (True, False)
    ]
    assert texts[0].shape == (1, 16)
    assert torch.equal(*texts)


@pytest.mark.parametrize(
    ("config", "heads"), [(Heads(0.5), [2, 2]), (Heads(0.99), [1, 1]), (Heads(0.0), [4, 4])]
)
def test_exact_numbers_of_heads(config, heads):
    model = prune_(make("bert"), config)
    assert [b.groups for b in find_blocks(model, ATTENTION).values()] == heads
    step = modules.steps_of(model)[0]
    assert list(step["kept"].values()) == heads
    assert len(step["layers"]) == (0 if heads == [4, 4] else 8)


def test_exact_numbers_of_neurons():
    assert modules.steps_of(prune_(make("bert"), Neurons(0.29)))[0]["kept"] == {
        f"encoder.layer.{i}.output.dense": 48 - 13 for i in (0, 1)
    }
    model = prune_(make("bert"), Neurons(keep=7), layers="encoder.layer.1.*")
    assert [b.groups for b in find_blocks(model).values()] == [48, 7]
    model = prune_(make("bert"), Neurons(keep=7), exclude="encoder.layer.1.*")
    assert [b.groups for b in find_blocks(model).values()] == [7, 48]


@pytest.mark.parametrize("score", ["weight", "output"])
def test_the_lowest_scores_leave_in_each_layer(score):
    model, batch = make("gpt2"), models.batch()
    stats = calibration.calibrate(model, [batch])
    blocks = find_blocks(model, ATTENTION)
    scores = {n: group_scores(model, b, score, stats) for n, b in blocks.items()}
    removed = {n: s.argsort()[:2].tolist() for n, s in scores.items()}
    expected = models.run(masked(model, blocks, removed))
    prune_(model, Heads(0.5, score=score), stats=stats)
    torch.testing.assert_close(models.run(model), expected, rtol=1e-5, atol=1e-5)


def test_global_scope_lets_layers_compete_but_keeps_one_each():
    model = make("bert")
    blocks = find_blocks(model)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.mul_(0.01)
    scores = {n: group_scores(model, b) for n, b in blocks.items()}
    assert max(scores["encoder.layer.0.output.dense"]) < min(scores["encoder.layer.1.output.dense"])
    prune_(model, Neurons(0.6, scope="global"))  # ⌊.6 · 96⌋ = 57 = 47 of the weak layer and 10 of the other
    assert [b.groups for b in find_blocks(model).values()] == [1, 38]
    best = int(scores["encoder.layer.0.output.dense"].argmax())
    original = make("bert").encoder.layer[0].intermediate.dense.weight[best]
    assert torch.equal(model.encoder.layer[0].intermediate.dense.weight[0], original)
    with pytest.raises(ValueError, match="95 of 96; takes at most 94"):
        prune_(make("bert"), Neurons(0.99, scope="global"))
    last = prune_(make("bert"), Neurons(94.5 / 96, scope="global"))
    assert [b.groups for b in find_blocks(last).values()] == [1, 1]


def test_weight_scores_of_attention_are_of_value_and_output(tiny_bert, tiny_gpt2):
    """Query and key weight positions; only value and output carry a magnitude."""
    block = find_blocks(tiny_bert, ATTENTION)["encoder.layer.0.attention.output.dense"]
    attention = tiny_bert.encoder.layer[0].attention
    value, out = attention.self.value.weight, attention.output.dense.weight
    want = value.reshape(4, -1).norm(dim=1) * out.reshape(32, 4, 8).transpose(0, 1).reshape(4, -1).norm(dim=1)
    torch.testing.assert_close(group_scores(tiny_bert, block), want.detach())
    block = find_blocks(tiny_gpt2, ATTENTION)["transformer.h.0.attn.c_proj"]
    attention = tiny_gpt2.transformer.h[0].attn
    value, out = attention.c_attn.weight.T[64:], attention.c_proj.weight.T
    want = value.reshape(4, -1).norm(dim=1) * out.reshape(32, 4, 8).transpose(0, 1).reshape(4, -1).norm(dim=1)
    torch.testing.assert_close(group_scores(tiny_gpt2, block), want.detach())


def test_weight_scores_of_neurons_take_every_inner_layer():
    model = make("llama")
    name, block = next(iter(find_blocks(model).items()))
    mlp = model.model.layers[0].mlp
    want = (
        mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
    )
    torch.testing.assert_close(group_scores(model, block), want.detach())
    assert name == "model.layers.0.mlp.down_proj"


def test_output_scores_from_norms_and_from_gram_agree():
    model, batch = make("bert"), models.batch()
    grams, norms = (calibration.calibrate(model, [batch], collect=(c,)) for c in ("gram", "norm"))
    name, block = next(iter(find_blocks(model).items()))
    a, b = (group_scores(model, block, "output", s) for s in (grams, norms))
    torch.testing.assert_close(a, b)
    head = next(iter(find_blocks(model, ATTENTION).values()))
    with pytest.raises(ValueError, match="without 'gram'"):
        group_scores(model, head, "output", norms)
    with pytest.raises(ValueError, match="without 'norm' or 'gram'"):
        group_scores(model, block, "output", calibration.calibrate(model, [batch], collect=("range",)))
    with pytest.raises(ValueError, match=f"stats: got none for '{name}'"):
        group_scores(model, block, "output")


def test_a_sequential_has_neurons_between_its_linear_layers():
    model = seeded(
        lambda: nn.Sequential(
            nn.Linear(8, 16),
            nn.GELU(),
            nn.Dropout(),
            nn.Linear(16, 12, bias=False),
            nn.LayerNorm(12),
            nn.Linear(12, 4),
        )
    )
    assert list(find_blocks(model)) == ["3"], "a normalisation mixes features, so it ends a block"
    x = torch.randn(5, 8)
    blocks = find_blocks(model)
    expected = masked(model, blocks, {"3": [1, 15]})(x)
    prune_(model, Neurons(remove={0: [15, 1]}))
    torch.testing.assert_close(model(x), expected)
    assert modules.features(model[0]) == (8, 14)
    chain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    assert [(n, b.inner, b.groups) for n, b in find_blocks(chain).items()] == [
        ("2", ("0",), 6),
        ("4", ("2",), 5),
    ]
    with pytest.raises(ValueError, match="none of 3 layouts"):
        find_blocks(chain, ATTENTION)


def test_ones_own_layout():
    model = models.make("mlp")
    with pytest.raises(ValueError, match="TinyMLP, in which none"):
        prune_(model, Neurons(0.5))
    blocks = find_blocks(model, [Layout(("up",), "down")])
    expected = models.run(masked(model, blocks, {"down": [3]}))
    prune_(model, Neurons(remove={"down": [3]}, layouts=(Layout(("up",), "down"),)))
    torch.testing.assert_close(models.run(model), expected)


def test_dtype_mode_and_frozen_weights_stay():
    model = make("bert").bfloat16().train()
    model.encoder.layer[0].output.dense.requires_grad_(False)
    prune_(model, Neurons(0.5))
    layer = model.encoder.layer[0].output.dense
    assert layer.weight.dtype == torch.bfloat16
    assert layer.training
    assert not layer.weight.requires_grad
    assert model.encoder.layer[1].output.dense.weight.requires_grad


def test_steps_add_up(tmp_path):
    """Heads, then neurons, then magnitude, then heads again: one history, one checkpoint."""
    model = make("gpt2")
    for config in (Heads(0.25), Neurons(keep=50), Magnitude(0.5), Heads(remove={0: [0]})):
        prune_(model, config)
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    assert [s["method"] for s in modules.steps_of(again)] == [
        "prune.Heads",
        "prune.Neurons",
        "prune.Magnitude",
        "prune.Heads",
    ]
    assert torch.equal(models.run(again), models.run(model))
    assert modules.steps_of(again)[3]["config"] == {
        "sparsity": None,
        "keep": None,
        "remove": {"0": [0]},
        "scope": "layer",
        "score": "weight",
    }


def test_a_pruned_model_learns():
    model = prune_(make("bert"), Neurons(0.5)).train()
    models.output(model(**models.batch())).square().mean().backward()
    assert float(model.encoder.layer[0].intermediate.dense.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Neurons(), "sparsity, keep, remove: got none"),
        (lambda: Neurons(0.5, keep=3), "got \\['sparsity', 'keep'\\]"),
        (lambda: Neurons(1.0), "sparsity: got 1.0"),
        (lambda: Neurons(-0.1), "sparsity: got -0.1"),
        (lambda: Heads(keep=0), "keep: got 0"),
        (lambda: Heads(keep=2, scope="global"), "scope: got 'global' without sparsity"),
        (lambda: Heads(0.5, scope="row"), "scope: got 'row'"),
        (lambda: Heads(0.5, score="taylor"), "score: got 'taylor'"),
        (lambda: prune_(make("bert"), Heads(keep=5)), "keep \\(encoder.*\\): got 5"),
        (lambda: prune_(make("bert"), Heads(remove={2: [0]})), "remove: got 2; takes 0 to 1"),
        (lambda: prune_(make("bert"), Heads(remove={-1: [0]})), "remove: got -1"),
        (lambda: prune_(make("bert"), Heads(remove={True: [0]})), "remove: got True"),
        (lambda: prune_(make("bert"), Heads(remove={"x": [0]})), "remove: got 'x'"),
        (lambda: prune_(make("bert"), Heads(remove={0: [4]})), "got 4; takes an integer from 0 to 3"),
        (lambda: prune_(make("bert"), Heads(remove={0: [-1]})), "got -1; takes an integer from 0 to 3"),
        (lambda: prune_(make("bert"), Heads(remove={0: [0, 1, 2, 3]})), "got all 4"),
        (
            lambda: prune_(
                make("bert"), Heads(remove={0: [0], "encoder.layer.0.attention.output.dense": [1]})
            ),
            "twice",
        ),
        (lambda: prune_(make("llama"), Heads(0.5)), "none of 3 layouts"),
        (lambda: prune_(make("bert"), Heads(0.5), layers="x*"), "include: got 'x"),
        (lambda: prune_(make("bert"), Heads(0.5), layers="pooler*"), "layers='pooler"),
        (lambda: prune_(make("bert"), Heads(0.5, score="output")), "stats: got none"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_remove_takes_a_mapping():
    with pytest.raises(TypeError, match="remove: got list"):
        Heads(remove=[1, 2])


def test_a_refusal_comes_before_any_change():
    """The second block asks for what is not there: the first is still whole."""
    model = make("bert")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="got 9"):
        prune_(model, Heads(remove={0: [1], 1: [9]}))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.encoder.layer[1].output.dense = nn.utils.parametrizations.weight_norm(
        model.encoder.layer[1].output.dense
    )
    with pytest.raises(ValueError, match="reparametrised"):
        prune_(model, Neurons(0.5))
    assert modules.features(model.encoder.layer[0].output.dense) == (48, 32)


@pytest.mark.parametrize("parameter", ["output.dense.weight", "output.dense.bias", "intermediate.dense.bias"])
def test_a_parameter_that_is_not_finite_is_refused_before_any_change(parameter):
    """Groups removed by number need no scores, which would have looked at it."""
    model = make("bert")
    with torch.no_grad():
        model.get_parameter(f"encoder.layer.1.{parameter}").view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=rf"encoder\.layer\.1\.{parameter}: got NaN"):
        prune_(model, Neurons(remove={0: [1], 1: [1]}))
    assert modules.features(model.encoder.layer[0].output.dense) == (48, 32)


def test_heads_two_wide_need_the_gram():
    """The norms of single features do not say what two of them add together."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(4, 12), nn.Linear(4, 4)
            self.num_heads, self.split_size = 2, 4

    model = Attention()
    block = find_blocks(model, ATTENTION)["c_proj"]
    stats = {"c_proj": calibration.LayerStats(count=3, sum_sq=torch.ones(4))}
    with pytest.raises(ValueError, match="got 'c_proj' without 'gram'; takes"):
        group_scores(model, block, "output", stats)
    stats["c_proj"].gram = torch.eye(4)
    want = model.c_proj.weight.detach().reshape(4, 2, 2).transpose(0, 1).reshape(2, -1).norm(dim=1)
    torch.testing.assert_close(group_scores(model, block, "output", stats), want)
