import io

import pytest
from rich.console import Console

from taskloom.report import score_markdown, score_table
from tests.evaluation.support import a_task

TASKS = [
    a_task("classification", ("accuracy", "f1"), ("no", "yes"), name="mrpc"),
    a_task("classification", ("accuracy",), ("a", "b", "c"), name="mnli"),
]
BASELINES = {
    "mrpc": {"accuracy": 0.684, "f1": 0.812},
    "mnli": {"accuracy": 0.354},
    "mnli/dev_mismatched": {"accuracy": 0.352},
}
PLAIN = {
    "mrpc": {"accuracy": 0.8, "f1": 0.86},
    "mnli": {"accuracy": 0.35},
    "mnli/dev_mismatched": {"accuracy": 0.7},
}
CONDITIONAL = {
    "mrpc": {"accuracy": 0.82, "f1": 0.85},
    "mnli": {"accuracy": 0.6},
    "mnli/dev_mismatched": {"accuracy": 0.6},
}


def printed(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def cells(markdown):
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in markdown.splitlines()]


def test_markdown_of_two_runs():
    markdown = cells(score_markdown(TASKS, {"plain": PLAIN, "CA-MTL": CONDITIONAL}, BASELINES))
    assert markdown == [
        ["task", "metric", "majority", "plain", "CA-MTL"],
        ["---", "---", "---:", "---:", "---:"],
        # the mean of the metrics decides: 0.83 against 0.835
        ["mrpc", "accuracy / f1", "0.684 / 0.812", "0.800 / 0.860", "**0.820 / 0.850**"],
        ["mnli", "accuracy", "0.354", "0.350 ✗", "**0.600**"],
        ["mnli/dev_mismatched", "accuracy", "0.352", "**0.700**", "0.600"],
        # of the first dev split of each task only: (0.748 + 0.354) / 2, (0.83 + 0.35) / 2, (0.835 + 0.6) / 2
        ["mean", "", "0.551", "0.590", "**0.718**"],
    ]


def test_a_lone_run_is_not_the_best():
    assert "**" not in score_markdown(TASKS, {"plain": PLAIN}, BASELINES)


def test_groups_have_a_column():
    markdown = cells(score_markdown(TASKS, {"plain": PLAIN}, BASELINES, {"mrpc": "pairs", "mnli": "inference"}))
    assert [row[1] for row in markdown] == ["group", "---", "pairs", "inference", "inference", ""]
    assert "inference" in printed(score_table(TASKS, {"plain": PLAIN}, BASELINES, {"mnli": "inference"}))


def test_table_holds_the_same_numbers():
    text = printed(score_table(TASKS, {"plain": PLAIN, "CA-MTL": CONDITIONAL}, BASELINES))
    for number in ("0.684 / 0.812", "0.820 / 0.850", "0.700", "0.718"):
        assert number in text


@pytest.mark.parametrize(("column", "style"), [(1, "dim"), (2, "red"), (3, "bold")])
def test_table_marks_the_best_and_what_was_not_learned(column, style):
    table = score_table(TASKS, {"plain": PLAIN, "CA-MTL": CONDITIONAL}, BASELINES)
    mnli = list(table.columns[column + 1].cells)[1]
    assert mnli.style == style


def test_four_metrics_fit_into_eighty_columns():
    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    scores = {"summarise": {name: index / 10 for index, name in enumerate(names, start=1)}}
    console = Console(file=io.StringIO(), width=80)
    task = a_task("text2text", names, name="summarise")
    console.print(score_table([task], {"one": scores, "two": scores, "three": scores}, scores))
    lines = console.file.getvalue().splitlines()
    for index, name in enumerate(names, start=1):
        assert sum(name in line and line.count(f"0.{index}00") == 4 for line in lines) == 1
