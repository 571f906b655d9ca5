"""Token ids against what is worked out by hand, and the cache that keeps them."""

import logging
from pathlib import Path

import numpy as np
import pytest

from taskloom.errors import DataError
from taskloom.tasks import Examples, MultiTaskDataset, Task, TaskSuite, caching
from tests.tasks.conftest import make_tokenizer


@pytest.fixture(autouse=True)
def _warn_again():
    caching._warn_once.cache_clear()


def examples_of(texts, targets=None):
    return Examples(list(texts), targets, list(range(2, len(texts) + 2)), "t.tsv")


def suite_of(task, texts, targets=None, split="train"):
    return TaskSuite([task], {(task.name, split): examples_of(texts, targets)})


PAIR = Task(name="pair", inputs=("a", "b"), labels=("no", "yes"))
SCORE = Task(name="score", kind="regression", inputs=("a",))
TAGS = Task(name="tags", kind="token", inputs=("words",), labels=("O", "X"))
SPAN = Task(name="span", kind="span", inputs=("question", "context"))


def test_pairs_and_single_texts(tokenizer):
    ids = tokenizer.convert_tokens_to_ids
    pair = suite_of(PAIR, [("the cat", "a dog ran")], [1]).task_features("pair", "train", tokenizer, 16)
    assert pair[0] == {
        "input_ids": ids(["[CLS]", "the", "cat", "[SEP]", "a", "dog", "ran", "[SEP]"]),
        "token_type_ids": [0, 0, 0, 0, 1, 1, 1, 1],
        "label": 1.0,
        "task": 0,
    }
    score = suite_of(SCORE, [("the cat",)], [2.5]).task_features("score", "train", tokenizer, 16)
    assert score[0]["input_ids"] == ids(["[CLS]", "the", "cat", "[SEP]"])
    assert score[0]["label"] == 2.5
    assert score.lengths.tolist() == [4]


def test_too_long_texts_are_cut_at_the_longer_side_and_counted(tokenizer, caplog):
    long = "the cat sat on a mat and ran"
    suite = suite_of(PAIR, [("a dog", long), ("a", "b"), (long, long)], [0, 1, 0])
    with caplog.at_level(logging.WARNING):
        features = suite.task_features("pair", "train", tokenizer, 9)
        suite.task_features("pair", "train", tokenizer, 9)
    assert caplog.text.count("task 'pair', train: 2 of 3 examples are longer than 9 tokens and were cut") == 1
    assert features.lengths.tolist() == [9, 5, 9]
    assert tokenizer.decode(features[0]["input_ids"]) == "[CLS] a dog [SEP] the cat sat on [SEP]"
    assert tokenizer.decode(features[2]["input_ids"]) == "[CLS] the cat sat [SEP] the cat sat [SEP]"
    expected = r"2 of 3 examples are longer than 9 tokens, the first at t\.tsv:2; raise max_length"
    with pytest.raises(DataError, match=expected):
        suite.task_features("pair", "train", tokenizer, 9, on_too_long="error")


def test_nothing_is_cached_of_a_split_that_is_refused(tokenizer, cache):
    suite = suite_of(SCORE, [("the cat sat on a mat",)], [1.0])
    with pytest.raises(DataError):
        suite.task_features("score", "train", tokenizer, 5, on_too_long="error")
    assert not cache.exists()


def test_maximum_length_must_suit_the_tokenizer_and_the_task(tokenizer):
    suite = suite_of(PAIR, [("a", "b")], [0])
    with pytest.raises(DataError, match="max_length is 65, but the model takes at most 64 tokens; lower it"):
        suite.task_features("pair", "train", tokenizer, 65)
    with pytest.raises(DataError, match="max_length is 4, but an example of task 'pair' needs at least 5 tokens"):
        suite.task_features("pair", "train", tokenizer, 4)
    assert suite.task_features("pair", "train", tokenizer, 5).lengths.tolist() == [5]


