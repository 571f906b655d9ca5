"""Natural-Instructions files as tasks (Wang et al. 2022): the definition and some examples before every input.

A file holds `Definition`, `Positive Examples` and `Instances`, each with an `input` and its right `output`s.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taskloom.errors import DataError
from taskloom.tasks.files import require_file
from taskloom.tasks.instructions import suite_kind
from taskloom.tasks.task import Task, task_from_mapping

__all__ = ["natural_instructions"]

#: Outputs are labels if there are at most this many different ones, each seen this often on average.
MOST_LABELS = 20
FEWEST_PER_LABEL = 5
DIVISION = {"train": 0.8, "dev": 0.1, "test": 0.1}


def natural_instructions(spec: Mapping[str, Any], base_dir: Path, data_dir: Path | None, where: str) -> list[Task]:
    """Return a task for each Natural-Instructions file, named as the file.

    The prompt is the definition, `examples` of the positive examples (2 by default), and the instance's input. Any
    output of an instance counts as right. The instances are divided at random, 80% train, 10% dev, 10% test, unless
    `divide` says otherwise; `divide_seed` chooses them. Where the outputs are labels (few different ones, one for each
    instance), they are the task's choices, and `as: classification` its classes.

    Args:
        spec: the entry: `natural_instructions` (a file or a pattern), and perhaps `examples`, `as` and fields of every
            task.
        base_dir: folder that relative paths start from when there is no `data_dir`.
        data_dir: folder that relative paths start from.
        where: names the entry in messages.

    Raises:
        DataError: no file, a malformed one, or `as: classification` for one whose outputs are no labels.
    """
    pattern = str(spec["natural_instructions"])
    overrides = {name: value for name, value in spec.items() if name not in ("natural_instructions", "examples", "as")}
    examples = spec.get("examples", 2)
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 0:
        raise DataError(f"{where}: examples is {examples!r}, expected the number of examples in the prompt")
    kind = suite_kind(spec, where)
    return [
        _natural_instruction(path, name, kind, examples, overrides, where)
        for path, name in _matching(pattern, data_dir or base_dir, where)
    ]


def _matching(pattern: str, root: Path, where: str) -> list[tuple[Path, str]]:
    """Return each file with its path as the task is to name it."""
    expanded = Path(pattern).expanduser()
    anchor = Path(expanded.anchor) if expanded.is_absolute() else root
    if not any(sign in pattern for sign in "*?["):
        require_file(anchor / expanded)
        return [(anchor / expanded, str(expanded))]
    relative = str(expanded.relative_to(expanded.anchor)) if expanded.is_absolute() else str(expanded)
    found = sorted(anchor.glob(relative))
    if not found:
        raise DataError(f"{where}: no file matches '{pattern}' in {anchor}")
    return [(path, (path if expanded.is_absolute() else path.relative_to(root)).as_posix()) for path in found]


def _natural_instruction(
    path: Path, name: str, kind: str, examples: int, overrides: Mapping[str, Any], where: str
) -> Task:
    content = _read_json(path)
    found = _instances(content, path)
    labels = _labels([instance["output"] for instance in found])
    fields: dict[str, Any] = {
        "name": path.stem,
        "kind": kind,
        "description": ", ".join(_texts(content, "Categories", path)),
        "instruction": _instruction(content, examples, path),
        "inputs": ("{input}\nOutput:",),
        "path": name,
        "records": "Instances",
        "divide": DIVISION,
    }
    if kind == "classification":
        if labels is None and "labels" not in overrides:
            distinct = len({instance["output"][0] for instance in found})
            raise DataError(
                f"{path}: its outputs are no labels ({distinct} different ones in {len(found)} instances), so `as: "
                "classification` does not fit; leave it out, or list the `labels`"
            )
        fields |= {"target": "output.0", "labels": labels}
    else:
        fields |= {"target": "output", "choices": labels}
    return task_from_mapping({**fields, **overrides}, f"{where} ({path.name})")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as failure:
        raise DataError(f"{path}: malformed JSON ({failure})") from None
    if not isinstance(content, dict) or "Instances" not in content:
        raise DataError(f"{path}: no Natural-Instructions file: the field 'Instances' is missing")
    return content


def _instruction(content: Mapping[str, Any], examples: int, path: Path) -> str:
    """Return what stands before the input: the definition and the first positive examples."""
    definition = " ".join(text.strip() for text in _texts(content, "Definition", path))
    if not definition:
        raise DataError(f"{path}: the field 'Definition' is missing or empty, expected the task's instruction")
    parts = [f"Definition: {definition}"]
    positive = content.get("Positive Examples", [])
    for number, example in enumerate(positive[:examples], start=1):
        if not isinstance(example, dict) or not all(isinstance(example.get(key), str) for key in ("input", "output")):
            raise DataError(f"{path}, record {number} of 'Positive Examples': expected the texts 'input' and 'output'")
        parts.append(f"Example {number}\nInput: {example['input']}\nOutput: {example['output']}")
    return "\n\n".join([*parts, "Input: "])


def _texts(content: Mapping[str, Any], field: str, path: Path) -> list[str]:
    """Return a field that older files write as a text and newer ones as a list of texts."""
    value = content.get(field, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{path}: the field '{field}' holds {value!r:.60}, expected a text or a list of texts")
    return texts


def _labels(outputs: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Return the outputs in alphabetical order if they are labels, else None."""
    if any(len(output) > 1 for output in outputs):
        return None
    counts = Counter(output[0] for output in outputs)
    if not 2 <= len(counts) <= MOST_LABELS or len(outputs) < FEWEST_PER_LABEL * len(counts):
        return None
    return tuple(sorted(counts))


def _instances(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Return the checked instances of a Natural-Instructions file, ``{"input": text, "output": [texts], ...}`` each.

    Raises:
        DataError: there are none, or one lacks a field or holds something else in it; the message says which.
    """
    found = content["Instances"]
    if not isinstance(found, list) or not found:
        raise DataError(f"{path}: the field 'Instances' holds {found!r:.60}, expected a list of examples")
    for number, instance in enumerate(found, start=1):
        place = f"{path}, record {number} of 'Instances'"
        if not isinstance(instance, dict):
            raise DataError(f"{place}: found {instance!r:.60}, expected an object")
        for name in ("input", "output"):
            if name not in instance:
                raise DataError(f"{place}: the field '{name}' is missing")
        if not isinstance(instance["input"], str):
            raise DataError(f"{place}: the field 'input' holds {type(instance['input']).__name__}, expected a string")
        outputs = instance["output"]
        if not isinstance(outputs, list) or not outputs or not all(isinstance(output, str) for output in outputs):
            raise DataError(f"{place}: the field 'output' holds {outputs!r:.60}, expected a list of strings")
    return found
