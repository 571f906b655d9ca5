"""Tables of scores: every task's dev metrics beside the majority baseline, one column a run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from taskloom.evaluation.metrics import primary
from taskloom.tasks.task import Task

__all__ = ["score_markdown", "score_table"]

#: Metrics of each split, by its title: "mnli" for the dev split, "mnli/dev_mismatched" for a further one.
Scores = Mapping[str, Mapping[str, float]]

MAJORITY = "majority"
MEAN = "mean"


@dataclass(frozen=True)
class Row:
    """One line of a table: a split of a task, or the mean over tasks.

    Attributes:
        title: the task's name or the split's title.
        group: the task's group; empty if there are no groups.
        metrics: the names of the metrics.
        values: for each column (the baseline first) its metrics in this order.
        primary: for each column the one number that counts, the mean of the metrics.
    """

    title: str
    group: str
    metrics: tuple[str, ...]
    values: dict[str, tuple[float, ...]]
    primary: dict[str, float]

    @property
    def best(self) -> set[str]:
        """The runs with the highest score, if there are several runs to choose from."""
        runs = {name: value for name, value in self.primary.items() if name != MAJORITY}
        return {name for name, value in runs.items() if value == max(runs.values())} if len(runs) > 1 else set()

    @property
    def not_learned(self) -> set[str]:
        """The runs that do no better than the majority baseline."""
        return {name for name, value in self.primary.items() if name != MAJORITY and value <= self.primary[MAJORITY]}

    def cell(self, column: str, separator: str = " / ") -> str:
        return separator.join("–" if math.isnan(value) else f"{value:.3f}" for value in self.values[column])


def score_table(
    tasks: Sequence[Task],
    runs: Mapping[str, Scores],
    baselines: Scores,
    groups: Mapping[str, str] | None = None,
) -> Table:
    """Return the scores as a table for the console: the best run in bold, what is no better than the baseline in red.

    Args:
        tasks: the tasks, in the order of the rows.
        runs: the scores of each run, by its name.
        baselines: the scores of the majority baseline.
        groups: the group of each task, shown in a column of its own.
    """
    table = Table(title="Dev scores", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("task", no_wrap=True, min_width=8)
    if groups:
        table.add_column("group")
    table.add_column("metric", style="dim")
    for column in (MAJORITY, *runs):
        table.add_column(column, justify="right", no_wrap=True)
    for row in _rows(tasks, runs, baselines, groups or {}):
        if row.title == MEAN:
            table.add_section()
        # Many metrics stand below each other: side by side they would leave no room for their names.
        separator = " / " if len(row.metrics) <= 2 else "\n"
        cells = [Text(row.cell(column, separator), style=_style(row, column)) for column in (MAJORITY, *runs)]
        table.add_row(row.title, *([row.group] if groups else []), separator.join(row.metrics), *cells)
    return table


def _style(row: Row, column: str) -> str:
    styles = [("dim", column == MAJORITY), ("bold", column in row.best), ("red", column in row.not_learned)]
    return " ".join(style for style, applies in styles if applies)


def score_markdown(
    tasks: Sequence[Task],
    runs: Mapping[str, Scores],
    baselines: Scores,
    groups: Mapping[str, str] | None = None,
) -> str:
    """Return the table of `score_table` in Markdown: the best run in bold; a cross where it beats no baseline."""
    columns = (MAJORITY, *runs)
    heads = ["task", *(["group"] if groups else []), "metric", *columns]
    rules = ["---"] * (len(heads) - len(columns)) + ["---:"] * len(columns)
    lines = [heads, rules]
    for row in _rows(tasks, runs, baselines, groups or {}):
        cells = [_markdown_cell(row, column) for column in columns]
        lines.append([row.title, *([row.group] if groups else []), " / ".join(row.metrics), *cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _markdown_cell(row: Row, column: str) -> str:
    cell = f"**{row.cell(column)}**" if column in row.best else row.cell(column)
    return f"{cell} ✗" if column in row.not_learned else cell


def _rows(
    tasks: Sequence[Task], runs: Mapping[str, Scores], baselines: Scores, groups: Mapping[str, str]
) -> Iterator[Row]:
    columns = {MAJORITY: baselines, **runs}
    firsts = []
    for task in tasks:
        titles = [title for title in baselines if title == task.name or title.startswith(f"{task.name}/")]
        for title in titles:
            row = Row(
                title,
                groups.get(task.name, ""),
                task.metrics,
                # A language-modelling task has no baseline: its scores are empty.
                {
                    name: tuple(scores[title].get(metric, math.nan) for metric in task.metrics)
                    for name, scores in columns.items()
                },
                {name: primary(task, scores[title]) if scores[title] else math.nan for name, scores in columns.items()},
            )
            if title == titles[0]:
                firsts.append(row)
            yield row
    means = {name: fmean(row.primary[name] for row in firsts) for name in columns}
    yield Row(MEAN, "", (), {name: (value,) for name, value in means.items()}, means)
