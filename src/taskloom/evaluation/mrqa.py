"""Exact match and F1 of predicted answers as the MRQA shared task and SQuAD count them, in percent.

Both are means over the questions of the best match with any gold answer, after SQuAD's normalisation (Rajpurkar et al.
2016, section 6.1; Fisch et al. 2019). As in the official scripts, a question without a prediction counts as wrong, and
an answer without words has the F1 0, even where the gold answer has none either. The predictions may also be those of
several windows a question: then the likeliest that is not empty counts (`taskloom.evaluation.candidates`).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from taskloom.errors import DataError
from taskloom.evaluation.answers import exact_match, normalize_answer, token_f1
from taskloom.evaluation.candidates import likeliest_answer
from taskloom.tasks.files import Table, read_table, require_file
from taskloom.tasks.spans import answer_texts
from taskloom.tasks.text_files import read_text

__all__ = ["AnswerScores", "mrqa_scores", "read_predictions", "score_answers", "squad_scores"]

logger = logging.getLogger(__name__)

#: Question id to the texts that count as right.
Golds = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class _Gold:
    dataset: str
    source: Path
    answers: Golds


@dataclass(frozen=True)
class AnswerScores:
    """How well the questions of one data set are answered.

    Attributes:
        dataset: The data set's name.
        em: Exact match, in percent of the questions.
        f1: Mean F1, in percent.
        questions: Questions that count.
        missing: Questions without a prediction.
    """

    dataset: str
    em: float
    f1: float
    questions: int
    missing: int


def mrqa_scores(
    gold_path: Path | str, predictions_path: Path | str, missing: Literal["wrong", "skip"] = "wrong"
) -> dict[str, dict[str, float]]:
    """Return ``{data set: {"em": percent, "f1": percent}}`` of the predictions for MRQA questions.

    Args:
        gold_path: an MRQA file (``.jsonl`` or ``.jsonl.gz``), or a folder of such files; a data set is called as in
            the header of its file, with the file's name where two are called the same. Of a folder, files without any
            prediction are left out.
        predictions_path: JSON, ``{question id: text}`` or, of several windows a question,
            ``{question id: [[text, score], ...]}``, where the lowest score is the likeliest.
        missing: whether a question without a prediction counts as wrong, as officially, or not at all, as in the
            published evaluation of Hyperdecoders. How many there are is logged.

    Raises:
        DataError: a file is missing or malformed, or there is a prediction for none of the questions.
    """
    return _by_name(score_answers("mrqa", gold_path, predictions_path, missing))


def squad_scores(
    gold_path: Path | str, predictions_path: Path | str, missing: Literal["wrong", "skip"] = "wrong"
) -> dict[str, dict[str, float]]:
    """Return ``{"SQuAD": {"em": percent, "f1": percent}}`` of the predictions for the questions of a SQuAD file.

    A question without an answer (SQuAD 2) is rightly answered by the empty text. Arguments as of `mrqa_scores`, but
    for `gold_path`, SQuAD's own JSON.

    Raises:
        DataError: as `mrqa_scores`.
    """
    return _by_name(score_answers("squad", gold_path, predictions_path, missing))


def score_answers(
    form: Literal["mrqa", "squad"],
    gold_path: Path | str,
    predictions_path: Path | str,
    missing: Literal["wrong", "skip"] = "wrong",
) -> list[AnswerScores]:
    """Return the scores of each data set, with the number of questions; see `mrqa_scores` and `squad_scores`."""
    gold_path, predictions_path = Path(gold_path), Path(predictions_path)
    predictions = read_predictions(predictions_path)
    golds = _mrqa_golds(gold_path) if form == "mrqa" else [_squad_gold(gold_path)]
    left_out = [part.source.name for part in golds if part.answers.keys().isdisjoint(predictions)]
    answered = [part for part in golds if part.source.name not in left_out]
    if not answered:
        raise DataError(
            f"{predictions_path}: holds a prediction for none of the questions of {gold_path}, the first of which is "
            f"'{next(iter(golds[0].answers))}'; give the gold file that belongs to the predictions"
        )
    if left_out:
        logger.warning("%s: no predictions for %s, left out", predictions_path, ", ".join(left_out))
    names = [part.dataset for part in answered]
    scores = [
        _scored(name if names.count(name) == 1 else f"{name} ({part.source.name})", part.answers, predictions, missing)
        for name, part in zip(names, answered, strict=True)
    ]
    for score in scores:
        if score.missing:
            how = "count as wrong" if missing == "wrong" else "are left out"
            logger.warning("%s: questions without a prediction, which %s: %d", score.dataset, how, score.missing)
    return scores


def read_predictions(path: Path) -> dict[str, str]:
    """Return the answer to each question from a file of predictions in either form; see `mrqa_scores`.

    Raises:
        DataError: the file is missing or malformed; the message names the question.
    """
    require_file(path)
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as failure:
        raise DataError(f"{path}:{failure.lineno}: malformed JSON at column {failure.colno} ({failure.msg})") from None
    except RecursionError:
        raise DataError(f"{path}: malformed JSON (brackets in brackets without end)") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, {{question id: answer}}, found {content!r:.40}")
    return {name: _answer(value, f"{path}: the prediction for question '{name}'") for name, value in content.items()}


def _answer(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(_is_candidate(candidate) for candidate in value):
        raise DataError(f"{where} is {value!r:.60}, expected a text, or a list of [text, score]")
    # A score that is not finite was written as null, or elsewhere as NaN, which would compare as the lowest.
    return likeliest_answer([(text, inf if score is None or isnan(score) else score) for text, score in value])


def _is_candidate(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        return False
    return value[1] is None or (isinstance(value[1], (int, float)) and not isinstance(value[1], bool))


def _mrqa_golds(path: Path) -> list[_Gold]:
    return [_mrqa_gold(file) for file in _gold_files(path)]


def _gold_files(path: Path) -> list[Path]:
    if not path.is_dir():
        require_file(path)
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
    if not found:
        raise DataError(f"{path}: no .jsonl or .jsonl.gz files in this folder")
    return found


def _mrqa_gold(path: Path) -> _Gold:
    table = read_table(path)
    if not {"subset", "qid"} <= set(table.columns):
        raise DataError(
            f"{path}: no MRQA file; expected a header line, "
            '{"header": {"dataset": NAME}}, and then one context a line with its questions (`qas`)'
        )
    return _Gold(table.rows[0][1]["subset"], path, _texts(table, "qid"))


def _squad_gold(path: Path) -> _Gold:
    table = read_table(path)
    if not {"id", "answers"} <= set(table.columns):
        raise DataError(f"{path}: no SQuAD file; expected the articles under `data`, with `paragraphs` and `qas`")
    return _Gold("SQuAD", path, _texts(table, "id"))


def _texts(table: Table, name: str) -> Golds:
    golds: dict[str, Sequence[str]] = {}
    for number, row in table.rows:
        question = row[name]
        if question in golds:
            raise DataError(f"{table.where(number)}: a second question '{question}'; each needs an id of its own")
        try:
            golds[question] = answer_texts(row.get("answers"), "answers")
        except ValueError as failure:
            raise DataError(f"{table.where(number)}: question '{question}': {failure}") from None
    return golds


def _scored(
    dataset: str, golds: Golds, predictions: Mapping[str, str], missing: Literal["wrong", "skip"]
) -> AnswerScores:
    answered = [(predictions[name], texts) for name, texts in golds.items() if name in predictions]
    unanswered = len(golds) - len(answered)
    exact = [exact_match(text, texts) for text, texts in answered]
    f1 = [_f1(text, texts) for text, texts in answered]
    padding = [0.0] * unanswered if missing == "wrong" else []
    return AnswerScores(
        dataset, 100 * fmean(exact + padding), 100 * fmean(f1 + padding), len(exact + padding), unanswered
    )


def _f1(prediction: str, golds: Sequence[str]) -> float:
    """F1 as officially: 0 for an answer without words, unless the question has no answer at all (SQuAD 2)."""
    if golds and not normalize_answer(prediction):
        return 0.0
    return token_f1(prediction, golds)


def _by_name(scores: Sequence[AnswerScores]) -> dict[str, dict[str, float]]:
    return {score.dataset: {"em": score.em, "f1": score.f1} for score in scores}
