"""Metrics by name, and the score of a task as the mean of its metrics (GLUE's convention, Wang et al. 2018).

Every metric is a function of (predictions, targets) over a whole split. What they hold depends on the task's
kind:

| kind | predictions | targets |
|---|---|---|
| classification | class indices | class indices |
| regression | numbers | numbers |
| token | one list of tag names a sentence | the same |
| span, text2text | answer texts | the gold answer texts of each example |
| text2text: f1, macro_f1, matthews | positions among the task's answers, -1 for other texts | the same |
| text2text: pearson, spearman | numbers, -1 for texts that spell none | the same |
| lm | mean negative log-likelihood (nats) of each text | its number of predicted tokens |

Where a metric is undefined (see each function) it is 0.0, never NaN: one degenerate task must not erase the
mean over tasks. scikit-learn and SciPy are imported inside the functions, since the names alone are needed to
validate a recipe.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from taskloom.errors import UserError, did_you_mean
from taskloom.evaluation.answers import exact_match, token_f1
from taskloom.evaluation.entities import entity_f1
from taskloom.evaluation.text import (
    bleu,
    class_indices,
    f1_of_answers,
    macro_f1_of_answers,
    numbers,
    share_of_equal_texts,
)

if TYPE_CHECKING:
    from taskloom.tasks.task import Task

__all__ = ["METRICS", "combined", "metric_complaint", "primary", "score_task"]

Metric = Callable[[Any, Any], float]

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def accuracy(predictions: ArrayLike, targets: ArrayLike) -> float:
    """The share of examples whose class is right."""
    return float(np.mean(np.asarray(predictions) == np.asarray(targets)))


def f1(predictions: ArrayLike, targets: ArrayLike) -> float:
    """F1 of the class with index 1, as GLUE has it for MRPC and QQP; 0.0 if nobody names that class."""
    return _f1(np.asarray(predictions) == 1, np.asarray(targets) == 1, "binary")


def macro_f1(predictions: ArrayLike, targets: ArrayLike) -> float:
    """The unweighted mean of the F1 of each class that is predicted or present."""
    return _f1(predictions, targets, "macro")


def micro_f1(predictions: ArrayLike, targets: ArrayLike) -> float:
    """F1 over the pooled decisions of all classes; with one class an example it equals accuracy."""
    return _f1(predictions, targets, "micro")


def _f1(predictions: ArrayLike, targets: ArrayLike, average: str) -> float:
    from sklearn.metrics import f1_score

    score: Any = f1_score(targets, predictions, average=average, zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return float(score)


def matthews(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Matthews correlation, in [-1, 1]; 0.0 (chance level) if either side is one class only."""
    from sklearn.metrics import matthews_corrcoef

    if len(np.unique(predictions)) == 1 or len(np.unique(targets)) == 1:
        return 0.0  # one class has no variance to divide by; guessing it is chance
    return float(matthews_corrcoef(targets, predictions))


def pearson(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Linear correlation, in [-1, 1]; 0.0 where it is undefined (see `_correlation`)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, targets)


