"""Every mistake in the data ends in one `DataError` that names file, line and field, and what to do."""

import json

import pytest

from taskloom.errors import DataError
from taskloom.tasks import Task, TaskSuite

PAIR = {"name": "t", "inputs": ["a", "b"], "labels": ["yes", "no"], "splits": {"train": "train.tsv"}}
GOOD = "a\tb\tlabel\nx\ty\tyes\n"


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def case(name, files, fields, *words):
    return pytest.param(files, fields, words, id=name)


SPAN = {"kind": "span", "inputs": ["question", "context"], "labels": None, "splits": {"train": "t.jsonl"}}
TOKEN = {"kind": "token", "inputs": ["words"], "target": "tags", "splits": {"train": "t.jsonl"}}
SCORE = {"kind": "regression", "inputs": ["a"], "labels": None}


@pytest.mark.parametrize(
    ("files", "fields", "words"),
    [
        case(
            "missing file",
            {"train.tsv": GOOD},
            {"splits": {"train": "trian.tsv"}},
            "no file 'trian.tsv' in",
            "Did you mean 'train.tsv'?",
        ),
        case(
            "missing folder",
            {"rte/train.tsv": GOOD},
            {"splits": {"train": "RTE2/train.tsv"}},
            "no folder 'RTE2' in",
            "Did you mean 'rte'?",
        ),
        case(
            "unknown format", {"train.xls": GOOD}, {"splits": {"train": "train.xls"}}, "train.xls", "'.xls'", ".jsonl"
        ),
        case("folder for a file", {"d/train.tsv": GOOD}, {"splits": {"train": "d"}}, "d is a folder, expected a file"),
        case(
            "malformed TSV row",
            {"train.tsv": GOOD + "x\ty\n"},
            {},
            "train.tsv:3: found 2 fields, expected 3 (a, b, label)",
            "mend the row, or check the task's `delimiter`",
        ),
        case(
            "unclosed quote",
            {"train.tsv": GOOD + '"x\ty\tno\nx\ty\tno\n'},
            {},
            "train.tsv:3: malformed row",
            "`quoting: false`",
        ),
        case(
            "malformed JSONL line",
            {"t.jsonl": lines({"a": "x", "b": "y", "label": "no"}) + '{"a": "x",\n'},
            {"splits": {"train": "t.jsonl"}},
            "t.jsonl:2: malformed JSON at column 11",
            "expected one JSON object a line",
        ),
        case(
            "JSONL line that is no object",
            {"t.jsonl": "[1]\n"},
            {"splits": {"train": "t.jsonl"}},
            "t.jsonl:1: found a list, expected one JSON object a line",
        ),
        case(
            "malformed JSON",
            {"t.json": '[{"a": 1},\n {"a"]'},
            {"splits": {"train": "t.json"}},
            "t.json:2: malformed JSON",
            "name it .jsonl",
        ),
        case("damaged Parquet", {"t.parquet": "PAR1"}, {"splits": {"train": "t.parquet"}}, "t.parquet: not a readable"),
        case(
            "not UTF-8",
            {"train.tsv": GOOD.encode() + b"caf\xe9\ty\tno\n"},
            {},
            "train.tsv:3: not UTF-8 (byte 0xe9)",
            "convert the file",
        ),
        case(
            "wrong column",
            {"train.tsv": GOOD.replace("b\t", "text_b\t", 1)},
            {"inputs": ["a", "textb"]},
            "train.tsv: no column 'textb', which `inputs` of task 't' names.",
            "Did you mean 'text_b'?",
        ),
        case(
            "wrong column of a template",
            {"train.tsv": GOOD},
            {"inputs": ["{a} {c}"]},
            "no column 'c', which `inputs`",
            "Known: a, b, label.",
        ),
        case(
            "wrong renamed column",
            {"train.tsv": GOOD},
            {"columns": {"quality": "score"}, "target": "score"},
            "no column 'quality' or 'score', which `target` of task 't' names",
        ),
        case(
            "wrong nested column",
            {"t.jsonl": lines({"a": "x", "s": {"span1_text": "y"}, "label": "no"})},
            {"splits": {"train": "t.jsonl"}, "inputs": ["a", "s.span_text"]},
            "no column 's.span_text'",
            "Did you mean 's.span1_text'?",
        ),
        case(
            "repeated column", {"train.tsv": "a\ta\nx\ty\n"}, {}, "train.tsv:1: the column 'a' appears more than once"
        ),
        case("empty split", {"train.tsv": "a\tb\tlabel\n"}, {}, "train.tsv: the split 'train' of task 't' is empty"),
        case("empty file", {"train.tsv": ""}, {}, "train.tsv: the split 'train' of task 't' is empty"),
        case(
            "label not in the list",
            {"train.tsv": GOOD + "x\ty\tYes\n"},
            {},
            "train.tsv:3: label 'Yes' in the field 'label' is not in the label list (yes, no).",
            "Did you mean 'yes'?",
        ),
        case(
            "dev label that the train split lacks",
            {"train.tsv": GOOD + "x\ty\tno\n", "dev.tsv": GOOD + "x\ty\tmaybe\n"},
            {"labels": None, "splits": {"train": "train.tsv", "dev": "dev.tsv"}},
            "dev.tsv:3: label 'maybe'",
            "(no, yes)",
        ),
        case(
            "one label only", {"train.tsv": GOOD}, {"labels": None}, "holds 1 label, expected at least two", "`target`"
        ),
        case(
            "labels without a train split",
            {"dev.tsv": GOOD},
            {"labels": None, "splits": {"dev": "dev.tsv"}},
            "task 't' has no train split",
            "list its `labels`",
        ),
        case(
            "missing label",
            {"t.jsonl": lines({"a": "x", "b": "y", "label": "no"}, {"a": "x", "b": "y"})},
            {"splits": {"train": "t.jsonl"}},
            "t.jsonl:2: the field 'label' is missing",
        ),
        case(
            "null label",
            {"t.jsonl": lines({"a": "x", "b": "y", "label": None})},
            {"splits": {"train": "t.jsonl"}},
            "t.jsonl:1: the field 'label' holds null",
        ),
        case(
            "missing text",
            {"t.jsonl": lines({"a": "x", "b": "y", "label": "no"}, {"a": "x", "label": "no"})},
            {"splits": {"train": "t.jsonl"}},
            "t.jsonl:2: the field 'b' is missing",
        ),
        case(
            "null text",
            {"t.jsonl": lines({"a": "x", "b": None, "label": "no"})},
            {"splits": {"train": "t.jsonl"}},
            "t.jsonl:1: the field 'b' holds null, expected text",
        ),
        case(
            "NaN in a regression target",
            {"train.tsv": "a\tlabel\nx\t0.5\ny\tnan\n"},
            SCORE,
            "train.tsv:3: the field 'label' holds 'nan', expected a finite number",
        ),
        case(
            "NaN in JSON",
            {"t.jsonl": '{"a": "x", "label": NaN}\n'},
            {**SCORE, "splits": {"train": "t.jsonl"}},
            "t.jsonl:1: the field 'label' holds 'nan', expected a finite number",
        ),
        case("infinite target", {"train.tsv": "a\tlabel\nx\t-inf\n"}, SCORE, "train.tsv:2:", "'-inf'", "finite"),
        case("word for a number", {"train.tsv": "a\tlabel\nx\thigh\n"}, SCORE, "train.tsv:2:", "'high'", "finite"),
        case("empty target", {"train.tsv": "a\tlabel\nx\t\n"}, SCORE, "train.tsv:2: the field 'label' holds ''"),
        case(
            "labels and words of different length",
            {"t.jsonl": lines({"words": ["a", "b"], "tags": ["yes"]})},
            TOKEN,
            "t.jsonl:1: the field 'tags' holds 1 labels for 2 words, expected one a word",
        ),
        case(
            "number for words",
            {"t.jsonl": lines({"words": 3, "tags": ["yes"]})},
            TOKEN,
            "t.jsonl:1: the field 'words' holds 3, expected a list",
        ),
        case(
            "unknown tag",
            {"t.jsonl": lines({"words": "a b", "tags": "yes nope"})},
            TOKEN,
            "t.jsonl:1: label 'nope' in the field 'tags'",
        ),
        case(
            "answer not where it is said to be",
            {
                "t.jsonl": lines(
                    {"question": "q", "context": "In Paris.", "answers": {"text": ["Paris"], "answer_start": [4]}}
                )
            },
            SPAN,
            "t.jsonl:1: the answer 'Paris' in the field 'answers' is not in the context at answer_start 4",
            "it reads 'aris.'",
        ),
        case(
            "answers without positions",
            {"t.jsonl": lines({"question": "q", "context": "c", "answers": ["c"]})},
            SPAN,
            "t.jsonl:1: the field 'answers' must be an object with the lists `text` and `answer_start`",
        ),
        case(
            "nothing to read", {}, {"splits": {}}, "task 't' does not say where its data is: give `splits`, `path` or"
        ),
        case("empty folder", {"d/x.md": ""}, {"splits": {}, "path": "d"}, "no train, dev or test file", "`splits`"),
        case(
            "two files for a split",
            {"d/train.tsv": GOOD, "d/train.jsonl": ""},
            {"splits": {}, "path": "d"},
            "the train split may be train.tsv or train.jsonl",
        ),
        case("unknown metric", {"train.tsv": GOOD}, {"metrics": ["acuracy"]}, "no metric 'acuracy'", "'accuracy'?"),
        case(
            "path out of the data folder",
            {"train.tsv": GOOD},
            {"splits": {"train": "sub/../../secret.tsv"}},
            "task 't': the path 'sub/../../secret.tsv' leads out of the data folder",
        ),
        case(
            "folder out of the data folder",
            {},
            {"splits": {}, "path": "../elsewhere"},
            "the path '../elsewhere' leads out of the data folder",
        ),
        case(
            "data set out of the data folder",
            {},
            {"splits": {}, "dataset": "../elsewhere"},
            "the path '../elsewhere' leads out of the data folder",
        ),
        case("unknown field", {}, {"metric": ["f1"]}, "task 1 ('t'): unknown field 'metric'. Did you mean 'metrics'?"),
    ],
)
def test_the_message_says_where_and_what(tmp_path, files, fields, words):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    declared = {key: value for key, value in {**PAIR, **fields}.items() if value is not None}
    with pytest.raises(DataError) as raised:
        TaskSuite.load([declared], data_dir=tmp_path)
    for word in words:
        assert word in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["glue/rtte"], ("unknown task 'glue/rtte'.", "Did you mean 'glue/rte'?", "taskloom tasks")),
        (["RTE"], ("Did you mean 'glue/rte' or 'superglue/rte' or 'text2text/rte' or 'text2text/superglue-rte'",)),
        (["text2text/boolq"], ("Did you mean 'superglue/boolq' or 'text2text/superglue-boolq'?",)),
        ([{"preset": "glue/mnly"}], ("task 1: unknown task 'glue/mnly'.", "Did you mean 'glue/mnli'?")),
        (
            [{"preset": "glue/rte", "labls": []}],
            ("task 1 (preset glue/rte) ('rte'): unknown field 'labls'.", "'labels'?"),
        ),
        (["tasks.yaml"], ("no file 'tasks.yaml' in",)),
        (["broken.yaml"], ("broken.yaml:3: malformed YAML",)),
        (["list.yaml"], ("list.yaml: expected the fields of a task or a list under the key `tasks`",)),
        ([7], ("task 1: found 7, expected a preset such as glue/rte",)),
        ([], ("there are no tasks", "`tasks`")),
        ("glue/rte", ("expected a list, found 'glue/rte'",)),
        (["glue/rte", "superglue/rte"], ("two tasks are named 'rte'", "another `name`")),
    ],
)
def test_wrong_task_lists(tmp_path, specs, words):
    (tmp_path / "broken.yaml").write_text("name: t\ninputs: [a\n")
    (tmp_path / "list.yaml").write_text("- glue/rte\n")
    with pytest.raises(DataError) as raised:
        TaskSuite.load(specs, base_dir=tmp_path)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data_dir": "nowhere"}, ("the data folder nowhere does not exist", ".zip or .tar")),
        ({"data_dir": "nowhere.zip"}, ("no file 'nowhere.zip' in",)),
        ({"limits": {"validation": 3}}, ("limits: 'validation' is not a split", "Known: train, dev, test")),
        ({"limits": {"train": 0}}, ("limits: 'train' must be at least 1, found 0",)),
    ],
)
def test_wrong_options(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.tsv").write_text(GOOD)
    with pytest.raises(DataError) as raised:
        TaskSuite.load([PAIR], **options)
    for word in words:
        assert word in str(raised.value)


def test_what_a_suite_lacks(tmp_path):
    (tmp_path / "train.tsv").write_text(GOOD)
    suite = TaskSuite.load([PAIR], data_dir=tmp_path)
    with pytest.raises(DataError, match="task 't' has no split 'dev'; it has train"):
        suite.examples("t", "dev")
    with pytest.raises(DataError, match=r"there is no task 'T' here\. Did you mean 't'\?"):
        suite.index("T")
    with pytest.raises(DataError, match="task 'u' has no split 'train'; it has no data"):
        TaskSuite([Task(name="u", inputs=("x",))]).examples("u", "train")
