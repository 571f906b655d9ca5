"""The text-to-text presets: each against the columns of its data set, and the exact texts of the published code."""

import pytest

from taskloom.errors import DataError
from taskloom.tasks import Task, TaskSuite, list_presets
from taskloom.tasks.columns import InputsReader
from taskloom.tasks.examples import read_examples
from taskloom.tasks.files import Table
from taskloom.tasks.presets import resolve_tasks
from tests.support import real_data

ALL = [preset.removeprefix("text2text/") for preset, _ in list_presets() if preset.startswith("text2text/")]
PRESETS = [name for name in ALL if not name.startswith(("squad", "mrqa"))]  # question answering has tests of its own

PAIR = {"sentence1": "A.", "sentence2": "B."}
NLI = {"premise": "A.", "hypothesis": "B."}
FIVE = {"label": ["A", "B", "C", "D", "E"], "text": ["v", "w", "x", "y", "z"]}
COSMOS = {"id": "1", "context": "C.", "question": "Q?"} | {f"answer{index}": f"a{index}" for index in range(4)}
HELLASWAG = {
    "ind": 1,
    "activity_label": "Running",
    "ctx_a": "She",
    "ctx_b": "runs",
    "ctx": "She runs",
    "endings": ["off.", "on.", "up.", "in."],
    "source_id": "activitynet~v_1",
    "split": "val",
    "split_type": "indomain",
}
WIKI = {"gem_id": "1", "gem_parent_id": "1", "source_language": "en", "target_language": "en", "references": ["S."]}
IN_IRAQ = "No Weapons of Mass Destruction Found in Iraq Yet. {}: Weapons of Mass Destruction Found in Iraq."  # of RTE
CHRISTMAS = (
    "observation 1: The kids were very excited about christmas. observation 2: They framed the letters and kept them "
    "for years,. hypothesis 1: Santa did not give the kids anything. hypothesis 2: Santa wrote them a letter."
)

#: A row of every data set with all columns of the hub's copy (class numbers as their names), and what the published
#: code makes of it. Columns: the data sets' cards and loading scripts.
ROWS = {
    "cola": ({"sentence": "A.", "label": "acceptable", "idx": 0}, "cola sentence: A.", "1"),
    "sst2": ({"idx": 0, "sentence": "A.", "label": "negative"}, "sst2 sentence: A.", "0"),
    "mrpc": ({**PAIR, "label": "equivalent", "idx": 0}, "mrpc sentence1: A. sentence2: B.", "1"),
    "qqp": (
        {"question1": "A?", "question2": "B?", "label": "not_duplicate", "idx": 0},
        "qqp question1: A? question2: B?",
        "0",
    ),
    "stsb": ({**PAIR, "label": 3.75, "idx": 0}, "stsb sentence1: A. sentence2: B.", "3.8"),
    "mnli": ({**NLI, "label": "neutral", "idx": 0}, "mnli premise: A. hypothesis: B.", "1"),
    "qnli": (
        {"question": "Q?", "sentence": "A.", "label": "entailment", "idx": 0},
        "qnli question: Q? sentence: A.",
        "0",
    ),
    "rte": ({**PAIR, "label": "not_entailment", "idx": 0}, "rte sentence1: A. sentence2: B.", "1"),
    "wnli": ({**PAIR, "label": "entailment", "idx": 0}, "wnli sentence1: A. sentence2: B.", "1"),
    "superglue-boolq": (
        {"question": "is it", "passage": "It is.", "idx": 0, "label": "True"},
        "superglue-boolq question: is it passage: It is.",
        "1",
    ),
    "superglue-cb": ({**NLI, "idx": 0, "label": "contradiction"}, "superglue-cb premise: A. hypothesis: B.", "1"),
    "superglue-rte": ({**NLI, "idx": 0, "label": "entailment"}, "superglue-rte premise: A. hypothesis: B.", "0"),
    "snli": ({**NLI, "label": "contradiction"}, "snli premise: A. hypothesis: B.", "2"),
    "scitail": (
        {**PAIR, "gold_label": "neutral", "annotator_labels": ["neutral"]},
        "scitail sentence1: A. sentence2: B.",
        "1",
    ),
    "anli": ({"uid": "1", **NLI, "label": "contradiction", "reason": ""}, "anli premise: A. hypothesis: B.", "2"),
    "art": (
        {"observation_1": "A.", "observation_2": "B.", "hypothesis_1": "C.", "hypothesis_2": "D.", "label": "2"},
        "art observation 1: A. observation 2: B. hypothesis 1: C. hypothesis 2: D.",
        "2",
    ),
    "sick": (
        {"id": "1", "sentence_A": "A.", "sentence_B": "B.", "label": "contradiction", "relatedness_score": 4.5},
        "sick premise: A. hypothesis: B.",
        "2",
    ),
    "paws": ({"id": 1, **PAIR, "label": "1"}, "paws sentence1: A. sentence2: B.", "1"),
    "imdb": ({"text": "Good. {sic}", "label": "pos"}, "imdb Good. {sic}", "1"),
    "yelp_polarity": ({"text": "Bad.", "label": "1"}, "yelp_polarity sentence: Bad.", "0"),
    "trec": ({"text": "Who ?", "coarse_label": "HUM", "fine_label": "HUM:ind"}, "trec sentence: Who ?", "3"),
    "social_i_qa": (
        {"context": "C.", "question": "Q?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3\n"},
        "social_i_qa question: Q? context: C. answerA: x answerB: y answerC: z",
        "3",
    ),
    "cosmos_qa": (
        {**COSMOS, "label": 2},
        "cosmos_qa question: Q? context: C. answer0: a0 answer1: a1 answer2: a2 answer3: a3",
        "2",
    ),
    "winogrande": (
        {"sentence": "A _.", "option1": "x", "option2": "y", "answer": "2"},
        "winogrande sentence: A _. option1: x option2: y",
        "2",
    ),
    "hellaswag": (
        {**HELLASWAG, "label": "3"},
        "hellaswag ctx: She runs ending0: off. ending1: on. ending2: up. ending3: in.",
        "3",
    ),
    "commonsense_qa": (
        {"id": "1", "question": "Q?", "question_concept": "q", "choices": FIVE, "answerKey": "D"},
        "commonsense_qa question: Q? A: v B: w C: x D: y E: z",
        "D",
    ),
    "wmt16-en-ro": ({"translation": {"en": "e", "ro": "r"}}, "Translate English to Romanian e", "r"),
    "wmt16-ro-en": ({"translation": {"en": "e", "ro": "r"}}, "Translate Romanian to English r", "e"),
    "wmt16-en-cs": ({"translation": {"cs": "c", "en": "e"}}, "Translate English to Czech e", "c"),
    "wmt16-en-fi": ({"translation": {"en": "e", "fi": "f"}}, "Translate English to Finnish e", "f"),
    "wmt14-hi-en": ({"translation": {"en": "e", "hi": "h"}}, "Translate English to Hindi e", "h"),
    "iwslt2017-ro-nl": ({"translation": {"nl": "n", "ro": "r"}}, "Translate Romanian to Dutch r", "n"),
    "iwslt2017-en-nl": ({"translation": {"en": "e", "nl": "n"}}, "Translate English to Dutch e", "n"),
    "xsum": ({"document": "D.\nE.", "summary": "S.", "id": "1"}, "summarize: D.\nE.", "S."),
    "cnn_dailymail": ({"article": "D.", "highlights": "S .\nT .", "id": "1"}, "summarize: D.", "S .\nT ."),
    "wiki_lingua_english_en": ({**WIKI, "source": "D.", "target": "S."}, "summarize: D.", "S."),
}

