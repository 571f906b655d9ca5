"""What a generative model answered in one evaluation: to read, to search for its mistakes, and to score elsewhere.

A folder of generations holds one JSONL file a split, one object an example:

    {"id": "5733be28", "input": "question: ... context: ...", "references": ["Paris"], "prediction": "in Paris",
     "scores": {"exact_match": 0.0, "token_f1": 0.667},
     "candidates": [{"text": "in Paris", "score": 1.2, "window": [0, 2087]}, {"text": "", "score": 0.1, ...}]}

`id` and `candidates` are of question answering alone (see `taskloom.evaluation.candidates`); `window` is the place in
the context, in characters; there are no `references` and `scores` where the targets are not known. The file of
predicted answers has the form of the published Hyperdecoders code: ``{"5733be28": [["in Paris", 1.2], ["", 0.1]]}``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskloom.evaluation.candidates import Candidate
from taskloom.evaluation.metrics import METRICS
from taskloom.plain_json import to_json
from taskloom.storage import staged_folder, write_atomically
from taskloom.tasks.targets import accepted

if TYPE_CHECKING:
    from taskloom.tasks import Examples, Task, TaskFeatures

__all__ = ["GENERATIONS_FOLDER", "Generations", "predicted_answers_file"]

#: The folder's name in a run folder.
GENERATIONS_FOLDER = "generations"

#: Metrics of text2text tasks that are means over the examples, so that each example has its own value.
MEANS = ("exact_match", "token_f1", "accuracy", "rouge1", "rouge2", "rougeL", "rougeLsum")


def predicted_answers_file(step: int, test: bool = False) -> str:
    """Return the name of the file of predicted answers of a model after `step` steps."""
    return f"{step}predicted_answers{'_test' if test else ''}.json"


@dataclass(frozen=True)
class _Split:
    task: "Task"
    features: "TaskFeatures"
    examples: "Examples"
    predictions: list[str]
    candidates: list[list[Candidate]] | None


class Generations:
    """The answers of one evaluation, gathered split by split, with what they are compared with."""

    def __init__(self) -> None:
        self._splits: dict[str, _Split] = {}

    def add(
        self,
        title: str,
        task: "Task",
        features: "TaskFeatures",
        examples: "Examples",
        predictions: list[Any],
        candidates: list[list[Candidate]] | None,
    ) -> None:
        """Take in one split under its title ("mnli", "mnli/dev_mismatched"); tasks that do not answer are left out."""
        if task.kind == "text2text":
            self._splits[title] = _Split(task, features, examples, predictions, candidates)

    def __len__(self) -> int:
        return len(self._splits)

    def write(self, folder: Path) -> None:
        """Write one file a split in the place of `folder`, with everything that it held."""
        with staged_folder(folder) as staged:
            self.write_into(staged)

    def write_into(self, folder: Path) -> None:
        """Write one file a split beside what `folder` holds."""
        for title, split in self._splits.items():
            lines = "".join(to_json(record) + "\n" for record in _records(split))
            write_atomically(folder / f"{title.replace('/', '-')}.jsonl", lines)

    def write_predicted_answers(self, path: Path) -> None:
        """Write the candidates of all questions, unless there are none."""
        answers: dict[str, list[Candidate]] = {}
        for title, split in self._splits.items():
            for index, candidates in enumerate(split.candidates or ()):
                answers.setdefault(_name(title, split.examples, index), []).extend(candidates)
        if answers:
            write_atomically(path, to_json(answers) + "\n")


def _name(title: str, examples: "Examples", index: int) -> str:
    return f"{title}:{examples.lines[index]}" if examples.ids is None else examples.ids[index]


def _records(split: _Split) -> Iterator[dict[str, Any]]:
    known = METRICS["text2text"]
    metrics = [name for name in split.task.metrics if name in MEANS]
    examples = split.examples
    places = iter(range(len(split.features)))
    for index, (texts, prediction) in enumerate(zip(examples.texts, split.predictions, strict=True)):
        record: dict[str, Any] = {} if examples.ids is None else {"id": examples.ids[index]}
        record |= {"input": "".join(texts)}
        if examples.targets is not None:
            references = list(accepted(examples.targets[index]))
            record["references"] = references
        record["prediction"] = prediction
        if examples.targets is not None:
            record["scores"] = {name: known[name]([prediction], [references]) for name in metrics}
        if split.candidates is not None:
            record["candidates"] = [_candidate(split, next(places), candidate) for candidate in split.candidates[index]]
        yield record


def _candidate(split: _Split, item: int, candidate: Candidate) -> dict[str, Any]:
    text, score = candidate
    record: dict[str, Any] = {"text": text, "score": score}
    return {**record, "window": split.features.characters(item)} if split.task.windows else record
