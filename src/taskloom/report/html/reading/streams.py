"""What the online stages wrote: questions before and after, documents of the stream, tokens with weights."""

import json
import re
from dataclasses import dataclass
from typing import Any

from taskloom.report.html.reading.files import mapping, number, numbers
from taskloom.report.html.reading.run import Run
from taskloom.report.token_weights import TokenWeights

__all__ = ["Answered", "documents", "questions", "token_weights"]

#: Metrics of questions of which less is better.
LOWER_IS_BETTER = ("nll", "loss", "kl")


@dataclass(frozen=True)
class Answered:
    """A metric before a stage and after it.

    Attributes:
        of: the questions that it is of.
        better: whether it became better; None if it stayed the same or is not known.
    """

    of: str
    metric: str
    before: float | None
    after: float | None

    @property
    def better(self) -> bool | None:
        if self.before is None or self.after is None or self.before == self.after:
            return None
        return (self.after < self.before) == (self.metric in LOWER_IS_BETTER)


def questions(run: Run) -> list[Answered]:
    """Return the metrics of a stage's questions."""
    scores = run.scores
    if run.kind == "adapt":
        before, after = mapping(scores.get("before")), mapping(scores.get("after"))
        return [
            Answered(f"{kind} questions", metric, number(mapping(before.get(kind)).get(metric)), value)
            for kind, metrics in after.items()
            for metric, value in numbers(metrics).items()
        ]
    before, best = numbers(scores.get("before")), mapping(scores.get("best"))
    if run.kind == "tune-qa":
        found = {name: number(mapping(value).get("value")) for name, value in best.items()}
        return [Answered("dev questions", name, before.get(name), value) for name, value in found.items()]
    if run.kind == "meta-train":
        found = {name: value for name, value in numbers(best).items() if name != "step"}
        return [Answered("validation", name, before.get(name), value) for name, value in found.items()]
    return []


def documents(run: Run) -> list[dict[str, Any]]:
    """Return the documents of a stream: name, status, reason, tokens, loss and mean weight."""
    return list(run.files.json_lines("documents.jsonl"))


def token_weights(run: Run) -> tuple[int | None, list[TokenWeights]]:
    """Return a stream's first documents, or the latest ones of a meta-training with the step that they are of."""
    if run.kind == "adapt":
        return None, _weighted(run, "weights/documents.json") if (run.path / "weights").is_dir() else []
    steps = {
        int(match[1]): path
        for path in (run.path / "weights").glob("step-*.json")
        if (match := re.fullmatch(r"step-(\d+)\.json", path.name))
    }
    if not steps:
        return None, []
    step = max(steps)
    return step, _weighted(run, f"weights/{steps[step].name}")


def _weighted(run: Run, name: str) -> list[TokenWeights]:
    given = run.files.json(name).get("documents")
    found = []
    for item in given if isinstance(given, list) else []:
        each = mapping(item)
        tokens, weights = each.get("tokens"), each.get("weights")
        if not isinstance(tokens, list) or not isinstance(weights, list) or len(tokens) != len(weights):
            run.notes.add(f"{run.path / name}: expected as many weights as tokens in each document: one is left out")
            continue
        values = [value if (value := number(weight)) is not None else float("nan") for weight in weights]
        texts = [token if isinstance(token, str) else json.dumps(token) for token in tokens]
        found.append(TokenWeights(str(each.get("title") or ""), texts, values))
    return found