def test_first_piece_of_each_word_is_labelled(tokenizer):
    words = ("unhappyness", "is", "playing", "far", "away")
    features = suite_of(TAGS, [words], [[1, 0, 1, 0, 1]]).task_features("tags", "train", tokenizer, 9)
    # [CLS] un ##happy ##ness is play ##ing far [SEP], and "away" is cut off
    assert features[0]["token_labels"] == [-100, 1, -100, -100, 0, 1, -100, 0, -100]
    assert features.word_starts(0) == [1, 4, 5, 7, -1]


def test_words_are_aligned_for_byte_tokenizers_too(byte_tokenizer):
    words = ("Zürich", "is", "", "far", "away")
    suite = TaskSuite([TAGS])
    features = suite.encode("tags", [list(words)], byte_tokenizer, 64)
    tokens = byte_tokenizer.convert_ids_to_tokens(features[0]["input_ids"])
    starts = features.word_starts(0)
    assert starts[2] == -1
    for word, start, end in zip(
        ["Zürich", "is", "far", "away"],
        [s for s in starts if s >= 0],
        [starts[1], starts[3], starts[4], len(tokens) - 1],
        strict=True,
    ):
        assert byte_tokenizer.convert_tokens_to_string(tokens[start:end]).strip() == word


QUESTION = "where is paris ?"
CONTEXT = "the cat is in paris . paris is in france . the dog sat on a mat in france , far away . who ran far ?"


def test_windows_cover_the_context_and_find_the_answer(tokenizer):
    start = CONTEXT.index("paris is") + len("paris is ")
    answers = {"text": ["in france", "france"], "answer_start": [start, start + 3]}
    suite = suite_of(SPAN, [(QUESTION, CONTEXT), ("who ?", "a dog")], [answers, {"text": [], "answer_start": []}])
    features = suite.task_features("span", "train", tokenizer, 16, stride=3)
    windows = features.windows
    assert windows.examples.tolist() == [0] * (len(features) - 1) + [1]
    assert max(features.lengths) == 16
    covered = set()
    answered = 0
    for item in range(len(features) - 1):
        offsets, mask = windows.offsets(item), windows.context_mask(item)
        assert offsets.shape == (features.lengths[item], 2)
        assert (offsets[~mask] == -1).all()
        tokens = tokenizer.convert_ids_to_tokens(features[item]["input_ids"])
        for token, (first, end), inside in zip(tokens, offsets, mask, strict=True):
            assert not inside or CONTEXT[first:end] == token
        covered |= {tuple(pair) for pair in offsets[mask]}
        first, last = features[item]["span_labels"]
        if (first, last) != (0, 0):
            answered += 1
            assert CONTEXT[offsets[first, 0] : offsets[last, 1]] == "in france"
        else:  # brute force: the window does not hold the whole answer
            assert not (offsets[mask].min() <= start and offsets[mask].max() >= start + len("in france"))
    assert CONTEXT.split() == [CONTEXT[first:end] for first, end in sorted(covered)]
    assert answered >= 1
    assert features[len(features) - 1]["span_labels"] == [0, 0]


def test_batches_of_tokenising_leave_no_trace(tokenizer, monkeypatch, caplog):
    rows = [("who ?", "a dog"), (QUESTION, CONTEXT), (CONTEXT, "a cat"), ("where ?", CONTEXT), (CONTEXT, CONTEXT)]
    whole = TaskSuite([SPAN]).encode("span", rows, tokenizer, 16)
    monkeypatch.setattr(caching, "BATCH_SIZE", 2)
    parts = TaskSuite([SPAN]).encode("span", rows, tokenizer, 16)
    assert parts.windows.examples.tolist() == whole.windows.examples.tolist()
    assert sorted(set(parts.windows.examples.tolist())) == [0, 1, 2, 3, 4]
    assert [parts[index] for index in range(len(parts))] == [whole[index] for index in range(len(whole))]
    assert caplog.text.count("2 of 5 examples have a question longer") == 1
    with pytest.raises(DataError, match=r"the first at t\.tsv:4"):
        suite_of(SPAN, rows).task_features("span", "train", tokenizer, 16, on_too_long="error")


