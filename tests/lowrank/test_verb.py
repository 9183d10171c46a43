"""factorize_: the product it replaces, the ranks it was asked for, and never a larger layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from refimpl import checkpoint, modules
from refimpl.lowrank import LowRankLinear, TruncatedSVD, factorize_, rank_for_keep, truncated_svd
from tests.contracts import models
from tests.contracts.registry import randn


def test_rank_is_the_same_everywhere():
    model = factorize_(models.make("bert"), TruncatedSVD(rank=5), layers="encoder.*")
    thin = [m for m in model.modules() if isinstance(m, LowRankLinear)]
    assert len(thin) == 12 and {m.rank for m in thin} == {5}
    assert isinstance(model.pooler.dense, nn.Linear)


@pytest.mark.parametrize("on", ["bert", "gpt2", "mlp"])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_keep_is_of_the_weight_entries(on, keep):
    before = models.make(on)
    model = factorize_(copy.deepcopy(before), TruncatedSVD(keep=keep))
    for name, layer in modules.linear_layers(before).items():
        n, m = modules.features(layer)
        thin = modules.get(model, name)
        assert thin.rank == rank_for_keep(m, n, keep)
        wanted = truncated_svd(modules.weight_of(layer), thin.rank).matrix()
        torch.testing.assert_close(thin.weight, wanted, rtol=1e-4, atol=1e-5)
    assert modules.parameters_once(model) < modules.parameters_once(before)


def test_randomised_is_passed_on():
    model = models.make("mlp")
    thin = factorize_(copy.deepcopy(model), TruncatedSVD(rank=6, method="randomized"))
    wanted = truncated_svd(model.up.weight, 6, "randomized").matrix()
    torch.testing.assert_close(thin.up.weight, wanted)
    assert modules.steps_of(thin)[0]["config"]["method"] == "randomized"


def test_energy_is_kept_and_layers_that_would_grow_are_left_alone():
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    with torch.no_grad():
        model[0].weight.copy_(randn(20, 2) @ randn(2, 20, seed=1) + 0.01 * randn(20, 20, seed=2))
        model[1].weight.copy_(torch.eye(20))  # needs 18 of 20 directions for 90 %: more than break-even
    whole = model[0].weight.detach().clone()
    factorize_(model, TruncatedSVD(energy=0.9))
    assert isinstance(model[1], nn.Linear) and isinstance(model[0], LowRankLinear)
    kept = model[0].weight.detach().norm() ** 2 / whole.norm() ** 2
    assert 0.9 <= float(kept) <= 1 and model[0].rank <= 2
    wanted = truncated_svd(whole, model[0].rank).matrix()
    torch.testing.assert_close(model[0].weight, wanted, rtol=1e-4, atol=1e-4)
    assert modules.steps_of(model) == [
        {
            "method": "lowrank.TruncatedSVD",
            "config": {"rank": None, "energy": 0.9, "keep": None, "method": "exact"},
            "layers": {"0": {"class": "refimpl.lowrank.LowRankLinear", "args": {"rank": model[0].rank}}},
            "left_alone": {"1": 18},
        }
    ]


def test_energy_of_exactly_the_break_even_rank_is_taken():
    """4 x 4: break-even rank 1. One direction is replaced; two are not."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(torch.tensor([2.0, 0, 0, 0])))
        model[1].weight.copy_(torch.diag(torch.tensor([2.0, 2.0, 0, 0])))
    factorize_(model, TruncatedSVD(energy=1.0))
    assert model[0].rank == 1 and isinstance(model[1], nn.Linear)


def test_the_largest_rank_that_saves_is_taken_and_the_next_refused():
    model = nn.Sequential(nn.Linear(20, 30))  # 600 entries: rank 11 has 550, rank 12 exactly 600
    assert factorize_(copy.deepcopy(model), TruncatedSVD(rank=11))[0].rank == 11
    with pytest.raises(ValueError, match=r"rank: got 12 for 0 \(30 x 20\), rank 12; takes .* from 1 to 11"):
        factorize_(model, TruncatedSVD(rank=12))
    assert isinstance(model[0], nn.Linear)


def test_a_refusal_for_the_last_layer_leaves_the_first():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="for 1 .4 x 4"):
        factorize_(model, TruncatedSVD(rank=5))
    with pytest.raises(ValueError, match="keep: got 0.4 for 1 .4 x 4., rank 0"):
        factorize_(model, TruncatedSVD(keep=0.4))
    assert isinstance(model[0], nn.Linear) and modules.steps_of(model) == []


def test_tied_layers_only_after_untying(tmp_path):
    model = models.make("gpt2")
    with pytest.raises(ValueError, match=r"lm_head', which is tied; takes it after modules.untie_"):
        factorize_(model, TruncatedSVD(rank=4), layers="lm_head")
    assert (
        "lm_head" not in modules.steps_of(factorize_(copy.deepcopy(model), TruncatedSVD(rank=4)))[0]["layers"]
    )
    modules.untie_(model, "lm_head.weight")
    factorize_(model, TruncatedSVD(rank=4), layers="lm_head")
    assert model.lm_head.rank == 4 and model.lm_head.up.bias is None
    checkpoint.save(model, tmp_path)
    assert torch.equal(models.run(checkpoint.load(tmp_path)), models.run(model))


def test_a_second_call_takes_only_what_is_left():
    model = factorize_(models.make("mlp"), TruncatedSVD(rank=3), layers="up")
    first = model.up
    factorize_(model, TruncatedSVD(rank=2))
    assert model.up is first and model.down.rank == 2
    with pytest.raises(ValueError, match="factorised already"):
        factorize_(model, TruncatedSVD(rank=1))


def test_a_reparametrised_weight_is_refused():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(9, 9)))
    with pytest.raises(ValueError, match=r"0.weight: got a reparametrised weight"):
        factorize_(model, TruncatedSVD(rank=1))


def test_gradients_reach_both_factors():
    model = factorize_(models.make("mlp"), TruncatedSVD(keep=0.5))
    models.output(model(**models.batch())).square().sum().backward()
    for layer in (model.up, model.down):
        assert float(layer.up.weight.grad.abs().sum()) > 0 and float(layer.down.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("config", [TruncatedSVD(rank=1), TruncatedSVD(keep=0.3)])
def test_a_single_rank_is_enough(config):
    """10 x 10 at .3: 30 numbers pay for one rank of 20."""
    model = factorize_(nn.Sequential(nn.Linear(10, 10)), config)
    assert model[0].rank == 1


@pytest.mark.parametrize(
    ("weight", "exception", "message"),
    [
        (torch.full((4, 4), torch.nan), ValueError, r"1\.weight: got NaN"),
        (torch.ones(4, 4, dtype=torch.int32), TypeError, r"1\.weight: got dtype torch.int32"),
    ],
)
def test_a_refused_weight_is_named(weight, exception, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(exception, match=message):
        factorize_(model, TruncatedSVD(rank=1))
