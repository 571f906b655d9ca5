"""A test split where a benchmark keeps its own labels to itself (arXiv 2203.08304, section 4.1; Hyperformer's rule).

Selecting a model by the split that it is reported on flatters it. So small data sets give half of their dev split as
test, and large ones 1,000 training examples as dev, so that the old dev split, untouched, is test. Which rule holds is
a task's `hold_out`; a recipe's `data.split_validation_test` turns it on. The examples are those that the published code
takes, for the same rows in the same order.
"""

import logging
from collections.abc import Mapping

from taskloom.errors import DataError
from taskloom.tasks.examples import Examples
from taskloom.tasks.task import Task

__all__ = ["hold_out"]

logger = logging.getLogger(__name__)

#: The published code's seed of the permutation, the same for every data set and run.
SEED = 42
#: Examples that a large data set gives from train as dev.
DEV_SIZE = 1000


def hold_out(task: Task, splits: Mapping[str, Examples]) -> tuple[Task, dict[str, Examples]]:
    """Return the task and its splits, with a dev and a test split that both have targets.

    With a permutation p of the split's n examples (torch's generator, seed 42), in this order:

    - ``half_of_dev``: dev is p[: n // 2], test is p[n // 2 :] of the old dev split.
    - ``thousand_of_train``: dev is p[:1000], train is p[1000:] of the old train split; the old dev split is test.

    A test split that there was is dropped: its targets are not public (SICK's are; the published code drops it, too).
    What its file would be called on the benchmark's server goes with it. Other splits, and tasks without `hold_out`,
    stay as they are; a warning says so if the latter have no test split with targets.

    Raises:
        DataError: the split to divide is missing or too small.
    """
    if task.hold_out is None:
        if "test" not in splits or splits["test"].targets is None:
            logger.warning(
                "task '%s' has no test split with targets, and split_validation_test does not make one, for it has no "
                "`hold_out`",
                task.name,
            )
        return task, dict(splits)
    source, fewest = ("dev", 2) if task.hold_out == "half_of_dev" else ("train", DEV_SIZE + 1)
    for needed in ("dev", source):
        if needed not in splits:
            raise DataError(f"task '{task.name}': split_validation_test needs its {needed} split, which is not there")
    whole = splits[source]
    if len(whole) < fewest:
        raise DataError(
            f"{whole.source}: split_validation_test divides the {source} split of task '{task.name}', which has "
            f"{len(whole):,} examples, expected at least {fewest:,}; set the task's `hold_out`, or leave "
            "split_validation_test out"
        )
    order = _permutation(len(whole))
    if task.hold_out == "half_of_dev":
        middle = len(order) // 2
        divided = {"dev": whole.subset(order[:middle]), "test": whole.subset(order[middle:])}
    else:
        divided = {
            "train": whole.subset(order[DEV_SIZE:]),
            "dev": whole.subset(order[:DEV_SIZE]),
            "test": splits["dev"],
        }
    origin = {"train": "train", "dev": source, "test": "dev"}
    places = {**task.splits, **{name: task.splits[origin[name]] for name in divided}}
    submission = {split: file for split, file in task.submission.items() if split != "test"}
    return task.model_copy(update={"splits": places, "submission": submission}), {**splits, **divided}


def _permutation(size: int) -> list[int]:
    import torch

    return torch.randperm(size, generator=torch.Generator().manual_seed(SEED)).tolist()
