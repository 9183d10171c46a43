"""Alpha and temperature chosen by Optuna on validation data; bad trials stop early, a killed search goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from refimpl.checks import check_choice, check_int, check_number

if TYPE_CHECKING:
    import optuna

__all__ = ["ReportToPruner", "SearchSpace", "run_search"]

Range = float | tuple[float, float]


@dataclass(frozen=True)
class SearchSpace:
    """Where to look: for each quantity a pair (lowest, highest), or a number that stays.

    Attributes:
        alpha: weight of the soft loss, within [0, 1]; drawn uniformly.
        temperature: above 0; drawn uniformly in its logarithm, as 1 to 2 changes as much as 4 to 8.

    Raises:
        TypeError, ValueError: no numbers, outside their bounds, or not in order.
    """

    alpha: Range = (0.0, 1.0)
    temperature: Range = (1.0, 8.0)

    def __post_init__(self) -> None:
        for name, value, high in (("alpha", self.alpha, 1.0), ("temperature", self.temperature, 1e6)):
            pair = value if isinstance(value, tuple) else (value, value)
            if len(pair) != 2:
                raise ValueError(f"{name}: got {value}; takes a number or a pair (lowest, highest)")
            lowest = check_number(name, pair[0], 0, high, low_open=name == "temperature")
            check_number(name, pair[1], lowest, high)

    def suggest(self, trial: optuna.Trial) -> dict[str, float]:
        """Values of ``alpha`` and ``temperature`` for a trial."""
        found = {}
        for name, value in asdict(self).items():
            if isinstance(value, tuple):
                found[name] = trial.suggest_float(name, *value, log=name == "temperature")
            else:
                found[name] = float(value)
        return found


class ReportToPruner(TrainerCallback):
    """Give each evaluation of a Trainer to the trial; stop the training when the pruner says so.

    The Trainer has to evaluate while it trains (``eval_strategy="steps"``). Stopping is
    ``optuna.TrialPruned``, raised out of ``trainer.train()``; `run_search` takes it as the trial's end.

    Args:
        trial: what the function of `run_search` gets.
        metric: the key in the Trainer's metrics. ``eval_loss`` is refused: alpha and temperature are part of
            it, so that trials would be compared by different measures.

    Raises:
        ValueError: ``eval_loss``; when called, metrics without that key.
    """

    def __init__(self, trial: optuna.Trial, metric: str = "eval_cross_entropy") -> None:
        if metric == "eval_loss":
            raise ValueError(
                "metric: got 'eval_loss', which alpha and temperature change by themselves; takes another, "
                "e.g. 'eval_cross_entropy' or 'eval_accuracy'"
            )
        self.trial, self.metric, self.reported = trial, metric, -1

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After each evaluation."""
        metrics = kwargs["metrics"]
        check_choice("metric", self.metric, metrics)
        if state.global_step <= self.reported:
            return  # evaluated once more after the last step
        self.reported = state.global_step
        self.trial.report(metrics[self.metric], state.global_step)
        if self.trial.should_prune():
            raise _optuna().TrialPruned(f"{self.metric} {metrics[self.metric]:g} at step {state.global_step}")


def run_search(
    train: Callable[..., float],
    space: SearchSpace,
    trials: int,
    storage: str | Path | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    *,
    direction: str = "minimize",
    seed: int = 0,
    name: str = "distillation",
) -> optuna.Study:
    """Look for the alpha and temperature with the best value on validation data.

    ``train(alpha=..., temperature=..., seed=..., trial=...)`` trains a new student and returns its value::

        def train(alpha, temperature, seed, trial):
            trainer = DistillationTrainer(
                make_student(), teacher, arguments(seed=seed), alpha=alpha, temperature=temperature,
                train_dataset=..., eval_dataset=validation, callbacks=[ReportToPruner(trial)],
            )
            trainer.train()
            return trainer.evaluate()["eval_cross_entropy"]

        study = run_search(train, SearchSpace(), 20, "search.db")
        study.best_params

    The best of many trials looks better than it is: measure the chosen one on data that the search has not
    seen, with new seeds.

    Resuming: with ``storage`` the same call goes on where it was stopped, also by SIGKILL, until ``trials``
    are finished (run to their end or pruned). The trial that was cut off begins again with the same values and
    seed, so that a study that was interrupted is the one that was not: values are suggested from ``seed``, the
    number of finished trials and their results, nothing else. One process at a time works on a study.

    Args:
        train: as above; ``seed`` is this function's plus the number of trials finished before.
        space: where to look.
        trials: how many are to be finished in the end, those in the storage included.
        storage: an SQLite file, or a URL of Optuna's; None keeps the study in memory.
        pruner: None takes Optuna's median pruner: stopped is who is worse than the median of the finished
            trials at that step, from the sixth trial on. A value that is not finite counts as pruned.
        direction: of ``train``'s value: ``"minimize"`` or ``"maximize"``.
        seed: of the search.
        name: of the study; one storage holds several.

    Returns:
        The study, with ``best_params``, ``best_value`` and all ``trials``.

    Raises:
        ImportError: Optuna is not installed (``pip install 'refimpl[search]'``).
        TypeError, ValueError: no function or space, fewer than one trial, an unknown direction; a study of
            that name in the storage with another space, direction or seed; nothing is trained then.

    Source: Akiba et al., KDD 2019 (arXiv 1907.10902).
    """
    optuna = _optuna()
    if not callable(train):
        raise TypeError(
            f"train: got {type(train).__name__}; takes a function of alpha, temperature, seed, trial"
        )
    if not isinstance(space, SearchSpace):
        raise TypeError(f"space: got {type(space).__name__}; takes a SearchSpace")
    check_int("trials", trials, 1)
    check_int("seed", seed, 0)
    check_choice("direction", direction, ("minimize", "maximize"))
    pruner = optuna.pruners.MedianPruner() if pruner is None else pruner
    url = f"sqlite:///{storage}" if storage is not None and "://" not in str(storage) else storage
    study = optuna.create_study(
        study_name=name, storage=url, pruner=pruner, direction=direction, load_if_exists=True
    )
    _check_same(study, {"space": repr(space), "direction": direction, "seed": seed})
    states = optuna.trial.TrialState
    for cut_off in study.get_trials(states=(states.RUNNING,)):
        study.tell(cut_off.number, state=states.FAIL)
    while (done := len(study.get_trials(states=(states.COMPLETE, states.PRUNED)))) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=seed + done)  # no state that a kill could lose
        trial = study.ask()
        trial.set_user_attr("seed", seed + done)
        try:
            value = train(**space.suggest(trial), seed=seed + done, trial=trial)
        except optuna.TrialPruned:
            value = math.nan
        except BaseException:
            study.tell(trial, state=states.FAIL)
            raise
        if math.isfinite(value):
            study.tell(trial, value)
        else:  # diverged: finished, and worse than any
            study.tell(trial, state=states.PRUNED)
    return study


def _check_same(study: optuna.Study, setting: dict[str, Any]) -> None:
    """Refuse to go on with a study of something else; note what a new one is of."""
    before = study.user_attrs or (setting if not study.trials else {})
    if before != setting:
        raise ValueError(f"storage: got a study of {before}; takes one of {setting}, or another name")
    for key, value in setting.items():
        study.set_user_attr(key, value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("optuna: got no such package; takes pip install 'refimpl[search]'") from error
    return optuna
