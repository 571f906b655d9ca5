"""Trials on this machine: Optuna chooses settings and remembers them, each training is a process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from taskloom.errors import UserError
from taskloom.sweep.plan import RECIPE_FILE, SweepPlan
from taskloom.sweep.space import Choice, Settings, grid
from taskloom.sweep.trial import Outcome, Trial

if TYPE_CHECKING:
    import optuna

__all__ = ["DATABASE", "drawn", "run_local", "suggested"]

DATABASE = "sweep.db"


def run_local(
    plan: SweepPlan,
    sweep: Path,
    first_seed: int,
    *,
    jobs: int = 1,
    retries: int = 1,
    on_done: Callable[[Settings, Outcome], None] | None = None,
) -> None:
    """Run the trials that are not through yet.

    Args:
        plan: what is tried.
        sweep: the sweep's folder.
        first_seed: seed of each setting's first training.
        jobs: trainings at the same time.
        retries: how often a training that failed is taken up again.
        on_done: called after each training.

    Raises:
        UserError: Optuna is not installed.
        KeyboardInterrupt: interrupted; trainings have written checkpoints.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError('`taskloom sweep` needs Optuna: pip install "taskloom[sweep]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="sweep",
        storage=f"sqlite:///{sweep / DATABASE}",
        sampler=_sampler(plan),
        pruner=_pruner(plan),
        direction="minimize" if plan.minimize else "maximize",
        load_if_exists=True,
    )
    _take_up(study, plan)

    # Threads of one process would take the same waiting trial from the database.
    turn = Lock()

    def work() -> None:
        with turn:
            current = study.ask()
            settings = suggested(current, plan)
        values, state = [], optuna.trial.TrialState.COMPLETE
        for number in range(plan.seeds):
            trial = Trial(sweep / RECIPE_FILE, plan.verb, settings, first_seed + number, sweep, plan.metric)
            outcome = trial.run(_reporter(current, turn) if number == 0 and plan.stop == "asha" else None, retries)
            with turn:
                if on_done is not None:
                    on_done(settings, outcome)
            if outcome.status != "ok" or outcome.value is None:
                pruned = outcome.status == "pruned"
                state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.FAIL
                break
            values.append(outcome.value)
        with turn:
            complete = state == optuna.trial.TrialState.COMPLETE
            study.tell(current, float(np.mean(values)) if complete else None, state)

    left = plan.size - sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(work) for _ in range(left)]
        try:
            for each in waiting:
                each.result()
        except BaseException:
            for each in waiting:
                each.cancel()
            raise


def _sampler(plan: SweepPlan) -> Any:
    import optuna

    if plan.search == "tpe":
        return optuna.samplers.TPESampler(seed=plan.seed)
    return optuna.samplers.RandomSampler(seed=plan.seed)


def _pruner(plan: SweepPlan) -> Any:
    import optuna

    return optuna.pruners.SuccessiveHalvingPruner() if plan.stop == "asha" else optuna.pruners.NopPruner()


def _take_up(study: "optuna.Study", plan: SweepPlan) -> None:
    """Put a grid's settings in line, and again those that were under way when a sweep was stopped."""
    import optuna

    known = study.get_trials(deepcopy=False)
    if plan.search == "grid" and not known:
        for settings in grid(plan.space):
            study.enqueue_trial(_written(settings, plan))
    for trial in known:
        # Its record stays as it is; a later one with the same values has taken its place already.
        stopped = trial.state == optuna.trial.TrialState.RUNNING
        if stopped and not any(_given(later) == trial.params for later in known[trial.number + 1 :]):
            study.enqueue_trial(trial.params)


def _given(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """Return a trial's values, of one that is in line those that it will have."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _written(settings: Settings, plan: SweepPlan) -> dict[str, Any]:
    """Return settings as Optuna keeps them: listed values by their number."""
    found = {}
    for field, value in settings.items():
        dimension = plan.space[field]
        found[field] = dimension.values.index(value) if isinstance(dimension, Choice) else value
    return found


def suggested(trial: "optuna.Trial", plan: SweepPlan) -> Settings:
    """Return the settings that Optuna suggests."""
    settings: Settings = {}
    for field, dimension in plan.space.items():
        if isinstance(dimension, Choice):
            settings[field] = dimension.values[trial.suggest_categorical(field, range(len(dimension.values)))]
        elif dimension.integer:
            settings[field] = trial.suggest_int(field, int(dimension.low), int(dimension.high))
        else:
            settings[field] = trial.suggest_float(field, dimension.low, dimension.high, log=dimension.log)
    return settings


def drawn(plan: SweepPlan) -> list[Settings]:
    """Return the settings that a random search draws."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=_sampler(plan))
    return [suggested(study.ask(), plan) for _ in range(plan.trials or 0)]


def _reporter(trial: "optuna.Trial", turn: Lock) -> Callable[[int, float], bool]:
    def report(step: int, score: float) -> bool:
        with turn:
            trial.report(score, step)
            return not trial.should_prune()

    return report
