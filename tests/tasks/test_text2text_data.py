"""Text-to-text data: the hub's layout from local folders, splits joined of several, rows without a label, mistakes."""

import json
import logging

import pytest
import yaml
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from taskloom.errors import DataError
from taskloom.tasks import Task, TaskSuite, caching
from taskloom.tasks.answers import answer_ids
from taskloom.tasks.targets import target_parser
from tests.tiny_language import tiny_tokenizer


@pytest.fixture(autouse=True)
def _cache_of_this_test(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def text(*names):
    return [{"name": name, "dtype": "string"} for name in names]


def classes(name, *labels):
    return {"name": name, "dtype": {"class_label": {"names": {str(i): label for i, label in enumerate(labels)}}}}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_hub(folder, features, splits, subset="default"):
    """Write a data set with a card that declares its columns and splits, as the hub has it."""
    files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
    card = {
        "configs": [{"config_name": subset, "data_files": files}],
        "dataset_info": [{"config_name": subset, "features": features}],
    }
    for split, rows in splits.items():
        write_lines(folder / f"{split}.jsonl", rows)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n")
    return str(folder)


def nli(label, premise="A."):
    return {"premise": premise, "hypothesis": "B.", "label": label}


def load(preset, folder, **options):
    return TaskSuite.load([{"preset": f"text2text/{preset}", "dataset": folder}], **options)


def test_class_numbers_and_rows_without_a_label(tmp_path, caplog):
    features = [*text("premise", "hypothesis"), classes("label", "entailment", "neutral", "contradiction")]
    splits = {"train": [nli(0), nli(-1), nli(2)], "validation": [nli(1), nli(1)], "test": [nli(-1), nli(0)]}
    with caplog.at_level(logging.INFO):
        suite = load("snli", write_hub(tmp_path / "snli", features, splits))
    train = suite.examples("snli", "train")
    assert train.targets == ["0", "2"]
    assert train.texts[0] == ("snli premise: A. hypothesis: B.",)
    assert train.where(1).endswith("split train, row 3")
    assert suite.examples("snli", "test").targets == ["0"]
    assert "rows without a target that were left out: 1" in caplog.text


def test_rounds_joined_by_the_hubs_own_syntax(tmp_path):
    features = [*text("premise", "hypothesis"), classes("label", "entailment", "neutral", "contradiction")]
    splits = {
        f"{split}_r{number}": [nli(label, f"{split} {number}") for label in range(number)]
        for split in ("train", "dev", "test")
        for number in (1, 2, 3)
    }
    folder = write_hub(tmp_path / "anli", features, splits, subset="plain_text")
    suite = load("anli", folder)
    assert suite.examples("anli", "train").targets == ["0", "0", "1", "0", "1", "2"]
    assert [texts[0].split(" hyp")[0] for texts in suite.examples("anli", "dev").texts] == [
        f"anli premise: dev {number}" for number in (1, 2, 2, 3, 3, 3)
    ]
    with pytest.raises(DataError, match=r"has no split 'train_r4'\. Did you mean 'train_r"):
        TaskSuite.load(
            [{"preset": "text2text/anli", "dataset": folder, "splits": {"train": "train_r1+train_r4", "dev": "dev_r1"}}]
        )


def test_translations_are_read_from_pairs(tmp_path):
    features = [{"name": "translation", "dtype": {"translation": {"languages": ["ro", "en"]}}}]
    rows = [{"translation": {"ro": "unu", "en": "one"}}, {"translation": {"ro": "doi", "en": "two"}}]
    folder = write_hub(tmp_path / "wmt", features, dict.fromkeys(("train", "validation", "test"), rows), "ro-en")
    forth, back = load("wmt16-en-ro", folder), load("wmt16-ro-en", folder)
    assert forth.examples("wmt16-en-ro", "test").texts[1] == ("Translate English to Romanian two",)
    assert forth.examples("wmt16-en-ro", "test").targets == ["unu", "doi"]
    assert back.examples("wmt16-ro-en", "train").texts[0] == ("Translate Romanian to English unu",)
    assert back.examples("wmt16-ro-en", "train").targets == ["one", "two"]


def test_classes_that_the_hub_numbers_otherwise(tmp_path):
    features = [*text("text"), classes("coarse_label", "ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")]
    rows = [{"text": "q ?", "coarse_label": label} for label in range(6)]
    suite = load("trec", write_hub(tmp_path / "trec", features, {"train": rows, "test": rows}))
    assert suite.examples("trec", "train").targets == ["2", "1", "0", "3", "5", "4"]
    assert set(suite["trec"].splits) == {"train", "dev"}, "its test split is what models are selected by"
    write_lines(tmp_path / "trec/train.jsonl", rows)  # the same rows as plain files, with the hub's numbers
    write_lines(tmp_path / "trec/test.jsonl", rows)
    files = TaskSuite.load(["text2text/trec"], data_dir=tmp_path)
    assert files.examples("trec", "dev").targets == suite.examples("trec", "dev").targets


def test_lists_of_options_and_hidden_answers(tmp_path):
    choices = {"label": list("ABCDE"), "text": list("vwxyz")}
    lists = {"name": "choices", "struct": [{"name": "label", "list": "string"}, {"name": "text", "list": "string"}]}
    features = [*text("id", "question", "question_concept", "answerKey"), lists]
    row = {"id": "1", "question": "Q?", "question_concept": "q", "choices": choices, "answerKey": "E"}
    splits = {"train": [row], "validation": [row], "test": [{**row, "answerKey": ""}]}
    suite = load("commonsense_qa", write_hub(tmp_path / "csqa", features, splits))
    assert suite.examples("commonsense_qa", "dev").texts == [("commonsense_qa question: Q? A: v B: w C: x D: y E: z",)]
    assert suite.examples("commonsense_qa", "dev").targets == ["E"]
    assert suite.examples("commonsense_qa", "test").targets is None
    # The authors' own files nest the question.
    own = {
        "question": {"stem": "Q?", "choices": [{"label": k, "text": v} for k, v in zip("ABCDE", "vwxyz", strict=True)]}
    }
    for split in ("train_rand_split", "dev_rand_split"):
        write_lines(tmp_path / f"commonsense_qa/{split}.jsonl", [{"answerKey": "E", "id": "1", **own}])
    files = TaskSuite.load(["text2text/commonsense_qa"], data_dir=tmp_path)
    assert files.examples("commonsense_qa", "dev").texts == suite.examples("commonsense_qa", "dev").texts


def test_booleans_spelled_by_the_hub_and_by_json(tmp_path):
    features = [*text("question", "passage"), {"name": "idx", "dtype": "int32"}, classes("label", "False", "True")]
    rows = [{"question": "q", "passage": "p", "idx": 0, "label": label} for label in (1, 0)]
    hub = load("superglue-boolq", write_hub(tmp_path / "hub", features, {"train": rows, "validation": rows}, "boolq"))
    assert hub.examples("superglue-boolq", "dev").targets == ["1", "0"]
    for split in ("train", "val"):
        write_lines(tmp_path / f"superglue/BoolQ/{split}.jsonl", [{**row, "label": bool(row["label"])} for row in rows])
    files = TaskSuite.load(["text2text/superglue-boolq"], data_dir=tmp_path)
    assert files.examples("superglue-boolq", "dev").targets == ["1", "0"]


def test_a_parquet_export_is_asked_for_by_folder(monkeypatch):
    asked = []

    def refuse(*arguments, **options):
        asked.append((arguments, options))
        raise ConnectionError("offline")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    for name in ("sick", "iwslt2017-ro-nl", "snli"):
        with pytest.raises(DataError, match="cannot load data set"):
            TaskSuite.load([f"text2text/{name}"])
    assert [(arguments[:2], options["data_dir"]) for arguments, options in asked] == [
        (("RobZamp/sick", None), "default"),
        (("IWSLT/iwslt2017", None), "iwslt2017-ro-nl"),
        (("stanfordnlp/snli", None), None),
    ]
    assert [options["revision"] for _, options in asked] == ["refs/convert/parquet", "refs/convert/parquet", None]


# A user's own task.

OWN = """\
tasks:
  - name: mood
    kind: text2text
    inputs: "mood: {text}"
    labels: [good, bad]
    answers: {good: "yes", bad: "no"}
    metrics: [accuracy, f1]
    decoding: generate
    splits: {train: a.jsonl+b.jsonl, dev: a.jsonl}
"""


@pytest.fixture
def own(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": "the film", "label": "good"}, {"text": "the meal", "label": "bad"}])
    write_lines(tmp_path / "b.jsonl", [{"text": "a book", "label": "bad"}, {"text": "a film", "label": "good"}])
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path


def rewritten(folder, old, new):
    content = (folder / "own.yaml").read_text()
    assert old in content
    (folder / "own.yaml").write_text(content.replace(old, new))


def refusal(folder):
    with pytest.raises(DataError) as caught:
        TaskSuite.load(["own.yaml"], base_dir=folder)
    return str(caught.value)


def test_a_task_of_ones_own_in_a_few_lines(own):
    suite = TaskSuite.load(["own.yaml"], base_dir=own)
    assert suite.examples("mood", "train").texts[2] == ("mood: a book",)
    assert suite.examples("mood", "train").targets == ["yes", "no", "no", "yes"]
    assert suite.examples("mood", "dev").targets == ["yes", "no"]
    assert suite.examples("mood", "train").subset([3]).where(0).endswith("b.jsonl:2")


def test_a_verbaliser_that_lacks_a_label(own):
    rewritten(own, ', bad: "no"', "")
    assert refusal(own).endswith("('mood'): answers: there is none for the label 'bad'")


def test_a_label_that_the_verbaliser_does_not_know(own):
    rewritten(own, "    labels: [good, bad]\n", "")
    rewritten(own, "[accuracy, f1]", "[accuracy]")
    write_lines(own / "b.jsonl", [{"text": "a book", "label": "bad"}, {"text": "a film", "label": "gud"}])
    assert f"{own}/b.jsonl:2: 'gud' in the field 'label' has no text among the answers (good, bad)" in refusal(own)


def test_a_missing_part_of_a_joined_split(own):
    rewritten(own, "+b.jsonl", "+c.jsonl")
    assert "no file 'c.jsonl'" in refusal(own)


def test_a_joined_split_with_a_part_that_has_no_name(own):
    rewritten(own, "+b.jsonl", "+")
    assert "task 'mood': splits: 'a.jsonl+' joins files by +, and one of them has no name" in refusal(own)


@pytest.mark.parametrize(
    ("step", "number", "text"),
    [
        *((1, "2.4", "2"), (1.0, 2.5, "2"), (10, 87, "90")),
        *((0.2, "-0.04", "0.0"), (0.2, "-0.3", "-0.4"), (0.25, 0.7, "0.75"), (0.0000001, 3e-7, "0.0000003")),
    ],
)
def test_a_number_is_written_with_the_decimals_of_the_step(step, number, text):
    task = Task(name="t", kind="text2text", inputs=("x",), target="n", round_to=step)
    assert target_parser(task, "n")(number, ()) == text


def test_a_missing_column_of_choices(own):
    rewritten(own, '    answers: {good: "yes", bad: "no"}\n    metrics: [accuracy, f1]\n', "    choices: options\n")
    rewritten(own, "    labels: [good, bad]\n", "")
    rewritten(own, "decoding: generate", "decoding: rank")
    assert "b.jsonl: no column 'options', which `choices` of task 'mood' names" in refusal(own)


def test_a_correlation_needs_targets_that_are_numbers(own):
    rewritten(own, '    labels: [good, bad]\n    answers: {good: "yes", bad: "no"}\n', "")
    rewritten(own, "[accuracy, f1]", "[pearson]")
    assert refusal(own).endswith("a.jsonl:1: the field 'label' holds 'good', expected a finite number")
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(own / name, [{"text": "the film", "label": 0.5}, {"text": "the meal", "label": ["1", "1.0"]}])
    assert TaskSuite.load(["own.yaml"], base_dir=own).examples("mood", "dev").targets == ["0.5", ["1", "1.0"]]


@pytest.mark.parametrize(("choices", "named"), [("[good, awful]", "good, awful"), ("options", "bad, so so")])
def test_a_target_that_is_not_among_the_choices(own, choices, named):
    rewritten(own, "    labels: [good, bad]\n", "")
    rewritten(own, '    answers: {good: "yes", bad: "no"}\n    metrics: [accuracy, f1]\n', f"    choices: {choices}\n")
    rewritten(own, "    decoding: generate\n", "")
    rows = [{"text": "the film", "label": " good", "options": ["good", "bad"]}]
    write_lines(own / "a.jsonl", rows)
    rows += [{"text": "the meal", "label": "bad" if "awful" in choices else "good", "options": ["bad", "so so"]}]
    write_lines(own / "b.jsonl", rows)
    assert refusal(own).endswith(f"b.jsonl:2: the answer '{rows[1]['label']}' is not among the choices ({named})")


@pytest.mark.parametrize("decoder_only", [False, True])
def test_a_target_without_tokens(own, decoder_only):
    rewritten(own, '    labels: [good, bad]\n    answers: {good: "yes", bad: "no"}\n    metrics: [accuracy, f1]\n', "")
    write_lines(own / "a.jsonl", [{"text": "the film", "label": "good"}, {"text": "the meal", "label": " "}])
    suite = TaskSuite.load(["own.yaml"], base_dir=own)
    with pytest.raises(DataError, match=r"a\.jsonl:2: the target of task 'mood' has no tokens"):
        suite.task_features("mood", "train", tiny_tokenizer("t5"), 32, decoder_only=decoder_only)


@pytest.mark.parametrize("decoder_only", [False, True])
def test_a_blank_target_is_empty_even_where_the_tokenizer_has_a_token_for_a_space(decoder_only):
    backend = Tokenizer(Unigram([("<unk>", 0.0), ("\u2581", -1.0), ("\u2581yes", -1.0)], unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    _, _, empty = answer_ids(["q", "q"], ["yes", "  "], tokenizer, 8, decoder_only)
    assert empty == [1]


def test_cut_answers_are_told_from_cut_prompts(own, tmp_path, caplog):
    rewritten(own, '    labels: [good, bad]\n    answers: {good: "yes", bad: "no"}\n    metrics: [accuracy, f1]\n', "")
    write_lines(own / "a.jsonl", [{"text": "the film", "label": "a good film"}, {"text": "the meal", "label": "bad"}])
    suite = TaskSuite.load(["own.yaml"], base_dir=own, cache_dir=tmp_path / "cache")
    told = "task 'mood', dev: 1 of 2 examples have an answer longer than 3 tokens"
    with caplog.at_level(logging.WARNING), pytest.raises(DataError) as caught:
        suite.task_features("mood", "dev", tiny_tokenizer("t5"), 8, "error", max_target_length=3)
    assert str(caught.value).startswith(f"{told}, the first at {own}/a.jsonl:1; raise max_target_length")
    for _ in range(2):  # read from the cache, it says so again
        caching._warn_once.cache_clear()
        suite.task_features("mood", "dev", tiny_tokenizer("t5"), 8, max_target_length=3)
    assert caplog.messages == [f"{told} and were cut"] * 2


def test_an_answer_of_the_verbaliser_is_never_cut(own, tmp_path):
    rewritten(own, 'bad: "no"', 'bad: "not so good"')
    suite = TaskSuite.load(["own.yaml"], base_dir=own, cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match=r"jsonl:2: the answer has more tokens than max_target_length \(3\) allows"):
        suite.task_features("mood", "train", tiny_tokenizer("t5"), 8, max_target_length=3)
    suite.task_features("mood", "train", tiny_tokenizer("t5"), 8, max_target_length=4)


def test_another_end_token_makes_other_features(own, tmp_path):
    suite = TaskSuite.load(["own.yaml"], base_dir=own, cache_dir=tmp_path / "cache")
    tokenizer = tiny_tokenizer("gpt2")
    for token in ("</s>", "<s>"):
        tokenizer.eos_token = token
        features = suite.task_features("mood", "train", tokenizer, 8, decoder_only=True)
        assert features[0]["target_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "[accuracy, f1]",
            "[bleau]",
            "task 'mood': there is no metric 'bleau' for text2text tasks. Did you mean 'bleu'",
        ),
        ("decoding: generate", "round_to: 0.2", "round_to: the answers or the template say what the target becomes"),
        (
            "decoding: generate",
            "min_target_length: 5\n    max_generated_length: 4",
            "min_target_length: 5 is more than the longest answer (4)",
        ),
        ("kind: text2text", "num_beams: 2", "answers: a classification task has none; it is for text2text tasks"),
        ("[good, bad]", "[good, bad, so]", "answers: there is none for the label 'so'"),
    ],
)
def test_declarations_that_contradict_themselves(own, old, new, words):
    rewritten(own, old, new)
    assert words in refusal(own)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ("[a, b, c]", "the metric 'f1' is for two answers, found 3: use macro_f1"),
        ("options", "needs to know the answers"),
    ],
)
def test_metrics_of_classes_need_classes(own, choices, words):
    rewritten(own, '    labels: [good, bad]\n    answers: {good: "yes", bad: "no"}\n', f"    choices: {choices}\n")
    assert words in refusal(own)
