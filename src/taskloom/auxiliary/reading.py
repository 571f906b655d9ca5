"""A search space as a user writes it: lists of words by stage, read into words that are known, or refused."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from taskloom.auxiliary.stages import DATA, OUTPUTS, STAGES, known_words, read_word
from taskloom.errors import RecipeError, did_you_mean

__all__ = ["KEYS", "IllegalPair", "read_stages"]

#: The keys of a search space and the stage that each one lists the values of.
KEYS = dict(zip(("data", "transforms", "representations", "outputs"), STAGES, strict=True))
#: Two values that do not go together, each as (stage, word).
IllegalPair = tuple[tuple[str, str], tuple[str, str]]


def read_stages(
    values: Mapping[str, Any], labelled: Sequence[str], title: str
) -> tuple[dict[str, list[str]], list[IllegalPair]]:
    """Return the words of each stage, and the pairs that the space forbids.

    Args:
        values: by `KEYS`, and `illegal`.
        labelled: the labelled tasks, which may stand in data and outputs.
        title: what messages begin with.

    Raises:
        RecipeError: a key or a value is unknown, missing or there twice.
    """
    for key in values:
        if key not in (*KEYS, "illegal"):
            raise RecipeError(f"{title}: unknown key '{key}'.{did_you_mean(str(key), (*KEYS, 'illegal'))}")
    stages = {stage: _read_stage(values.get(key), stage, labelled, f"{title}: {key}") for key, stage in KEYS.items()}
    for word in {*stages["data"], *stages["output"]} & {*labelled} & {*DATA, *OUTPUTS}:
        raise RecipeError(
            f"{title}: '{word}' is a labelled task and also a word of search spaces: give the task another name"
        )
    illegal = [
        pair
        for number, written in enumerate(_as_list(values.get("illegal", []), f"{title}: illegal"), start=1)
        for pair in _read_pair(written, stages, f"{title}: illegal: pair {number}")
    ]
    return stages, illegal


def _as_list(written: Any, where: str) -> Sequence[Any]:
    if not isinstance(written, list | tuple):
        raise RecipeError(f"{where}: expected a list, found {written!r}; put it in brackets")
    return written


def _read_stage(written: Any, stage: str, labelled: Sequence[str], where: str) -> list[str]:
    words: list[str] = []
    if written is None or written == []:
        raise RecipeError(f"{where} is required: a list of {', '.join(known_words(stage, labelled))}")
    for value in _as_list(written, where):
        word = read_word(stage, value, labelled)
        if word is None:
            raise RecipeError(
                f"{where}: unknown value '{value}'.{did_you_mean(str(value), known_words(stage, labelled))}"
            )
        if word in words:
            raise RecipeError(f"{where}: '{word}' is there twice (the second time as '{value}')")
        words.append(word)
    return words


def _read_pair(written: Any, stages: Mapping[str, Sequence[str]], where: str) -> list[IllegalPair]:
    """Return what a pair forbids: its values in any two stages, the first in the earlier one (`None`, `None`)."""
    if not isinstance(written, list | tuple) or len(written) != 2:
        raise RecipeError(f"{where}: expected two values such as [bert, left-to-right], found {written!r}")
    labelled = [*stages["data"], *stages["output"]]
    meant = [{stage: read_word(stage, value, labelled) for stage in STAGES} for value in written]
    for value, words in zip(written, meant, strict=True):
        if not any(words[stage] in stages[stage] for stage in STAGES):
            known = dict.fromkeys(word for words in stages.values() for word in words)
            raise RecipeError(
                f"{where}: no stage of the space has the value '{value}'.{did_you_mean(str(value), known)}"
            )
    first, second = meant
    found = [
        ((earlier, str(first[earlier])), (later, str(second[later])))
        for earlier, later in combinations(STAGES, 2)
        if first[earlier] in stages[earlier] and second[later] in stages[later]
    ]
    if not found:
        raise RecipeError(
            f"{where}: expected values of two stages in the order {', '.join(STAGES)}, found '{written[0]}' and "
            f"'{written[1]}'"
        )
    return found