#: Task name to metrics, with hold-out; all others have accuracy alone.
METRICS = {
    "cola": ("matthews",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
    **dict.fromkeys([name for name in ROWS if name.startswith(("wmt", "iwslt"))], ("bleu",)),
    **dict.fromkeys(["xsum", "cnn_dailymail", "wiki_lingua_english_en"], ("rouge1", "rouge2", "rougeL", "rougeLsum")),
}
SMALL = {"cola", "wnli", "rte", "trec", "superglue-cb", "sick", "mrpc", "stsb", "imdb", "commonsense_qa"}
SMALL.add("superglue-boolq")
LARGE = {"yelp_polarity", "qqp", "qnli", "social_i_qa", "cosmos_qa", "winogrande", "hellaswag", "sst2", "art"}


def preset(name, has_data_dir=False, **fields) -> Task:
    [(task, _)] = resolve_tasks([{"preset": f"text2text/{name}", **fields}], "", has_data_dir)
    return task


def test_every_preset_has_its_row_here():
    assert set(PRESETS) == ROWS.keys()
    assert len(PRESETS) == 36


@pytest.mark.parametrize("name", PRESETS)
def test_texts_of_the_hubs_rows_are_those_of_the_published_code(name):
    row, source, target = ROWS[name]
    task = preset(name)
    assert {path.partition(".")[0] for column in InputsReader(task).columns for path in column.paths[:1]} <= row.keys()
    examples = read_examples(task, Table("hub", "row", tuple(row), [(1, row)]), "dev")
    assert examples.texts == [(source,)]
    assert examples.targets == [target]
    assert examples.choices is None, "answers are generated, not ranked"
    assert (task.kind, task.decoding) == ("text2text", "generate")


@pytest.mark.parametrize("name", PRESETS)
def test_metrics_and_hold_out_are_those_of_the_published_code(name):
    task = preset(name)
    assert task.metrics == METRICS.get(name, ("accuracy",))
    rule = "half_of_dev" if name in SMALL else "thousand_of_train" if name in LARGE else None
    assert task.hold_out == rule


def test_generation_settings():
    xsum, news, pair, entailment = (preset(name) for name in ("xsum", "cnn_dailymail", "wmt16-en-ro", "rte"))
    assert [(t.min_target_length, t.max_generated_length, t.num_beams) for t in (xsum, news, pair, entailment)] == [
        (10, 60, 6),
        (10, 60, 4),
        (None, 300, 4),
        (None, None, None),
    ]


@pytest.mark.parametrize(
    ("similarity", "text"),
    # Ties go to the even fifth, as NumPy's round: 3.5 is 17.5 fifths, 3.3 is 16.5.
    [
        *(
            (0, "0.0"),
            ("2.000", "2.0"),
            (5, "5.0"),
            (3.45, "3.4"),
            (2.333, "2.4"),
            ("4.750", "4.8"),
            (1.69, "1.6"),
            (1.71, "1.8"),
        ),
        *((3.5, "3.6"), (3.3, "3.2"), (0.7, "0.8"), (0.1, "0.0"), (0.699999988079071, "0.8")),
    ],
)
def test_similarities_become_the_nearest_of_26_texts(similarity, text):
    task = preset("stsb")
    row = {**PAIR, "label": similarity}
    assert read_examples(task, Table("f", "row", tuple(row), [(1, row)]), "dev").targets == [text]
    assert text in task.choices
    assert len(set(task.choices)) == 26


def test_unknown_presets_are_guessed():
    with pytest.raises(DataError, match=r"unknown task 'text2text/rtee'\. Did you mean 'text2text/rte'"):
        preset("rtee")


# The folder layouts, on the files that there are.

REAL = {
    "cola": (8551, 1043, "cola sentence: Our friends won't buy this analysis, let alone the next one we propose.", "1"),
    "sst2": (10000, 872, "sst2 sentence: hide new secretions from the parental units ", "0"),
    "mrpc": (3668, 408, None, "1"),
    "qqp": (10000, 2000, None, None),
    "stsb": (
        *(5749, 1500),
        "stsb sentence1: A plane is taking off. sentence2: An air plane is taking off.",
        "5.0",
    ),
    "rte": (2490, 277, "rte sentence1: " + IN_IRAQ.format("sentence2"), "1"),
    "wnli": (635, 71, None, "1"),
    "superglue-rte": (2490, 277, "superglue-rte premise: " + IN_IRAQ.format("hypothesis"), "1"),
    "art": (4001, 500, f"art {CHRISTMAS}", "2"),
    "xsum": (800, 100, None, None),
}


@pytest.mark.real_data
def test_presets_read_the_real_files():
    folder = real_data("glue").parent
    suite = TaskSuite.load([f"text2text/{name}" for name in REAL], data_dir=folder)
    for name, (train, dev, source, target) in REAL.items():
        examples = suite.examples(name, "train")
        assert (len(examples), len(suite.examples(name, "dev"))) == (train, dev)
        assert len(examples.texts[0]) == 1
        if source is not None:
            assert examples.texts[0] == (source,)
        if target is not None:
            assert examples.targets[0] == target
    assert set(suite.examples("stsb", "train").targets) == set(suite["stsb"].choices)
    assert suite.examples("mrpc", "train").texts[0][0].startswith("mrpc sentence1: Amrozi accused his brother")
    assert suite.examples("xsum", "dev").texts[0][0].startswith("summarize: After captaining England to nine vic")
    for task in suite:
        if "test" in task.splits and task.name != "xsum":
            assert suite.examples(task.name, "test").targets is None


@pytest.mark.real_data
def test_presets_read_the_real_files_of_ones_own_choice():
    folder = real_data("glue").parent
    rounds = ("R1", "R2", "R3")
    tasks = [
        {
            "preset": "text2text/anli",
            "splits": {
                "train": "anli/train_sample.jsonl",
                **{split: "+".join(f"anli/{r}/{split}.jsonl" for r in rounds) for split in ("dev", "test")},
            },
        },
        {"preset": "text2text/superglue-cb", "splits": dict.fromkeys(("train", "dev"), "superglue/CB/val.jsonl")},
        {"preset": "text2text/mnli", "splits": {"train": "glue/MNLI/train.tsv", "dev": "glue/MNLI/dev_matched.tsv"}},
    ]
    suite = TaskSuite.load(tasks, data_dir=folder)
    anli = suite.examples("anli", "dev")
    assert (len(suite.examples("anli", "train")), len(anli), len(suite.examples("anli", "test"))) == (514, 3198, 3200)
    assert anli.texts[0][0].startswith("anli premise: Linguistics is the scientific study of language, and")
    assert anli.targets[0] == "2"
    assert anli.where(0).endswith("R1/dev.jsonl:1")
    assert anli.where(1000).endswith("R2/dev.jsonl:1")
    assert anli.where(3197).endswith("R3/dev.jsonl:1198")
    cb = suite.examples("superglue-cb", "dev")
    assert cb.targets[:2] == ["1", "2"]
    mnli = suite.examples("mnli", "dev")
    assert mnli.texts[0][0] == (
        "mnli premise: The new rights are nice enough hypothesis: Everyone really likes the newest benefits"
    )
    assert mnli.targets[:3] == ["1", "2", "0"]
