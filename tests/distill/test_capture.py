"""Capture: what comes out is what the model computed, for every implementation, and nothing stays behind."""

import pytest
import torch
from torch import nn

from refimpl import modules
from refimpl.distill import attention_loss, capture, hidden_loss, make_student, relation_loss
from tests.contracts import models
from tests.prune.test_structured import make

FAMILIES = ["bert", "gpt2", "distilbert", "roberta"]
BATCH = models.batch()
REAL = BATCH["attention_mask"].bool()


def hooks(model):
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]


def warm(name, implementation="sdpa"):
    """Transformers installs hooks of its own, for good, at the first request for hidden states or attentions."""
    model = make(name, implementation)
    with torch.no_grad():
        model(**BATCH, output_hidden_states=True)
    return model


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_hidden_states_and_probabilities_are_transformers_own(name, implementation):
    model = warm(name, implementation)
    before = hooks(model)
    with torch.no_grad():
        eager = make(name, "eager")(**BATCH, output_hidden_states=True, output_attentions=True)
        with capture(model, [0, -1], hidden_states=True, attentions="probabilities") as seen:
            model(**BATCH)
    assert len(seen.hidden_states) == 3 and list(seen.attentions) == [0, -1]
    torch.testing.assert_close(seen.hidden_states, eager.hidden_states)
    for index in (0, -1):
        torch.testing.assert_close(seen.attentions[index], eager.attentions[index])
    assert model.config._attn_implementation == implementation and hooks(model) == before
    assert model(**BATCH).get("attentions") is None, "the next call is an ordinary one again"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_softmax_of_the_scores_is_what_eager_attention_returns(name, implementation):
    """Without switching anything; a mask and, for a causal model, the triangle are the reader's to add."""
    model = make(name, implementation)
    before = hooks(model)
    with torch.no_grad():
        with capture(model, attentions="scores") as seen:
            model(**BATCH)
        eager = make(name, "eager")(**BATCH, output_attentions=True).attentions
    assert hooks(model) == before and list(seen.attentions) == [0, 1] and not seen.queries
    allowed = REAL[:, None, None].expand(2, 1, 9, 9).clone()
    if name == "gpt2":
        allowed &= torch.ones(9, 9).tril().bool()
    for index, scores in seen.attentions.items():
        ours = scores.masked_fill(~allowed, -torch.inf).softmax(-1).transpose(1, 2)[REAL]
        torch.testing.assert_close(ours, eager[index].transpose(1, 2)[REAL])


@pytest.mark.parametrize("name", FAMILIES)
def test_queries_keys_and_values_are_the_projections_of_the_layers_input(name):
    model = make(name)
    with torch.no_grad(), capture(model, [1], queries_keys_values=True) as seen:
        hidden = model(**BATCH, output_hidden_states=True).hidden_states[1]
        if name == "gpt2":
            layer = model.transformer.h[1]
            fused = layer.ln_1(hidden) @ layer.attn.c_attn.weight + layer.attn.c_attn.bias
            expected = [fused[..., :32], fused[..., 32:64], fused[..., 64:]]
        elif name == "distilbert":
            attention = model.transformer.layer[1].attention
            expected = [attention.q_lin(hidden), attention.k_lin(hidden), attention.v_lin(hidden)]
        else:
            attention = model.encoder.layer[1].attention.self
            expected = [attention.query(hidden), attention.key(hidden), attention.value(hidden)]
    # the record is of the last call: these calls of single layers have overwritten what the model gave
    with torch.no_grad(), capture(model, [1], queries_keys_values=True) as seen:
        model(**BATCH)
    for found, wanted in zip((seen.queries, seen.keys, seen.values), expected, strict=True):
        assert list(found) == [1]
        torch.testing.assert_close(found[1], wanted)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_custom_scaling_is_the_models_own(name):
    model = make(name, "eager")
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling = 0.77
    with torch.no_grad(), capture(model, [0], attentions="scores", queries_keys_values=True) as seen:
        model(**BATCH)
    q, k = (t[0].unflatten(-1, (4, 8)).transpose(1, 2) for t in (seen.queries, seen.keys))
    torch.testing.assert_close(seen.attentions[0], q @ k.transpose(-1, -2) * 0.77)


def test_outputs_of_any_module_by_name():
    model = models.make("mlp")
    with capture(model, modules=["up", "embed"]) as seen:
        model(**BATCH)
        first = seen.modules["up"]
        torch.testing.assert_close(first, model.up(seen.modules["embed"]))
        model(BATCH["input_ids"] * 0 + 1)
        assert not torch.equal(seen.modules["up"], first)
    assert first.requires_grad and not any(hooks(model))
    with capture(model, modules="down") as seen:
        out = model(**BATCH)
    assert torch.equal(seen.modules["down"], out)