def spearman(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Rank correlation, in [-1, 1]; 0.0 where it is undefined (see `_correlation`)."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, targets)


def _correlation(compute: Callable[..., Any], predictions: ArrayLike, targets: ArrayLike) -> float:
    # A constant side has no variance to divide by: it explains nothing, which is what 0.0 says. The same
    # holds for the infinite or NaN outputs of a model that has diverged (its loss tells why).
    if any(not np.all(np.isfinite(side)) or np.ptp(side) == 0 for side in (predictions, targets)):
        return 0.0
    return float(compute(predictions, targets).statistic)


def token_accuracy(predictions: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> float:
    """The share of words whose tag is right, over all sentences together; 0.0 if there are no words."""
    for found, expected in zip(predictions, targets, strict=True):
        if len(found) != len(expected):
            raise ValueError(f"`predictions` has a sentence of {len(found)} tags instead of {len(expected)}")
    pairs = zip(chain.from_iterable(predictions), chain.from_iterable(targets), strict=True)
    hits = [found == expected for found, expected in pairs]
    return fmean(hits) if hits else 0.0


def mean_exact_match(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The mean of `exact_match` over the examples."""
    return fmean(exact_match(found, golds) for found, golds in zip(predictions, targets, strict=True))


def mean_token_f1(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The mean of `token_f1` over the examples."""
    return fmean(token_f1(found, golds) for found, golds in zip(predictions, targets, strict=True))


def rouge1(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The mean F-measure of shared words (stemmed), against the best gold answer."""
    return _rouge("rouge1", predictions, targets)


def rouge2(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The mean F-measure of shared word pairs (stemmed), against the best gold answer."""
    return _rouge("rouge2", predictions, targets)


def rouge_l(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The mean F-measure of the longest common subsequence of words (stemmed), against the best gold answer."""
    return _rouge("rougeL", predictions, targets)


def rouge_l_sum(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """As rougeL, with the longest common subsequence of each gold sentence; a line or . ! ? ends a sentence."""
    split = [SENTENCE_END.sub("\n", found) for found in predictions]
    return _rouge("rougeLsum", split, [[SENTENCE_END.sub("\n", gold) for gold in golds] for golds in targets])


def _rouge(name: str, predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UserError(f"metrics: {name} needs rouge-score: pip install 'taskloom[generation]'") from None
    scorer = RougeScorer([name], use_stemmer=True)
    return fmean(
        scorer.score_multi(golds, found)[name].fmeasure for found, golds in zip(predictions, targets, strict=True)
    )


def perplexity(losses: ArrayLike, token_counts: ArrayLike) -> float:
    """Return exp(mean negative log-likelihood a token), all texts together; infinite if it overflows."""
    mean = np.average(np.asarray(losses, dtype=np.float64), weights=np.asarray(token_counts))
    with np.errstate(over="ignore"):
        return float(np.exp(mean))


#: For each kind of task, the metrics that it can have.
METRICS: Mapping[str, Mapping[str, Metric]] = {
    "classification": {
        "accuracy": accuracy,
        "f1": f1,
        "macro_f1": macro_f1,
        "micro_f1": micro_f1,
        "matthews": matthews,
    },
    "regression": {"pearson": pearson, "spearman": spearman},
    "token": {"token_accuracy": token_accuracy, "entity_f1": entity_f1},
    "span": {"exact_match": mean_exact_match, "token_f1": mean_token_f1},
    "text2text": {
        "exact_match": mean_exact_match,
        "token_f1": mean_token_f1,
        "accuracy": share_of_equal_texts,
        "f1": f1_of_answers,
        "macro_f1": macro_f1_of_answers,
        "matthews": matthews,
        "pearson": pearson,
        "spearman": spearman,
        "bleu": bleu,
        "rouge1": rouge1,
        "rouge2": rouge2,
        "rougeL": rouge_l,
        "rougeLsum": rouge_l_sum,
    },
    "lm": {"perplexity": perplexity},
}


#: Metrics of text2text tasks for which the answers are classes, and those for which they are numbers.
OF_CLASSES = ("f1", "macro_f1", "matthews")
OF_NUMBERS = ("pearson", "spearman")


def metric_complaint(task: "Task", name: str) -> str | None:
    """Return what is wrong with the metric `name` for this task, None if nothing is."""
    if name not in METRICS[task.kind]:
        return f"there is no metric '{name}' for {task.kind} tasks.{did_you_mean(name, METRICS[task.kind])}"
    if task.kind == "text2text" and name in OF_CLASSES:
        answers = task.known_answers
        if answers is None:
            return f"the metric '{name}' needs to know the answers: give `answers` for the labels, or `choices`"
        if name == "f1" and len(answers) != 2:
            return f"the metric 'f1' is for two answers, found {len(answers)}: use macro_f1"
    return None


def score_task(task: "Task", predictions: Sequence[Any], targets: Sequence[Any]) -> dict[str, float]:
    """Return the value of each of the task's metrics, in the order of ``task.metrics``.

    `predictions` and `targets` are as in ``Examples.targets``: class indices, numbers, one list of tag
    indices a sentence, texts; for span tasks `targets` are answers ``{"text": [...], ...}`` and `predictions`
    are texts.

    Raises:
        ValueError: if the two differ in length, if there are none, or if a metric does not exist for this
            kind.
    """
    if len(predictions) != len(targets) or not len(targets):
        raise ValueError(
            f"`predictions` ({len(predictions)}) and `targets` ({len(targets)}) of task '{task.name}' "
            "must have the same length, at least 1"
        )
    for name in task.metrics:
        if complaint := metric_complaint(task, name):
            raise ValueError(f"`metrics` of task '{task.name}': {complaint}")
    return {
        name: METRICS[task.kind][name](*_in_the_metrics_form(task, name, predictions, targets)) for name in task.metrics
    }


def _in_the_metrics_form(
    task: "Task", name: str, predictions: Sequence[Any], targets: Sequence[Any]
) -> tuple[Any, Any]:
    match task.kind:
        case "token":
            labels = task.labels or ()
            return _tag_names(predictions, labels), _tag_names(targets, labels)
        case "span":
            return predictions, [answers["text"] for answers in targets]
        case "text2text":
            accepted = [[target] if isinstance(target, str) else target for target in targets]
            right = [texts[0] for texts in accepted]
            if name in OF_CLASSES:
                answers = task.known_answers or ()
                classes = {answer.strip() for answer in answers}
                # Of several right texts the first that is a class: the others cannot be given.
                right = [next((text for text in texts if text.strip() in classes), texts[0]) for texts in accepted]
                return class_indices(predictions, answers), class_indices(right, answers)
            if name in OF_NUMBERS:
                return numbers(predictions), numbers(right)
            return predictions, accepted
        case _:
            return predictions, targets


def _tag_names(sentences: Sequence[Sequence[int]], labels: Sequence[str]) -> list[list[str]]:
    return [[labels[tag] for tag in sentence] for sentence in sentences]


def primary(task: "Task", scores: Mapping[str, float]) -> float:
    """Return the one number by which the task is judged, higher is better: the mean of its metrics."""
    return combined({name: scores[name] for name in task.metrics})


def combined(scores: Mapping[str, float]) -> float:
    """Return the mean of several metrics of one task.

    A perplexity enters as its inverse, the (geometric) mean probability of a token, which lies in [0, 1] like
    the rest.
    """
    return fmean(1 / value if name == "perplexity" else value for name, value in scores.items())
