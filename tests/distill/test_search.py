"""The search: stopped and taken up again it is the search that was not stopped; bad trials end early."""

import math
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from refimpl.distill import DistillationTrainer, ReportToPruner, SearchSpace, run_search
from tests.distill.train_small import arguments, lm, texts

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = SearchSpace(alpha=(0.0, 1.0), temperature=(1.0, 8.0))
TRIALS = 12  # five before the pruner, ten before the sampler looks at what was found


def value(alpha, temperature, seed, trial):
    """Least at alpha 0.7 and temperature 2, in two reports, with noise that the seed decides."""
    found = (alpha - 0.7) ** 2 + math.log(temperature / 2) ** 2 + 0.01 * (seed % 7)
    for step in (1, 2):
        trial.report(found + 1 / step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return found


def history(study):
    """What each finished trial was and gave, in order."""
    finished = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return [
        (t.params, t.user_attrs, t.value, t.state, t.intermediate_values)
        for t in study.get_trials(states=finished)
    ]


@pytest.fixture(scope="module")
def whole():
    return history(run_search(value, SPACE, TRIALS, seed=5))


def test_values_seeds_and_the_best(whole):
    study = run_search(value, SPACE, TRIALS, seed=5)
    assert history(study) == whole and len(whole) == TRIALS
    assert [attrs["seed"] for _, attrs, *_ in whole] == list(range(5, 5 + TRIALS))
    for params, *_ in whole:
        assert 0 <= params["alpha"] <= 1 and 1 <= params["temperature"] <= 8
    assert len({p["alpha"] for p, *_ in whole}) == TRIALS
    assert study.best_value == min(v for _, _, v, state, _ in whole if state.name == "COMPLETE")
    assert history(run_search(value, SPACE, 3, seed=6)) != whole[:3]
    upwards = run_search(
        lambda **kw: -value(**kw), SPACE, 3, pruner=optuna.pruners.NopPruner(), direction="maximize"
    )
    assert upwards.best_value == max(t.value for t in upwards.trials)


def test_bad_trials_are_pruned(whole):
    """By the median, once five trials have ended: what is stopped was worse than half of the others there."""
    pruned = [i for i, t in enumerate(whole) if t[3].name == "PRUNED"]
    assert 0 < len(pruned) < TRIALS - 5
    for i, (*_, reports) in enumerate(whole):
        ended = [r for *_, state, r in whole[:i] if state.name == "COMPLETE"]
        worse = (
            [r > statistics.median(e[step] for e in ended) for step, r in reports.items()] if i > 4 else []
        )
        assert any(worse) == (i in pruned)
    never = run_search(value, SPACE, TRIALS, seed=5, pruner=optuna.pruners.NopPruner())
    assert all(t.state.name == "COMPLETE" for t in never.trials)


def test_stopped_and_taken_up_again(tmp_path, whole):
    """The trial that was cut off begins again, with its values and its seed."""
    storage, calls = tmp_path / "search.db", []

    def stopped(**given):
        calls.append(given)
        if given["seed"] == 5 + 10:
            raise KeyboardInterrupt
        return value(**given)

    with pytest.raises(KeyboardInterrupt):
        run_search(stopped, SPACE, TRIALS, storage, seed=5)
    resumed = run_search(value, SPACE, TRIALS, storage, seed=5)
    assert history(resumed) == whole
    assert resumed.trials[10].state.name == "FAIL" and resumed.trials[10].params == resumed.trials[11].params
    assert history(run_search(stopped, SPACE, TRIALS, storage, seed=5)) == whole  # nothing is left to do
    assert len(calls) == 11


KILLED = """
import os, signal, sys
from tests.distill import test_search as t

def killed(**given):
    if given["seed"] == 5 + 10 and len(sys.argv) > 2:
        given["trial"].report(9.0, 1)
        os.kill(os.getpid(), signal.SIGKILL)
    return t.value(**given)

t.run_search(killed, t.SPACE, t.TRIALS, sys.argv[1], seed=5)
"""


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path, whole):
    storage = str(tmp_path / "search.db")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, storage, "kill"]
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=240)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert history(run_search(value, SPACE, TRIALS, storage, seed=5)) == whole


