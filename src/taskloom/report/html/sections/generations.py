"""Generations: what models answered, to search and to filter."""

from typing import Any

from taskloom.report.html.reading.answers import Question, read_answers
from taskloom.report.html.section import Section
from taskloom.report.html.view import View

__all__ = ["generations"]

#: Rows that the page shows at a time, and without scripts.
PAGE = 20
#: Longer texts are cut.
LONGEST = 2000


def generations(view: View) -> Section | None:
    """Return the browser of answers; None if no run has any."""
    runs = [run for run in view.runs if run.kind not in ("way", "groups", "sweep")]
    questions = read_answers(runs)
    if not questions:
        return None
    names = list(dict.fromkeys(name for question in questions for name in question.answers))
    splits = list(dict.fromkeys(question.split for question in questions))
    rows: list[dict[str, Any]] = []
    left, cut = view.limits.generations, 0
    # Some of every split: where there is not room for all of them, the last split does not pay for the first.
    by_split = {split: [question for question in questions if question.split == split] for split in splits}
    for place, split in enumerate(splits):
        share = left // (len(splits) - place)
        for question in by_split[split]:
            row = _row(question, names, splits.index(split))
            cut += any(
                len(text) > LONGEST for text in (question.input, *(each[0] for each in question.answers.values()))
            )
            size = len(row["i"]) + sum(map(len, row["r"] or [])) + sum(len(each[0]) for each in row["a"] if each) + 60
            if share < size:
                break
            share, left = share - size, left - size
            rows.append(row)
    left_out = []
    if len(rows) < len(questions):
        places = ", ".join(str(run.path) for run in runs if (run.path / "generations").is_dir())
        left_out.append(f"{len(questions) - len(rows):,} of {len(questions):,} answered inputs; see {places}")
    if cut:
        left_out.append(f"What is behind the first {LONGEST:,} characters of {cut:,} texts")
    metrics = list(dict.fromkeys(name for row in rows for answer in row["a"] if answer for name in answer[1]))
    values = {
        "names": names,
        "splits": [view.labels.short(split) for split in splits],
        "metrics": metrics,
        "rows": rows[:PAGE],
        "total": len(rows),
        "page": PAGE,
    }
    data = {
        "answers": {
            "names": [view.labels.short(name) for name in names],
            "splits": [view.labels.short(split) for split in splits],
            "rows": rows,
            "page": PAGE,
        }
    }
    return Section("generations", "Generations", values, data, left_out)


def _row(question: Question, names: list[str], split: int) -> dict[str, Any]:
    """Return a question as scripts read it; `a` has for each run the answer, its scores and whether it is right."""
    answers = []
    for name in names:
        if name not in question.answers:
            answers.append(None)
            continue
        text, scores = question.answers[name]
        first = next((value for metric, value in scores.items() if metric != "nll"), None)
        right = None if first is None else int(first >= 1)
        answers.append([_cut(text), {metric: round(value, 4) for metric, value in scores.items()}, right])
    references = None if question.references is None else [_cut(each) for each in question.references[:20]]
    return {"s": split, "i": _cut(question.input), "r": references, "a": answers}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
