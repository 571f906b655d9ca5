"""What generative models answered, the answers of several runs to one question side by side."""

import json
from dataclasses import dataclass, field
from typing import Any

from taskloom.report.html.reading.files import mapping, numbers
from taskloom.report.html.reading.run import Run

__all__ = ["Question", "read_answers"]


@dataclass
class Question:
    """An input with the answers that runs gave to it.

    Attributes:
        split: the file that it is in, such as ``squad`` or ``after``.
        input: what was asked.
        references: right answers; None where they are not known.
        answers: by the run's name, the answer and its scores.
    """

    split: str
    input: str
    references: list[str] | None
    answers: dict[str, tuple[str, dict[str, float]]] = field(default_factory=dict)


def read_answers(runs: list[Run]) -> list[Question]:
    """Return the questions of runs in their order. A question that comes again in one run is another one."""
    found: dict[tuple[str, str, str, int], Question] = {}
    for run in runs:
        counts: dict[tuple[str, str, str], int] = {}
        for split, record in _records(run):
            text = str(record.get("input") or "")
            key = (split, str(record.get("id") or ""), text)
            counts[key] = counts.get(key, 0) + 1
            given = record.get("references")
            references = [str(each) for each in given] if isinstance(given, list) else None
            question = found.setdefault((*key, counts[key]), Question(split, text, references))
            scores = numbers(mapping(record.get("scores")))
            question.answers[run.name] = (str(record.get("prediction") or ""), scores)
    return list(found.values())


def _records(run: Run) -> Any:
    for path in sorted((run.path / "generations").glob("*.jsonl")):
        for record in run.files.json_lines(f"generations/{path.name}"):
            yield path.stem, record
    for path in sorted((run.path / "answers").glob("*.csv")):
        for row in run.files.csv(f"answers/{path.name}"):
            generations = _texts(row.get("generations"))
            yield (
                path.stem,
                {
                    "input": row.get("question"),
                    "references": _texts(row.get("answers")),
                    "prediction": generations[0] if generations else "",
                    "scores": {name: row.get(name) for name in ("exact_match", "f1", "nll")},
                },
            )


def _texts(value: str | None) -> list[str]:
    try:
        found = json.loads(value or "[]")
    except (ValueError, RecursionError):
        return []
    return [str(each) for each in found] if isinstance(found, list) else []
