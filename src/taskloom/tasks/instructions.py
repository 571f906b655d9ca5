"""Instruction suites: one task a template (promptsource, or our own YAML) or a Natural-Instructions file.

Grad-TAG's text experiments (arXiv 2409.06091, section 5) take a hundred instructions for one data set as a hundred
tasks. Here a suite is one entry under a recipe's `tasks`, which stands for all its tasks:

    {templates: instructions/rte, source: glue/rte}        # templates of our own, in `prompts/*.yaml`
    {templates: my-templates.yaml, source: {...}}          # the same form, or promptsource's own `templates.yaml`
    {natural_instructions: "tasks/task12*_*.json"}         # Wang et al. 2022: a file, or a pattern for several

`as: classification` makes of each task one that an encoder solves: the prompt in, the class out. What else is given
beside these keys holds for every task of the suite.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks.files import require_file
from taskloom.tasks.task import Task, task_from_mapping

__all__ = ["is_suite", "list_suites", "suite_kind", "suite_of_preset", "template_source", "templated_tasks"]

PREFIX = "instructions/"
KINDS = ("text2text", "classification")
#: What a templated task takes over from the task that its data comes from.
DATA_FIELDS = (
    *("target", "labels", "label_values", "splits", "optional_splits", "path", "divide", "divide_seed", "dataset"),
    *("subset", "revision", "columns", "headerless", "delimiter", "quoting", "malformed_rows", "explode", "records"),
    *("unlabelled_rows", "hold_out"),
)


def list_suites() -> list[tuple[str, str]]:
    """Return the id and the one-line description of every suite of templates that comes with taskloom."""
    return [(PREFIX + name, _load_yaml(path.read_text("utf-8"), name)["description"]) for name, path in _packaged()]


def is_suite(spec: Mapping[str, Any]) -> bool:
    """Return whether an entry under `tasks` stands for several tasks."""
    return "templates" in spec or "natural_instructions" in spec


def suite_of_preset(spec: str | Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the suite that a preset id ("instructions/rte") or ``{"preset": id, ...}`` stands for, or None."""
    fields = {"preset": spec} if isinstance(spec, str) else dict(spec)
    preset = fields.pop("preset", None)
    if preset not in [PREFIX + name for name, _ in _packaged()]:
        return None
    return {"templates": preset, **fields}


def template_source(spec: Mapping[str, Any], base_dir: Path) -> tuple[Any, Path]:
    """Return what the data of a suite of templates is, and the folder that its relative paths start from.

    The entry's `source` goes before that of the templates' file.

    Raises:
        DataError: neither names one, or the file is missing or malformed.
    """
    content, where = _templates_file(spec["templates"], base_dir)
    if "source" in spec:
        source, base = spec["source"], base_dir
    else:
        source, base = content.get("source"), (base_dir / str(spec["templates"])).parent
    if source is None:
        raise DataError(f"{where}: give the data to fill the templates with: `source`, a preset or a task's fields")
    if isinstance(source, Mapping) and "preset" not in source:
        # The templates say which columns are read.
        source = {"inputs": [source.get("target", "label")], **source}
    return source, base


def templated_tasks(spec: Mapping[str, Any], source: Task, base_dir: Path) -> list[Task]:
    """Return one task a template, named ``<source>-<position>-<template>``.

    Args:
        spec: the entry: `templates`, and perhaps `as`, `only` (names of templates), `name` (instead of the source's)
            and fields of every task.
        source: whose data the templates are filled with.
        base_dir: folder that a relative path of `templates` starts from.

    Raises:
        DataError: naming the file and the template.
    """
    content, where = _templates_file(spec["templates"], base_dir)
    overrides = {name: value for name, value in spec.items() if name not in ("templates", "source", "only", "as")}
    prefix = overrides.pop("name", source.name)
    kind = suite_kind(spec, where)
    if kind == "classification" and source.kind != "classification":
        raise DataError(f"{where}: `as: classification` needs a source with labels; '{source.name}' is {source.kind}")
    shared = {name: getattr(source, name) for name in DATA_FIELDS if name in source.model_fields_set}
    shared |= {"kind": kind, "target": source.target}
    if kind == "classification":
        shared["metrics"] = source.metrics
    shared["columns"] = _renamed(shared.get("columns"), content.get("columns", {}))
    templates = _named_templates(content, where)
    only = _only(spec, templates, where)
    tasks = []
    for position, (name, template) in enumerate(templates, start=1):
        if only is not None and name not in only:
            continue
        fields = shared | {"name": f"{prefix}-{position:02d}-{name}", "description": template.get("description", "")}
        fields |= _template_fields(template, content, kind, f"{where}, template '{name}'")
        if fields.get("answers") is None and fields.get("template") is None and kind == "text2text":
            fields |= {"labels": None, "label_values": None}
        tasks.append(task_from_mapping(fields | overrides, f"{where}, template"))
    return tasks


