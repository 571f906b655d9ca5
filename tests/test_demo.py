import json
import re
from collections import Counter
from statistics import fmean

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from taskloom.demo import phrases
from taskloom.demo.run import run_demo
from taskloom.demo.suite import FAMILIES, HURTS, TASKS, generate, write_suite
from taskloom.errors import RunError
from taskloom.tasks import TaskSuite
from tests.support import minilm
from tests.tiny import tiny_encoder

MEANINGS = {word: polarity for polarity, words in phrases.OPINIONS.items() for word in words} | {
    form: wish for wish, verbs in phrases.WISHES.items() for verb in verbs for form in verb
}


def accuracy(suite, train_tasks, dev_task):
    """Train one classifier on all `train_tasks` and score it on a dev split.

    It sees runs of one to three words, in which opinion words and verbs are replaced by their meaning: it can only
    learn which of them count, the skill that a family shares.
    """

    def simplified(text):
        return re.sub(r"[\w-]+", lambda word: MEANINGS.get(word[0], word[0]), text.lower())

    train = [example for task in train_tasks for example in suite[task]["train"]]
    dev = suite[dev_task]["dev"]
    words = CountVectorizer(preprocessor=simplified, ngram_range=(1, 3), token_pattern=r"[\w-]+|[^\w\s]", binary=True)
    classifier = make_pipeline(words, LogisticRegression(max_iter=1000))
    classifier.fit([example["text"] for example in train], [example["label"] for example in train])
    return classifier.score([example["text"] for example in dev], [example["label"] for example in dev])


@pytest.fixture(scope="module")
def suites():
    return [generate(seed) for seed in range(3)]


def mean_accuracy(suites, family, others):
    """The mean over suites and members of what each member gets when `others(member)` are trained with it."""
    return fmean(accuracy(suite, [task, *others(task)], task) for suite in suites for task in FAMILIES[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_family_help_each_other(suites, family):
    alone = mean_accuracy(suites, family, lambda task: [])
    together = mean_accuracy(suites, family, lambda task: [other for other in FAMILIES[family] if other != task])
    assert together > alone + 0.1


@pytest.mark.parametrize(("task", "family"), HURTS.items())
def test_the_hurting_task_hurts_its_family(suites, task, family):
    together = mean_accuracy(suites, family, lambda member: [other for other in FAMILIES[family] if other != member])
    hurt = mean_accuracy(suites, family, lambda member: [*(set(FAMILIES[family]) - {member}), task])
    assert hurt < together - 0.1


def test_the_same_seed_gives_the_same_suite(suites):
    assert generate(0) == suites[0]
    assert generate(1) != suites[0]


def test_no_sentence_occurs_twice_and_labels_are_even(suites):
    suite = suites[0]
    texts = Counter(example["text"] for splits in suite.values() for split in splits.values() for example in split)
    assert max(texts.values()) == 1
    for splits in suite.values():
        for examples in splits.values():
            counts = Counter(example["label"] for example in examples).values()
            assert max(counts) - min(counts) <= 1


def test_sentences_are_well_formed(suites):
    for splits in suites[0].values():
        for example in (example for examples in splits.values() for example in examples):
            assert re.fullmatch(r"[A-Z].{15,160}[.?]", example["text"])
            assert not re.search(r"[{}]|  |\ba [aeiou]|\ban [^aeiou]", example["text"])


def test_the_written_suite_loads(tmp_path, suites):
    suite = TaskSuite.load([str(write_suite(tmp_path))], cache_dir=tmp_path / "cache")
    assert tuple(suite.names) == TASKS
    for task in suite:
        examples = suite.examples(task.name, "dev")
        expected = suites[0][task.name]["dev"]
        assert [text for (text,) in examples.texts] == [example["text"] for example in expected]
        assert [task.labels[index] for index in examples.targets] == [example["label"] for example in expected]


def test_the_demo_writes_its_report_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    model, output = tiny_encoder(tmp_path / "model", layers=1), tmp_path / "demo"
    short = ["training.max_steps=6", "affinity.examples=20"]
    report = run_demo(output, str(model), overrides=short)
    stages = {"multi-task", "ca-mtl", "groups", "evaluate"}
    assert {path.name for path in output.iterdir()} == {
        *("tasks", "demo.yaml", "pipeline.yaml", "pipeline.json", "report.html", ".lock"),
        *stages,
    }
    page = report.read_text()
    assert all(task in page for task in TASKS)
    capsys.readouterr()
    logs = {name: (output / name / "metrics.jsonl").read_text() for name in ("multi-task", "ca-mtl")}
    assert all(json.loads(log.splitlines()[-1])["step"] == 6 for log in logs.values())

    run_demo(output, str(model), overrides=short)
    printed = capsys.readouterr().err
    assert printed.count("up to date") == 6
    assert logs == {name: (output / name / "metrics.jsonl").read_text() for name in logs}

    with pytest.raises(RunError, match="holds the demo of seed 0"):
        run_demo(output, str(model), seed=1, overrides=short)


@pytest.mark.real_data
def test_the_demo_finds_the_planted_families(tmp_path, monkeypatch):
    minilm()
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    stages = "pipeline.stages=[{stage: train, name: multi-task}, affinity, {stage: group, k: 2}]"
    run_demo(tmp_path / "demo", overrides=[stages])
    groups = json.loads((tmp_path / "demo" / "multi-task" / "affinity" / "groups.json").read_text())["groups"]
    for members in FAMILIES.values():
        (home,) = [group for group in groups if set(members) <= set(group)]
        assert not any(set(others) & set(home) for others in FAMILIES.values() if others != members)
    for hurting, family in HURTS.items():  # a task that hurts a family is not put with it
        assert not any(hurting in group and set(FAMILIES[family]) & set(group) for group in groups)
