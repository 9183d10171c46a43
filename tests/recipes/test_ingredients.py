"""refimpl.recipes: arms, students, ingredients and the task, on teachers of two layers and texts of a second."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import DistilBertForMaskedLM

from refimpl.recipes import ARMS, Arm, Study, compare_with_teacher, distil, evaluate, fine_tune
from refimpl.recipes import ingredients as ingredients_module
from refimpl.recipes import students as students_module
from refimpl.recipes import task as task_module
from refimpl.recipes.arms import losses_of, student_of
from refimpl.recipes.ingredients import compare, main
from refimpl.recipes.shapes import make_model
from tests.recipes.conftest import SMALL

release_module = importlib.import_module("refimpl.recipes.release")  # the package has a function of that name
STUDY = Study(steps=6, batch=4, length=32, peaks=(1e-3, 1e-2), seeds=2, held_blocks=6, examples=4)
FOUR = replace(SMALL, layers=4, dropout=0.0)


@pytest.fixture(params=["masked-lm", "causal-lm"])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def small_world(monkeypatch, training, held, wordpieces, bytepieces):
    """Teachers of four layers and few texts in place of the committed ones; nothing cached from test to test."""
    made = {}

    def load(kind):
        if kind not in made:
            tokenizer = wordpieces if kind == "masked-lm" else bytepieces
            torch.manual_seed(1)
            model = make_model(kind, tokenizer, FOUR).eval()
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(3)  # far from uniform outputs
            made[kind] = model, tokenizer
        return made[kind]

    monkeypatch.setattr(students_module, "load_teacher", load)
    monkeypatch.setattr(students_module, "corpus", lambda *_: training[:60])
    monkeypatch.setattr(students_module.texts, "held_out", lambda split="test": held)
    caches = (students_module.teacher_of, students_module._training_rows, students_module._held_rows)
    for cached in caches:
        cached.cache_clear()
    yield load
    for cached in caches:
        cached.cache_clear()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_every_arm_differs_from_the_full_recipe_in_what_its_name_says(kind):
    arms = ARMS[kind]
    full = arms["full recipe"]
    assert next(iter(arms)) == "full recipe" and len(set(arms.values())) == len(arms)
    for name, arm in arms.items():
        for loss in ("soft", "hard", "cosine", "hidden"):
            if f"without the {loss} loss" in name:
                assert arm == replace(full, **{loss: 0.0})
        assert ("random start" in name) == (arm.start == "random")
        assert ("labels only" in name) == (arm.soft == arm.cosine == arm.hidden == 0)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"soft": -1.0}, {"hard": 1.0, "temperature": 0}, {"hard": 1.0, "start": "middle"}, {"hard": "1"}],
)
def test_bad_arms(wrong):
    with pytest.raises((TypeError, ValueError)):
        Arm(**wrong)


def test_students_start_from_what_the_arm_says(kind, small_world):
    teacher, _ = small_world(kind)
    state = torch.get_rng_state()
    copied, first, random, same, other = (
        student_of(teacher, replace(ARMS[kind]["full recipe"], start=start), seed)
        for start, seed in (("spread", 0), ("first", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    assert isinstance(copied, DistilBertForMaskedLM) == (kind == "masked-lm")
    assert torch.equal(weights(random), weights(same)) and not torch.equal(weights(random), weights(other))
    words = [m.get_input_embeddings().weight for m in (teacher, copied, first, random)]
    assert torch.equal(words[0], words[1]) and torch.equal(words[0], words[2])
    assert not torch.equal(words[0], words[3])
    assert not torch.equal(weights(copied), weights(first))
    assert all(m.training and m.config.num_hidden_layers == 2 for m in (copied, first, random))


def test_the_triple_loss_by_hand(small_world):
    """(5 T^2 KL + 2 CE + cos) / 8, written naively, against the sum of the arm's terms."""
    teacher, _ = small_world("masked-lm")
    arm = ARMS["masked-lm"]["full recipe"]
    student = student_of(teacher, arm).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 90, (3, 7), generator=generator)
    labels = torch.where(torch.rand(3, 7, generator=generator) < 0.4, ids, -100)
    s, t = (m(input_ids=ids, output_hidden_states=True) for m in (student, teacher))
    p, q = (x.logits.double().div(2).softmax(-1) for x in (t, s))
    soft = 4 * (p * (p / q).log()).sum(-1).mean()
    hard = F.cross_entropy(s.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    far = (1 - F.cosine_similarity(s.hidden_states[-1], t.hidden_states[-1], dim=-1)).mean()
    naive = (5 * soft + 2 * hard + far) / 8
    inputs = {"input_ids": ids, "labels": labels, "causal": False, "progress": 0.0}
    positions = {"tokens": ids.numel(), "labels": int((labels >= 0).sum())}
    ours = sum(
        weight * term.loss(s, t, inputs) / (positions[term.over] if term.reduction == "sum" else 1)
        for weight, term in losses_of(arm, 4)
    )
    assert float(ours.detach()) == pytest.approx(float(naive.detach()), rel=1e-5)


def test_hidden_states_are_matched_where_the_layers_come_from(small_world):
    """A student whose layers are the teacher's first two starts with their loss at 0."""
    teacher, _ = small_world("causal-lm")
    arm = Arm(hidden=1.0, start="first")
    student = student_of(teacher, arm).eval()
    ids = torch.randint(5, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    # the last hidden state of GPT-2 has the final norm behind it, which the teacher's second has not
    s, t = (m(input_ids=ids, output_hidden_states=True) for m in (student, teacher))
    s.hidden_states = (*s.hidden_states[:-1], student.transformer.h[1](s.hidden_states[1]))
    ((_, term),) = losses_of(arm, 4)
    assert float(term.loss(s, t, {"causal": False, "progress": 0.0})) == pytest.approx(0, abs=1e-8)


def test_distilled_again_is_the_same_and_seeds_differ(kind):
    arm = ARMS[kind]["full recipe"]
    once, twice, other = (distil(kind, arm, seed, 1e-3, STUDY) for seed in (0, 0, 1))
    assert torch.equal(weights(once), weights(twice)) and not torch.equal(weights(once), weights(other))
    assert not once.training


def test_all_arms_see_the_same_batches(kind, monkeypatch):
    seen = []
    real = students_module.Collator.__call__
    monkeypatch.setattr(
        students_module.Collator, "__call__", lambda self, drawn: seen.append(real(self, drawn)) or seen[-1]
    )
    for name in ("full recipe", "labels only, random start"):
        distil(kind, ARMS[kind][name], 3, 1e-3, STUDY)
    half = len(seen) // 2
    assert half == STUDY.steps
    for one, two in zip(seen[:half], seen[half:], strict=True):
        assert all(torch.equal(one[key].cpu(), two[key].cpu()) for key in ("input_ids", "labels"))
    assert not torch.equal(seen[0]["input_ids"], seen[1]["input_ids"])


def test_labels_only_asks_no_teacher(kind, monkeypatch, small_world):
    teacher, _ = small_world(kind)
    monkeypatch.setattr(type(teacher), "forward", _refuse)
    if kind == "causal-lm":  # the student is of the teacher's class
        with pytest.raises(AssertionError, match="asked"):
            distil(kind, ARMS[kind]["full recipe"], 0, 1e-3, STUDY)
    else:
        distil(kind, ARMS[kind]["labels only"], 0, 1e-3, STUDY)


def _refuse(*_, **__):
    raise AssertionError("asked")


def test_the_teacher_beside_itself(kind, small_world):
    teacher, tokenizer = small_world(kind)
    found = compare_with_teacher(kind, teacher, "test", 5, 32)
    alone = evaluate(teacher, tokenizer, students_module.texts.held_out(), length=32, limit=5)
    assert found["agreement"] == 1 and found["kl"] == pytest.approx(0, abs=1e-9)
    assert found["cross_entropy"] == pytest.approx(found["teacher_cross_entropy"])
    assert found["cross_entropy"] == pytest.approx(alone.nats, rel=1e-5)
    assert found["accuracy"] == pytest.approx(alone.accuracy)


def test_a_run_that_was_stopped_goes_on(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(ingredients_module, "fine_tune", lambda *_: 0.5)
    arms = {name: ARMS[kind][name] for name in ("full recipe", "labels only")}
    file = tmp_path / "new" / "found.json"
    whole = compare(kind, file, STUDY, arms)
    assert json.loads(file.read_text()) == whole
    assert [(r["arm"], r["seed"]) for r in whole["runs"]] == [(n, s) for s in range(2) for n in arms]
    assert len(whole["rates"]) == 2 * len(STUDY.peaks)
    cut = json.loads(file.read_text())
    cut["rates"], cut["runs"] = cut["rates"][:-1], cut["runs"][:1]
    cut.pop("teacher", None)
    file.write_text(json.dumps(cut))
    again = compare(kind, file, STUDY, arms)
    for found in (whole, again):
        for run in found["runs"]:
            run.pop("core_seconds")
    assert again == whole
    with pytest.raises(ValueError, match="output: got a file of other settings"):
        compare(kind, file, replace(STUDY, steps=7), arms)


def test_the_rate_is_the_one_with_the_least_validation_loss():
    tried = [
        {"family": family, "peak": peak, "cross_entropy": loss}
        for family, peak, loss in (("a", 1, 3.0), ("a", 2, 2.0), ("a", 3, 2.5), ("b", 1, 1.0), ("b", 2, 4.0))
    ]
    assert ingredients_module._best_rates(tried) == {"a": 2, "b": 1}


def test_the_command_line(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(ingredients_module, "compare", lambda *given, **more: calls.append((*given, more)))
    main(
        ["causal-lm", "--steps", "7", "--seeds", "2", "--threads", "3", "--output", str(tmp_path / "x.json")]
    )
    assert calls == [
        ("causal-lm", tmp_path / "x.json", replace(Study(), steps=7, seeds=2, threads=3), {"workers": 1})
    ]
    main(["masked-lm", "--workers", "2"])
    assert calls[1][1].name == "masked-lm-ingredients.json" and calls[1][2:] == (Study(), {"workers": 2})


def test_fine_tuning_starts_from_the_body_and_leaves_the_model_alone(small_world, monkeypatch):
    teacher, tokenizer = small_world("masked-lm")
    before, state = weights(teacher).clone(), torch.get_rng_state()
    started = []

    class Spy(task_module.Trainer):
        def train(self, *args, **kwargs):
            started.append({name: p.detach().clone() for name, p in self.model.named_parameters()})
            return super().train(*args, **kwargs)

    monkeypatch.setattr(task_module, "Trainer", Spy)
    given = {"examples": 6, "epochs": 1, "length": 24, "test_examples": 5}
    for model in (teacher, student_of(teacher, ARMS["masked-lm"]["full recipe"])):
        once, twice = (fine_tune(model, tokenizer, seed=2, **given) for _ in range(2))
        assert once == twice and 0 <= once <= 1
        own = dict(model.named_parameters())
        shared = [name for name in started[-1] if name in own]
        assert len(shared) > 20
        assert all(torch.equal(started[-1][name], own[name]) for name in shared)
    assert torch.equal(weights(teacher), before) and torch.equal(torch.get_rng_state(), state)


def test_fine_tuning_learns(small_world):
    """Words alone tell the libraries apart: also an untrained body gets beyond one in five."""
    _, tokenizer = small_world("masked-lm")
    torch.manual_seed(0)
    body = make_model("masked-lm", tokenizer, SMALL)
    assert fine_tune(body, tokenizer, 60, epochs=8, peak=5e-3, length=32, test_examples=40) > 0.35


def test_what_is_committed_is_read(monkeypatch, tmp_path, kind):
    monkeypatch.setattr(release_module, "HERE", tmp_path)
    with pytest.raises(FileNotFoundError):
        release_module.load_ingredients(kind)
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "ingredients.json").write_text('{"runs": []}')
    assert release_module.load_ingredients(kind) == {"runs": []}


def job(_, arm, __, seed):
    return {"arm": arm, "seed": seed, "process": os.getpid()}


def test_workers_side_by_side_give_the_same_file_in_order(tmp_path):
    jobs = [("kind", name, None, seed) for seed in range(2) for name in ("b", "a", "c")]
    found = {"runs": [{"arm": "a", "seed": 1, "process": 0}]}
    given = (job, jobs, ("arm", "seed"), (1, 3), tmp_path / "found.json")
    ingredients_module._fill(found, "runs", *given, 2)
    assert [(r["arm"], r["seed"]) for r in found["runs"]] == [(name, seed) for _, name, _, seed in jobs]
    processes = [r["process"] for r in found["runs"]]
    assert processes[4] == 0 and os.getpid() not in processes, (
        "what was there is kept, the rest ran elsewhere"
    )
    assert json.loads((tmp_path / "found.json").read_text()) == found
    alone = {"runs": []}
    ingredients_module._fill(alone, "runs", *given, 1)
    assert [(r["arm"], r["seed"]) for r in alone["runs"]] == [(r["arm"], r["seed"]) for r in found["runs"]]
