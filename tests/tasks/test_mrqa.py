"""MRQA and SQuAD files as tasks: their forms, compressed or on the hub, and what is wrong with them."""

import gzip
import json
import re
from pathlib import Path

import datasets
import pytest
import yaml

from taskloom.errors import DataError
from taskloom.recipe.sections import DataSection
from taskloom.tasks import TaskSuite
from taskloom.tasks.files import read_table
from taskloom.tasks.presets import list_presets, resolve_tasks
from taskloom.tasks.spans import answer_spans, answer_texts
from tests.support import real_data

HEADER = {"header": {"dataset": "Tiny", "split": "dev"}}
CONTEXT = "Zürich lies on the Limmat . The Limmat flows into the Aare ."
LIMMAT = {"text": "the Limmat", "char_spans": [[15, 24], [28, 37]], "token_spans": [[3, 4]]}


def question(qid="q1", **fields):
    return {"qid": qid, "question": "where ?", "answers": ["Limmat"], "detected_answers": [LIMMAT], **fields}


def lines(*records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def context(*questions, **fields):
    return {"id": "", "context": CONTEXT, "context_tokens": [["Zürich", 0]], "qas": list(questions), **fields}


FIELDS = {"preset": "text2text/mrqa-SQuAD", "name": "qa"}


def load(folder, content=None, name="tiny.jsonl", **fields):
    if content is not None:
        (folder / name).write_text(content, "utf-8")
    splits = dict.fromkeys(("train", "dev"), name)
    return TaskSuite.load([{**FIELDS, "splits": splits, **fields}], base_dir=folder)


def test_a_file_is_one_row_a_question(tmp_path):
    suite = load(tmp_path, lines(HEADER, context(question(), question("q2", answers=["a", "b"])), context()))
    examples = suite.examples("qa", "train")
    assert examples.texts == [("question: where ? context: ", CONTEXT)] * 2
    assert examples.targets == [["Limmat"], ["a", "b"]]
    assert examples.spans == [[(15, 25, "the Limmat"), (28, 38, "the Limmat")]] * 2, "exclusive ends"
    assert (examples.ids, examples.lines) == (["q1", "q2"], [2, 2])
    assert examples.where(1) == f"{tmp_path / 'tiny.jsonl'}:2 ('q2')"
    table = read_table(tmp_path / "tiny.jsonl")
    assert table.columns == ("subset", "context", "qid", "question", "answers", "detected_answers")
    assert {row["subset"] for _, row in table.rows} == {"Tiny"}


def test_compressed_files_are_the_same(tmp_path):
    content = lines(HEADER, context(question()))
    plain = load(tmp_path, content).examples("qa", "dev")
    (tmp_path / "tiny.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    packed = load(tmp_path, name="tiny.jsonl.gz").examples("qa", "dev")
    assert (packed.texts, packed.spans, packed.lines) == (plain.texts, plain.spans, plain.lines)
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    by_folder = {**FIELDS, "dataset": None, "where": {}, "splits": {}, "path": str(tmp_path)}
    assert TaskSuite.load([by_folder]).examples("qa", "train").texts == plain.texts


FORMS = {
    "file": [{"text": "a", "char_spans": [[1, 2], [5, 6]]}, {"text": "b", "char_spans": [[7, 7]]}],
    "hub": {"text": ["a", "b"], "char_spans": [{"start": [1, 5], "end": [2, 6]}, {"start": [7], "end": [7]}]},
    "hub, list of objects": [
        {"text": "a", "char_spans": [{"start": 1, "end": 2}, {"start": 5, "end": 6}]},
        {"text": "b", "char_spans": {"start": [7], "end": [7]}},
    ],
    "squad": {"text": ["bc", "fg", "h"], "answer_start": [1, 5, 7]},
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_say_the_same(form):
    spans = answer_spans(FORMS[form], "abcdefgh", "x")
    assert [(start, end) for start, end, _ in spans] == [(1, 3), (5, 7), (7, 8)]
    assert [text for *_, text in spans] == (["bc", "fg", "h"] if form == "squad" else ["a", "a", "b"])


def test_the_last_character_of_a_context_is_inside_and_the_next_is_not():
    assert answer_spans([{"text": "x", "char_spans": [[2, 3]]}], "abcd", "x") == [(2, 4, "x")]
    with pytest.raises(ValueError, match="stands at the characters 2 to 4, outside of the context, which has 4"):
        answer_spans([{"text": "x", "char_spans": [[2, 4]]}], "abcd", "x")
    for span in ([-1, 2], [3, 1], [4, 4]):
        with pytest.raises(ValueError, match="outside of the context"):
            answer_spans([{"text": "x", "char_spans": [span]}], "abcd", "x")
    assert answer_spans({"text": [], "answer_start": []}, "", "x") == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        [{"text": "x"}],
        [["x"]],
        {"text": ["x"], "char_spans": []},
        [{"text": "x", "char_spans": [["1", 2]]}],
        {"text": ["a"], "answer_start": []},
        {"text": ["a"], "answer_start": ["0"]},
        {"text": ["b"], "answer_start": [0]},
        {"text": [1], "answer_start": [0]},
        {"text": ["b"], "answer_start": [True]},
        [{"text": 5, "char_spans": [[1, 2]]}],
        [{"text": "x", "char_spans": [[True, True]]}],
        [{"text": "x", "char_spans": [[1.0, 2.0]]}],
    ],
)
def test_what_is_no_place_of_an_answer_is_refused(value):
    with pytest.raises(ValueError, match="the field 'column'"):
        answer_spans(value, "abcd", "column")


def test_the_texts_of_answers():
    assert answer_texts("a", "x") == ["a"]
    assert answer_texts(["a", "b"], "x") == ["a", "b"]
    assert answer_texts({"text": ["a"], "answer_start": [0]}, "x") == ["a"]
    assert answer_texts({"text": [], "answer_start": []}, "x") == []
    with pytest.raises(ValueError, match="the field 'x' holds None"):
        answer_texts(None, "x")


OUTSIDE = question("q9", detected_answers=[{"text": "Aare", "char_spans": [[54, 60]]}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(context(question())), r"tiny\.jsonl:1: no header line; an MRQA file begins with \{\"header\": "),
        (lines({"header": "Tiny"}, context(question())), r"tiny\.jsonl:1: no header line"),
        (lines(HEADER), r"tiny\.jsonl: the split 'train' of task 'qa' is empty"),
        (lines(HEADER, {"qas": []}), r"tiny\.jsonl:2: the field 'context' of MRQA's format holds None, expected text"),
        (
            lines(HEADER, {"context": "x"}),
            r"tiny\.jsonl:2: the field 'qas' of MRQA's format holds None, expected a list",
        ),
        (lines(HEADER, context({"qid": "q"})), r"tiny\.jsonl:2, question 1: the field 'question' of MRQA's format"),
        (lines(HEADER, context("q")), r"tiny\.jsonl:2: question 1 in `qas` is 'q', expected an object"),
        (
            lines(HEADER, context(question()), context(question(), OUTSIDE)),
            r"tiny\.jsonl:3: question 'q9': the answer 'Aare' .* characters 54 to 60, outside of the context",
        ),
        (
            lines(HEADER, context(question(answers=None))),
            r"tiny\.jsonl:2: the field 'answers' holds None, expected the texts of the answers",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        load(tmp_path, content)


def test_questions_that_are_predicted_for_have_ids_of_their_own(tmp_path):
    splits = {"train": "twice.jsonl", "dev": "once.jsonl"}
    (tmp_path / "twice.jsonl").write_text(lines(HEADER, context(question()), context(question())), "utf-8")
    suite = load(tmp_path, lines(HEADER, context(question())), "once.jsonl", splits=splits)
    assert suite.examples("qa", "train").ids == ["q1", "q1"]
    assert suite.read_inputs("qa", tmp_path / "twice.jsonl").ids == ["q1", "q1"]
    with pytest.raises(DataError, match=r"twice\.jsonl:3: a second example 'q1' of task 'qa'; .* named by 'qid'"):
        load(tmp_path, name="twice.jsonl")


@pytest.mark.parametrize(
    "article",
    [
        {"paragraphs": "x"},
        {"paragraphs": ["x"]},
        {"paragraphs": [{"context": "x", "qas": [{"id": "q", "question": "?", "answers": {"text": ["x"]}}]}]},
        {"paragraphs": [{"context": "x", "qas": None}]},
    ],
)
def test_what_only_looks_like_squad_is_refused(tmp_path, article):
    (tmp_path / "s.json").write_text(json.dumps({"data": [{"paragraphs": []}, article]}))
    with pytest.raises(DataError, match=r"s\.json: article 2 is not of SQuAD's format: `paragraphs`, `qas`"):
        read_table(tmp_path / "s.json")


def test_a_file_that_only_claims_to_be_compressed(tmp_path):
    plain = lines(HEADER, context(question()))
    with pytest.raises(DataError) as refusal:
        load(tmp_path, plain, "tiny.jsonl.gz")
    assert str(refusal.value) == (
        f"{tmp_path / 'tiny.jsonl.gz'}: cannot unpack: it is no gzip file; if it holds plain text, name it tiny.jsonl"
    )
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(plain.encode())[:-12])
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: cannot unpack: its gzip data is damaged"):
        load(tmp_path, name="cut.jsonl.gz")


def test_squad_s_own_json(tmp_path):
    answers = [{"text": "the Limmat", "answer_start": 15}, {"text": "Limmat", "answer_start": 19}]
    qas = [{"id": "s1", "question": "where ?", "answers": answers}, {"id": "s2", "question": "why ?", "answers": []}]
    (tmp_path / "s.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]}))
    squad = {"preset": "text2text/squad", "splits": {"train": "s.json"}}
    examples = TaskSuite.load([squad], base_dir=tmp_path).examples("squad", "train")
    assert examples.texts == [
        ("squad question: where ? context: ", CONTEXT),
        ("squad question: why ? context: ", CONTEXT),
    ]
    assert examples.targets == [["the Limmat", "Limmat"], [""]]
    assert examples.spans == [[(15, 25, "the Limmat"), (19, 25, "Limmat")], []]
    assert examples.ids == ["s1", "s2"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """MRQA as the hub has it: all data sets in one table, spans as columns of starts and ends."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    spans = {"text": ["the Limmat"], "char_spans": [{"start": [15, 28], "end": [24, 37]}]}
    folder = tmp_path / "mrqa"
    for split, subsets in {"train": ["SQuAD", "NewsQA", "SQuAD"], "validation": ["NewsQA", "SQuAD"]}.items():
        rows = [
            {"subset": subset, "context": CONTEXT, "context_tokens": {"tokens": ["x"]}, "qid": f"{split}{number}",
             "question": f"where {number} ?", "answers": ["Limmat"], "detected_answers": spans}
            for number, subset in enumerate(subsets)
        ]  # fmt: skip
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def test_the_hub_s_table_is_divided_by_data_set(hub):
    tasks = [{"preset": f"text2text/mrqa-{name}", "dataset": hub.name} for name in ("SQuAD", "NewsQA")]
    suite = TaskSuite.load(tasks, base_dir=hub.parent)
    assert suite.names == ("mrqa-SQuAD", "mrqa-NewsQA")
    squad, news = (suite.examples(name, "train") for name in suite.names)
    assert (squad.ids, news.ids) == (["train0", "train2"], ["train1"])
    assert squad.where(1) == "data set mrqa, split train, row 3 ('train2')"
    assert news.spans == [[(15, 25, "the Limmat"), (28, 38, "the Limmat")]]
    assert suite.examples("mrqa-NewsQA", "dev").ids == ["validation0"]
    whole = {"preset": "text2text/mrqa", "dataset": hub.name, "splits": {"train": "train", "dev": "validation"}}
    assert TaskSuite.load([whole], base_dir=hub.parent).examples("mrqa", "train").ids == ["train0", "train1", "train2"]
    plain = {**whole, "preset": "text2text/mrqa_reg"}
    unchunked = TaskSuite.load([plain], base_dir=hub.parent).examples("mrqa_reg", "dev")
    assert unchunked.texts[0] == (f"mrqa question: where 0 ? context: {CONTEXT}",)
    assert unchunked.spans is None
    with pytest.raises(DataError, match="has no row with 'subset' of SearchQA; expected at least one example"):
        TaskSuite.load([{"preset": "text2text/mrqa-SearchQA", "dataset": hub.name}], base_dir=hub.parent)


def test_the_published_files_lie_where_the_release_has_them():
    names = [preset for preset, _ in list_presets() if re.fullmatch(r"text2text/(mrqa.*|squad)", preset)]
    assert len(names) == 9
    assert all(task.min_target_length == 1 for task, _ in resolve_tasks(names, None, has_data_dir=True))
    by_name = {task.name: task for task, _ in resolve_tasks(names, None, has_data_dir=True)}
    single = [task.splits["dev"] for name, task in by_name.items() if name.startswith("mrqa-")]
    assert sorted(part.strip() for part in by_name["mrqa"].splits["dev"].split("+")) == sorted(single)
    assert len(set(single)) == 6
    assert len(by_name["mrqa"].splits["test"].split("+")) == 6
    moved, _ = resolve_tasks([{"preset": "text2text/mrqa-SQuAD", "path": "here"}], None, has_data_dir=False)[0]
    assert moved.splits == {"train": "here/mrqa/train/SQuAD.jsonl.gz", "dev": "here/mrqa/dev/SQuAD.jsonl.gz"}


def test_the_page_s_own_task_reads_such_a_file(tmp_path):
    page = Path(__file__).parents[2].joinpath("docs", "question-answering.md").read_text("utf-8")
    recipe, declared = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL))
    assert {"max_length", "stride", "max_target_length"} == recipe["data"].keys() <= DataSection.model_fields.keys()
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(lines(HEADER, context(question())), "utf-8")
    assert TaskSuite.load([declared], base_dir=tmp_path).examples("manuals", "dev").ids == ["q1"]


@pytest.mark.real_data
def test_real_answers_stand_where_they_are_said_to():
    splits = {"train": str(real_data("mrqa", "SQuAD_train.jsonl")), "dev": str(real_data("mrqa", "SQuAD_dev.jsonl"))}
    suite = TaskSuite.load([{**FIELDS, "splits": splits}])
    for split, count in (("train", 2011), ("dev", 3561)):
        examples = suite.examples("qa", split)
        assert len(examples) == count
        for (_, text), spans, golds in zip(examples.texts, examples.spans, examples.targets, strict=True):
            assert spans
            for start, end, answer in spans:
                assert text[start:end] == answer
                assert answer in golds
