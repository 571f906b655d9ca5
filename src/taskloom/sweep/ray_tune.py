"""Trials on a Ray cluster: Ray Tune places them on nodes, takes them up again when a node is lost, and stops the worse.

All nodes see the sweep's folder under the same path (a shared file system). A trial is the same process in the same run
folder as on one machine, so the same settings and seeds give the same results.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.errors import UserError
from taskloom.sweep.local import drawn
from taskloom.sweep.plan import RECIPE_FILE, SweepPlan
from taskloom.sweep.space import Choice, Settings, grid
from taskloom.sweep.trial import Outcome, Trial

__all__ = ["run_ray"]

#: Seconds that a cluster has to answer.
TIMEOUT = 30
#: How often a trial is taken up again after its node or worker was lost.
LOSSES = 3


def run_ray(
    plan: SweepPlan,
    sweep: Path,
    first_seed: int,
    *,
    address: str | None = None,
    resources: dict[str, float] | None = None,
    retries: int = 1,
    on_done: Callable[[Settings, Outcome], None] | None = None,
) -> None:
    """Run the trials that are not through yet on a Ray cluster.

    Args:
        plan: what is tried.
        sweep: the sweep's folder.
        first_seed: seed of each setting's first training.
        address: ``host:port`` of the cluster's head node, or ``auto``; None starts Ray on this machine.
        resources: of a trial, such as ``{"cpu": 2, "gpu": 1}``.
        retries: how often a training that failed is taken up again.
        on_done: called for each training when all are through.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        import ray
        from ray import tune
    except ModuleNotFoundError as error:
        raise UserError('--backend ray needs Ray: pip install "taskloom[sweep]"') from error
    _connect(ray, address)
    sweep = sweep.resolve()
    space, search = _search(plan)

    template = Trial(sweep / RECIPE_FILE, plan.verb, {}, first_seed, sweep, plan.metric)

    def trainings(config: dict[str, Any]) -> list[Trial]:
        settings = config["settings"] if "settings" in config else _decoded(config, plan)
        return [replace(template, settings=settings, seed=first_seed + number) for number in range(plan.seeds)]

    def train(config: dict[str, Any]) -> None:
        values = []
        for number, trial in enumerate(trainings(config)):
            outcome = trial.run(_reporter(tune) if number == 0 and plan.stop == "asha" else None, retries)
            values.append(outcome.value)
        good = [value for value in values if value is not None]
        worst = float("inf") if plan.minimize else float("-inf")
        tune.report({"value": float(np.mean(good)) if len(good) == plan.seeds else worst, **_NO_STEP})

    trainable: Any = tune.with_resources(train, resources or {"cpu": 1})
    path = str(sweep / "ray")
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable=trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=search,
                num_samples=plan.trials or 1 if search is not None else 1,
                scheduler=_scheduler(tune, plan),
                metric=None if plan.stop == "asha" else "value",
                mode=None if plan.stop == "asha" else ("min" if plan.minimize else "max"),
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(sweep),
                failure_config=tune.FailureConfig(max_failures=LOSSES),
                verbose=0,
            ),
        )
    try:
        found = tuner.fit()
    finally:
        ray.shutdown()
    for result in found:
        for trial in trainings(result.config or {}):
            outcome = trial.recorded() or _lost(trial, plan, result.error)
            if on_done is not None:
                on_done(trial.settings, outcome)


_NO_STEP = {"step": 1 << 60, "score": 0.0}


def _connect(ray: Any, address: str | None) -> None:
    if address not in (None, "auto", "local"):
        host, _, port = str(address).removeprefix("ray://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
        except (OSError, ValueError) as error:
            raise UserError(
                f"--address {address}: no Ray cluster answers there ({error}). Start one with `ray start --head` and "
                "give its host:port, or leave --address out to use this machine"
            ) from error
    try:
        ray.init(
            address=address, include_dashboard=None if address else False, log_to_driver=False, logging_level="ERROR"
        )
    except ConnectionError as error:
        raise UserError(
            f"--address {address}: no Ray cluster is there ({str(error).splitlines()[0]}). Start one with "
            "`ray start --head`, or leave --address out to use this machine"
        ) from error


def _search(plan: SweepPlan) -> tuple[dict[str, Any], Any]:
    """Return Ray's parameter space and search algorithm; listed and random settings are those of the local backend."""
    from ray import tune

    if plan.search == "tpe":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        sampler = optuna.samplers.TPESampler(seed=plan.seed)
        return {}, OptunaSearch(
            _distributions(plan), metric="value", mode="min" if plan.minimize else "max", sampler=sampler
        )
    settings = grid(plan.space) if plan.search == "grid" else drawn(plan)
    return {"settings": tune.grid_search(settings)}, None


def _distributions(plan: SweepPlan) -> dict[str, Any]:
    import optuna

    found: dict[str, Any] = {}
    for field, dimension in plan.space.items():
        if isinstance(dimension, Choice):
            found[field] = optuna.distributions.CategoricalDistribution(range(len(dimension.values)))
        elif dimension.integer:
            found[field] = optuna.distributions.IntDistribution(int(dimension.low), int(dimension.high))
        else:
            found[field] = optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)
    return found


def _decoded(config: dict[str, Any], plan: SweepPlan) -> Settings:
    return {
        field: dimension.values[config[field]] if isinstance(dimension, Choice) else config[field]
        for field, dimension in plan.space.items()
    }


def _scheduler(tune: Any, plan: SweepPlan) -> Any:
    if plan.stop == "none":
        return None
    return tune.schedulers.ASHAScheduler(time_attr="step", metric="score", mode="max", max_t=1 << 60, grace_period=1)


def _reporter(tune: Any) -> Callable[[int, float], bool]:
    def report(step: int, score: float) -> bool:
        tune.report({"step": step, "score": score})
        return True  # Ray ends the process of a trial that it stops

    return report


def _lost(trial: Trial, plan: SweepPlan, error: Exception | None) -> Outcome:
    """Record what became of a training whose process was ended."""
    if error is None and plan.stop == "asha":
        outcome = Outcome("pruned", trial.latest_score())
    else:
        outcome = Outcome("failed", reason=f"its worker was lost: {str(error).splitlines()[-1] if error else ''}")
    trial.record(outcome)
    return outcome
