"""Templates: filled in by hand, as promptsource writes them and in our own YAML; what is wrong with one, and where."""

import json

import pytest
import yaml

from taskloom.errors import DataError
from taskloom.tasks import Task, TaskSuite
from taskloom.tasks.examples import examples_from_inputs
from taskloom.tasks.instructions import list_suites
from taskloom.tasks.templates import RowTemplate
from tests.support import real_data

ROWS = [
    {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"},
    {"premise": "It snows.", "hypothesis": "It is June.", "label": "not_entailment"},
]
SOURCE = {
    "name": "rte",
    "inputs": ["premise", "hypothesis"],
    "labels": ["entailment", "not_entailment"],
    "splits": {"train": "train.jsonl", "dev": "train.jsonl"},
}
PROMPTSOURCE = """\
dataset: super_glue
subset: rte
templates:
  0583671e-b717: !Template
    answer_choices: Yes ||| No
    id: 0583671e-b717
    jinja: 'Given that {{premise}} does it follow that "{{hypothesis}}"? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      choices_in_prompt: false
      original_task: true
    name: "given\\u2026 does it follow that\\u2026 "
    reference: ''
  1abaa658-e7f0: !Template
    answer_choices:
    - 'true'
    - 'false'
    id: 1abaa658-e7f0
    jinja: '{% if label == 0 %} {{premise | upper}} {{hypothesis}} ? ||| {{answer_choices[label]}} {% endif %}'
    metadata: !TemplateMetadata {}
    name: GPT-3 style
    reference: ''
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def write(folder, content, name="mine.yaml"):
    (folder / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return name


def load(folder, **spec):
    return TaskSuite.load([{"source": SOURCE, **spec}], base_dir=folder)


def refusal(folder, **spec):
    with pytest.raises(DataError) as caught:
        load(folder, **spec)
    return str(caught.value)


MINE = {
    "answers": {"entailment": "yes", "not_entailment": "no"},
    "templates": {
        "follows": "{premise} So {hypothesis}?",
        "truth": {"prompt": "{hypothesis}", "answers": {"entailment": "true", "not_entailment": "false"}},
    },
}


def test_one_task_a_template_filled_in_by_hand(folder):
    suite = load(folder, templates=write(folder, MINE))
    assert suite.names == ("rte-01-follows", "rte-02-truth")
    first, second = (suite.examples(name, "train") for name in suite.names)
    assert first.texts == [("It rains. So It is wet.?",), ("It snows. So It is June.?",)]
    assert first.targets == ["yes", "no"]
    assert first.choices == [("yes", "no")] * 2
    assert (second.texts[0], second.targets) == (("It is wet.",), ["true", "false"])
    assert all(task.kind == "text2text" and task.metrics == ("exact_match",) and task.ranks for task in suite)


def test_as_classification_the_prompt_goes_in_and_the_class_out(folder):
    suite = load(folder, templates=write(folder, MINE), **{"as": "classification"})
    task = suite["rte-01-follows"]
    assert (task.kind, task.labels, task.metrics) == ("classification", ("entailment", "not_entailment"), ("accuracy",))
    assert suite.examples(task.name, "dev").texts[0] == ("It rains. So It is wet.?",)
    assert suite.examples(task.name, "dev").targets == [0, 1]


def test_fields_beside_the_templates_hold_for_every_task(folder):
    suite = load(folder, templates=write(folder, MINE), only="truth", name="nli", decoding="generate")
    assert suite.names == ("nli-02-truth",), "the position is that in the file"
    assert not suite["nli-02-truth"].ranks
    assert suite.examples("nli-02-truth", "dev").choices is None


def test_label_values_spell_the_labels_of_the_file(folder):
    source = {**SOURCE, "labels": ["yes", "no"], "label_values": ["entailment", "not_entailment"]}
    content = {"templates": {"a": {"prompt": "{premise}", "answers": {"yes": "Y", "no": "N"}}}}
    suite = load(folder, templates=write(folder, content), source=source)
    assert suite.examples("rte-01-a", "dev").targets == ["Y", "N"]


def test_a_source_in_the_templates_file_starts_from_its_folder(folder):
    source = {name: value for name, value in SOURCE.items() if name != "inputs"}
    write(folder, {"source": source, **MINE})
    suite = TaskSuite.load([{"templates": f"{folder.name}/mine.yaml"}], base_dir=folder.parent)
    assert suite.names == ("rte-01-follows", "rte-02-truth")


def test_columns_renamed_for_the_templates(folder):
    content = {**MINE, "columns": {"premise": "text", "hypothesis": "claim"}, "templates": {"a": "{text} / {claim}"}}
    suite = load(folder, templates=write(folder, content))
    assert suite.examples("rte-01-a", "dev").texts[0] == ("It rains. / It is wet.",)


def test_promptsource_files(folder):
    name = write(folder, PROMPTSOURCE)
    suite = load(folder, templates=name)
    assert suite.names == ("rte-01-given_does_it_follow_that", "rte-02-GPT_3_style")
    first, second = (suite.examples(task, "dev") for task in suite.names)
    assert first.texts[1] == ('Given that It snows. does it follow that "It is June."?',)
    assert (first.targets, first.choices) == (["Yes", "No"], [("Yes", "No")] * 2)
    assert second.texts == [("IT RAINS. It is wet. ?",)], "the template leaves the other label out"
    assert (second.targets, second.lines) == (["true"], [1])
    encoder = load(folder, templates=name, only=["given_does_it_follow_that"], **{"as": "classification"})
    (task,) = encoder
    assert encoder.examples(task.name, "dev").texts == first.texts
    assert encoder.examples(task.name, "dev").targets == [0, 1]


def test_new_rows_need_no_target(folder):
    suite = load(folder, templates=write(folder, PROMPTSOURCE), only="given_does_it_follow_that")
    (task,) = suite
    row = {"premise": "A", "hypothesis": "B"}
    examples = examples_from_inputs(task, [row, "a whole prompt"])
    assert examples.texts == [('Given that A does it follow that "B"?',), ("a whole prompt",)]
    assert examples.choices == [("Yes", "No")] * 2
    (folder / "new.jsonl").write_text(json.dumps(row) + "\n")
    assert suite.read_inputs(task.name, folder / "new.jsonl").texts == examples.texts[:1]


def test_choices_of_each_example(folder):
    rows = [{"input": "x", "target": "b", "answer_choices": ["a", "b"]}]
    (folder / "train.jsonl").write_text(json.dumps(rows[0]) + "\n")
    task = {"name": "p3", "kind": "text2text", "inputs": "input", "target": "target", "splits": SOURCE["splits"]}
    suite = TaskSuite.load([{**task, "choices": "answer_choices"}], base_dir=folder)
    assert suite.examples("p3", "dev").choices == [("a", "b")]
    with pytest.raises(DataError, match=r"train.jsonl:1: the field 'input' holds 'x', expected a list of answers"):
        TaskSuite.load([{**task, "choices": "input"}], base_dir=folder)


def template_task(template, **fields):
    labels = {"labels": ("a", "b")} if fields.pop("labelled", True) else {}
    return Task(name="t", kind="text2text", template=template, **labels, **fields)


def test_the_separator_in_a_text_is_text():
    template = RowTemplate(template_task("{{text}} ||| {{label}}", answer_choices="x|||y"))
    row = {"text": "p ||| q", "label": "b"}
    assert (template.prompt(row), template.answer(row), template.choices(row)) == ("p ||| q", "1", ("x", "y"))


def test_a_template_cannot_leave_its_sandbox():
    template = RowTemplate(template_task("{{ text.__class__.__mro__ }} ||| {{label}}"))
    with pytest.raises(ValueError, match="cannot be filled in: access to attribute '__class__'"):
        template.prompt({"text": "x", "label": "a"})


def test_choice_depends_on_the_row_alone():
    template = RowTemplate(template_task("{{ ['in', 'out', 'up'] | choice }} {{text}} ||| {{label}}"))
    prompts = [template.prompt({"text": str(number), "label": "a"}) for number in range(20)]
    assert prompts == [template.prompt({"text": str(number), "label": "a"}) for number in range(20)]
    assert {prompt.split()[0] for prompt in prompts} == {"in", "out", "up"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("templates: [a, b]", "mine.yaml: expected a mapping with the key `templates`"),
        ("templates: {a: 'x\n", "mine.yaml:2: malformed YAML"),
        ("templates: {a: !!python/object/apply:os.system ['true']}", "mine.yaml:1: malformed YAML"),
        ("templates: {a: !Template 3}", "the tag '!Template' stands for a mapping"),
        (
            {"templates": {"a": {"promt": "x"}}},
            "mine.yaml, template 'a': unknown field 'promt'. Did you mean 'prompt'?",
        ),
        ({"templates": {"a": {"prompt": " "}}}, "template 'a': the field 'prompt' holds ' '"),
        ("templates: {a: {prompt: '{premise}', answers: {entailment: yes}}}", "the answer for 'entailment' is True"),
        (
            {"templates": {"a": {"prompt": "{premise}", "answers": {"entailment": "yes"}}}},
            "mine.yaml, template ('rte-01-a'): answers: there is none for the label 'not_entailment'",
        ),
        (
            {"templates": {"a": {"prompt": "{premise}", "answers": {**MINE["answers"], "neutral": "maybe"}}}},
            "answers: 'neutral' is no label",
        ),
        (
            {**MINE, "templates": {"a": "{premis}"}},
            "no column 'premis', which `inputs` of task 'rte-01-a' names. Did you mean 'premise'?",
        ),
        ({"templates": {"a": {"jinja": "{{premise} ||| x"}}}, "template: not a Jinja template (line 1:"),
        ({"templates": {"a": {"jinja": "{{premise}}"}}}, "there is no ||| between the prompt and the answer"),
        (
            {"templates": {"a": {"jinja": "{{premis}} ||| x"}}},
            "no column 'premis', which `template` of task 'rte-01-a' names. Did you mean 'premise'?",
        ),
        (
            {"templates": {"a": {"jinja": "{{premise.text}} ||| x"}}},
            "train.jsonl:1: the template cannot be filled in: 'str object' has no attribute 'text'",
        ),
    ],
)
def test_mistakes_name_the_file_and_the_template(folder, content, message):
    assert message in refusal(folder, templates=write(folder, content))


def test_mistakes_beside_the_templates(folder):
    name = write(folder, MINE)
    assert "`only` names 'truht', which is no template of it. Did you mean 'truth'?" in refusal(
        folder, templates=name, only="truht"
    )
    assert "`as` is 'text'" in refusal(folder, templates=name, **{"as": "text"})
    assert "no file 'other.yaml'" in refusal(folder, templates="other.yaml")
    assert "there is no suite 'instructions/rtee'. Did you mean 'instructions/rte'?" in refusal(
        folder, templates="instructions/rtee"
    )
    with pytest.raises(DataError, match="give the data to fill the templates with"):
        TaskSuite.load([{"templates": name}], base_dir=folder)
    with pytest.raises(DataError, match=r"unknown task 'instructions/rt'\. Did you mean 'instructions/rte'"):
        TaskSuite.load(["instructions/rt"])


def test_a_value_without_an_answer_is_named(folder):
    source = {**SOURCE, "labels": None}
    content = {"templates": {"a": {"prompt": "{premise}", "answers": {"entailment": "yes", "neutral": "maybe"}}}}
    assert "train.jsonl:2: 'not_entailment' in the field 'label' has no text among the answers" in refusal(
        folder, templates=write(folder, content), source=source
    )


DATA = {"rte": "superglue", "sentiment": "glue", "paraphrase": "glue"}


@pytest.mark.real_data
@pytest.mark.parametrize("suite_id", [suite for suite, _ in list_suites()])
def test_every_packaged_suite_reads_its_data(suite_id):
    folder = real_data(DATA[suite_id.split("/")[1]])
    suite = TaskSuite.load([suite_id], data_dir=folder, limits={"train": 20, "dev": 20, "test": 5})
    assert len(suite) >= (40 if suite_id.endswith("rte") else 12)
    prompts = [suite.examples(name, "dev").texts[0][0] for name in suite.names]
    assert len(set(prompts)) == len(prompts)
    for name in suite.names:
        examples = suite.examples(name, "train")
        assert set(examples.targets) <= set(examples.choices[0])
        assert not any("{" in text or "}" in text for (text,) in examples.texts)


@pytest.mark.real_data
def test_the_same_templates_on_glue():
    spec = {"preset": "instructions/rte", "source": "glue/rte", "only": "short_pair"}
    glue = TaskSuite.load([spec], data_dir=real_data("glue"), limits={"train": 3, "test": 3})
    superglue = TaskSuite.load([{**spec, "source": "superglue/rte"}], data_dir=real_data("superglue"))
    texts, expected = (suite.examples("rte-21-short_pair", "dev").texts for suite in (glue, superglue))
    assert texts[:20] == expected[:20], "later ones differ in their quotation marks"


@pytest.mark.real_data
def test_rendered_prompts_are_a_plain_text2text_task():
    task = {
        "name": "cb", "kind": "text2text", "inputs": "input", "target": "target", "choices": "answer_choices",
        "path": str(real_data("p3_like", "super_glue_cb")),
    }  # fmt: skip
    suite = TaskSuite.load([task])
    examples = suite.examples("cb", "dev")
    assert len(examples) == 112
    assert all(target in choices for target, choices in zip(examples.targets, examples.choices, strict=True))