def _templates_file(name: Any, base_dir: Path) -> tuple[dict[str, Any], str]:
    """Return the content of a file of templates, and how messages call it."""
    packaged = dict(_packaged())
    key = str(name).removeprefix(PREFIX)
    if str(name).startswith(PREFIX) and not str(name).endswith((".yaml", ".yml")):
        if key not in packaged:
            raise DataError(
                f"templates: there is no suite '{name}'.{did_you_mean(str(name), map(PREFIX.__add__, packaged))}"
            )
        text, where = packaged[key].read_text("utf-8"), str(name)
    else:
        path = base_dir / str(name)
        require_file(path)
        text, where = path.read_text("utf-8"), str(path)
    content = _load_yaml(text, where)
    if not isinstance(content, dict) or not content.get("templates") or not isinstance(content["templates"], dict):
        raise DataError(f"{where}: expected a mapping with the key `templates`: a name and a prompt for each")
    return content, where


def _named_templates(content: Mapping[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    """Return names that may stand in a task's name, and the templates as mappings."""
    named: list[tuple[str, dict[str, Any]]] = []
    taken: Counter[str] = Counter()
    for key, given in content["templates"].items():
        template = {"prompt": given} if isinstance(given, str) else given
        if not isinstance(template, dict):
            raise DataError(f"{where}, template '{key}': found {given!r}, expected a prompt or a mapping with `prompt`")
        # promptsource's keys are random ids; the template's own name is what people know it by.
        name = _slug(str(template.get("name") or key) if "jinja" in template else str(key))
        taken[name] += 1
        named.append((name if taken[name] == 1 else f"{name}-{taken[name]}", template))
    return named


def _template_fields(template: Mapping[str, Any], content: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    if "jinja" in template:
        choices = template.get("answer_choices")
        # Older files of promptsource list the choices, newer ones join them.
        joined = " ||| ".join(str(choice) for choice in choices) if isinstance(choices, list) else choices
        text = template["jinja"]
        if not isinstance(text, str):
            raise DataError(f"{where}: the field 'jinja' holds {text!r}, expected a text")
        return {"template": text, "answer_choices": joined}
    known = ("prompt", "answers", "description")
    for field in template:
        if field not in known:
            raise DataError(f"{where}: unknown field '{field}'.{did_you_mean(str(field), known)}")
    prompt = template.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: the field 'prompt' holds {prompt!r}, expected a text with columns in braces")
    answers = template.get("answers", content.get("answers"))
    if kind == "classification" or answers is None:
        return {"inputs": (prompt,)}
    if not isinstance(answers, dict):
        raise DataError(f"{where}: the field 'answers' holds {answers!r}, expected a text for each label")
    for label, answer in answers.items():
        if not isinstance(answer, str):
            raise DataError(
                f"{where}: the answer for '{label}' is {answer!r}, expected a text (put yes, no and numbers in quotes)"
            )
    return {"inputs": (prompt,), "answers": {str(label): answer for label, answer in answers.items()}}


def _only(spec: Mapping[str, Any], templates: Sequence[tuple[str, Any]], where: str) -> set[str] | None:
    if "only" not in spec:
        return None
    names = [name for name, _ in templates]
    wanted = [spec["only"]] if isinstance(spec["only"], str) else list(spec["only"])
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{where}: `only` names '{name}', which is no template of it.{did_you_mean(str(name), names)}"
            )
    return set(wanted)


def _renamed(columns: Any, renames: Mapping[str, str]) -> Any:
    """Return a source's `columns` with the templates' own names for them."""
    if not renames:
        return columns
    if isinstance(columns, (list, tuple)):
        return tuple(renames.get(column, column) for column in columns)
    chained = {source: renames.get(name, name) for source, name in (columns or {}).items()}
    return {**chained, **renames}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.") or "template"


def suite_kind(spec: Mapping[str, Any], where: str) -> str:
    """Return the kind that an entry's `as` asks for."""
    kind = spec.get("as", "text2text")
    if kind not in KINDS:
        raise DataError(f"{where}: `as` is {kind!r}.{did_you_mean(str(kind), KINDS)}")
    return kind


def _packaged() -> Iterable[tuple[str, Any]]:
    found = files("taskloom.tasks").joinpath("prompts").iterdir()
    return [(path.name.removesuffix(".yaml"), path) for path in sorted(found, key=lambda path: path.name)]


class _PlainLoader(yaml.SafeLoader):
    """Reads promptsource's tagged mappings (`!Template`) as plain ones; no tag can construct anything."""


def _plain_mapping(loader: Any, node: yaml.Node, tag: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"the tag '!{tag}' stands for a mapping", node.start_mark)
    return loader.construct_mapping(node, deep=True)


for _tag in ("Template", "TemplateMetadata"):
    _PlainLoader.add_constructor(f"!{_tag}", partial(_plain_mapping, tag=_tag))


def _load_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as failure:
        line = failure.problem_mark.line + 1 if failure.problem_mark else 1
        raise DataError(f"{where}:{line}: malformed YAML ({failure.problem})") from None
