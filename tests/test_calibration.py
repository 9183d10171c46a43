"""calibration: what is collected equals what a naive pass collects, for exactly the real positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refimpl import calibration, modules
from tests.contracts import models

ALL = ("gram", "norm", "range")


def naive_inputs(model: nn.Module, batches: list[dict], name: str) -> torch.Tensor:
    """Rows seen by one layer, by the plainest means: a forward hook that keeps everything."""
    kept = []
    layer = modules.get(model, name)
    handle = layer.register_forward_hook(lambda m, args, out: kept.append(args[0].detach()))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    rows = []
    for x, batch in zip(kept, batches, strict=True):
        for b in range(x.shape[0]):
            for position in range(x.shape[1]):
                if batch["attention_mask"][b, position]:
                    rows.append(x[b, position])
    return torch.stack(rows)


def test_statistics_equal_the_naive_ones():
    model = models.make("bert")
    batches = [models.batch(), {k: v[:, :3] for k, v in models.batch().items()}]
    name = "encoder.layer.1.output.dense"
    x = naive_inputs(model, batches, name).double()
    seen = calibration.calibrate(model, batches, layers=name, collect=ALL)
    assert list(seen) == [name]
    s = seen[name]
    assert s.count == len(x) == 9 + 5 + 3 + 3
    assert s.gram.dtype == s.sum_sq.dtype == torch.float64
    torch.testing.assert_close(s.gram, x.T @ x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(s.norm, x.norm(dim=0), rtol=1e-6, atol=1e-9)
    assert torch.equal(s.low.double(), x.amin(0)) and torch.equal(s.high.double(), x.amax(0))
    assert torch.equal(s.absmax.double(), x.abs().amax(0))
    assert s.grad_sq is None and s.passes == 0


@pytest.mark.parametrize("on", ["mlp", "gpt2"])
def test_squared_gradients_equal_autograd(on):
    model = models.make(on)
    batch = models.batch()
    name = "up" if on == "mlp" else "transformer.h.0.mlp.c_fc"

    def loss(output, _):
        return models.output(output).square().mean()

    expected = torch.zeros(modules.weight_of(modules.get(model, name)).shape)
    for scale in (1, 2):
        model.zero_grad()
        (scale * loss(model(**batch), None)).backward()
        layer = modules.get(model, name)
        gradient = layer.weight.grad if on == "mlp" else layer.weight.grad.T
        expected += gradient**2
    model.zero_grad()
    counter = iter((1, 2))
    seen = calibration.calibrate(
        model, [batch, batch], layers=name, collect=("grad_sq",), loss=lambda o, b: next(counter) * loss(o, b)
    )[name]
    torch.testing.assert_close(seen.grad_sq, expected)
    assert seen.passes == 2 and seen.count == 28
    assert all(p.grad is None for p in model.parameters())


def test_the_models_own_loss_is_used_and_gradients_come_back():
    model = models.make("gpt2")
    kept = torch.ones_like(model.lm_head.weight)
    model.lm_head.weight.grad = kept
    seen = calibration.calibrate(
        model, [{**models.batch(), "labels": models.batch()["input_ids"]}], collect=("grad_sq",)
    )
    assert all(float(s.grad_sq.sum()) > 0 for s in seen.values())
    assert model.lm_head.weight.grad is kept
    assert model.transformer.h[0].mlp.c_fc.weight.grad is None


def test_record_counts_positions_left_of_a_cache():
    """While decoding, the mask covers past and present; only the present rows are this call's input."""
    model = models.make("gpt2")
    ids, mask = models.batch()["input_ids"], models.batch()["attention_mask"].flip(1)
    with torch.no_grad():
        past = model(input_ids=ids[:, :6], attention_mask=mask[:, :6], use_cache=True).past_key_values
        with calibration.record(model, "transformer.h.0.mlp.c_fc", ("norm",)) as stats:
            model(input_ids=ids[:, 6:], attention_mask=mask, past_key_values=past)
    assert stats["transformer.h.0.mlp.c_fc"].count == int(mask[:, 6:].sum())


def test_a_layer_with_one_row_a_sequence_counts_sequences():
    seen = calibration.calibrate(models.make("bert"), [models.batch()], collect=("norm",))
    assert seen["pooler.dense"].count == 2