def test_another_search_is_refused(tmp_path):
    storage = tmp_path / "search.db"
    run_search(value, SPACE, 2, storage)
    for changes in ({"seed": 1}, {"direction": "maximize"}, {"space": SearchSpace(alpha=0.5)}):
        given = {"space": SPACE, "trials": 3, "storage": storage} | changes
        with pytest.raises(ValueError, match="storage: got a study of"):
            run_search(pytest.fail, **given)
    assert len(run_search(value, SPACE, 2, f"sqlite:///{storage}").trials) == 2
    assert len(run_search(value, SPACE, 1, storage, seed=1, name="other").trials) == 1


def test_what_diverges_is_finished_and_not_the_best():
    study = run_search(lambda **kw: math.nan if kw["seed"] == 1 else value(**kw), SPACE, 4)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert study.best_trial.number != 1


def test_an_error_of_training_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        run_search(lambda **kw: 1 / 0, SPACE, 2)


def test_what_is_fixed_stays():
    seen = []

    def train(alpha, temperature, seed, trial):
        seen.append((alpha, temperature))
        return temperature

    study = run_search(train, SearchSpace(alpha=0.25, temperature=(2, 4)), 5)
    assert all(alpha == 0.25 and 2 <= temperature <= 4 for alpha, temperature in seen)
    assert study.best_params.keys() == {"temperature"}


class Stop(optuna.pruners.BasePruner):
    """Stops at step 4."""

    def prune(self, study, trial):
        return trial.last_step >= 4


def test_the_trainers_evaluations_reach_the_pruner(tmp_path):
    trainers = []

    def train(alpha, temperature, seed, trial):
        args = arguments(tmp_path, seed=seed, eval_strategy="steps", eval_steps=2)
        trainers.append(
            DistillationTrainer(
                lm(1),
                lm(2),
                args,
                alpha=alpha,
                temperature=temperature,
                train_dataset=texts(),
                eval_dataset=texts(4, seed=1),
                callbacks=[ReportToPruner(trial)],
            )
        )
        trainers[-1].train()
        return trainers[-1].evaluate()["eval_cross_entropy"]

    study = run_search(train, SPACE, 2, pruner=Stop())
    for trial, trainer in zip(study.trials, trainers, strict=True):
        assert trial.state.name == "PRUNED" and trainer.state.global_step == 4
        logged = [x["eval_cross_entropy"] for x in trainer.state.log_history if "eval_cross_entropy" in x]
        assert list(trial.intermediate_values) == [2, 4]
        assert trial.intermediate_values[2] == logged[0]
    study = run_search(train, SPACE, 1, pruner=optuna.pruners.NopPruner())
    assert study.trials[0].value == study.trials[0].intermediate_values[6]


def test_bad_settings_are_refused():
    study = optuna.create_study()
    for call, exception, message in (
        (lambda: SearchSpace(alpha=(0, 1.5)), ValueError, "alpha: got 1.5"),
        (lambda: SearchSpace(alpha=(0.5, 0.2)), ValueError, "alpha: got 0.2"),
        (lambda: SearchSpace(alpha=(0, 1, 2)), ValueError, "alpha: got"),
        (lambda: SearchSpace(temperature=(0, 2)), ValueError, "temperature: got 0"),
        (lambda: SearchSpace(temperature="2"), TypeError, "temperature: got str"),
        (lambda: ReportToPruner(study.ask(), "eval_loss"), ValueError, "metric: got 'eval_loss'"),
        (
            lambda: ReportToPruner(study.ask(), "eval_f1").on_evaluate(None, None, None, metrics={"a": 1}),
            ValueError,
            "metric: got 'eval_f1'; takes one of 'a'",
        ),
        (lambda: run_search("train", SPACE, 2), TypeError, "train: got str"),
        (lambda: run_search(value, {"alpha": (0, 1)}, 2), TypeError, "space: got dict"),
        (lambda: run_search(value, SPACE, 0), ValueError, "trials: got 0"),
        (lambda: run_search(value, SPACE, 1, seed=-1), ValueError, "seed: got -1"),
        (lambda: run_search(value, SPACE, 1, direction="up"), ValueError, "direction: got 'up'"),
    ):
        with pytest.raises(exception, match=message):
            call()