def test_gradients_flow_into_the_student_through_all_that_is_captured():
    teacher = make("bert")
    student = make_student(teacher, [1])[0].train()
    with (
        torch.no_grad(),
        capture(teacher, [-1], hidden_states=True, attentions="scores", queries_keys_values=True) as t,
    ):
        teacher(**BATCH)
    with capture(student, [-1], hidden_states=True, attentions="scores", queries_keys_values=True) as s:
        student(**BATCH)
    for loss in (
        hidden_loss(s.hidden_states, t.hidden_states, {-1: -1}, REAL),
        attention_loss(s.attentions[-1], t.attentions[-1], REAL, from_scores=True),
        relation_loss(s.values[-1], t.values[-1], 8, REAL),
    ):
        student.zero_grad()
        loss.backward(retain_graph=True)
        assert student.embeddings.word_embeddings.weight.grad.any()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_gradient_checkpointing_changes_no_gradient(name):
    """Layers are computed again in the backward pass, with or without the hooks."""

    def gradients(checkpointing):
        model = make(name)
        for module in model.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        with capture(model, [-1], hidden_states=True, attentions="scores", queries_keys_values=True) as seen:
            model(**BATCH)
        loss = sum(x.square().mean() for x in (seen.values[-1], seen.attentions[-1], seen.hidden_states[1]))
        loss.backward()
        return {n: p.grad for n, p in model.named_parameters()}

    torch.testing.assert_close(gradients(True), gradients(False))


def test_a_graph_that_checkpointing_cuts_is_refused():
    """Otherwise a loss on the captured layers would silently train nothing."""
    model = make("bert").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with capture(model, attentions="scores"), pytest.raises(ValueError, match="use_reentrant"):
        model(**BATCH)
    with torch.no_grad(), capture(model, attentions="scores"):
        model(**BATCH)
    with capture(model.requires_grad_(False), attentions="scores"):
        model(**BATCH)


def test_an_error_inside_leaves_no_hook_and_the_old_implementation():
    model = warm("bert")
    before = hooks(model)
    for inside in (lambda: 1 / 0, lambda: model(torch.full((1, 2), 10_000))):
        with (
            pytest.raises((ZeroDivisionError, IndexError)),
            capture(model, attentions="probabilities", queries_keys_values=True, modules=["pooler"]),
        ):
            inside()
        assert hooks(model) == before and model.config._attn_implementation == "sdpa"


def test_a_refusal_leaves_no_hook_either():
    model = warm("bert")
    before = hooks(model)
    for options in ({"layers": [2]}, {"modules": ["nowhere"]}):
        with pytest.raises((ValueError, KeyError)), capture(model, attentions="scores", **options):
            pass
        assert hooks(model) == before
    with capture(model, [2], attentions="probabilities"), pytest.raises(ValueError, match="layers: got 2"):
        model(**BATCH)  # how many layers return probabilities shows in the output only
    assert hooks(model) == before and model.config._attn_implementation == "sdpa"


def test_probabilities_after_dropout_are_refused_and_scores_are_not():
    model = make("bert").train()
    with (
        pytest.raises(ValueError, match=r"training mode with {'attention_probs_dropout_prob': 0.1}"),
        capture(model, attentions="probabilities"),
    ):
        pass
    assert model.config._attn_implementation == "sdpa"
    with capture(model, attentions="scores") as seen:
        model(**BATCH)
    assert seen.attentions[1].shape == (2, 4, 9, 9)
    model.config.attention_probs_dropout_prob = 0.0
    with capture(model, attentions="probabilities"):
        pass


def test_a_model_that_cannot_be_switched_says_what_to_do(monkeypatch):
    model = make("bert")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", lambda self: False)
    with (
        pytest.raises(ValueError, match='takes a model loaded with attn_implementation="eager"'),
        capture(model, attentions="probabilities"),
    ):
        pass


def test_a_model_with_unknown_attention():
    model = make("llama")
    with pytest.raises(ValueError, match="none of 3 layouts"), capture(model, attentions="scores"):
        pass
    with torch.no_grad(), capture(model, hidden_states=True, attentions="probabilities") as seen:
        model(**BATCH)
    assert len(seen.attentions) == 2 and len(seen.hidden_states) == 3
    mixed = make("bert")
    modules.replace_(mixed, "encoder.layer.1.attention.self", nn.Identity())
    with capture(mixed, [0], attentions="scores"):
        pass
    with (
        pytest.raises(ValueError, match="layers: got 1, in which no attention"),
        capture(mixed, attentions="scores"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "exception", "message"),
    [
        ({}, ValueError, "got none; takes at least one"),
        ({"attentions": "maps"}, ValueError, "attentions: got 'maps'"),
        ({"layers": [], "attentions": "scores"}, ValueError, "layers: got none"),
        ({"layers": ["0"], "attentions": "scores"}, TypeError, "layers: got '0'"),
        (
            {"layers": [-3], "attentions": "scores"},
            ValueError,
            "layers: got -3; takes an integer from -2 to 1",
        ),
        ({"modules": ["encoder.layer.7"]}, KeyError, "name: got 'encoder.layer.7'"),
    ],
)
def test_bad_input(options, exception, message):
    with pytest.raises(exception, match=message), capture(make("bert"), **options):
        pass


def test_what_only_transformers_gives():
    model = models.make("mlp")
    for options in ({"hidden_states": True}, {"attentions": "probabilities"}):
        with (
            pytest.raises(TypeError, match="model: got TinyMLP; takes a model of transformers"),
            capture(model, **options),
        ):
            pass
    with pytest.raises(TypeError, match="model: got int"), capture(1, hidden_states=True):
        pass
    bert = make("bert")
    with capture(bert, hidden_states=True), pytest.raises(ValueError, match="return_dict=False"):
        bert(**BATCH, return_dict=False)