def test_flattened_positions_are_masked():
    """Some models flatten [B, L, D] to [B·L, D] before a layer."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, attention_mask=None):
            return self.layer(x.reshape(-1, 3))

    x, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    seen = calibration.calibrate(Flat(), [{"x": x, "attention_mask": mask}], collect=("gram",))["layer"]
    rows = x[mask.bool()].double()
    torch.testing.assert_close(seen.gram, rows.T @ rows, rtol=1e-5, atol=1e-6)
    for wrong in (torch.ones(2, 3), torch.ones(2, 2, 2)):
        with pytest.raises(ValueError, match="mask: got shape"):
            calibration.calibrate(Flat(), [{"x": x, "attention_mask": wrong}])


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "mapping"])
def test_batches_in_every_form(form):
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(5, 3)
    batch = {"tensor": x, "tuple": (x,), "list": [x], "mapping": {"input": x}}[form]
    assert calibration.calibrate(model, [batch], collect=("norm",))["0"].count == 5


def test_keyword_inputs_and_no_mask():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(input=x)

    with torch.no_grad(), calibration.record(model := Keyword(), collect=("norm",)) as stats:
        model(torch.randn(2, 5, 3))
    assert stats["layer"].count == 10


def test_hooks_are_removed_when_the_body_fails():
    model = models.make("bert")
    with pytest.raises(RuntimeError, match="mine"), calibration.record(model, collect=("gram", "grad_sq")):
        model(**models.batch())
        raise RuntimeError("mine")
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
    model(**models.batch()).last_hidden_state.sum().backward()
    assert model.encoder.layer[0].output.dense.weight.grad is not None  # no hook clears it any more


def test_nan_is_refused_and_names_the_layer():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match="0 saw NaN or infinite values"):
        calibration.calibrate(model, [torch.full((2, 3), torch.nan)])
    with pytest.raises(ValueError, match="no data"):
        calibration.calibrate(model, [torch.zeros(0, 3)])


def test_mode_comes_back_after_an_error():
    model = models.make("bert").train()
    with pytest.raises(ValueError):
        calibration.calibrate(model, [{"wrong": torch.ones(1)}])
    assert all(m.training for m in model.modules())


def test_calibrate_runs_in_evaluation_mode_without_gradients():
    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            assert not self.training and not torch.is_grad_enabled()
            return self.layer(x)

    calibration.calibrate(Spy().train(), [torch.randn(2, 3)])


@pytest.mark.parametrize(("asked", "property_"), [("gram", "norm"), ("gram", "absmax")])
def test_what_was_not_collected_says_so(asked, property_):
    stats = calibration.calibrate(nn.Sequential(nn.Linear(3, 2)), [torch.ones(2, 3)], collect=(asked,))["0"]
    with pytest.raises(ValueError, match=f"{property_}: was not collected"):
        getattr(stats, property_)


def test_a_batch_of_no_rows_or_of_one():
    """Nothing is added by the first; all of the second."""
    model, x = nn.Sequential(nn.Linear(3, 2)), torch.randn(5, 3)
    whole = calibration.calibrate(model, [x], collect=ALL)["0"]
    parts = calibration.calibrate(model, [x[:0], x[:1], x[1:]], collect=ALL)["0"]
    assert parts.count == 5
    for name in ("gram", "sum_sq", "low", "high"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_absmax_needs_both_ends():
    for half in ({"low": torch.zeros(2)}, {"high": torch.zeros(2)}):
        with pytest.raises(ValueError, match="absmax: was not collected"):
            _ = calibration.LayerStats(**half).absmax
    both = calibration.LayerStats(low=torch.tensor([-3.0, 1.0]), high=torch.tensor([2.0, 4.0]))
    assert both.absmax.tolist() == [3.0, 4.0]


def test_frozen_weights_have_inputs_but_no_gradients():
    model = nn.Sequential(nn.Linear(3, 2)).requires_grad_(False)
    assert calibration.calibrate(model, [torch.ones(2, 3)])["0"].count == 2
    with pytest.raises(ValueError, match=r"collect: got 'grad_sq' for frozen layers \['0'\]"):
        calibration.calibrate(model, [torch.ones(2, 3)], collect=("grad_sq",))
