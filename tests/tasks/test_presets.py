"""The presets: every GLUE and SuperGLUE task reads the benchmark's own layout; what a user gives goes first."""

import json

import pytest

from taskloom.errors import DataError
from taskloom.tasks import TaskSuite, list_presets
from taskloom.tasks.presets import resolve_tasks

GLUE_HEADERS = {
    "CoLA": None,
    "SST-2": "sentence label",
    "MRPC": "Quality,#1 ID,#2 ID,#1 String,#2 String",
    "QQP": "id qid1 qid2 question1 question2 is_duplicate",
    "STS-B": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "MNLI": "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse "
    "sentence2_parse sentence1 sentence2 label1 gold_label",
    "QNLI": "index question sentence label",
    "RTE": "index sentence1 sentence2 label",
    "WNLI": "index sentence1 sentence2 label",
}
TARGETS = {"STS-B": "2.600", "MNLI": "neutral", "QNLI": "not_entailment", "RTE": "not_entailment"}
TARGET_COLUMNS = {"label", "Quality", "is_duplicate", "score", "gold_label", "label1"}
EXPECTED_TARGET = {"stsb": 2.6}
PRESETS = [preset for preset, _ in list_presets()]


def write_glue(folder):
    """Write one row a split of each task, in the benchmark's own layout."""
    for name, header in GLUE_HEADERS.items():
        (folder / name).mkdir()
        dev = ["dev_matched", "dev_mismatched"] if name == "MNLI" else ["dev"]
        test = ["test_matched", "test_mismatched"] if name == "MNLI" else ["test"]
        target = TARGETS.get(name, "1")
        if header is None:
            for split in ("train", "dev"):
                (folder / name / f"{split}.tsv").write_text(f'gj04\t{target}\t\tA "cat.\n')
            (folder / name / "test.tsv").write_text('index\tsentence\n0\tA "cat.\n')
            continue
        columns = header.split("," if "," in header else " ")
        cells = [target if column in TARGET_COLUMNS else f'"{column}' for column in columns]
        hidden = [column for column in columns if column not in TARGET_COLUMNS]
        for split in ("train", *dev):
            rows = ["\t".join(columns), "\t".join(cells)]
            bom = "\ufeff" if name == "MRPC" else ""
            (folder / name / f"{split}.tsv").write_text(bom + "\n".join(rows) + "\n", "utf-8")
        for split in test:
            rows = ["index\t" + "\t".join(hidden), "0\t" + "\t".join(f'"{column}' for column in hidden)]
            rows = [row.replace("index\tindex", "index\told") for row in rows]
            (folder / name / f"{split}.tsv").write_text("\n".join(rows) + "\n")


def test_every_glue_task_reads_the_official_folder(tmp_path):
    write_glue(tmp_path)
    suite = TaskSuite.load([preset for preset in PRESETS if preset.startswith("glue/")], data_dir=tmp_path)
    assert suite.names == ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
    for task in suite:
        extra = ["dev_mismatched", "test_mismatched"] if task.name == "mnli" else []
        assert set(task.splits) == {"train", "dev", "test", *extra}
        for split in task.splits:
            examples = suite.examples(task.name, split)
            assert len(examples.texts[0]) == len(task.inputs)
            assert all('"' in text for text in examples.texts[0])
            expected = None if split.startswith("test") else [EXPECTED_TARGET.get(task.name, 1)]
            assert examples.targets == expected
    assert suite.examples("mrpc", "dev").texts == [('"#1 String', '"#2 String')]
    assert suite.examples("mnli", "dev_mismatched").texts == [('"sentence1', '"sentence2')]


def test_glue_metrics_and_submissions_are_the_benchmarks():
    tasks = {task.name: task for task, _ in resolve_tasks([p for p in PRESETS if p.startswith("glue/")], "", True)}
    metrics = {name: task.metrics for name, task in tasks.items()}
    assert metrics.pop("cola") == ("matthews",)
    assert metrics.pop("stsb") == ("pearson", "spearman")
    assert metrics.pop("mrpc") == metrics.pop("qqp") == ("accuracy", "f1")
    assert set(metrics.values()) == {("accuracy",)}
    assert tasks["mnli"].submission == {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}
    assert tasks["mrpc"].submission_labels == ("0", "1")