def test_neighbouring_windows_overlap_by_the_stride(tokenizer):
    features = suite_of(SPAN, [(QUESTION, CONTEXT)]).task_features("span", "train", tokenizer, 20, stride=3)
    windows = [features.windows.offsets(item)[features.windows.context_mask(item)] for item in (0, 1)]
    assert windows[0][-3:].tolist() == windows[1][:3].tolist()
    assert "span_labels" not in features[0]


def test_a_question_is_cut_to_half_and_a_large_stride_is_capped(tokenizer, caplog):
    suite = suite_of(SPAN, [(CONTEXT, CONTEXT)])
    with caplog.at_level(logging.WARNING):
        features = suite.task_features("span", "train", tokenizer, 16, stride=128)
    assert "1 of 1 examples have a question longer than 8 tokens" in caplog.text
    assert features[0]["token_type_ids"].count(0) == 10
    last = features.windows.offsets(len(features) - 1)
    assert last.max() == len(CONTEXT)


def test_cut_answers_are_counted(tokenizer):
    task = Task(name="t", kind="text2text", inputs=("a",))
    suite = suite_of(task, [("the cat",), ("a",)], ["a dog ran", "a dog ran far away"])
    with pytest.raises(DataError, match=r"1 of 2 examples .* the first at t\.tsv:3"):
        suite.task_features("t", "train", tokenizer, 5, on_too_long="error", max_target_length=5)
    items = suite.features(tokenizer, 5, max_target_length=5).__getitems__([0, 1])
    assert [len(item["target_ids"]) for item in items] == [5, 5]
    assert tokenizer.decode(items[1]["target_ids"]) == "[CLS] a dog ran [SEP]"


def test_generative_kinds_have_input_and_target_ids(tokenizer):
    text2text = Task(name="t", kind="text2text", inputs=("a",))
    item = suite_of(text2text, [("the cat",)], ["a dog"]).task_features("t", "train", tokenizer, 16)[0]
    assert tokenizer.decode(item["input_ids"]) == "[CLS] the cat [SEP]"
    assert tokenizer.decode(item["target_ids"]) == "[CLS] a dog [SEP]"
    language = Task(name="t", kind="lm", inputs=("a",))
    item = suite_of(language, [("the cat",)]).task_features("t", "train", tokenizer, 16)[0]
    assert set(item) == {"input_ids", "task"}


def many(count):
    words = ["the", "cat", "sat", "on", "a", "mat"]
    return [(" ".join(words[: 1 + index % 6]),) for index in range(count)]


def test_the_suite_is_one_data_set_over_its_tasks(tokenizer):
    tasks = [SCORE, SCORE.model_copy(update={"name": "second"}), SCORE.model_copy(update={"name": "third"})]
    sizes = [5, 2, 2300]
    examples = {
        (task.name, "train"): examples_of(many(size), [float(index) for index in range(size)])
        for task, size in zip(tasks, sizes, strict=True)
    }
    data = TaskSuite(tasks, examples).features(tokenizer, 16)
    assert isinstance(data, MultiTaskDataset)
    assert (data.sizes, data.offsets, len(data)) == (sizes, [0, 5, 7], 2307)
    indices = [2306, 0, 6, 5, 4, 1007, 2306]
    items = data.__getitems__(indices)
    assert items == [data[index] for index in indices]
    assert [item["task"] for item in items] == data.task_ids[indices].tolist() == [2, 0, 1, 1, 0, 2, 2]
    assert [item["label"] for item in items] == [2299, 0, 1, 0, 4, 1000, 2299]
    assert [len(item["input_ids"]) for item in items] == data.lengths[indices].tolist()
    with pytest.raises(IndexError):
        data[2307]


def entries(cache):
    return sorted(folder.name for folder in (cache / "features").iterdir())


