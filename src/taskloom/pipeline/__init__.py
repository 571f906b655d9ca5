"""A recipe's stages one after the other, each cached by content: `taskloom run`."""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "Stage": "taskloom.pipeline.plan",
    "dry_run": "taskloom.pipeline.driver",
    "plan_stages": "taskloom.pipeline.plan",
    "run_pipeline": "taskloom.pipeline.driver",
}

__all__ = ["Stage", "dry_run", "plan_stages", "run_pipeline"]

if TYPE_CHECKING:
    from taskloom.pipeline.driver import dry_run as dry_run
    from taskloom.pipeline.driver import run_pipeline as run_pipeline
    from taskloom.pipeline.plan import Stage as Stage
    from taskloom.pipeline.plan import plan_stages as plan_stages

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