NO, YES = "No way.", "Indeed."
SUPERGLUE = {
    "BoolQ": [{"question": "is it", "passage": "It is.", "label": True}],
    "CB": [{"premise": YES, "hypothesis": NO, "label": "contradiction"}],
    "COPA": [{"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": 1}],
    "MultiRC": [
        {
            "idx": 0,
            "passage": {
                "text": "P.",
                "questions": [
                    {"question": "Q1?", "answers": [{"text": "A1", "label": 0}, {"text": "A2", "label": 1}]},
                    {"question": "Q2?", "answers": [{"text": "A3", "label": 1}]},
                ],
            },
        }
    ],
    "RTE": [{"premise": YES, "hypothesis": NO, "label": "not_entailment"}],
    "WiC": [{"word": "bank", "sentence1": "S1", "sentence2": "S2", "label": False}],
    "WSC": [{"text": "Ann left. She ran.", "target": {"span1_text": "Ann", "span2_text": "She"}, "label": True}],
}


def test_every_superglue_task_reads_the_official_folder(tmp_path):
    def without_label(record):
        if isinstance(record, dict):
            return {key: without_label(value) for key, value in record.items() if key != "label"}
        return [without_label(item) for item in record] if isinstance(record, list) else record

    for name, records in SUPERGLUE.items():
        (tmp_path / name).mkdir()
        for split in ("train", "val", "test"):
            rows = without_label(records) if split == "test" else records
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = TaskSuite.load([preset for preset in PRESETS if preset.startswith("superglue/")], data_dir=tmp_path)
    read = {task.name: suite.examples(task.name, "dev") for task in suite}
    assert {name: examples.targets for name, examples in read.items()} == {
        "boolq": [1],
        "cb": [1],
        "copa": [1],
        "multirc": [0, 1, 1],
        "rte": [1],
        "wic": [0],
        "wsc": [1],
    }
    assert read["copa"].texts == [("P. What was the cause?", "A. or: B.")]
    assert read["multirc"].texts == [("P.", "Q1? A1"), ("P.", "Q1? A2"), ("P.", "Q2? A3")]
    assert read["wic"].texts == [("bank: S1", "S2")]
    assert read["wsc"].texts == [("Ann left. She ran.", "She is Ann")]
    for task in suite:
        assert suite.examples(task.name, "test").targets is None


@pytest.mark.parametrize("preset", PRESETS)
def test_both_layouts_of_every_preset_are_valid_and_equal_but_for_the_place(preset):
    (hub, _), (folder, _) = (resolve_tasks([preset], "", has_data_dir)[0] for has_data_dir in (False, True))
    for field in ("name", "kind", "inputs", "target", "labels", "metrics", "submission"):
        assert getattr(hub, field) == getattr(folder, field)
    assert hub.splits.keys() == folder.splits.keys()
    assert hub.dataset
    assert hub.subset or preset.startswith("text2text/")
    assert folder.dataset is None
    assert hub.description.count("\n") == 0


def resolve(**spec):
    return resolve_tasks([{"preset": "glue/rte", **spec}], "", False)[0][0]


def test_what_the_user_gives_goes_over_the_preset():
    assert resolve(name="rte2", metrics=["macro_f1"]).metrics == ("macro_f1",)
    assert resolve(dataset="other/glue").splits["dev"] == "validation"
    own = resolve(splits={"train": "a.tsv", "test": "b.tsv"})
    assert (own.splits, own.optional_splits) == ({"train": "a.tsv", "test": "b.tsv"}, ())
    assert own.dataset is None
    elsewhere = resolve(path="data/RTE-copy")
    assert elsewhere.splits["dev"] == "data/RTE-copy/dev.tsv"
    assert elsewhere.optional_splits == ("test",)


def test_a_missing_split_of_a_preset_is_an_error_unless_it_is_optional(tmp_path):
    write_glue(tmp_path)
    (tmp_path / "RTE/test.tsv").unlink()
    assert set(TaskSuite.load(["glue/rte"], data_dir=tmp_path)["rte"].splits) == {"train", "dev"}
    (tmp_path / "RTE/dev.tsv").unlink()
    with pytest.raises(DataError, match=r"no file 'dev\.tsv' in"):
        TaskSuite.load(["glue/rte"], data_dir=tmp_path)


def test_broken_rows_of_qqp_are_left_out(tmp_path):
    write_glue(tmp_path)
    with (tmp_path / "QQP/train.tsv").open("a") as file:
        file.write("2\t3\t4\tbroken\n5\t6\t7\ta\tb\t0\n")
    assert TaskSuite.load(["glue/qqp"], data_dir=tmp_path).examples("qqp", "train").lines == [2, 4]