def test_the_cache_is_used_and_is_keyed_by_all_that_matters(tokenizer, cache, monkeypatch):
    texts = [("the cat",), ("a dog ran",)]
    first = suite_of(SCORE, texts, [1.0, 2.0]).task_features("score", "train", tokenizer, 16)
    assert len(entries(cache)) == 1

    def refuse(*_):
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patched:
        patched.setattr(caching, "encode_batch", refuse)
        again = suite_of(SCORE, texts, [1.0, 2.0]).task_features("score", "train", tokenizer, 16)
        assert [again[index] for index in range(2)] == [first[index] for index in range(2)]
        with pytest.raises(AssertionError):
            suite_of(SCORE, texts, [1.0, 2.5]).task_features("score", "train", tokenizer, 16)

    tokenizer("the cat", truncation=True, max_length=3, padding="max_length")  # leaves state behind, changes nothing
    suite_of(SCORE, texts, [1.0, 2.0]).task_features("score", "train", tokenizer, 16)
    assert len(entries(cache)) == 1
    suite_of(SCORE, texts, [1.0, 2.5]).task_features("score", "train", tokenizer, 16)
    suite_of(SCORE, texts[::-1], [1.0, 2.0]).task_features("score", "train", tokenizer, 16)
    suite_of(SCORE, texts, [1.0, 2.0]).task_features("score", "train", tokenizer, 15)
    other = make_tokenizer(model_input_names=["input_ids", "attention_mask"])
    assert "token_type_ids" not in suite_of(SCORE, texts, [1.0, 2.0]).task_features("score", "train", other, 16)[0]
    assert len(entries(cache)) == 5


@pytest.mark.parametrize("damage", ["truncate", "remove summary", "remove data", "wrong summary"])
def test_a_damaged_entry_is_made_again(tokenizer, cache, caplog, damage):
    suite = suite_of(SCORE, many(50), [0.0] * 50)
    whole = suite.task_features("score", "train", tokenizer, 16)
    expected = [whole[index] for index in range(50)]
    del whole
    (entry,) = (cache / "features").iterdir()
    data = next(entry.glob("*.arrow"))
    if damage == "truncate":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "remove summary":
        (entry / "features.json").unlink()
    elif damage == "remove data":
        data.unlink()
    else:
        (entry / "features.json").write_text('{"items": 50, "tokens": 3, "cut": {"inputs": [], "answers": []}}')
    with caplog.at_level(logging.WARNING):
        again = suite.task_features("score", "train", tokenizer, 16)
    assert "is damaged and is made again" in caplog.text
    assert [again[index] for index in range(50)] == expected


def test_an_interrupted_write_leaves_no_entry(tokenizer, cache, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(caching.datasets.Dataset, "save_to_disk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        suite_of(SCORE, many(3), [0.0] * 3).task_features("score", "train", tokenizer, 16)
    assert entries(cache) == []


def test_two_processes_may_write_the_same_entry(tokenizer, cache, monkeypatch):
    save = caching.datasets.Dataset.save_to_disk

    def save_after_another_process(stored, folder):
        monkeypatch.setattr(caching.datasets.Dataset, "save_to_disk", save)
        suite.task_features("score", "train", tokenizer, 16)  # the other process is first
        monkeypatch.setattr(Path, "exists", lambda _: False)  # and this one has looked before that
        save(stored, folder)

    suite = suite_of(SCORE, many(3), [0.0] * 3)
    monkeypatch.setattr(caching.datasets.Dataset, "save_to_disk", save_after_another_process)
    assert len(suite.task_features("score", "train", tokenizer, 16)) == 3
    assert len(entries(cache)) == 1


def test_a_cache_that_cannot_be_written_is_one_message(tokenizer, cache):
    cache.write_text("a file, not a folder")
    with pytest.raises(DataError, match=r"cannot write the cache folder .*; name another one with data\.cache"):
        suite_of(SCORE, many(3), [0.0] * 3).task_features("score", "train", tokenizer, 16)


def test_lengths_are_those_of_the_items(tokenizer):
    features = suite_of(SCORE, many(2500), [0.0] * 2500).task_features("score", "train", tokenizer, 16)
    assert features.lengths.dtype == np.int64
    assert features.lengths.tolist() == [len(features[index]["input_ids"]) for index in range(2500)]


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="`tokenizer` must be a fast one, found Slow"):
        suite_of(SCORE, many(1), [0.0]).task_features("score", "train", Slow(), 16)
