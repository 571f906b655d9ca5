"""A stream applied to a model, against adapting by hand: stopped anywhere, no document counts twice."""

import json
import shutil
import signal

import pytest
import torch

from taskloom.errors import DataError, RunError
from taskloom.online.adaptation import Adaptation, adapt
from taskloom.online.stream import StreamItem, digest
from taskloom.online.stream_run import DivergedError, StreamRun
from taskloom.online.weighters import UniformWeighter
from tests.online.tiny_project import documents
from tests.tiny_language import tiny_language_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer("gpt2")
TEXTS = documents(7, seed=5)


def items(texts):
    return [StreamItem(f"s:{number}", text, None, digest(text)) for number, text in enumerate(texts, start=1)]


def encode(text):
    return [dict(TOKENIZER(text, return_tensors="pt", return_token_type_ids=False))] if text.split() else []


def stream_run(folder, model=None, *, rate=0.01, per_update=1, family="gpt2", **settings):
    model = tiny_language_model(family) if model is None else model
    adaptation = Adaptation(model, UniformWeighter(), learning_rate=rate, documents_per_update=per_update)
    return StreamRun(adaptation, encode, folder, **{"resume": True, "checkpoint_every": 2, **settings})


def same(found, texts, **settings):
    """Whether a run's model is the one adapted by hand on texts, bit for bit."""
    model = tiny_language_model("gpt2")
    adapt(model, TOKENIZER, texts, UniformWeighter(), learning_rate=0.01, **settings)
    pairs = zip(found.adaptation.model.parameters(), model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def entries(folder):
    return [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]


class StopError(Exception):
    """Stands for a kill: nothing of the run catches it."""


def test_each_document_counts_once_in_order(tmp_path):
    run = stream_run(tmp_path)
    counts = run(items(TEXTS))
    assert (counts.applied, counts.duplicates, counts.skipped, counts.tokens) == (7, 0, 0, 7 * 12)
    assert same(run, TEXTS)
    assert not same(run, TEXTS[::-1])
    assert [entry["name"] for entry in entries(tmp_path)] == [f"s:{number}" for number in range(1, 8)]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["stream-7"]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = stream_run(None)
    run(items(TEXTS))
    assert same(run, TEXTS)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("per_update", [1, 2, 3])
@pytest.mark.parametrize("last", range(1, 8))
def test_killed_after_any_document(tmp_path, last, per_update):
    def die(run):
        if run.counts.applied == last:
            raise StopError

    with pytest.raises(StopError):
        stream_run(tmp_path, per_update=per_update)(items(TEXTS), die)
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write('{"step": 99, "na')  # a line that the kill cut short
    run = stream_run(tmp_path, per_update=per_update)
    assert run.counts.applied == (last - 1) // 2 * 2
    run(items(TEXTS))
    assert same(run, TEXTS, documents_per_update=per_update)
    assert [entry["name"] for entry in entries(tmp_path)] == [f"s:{number}" for number in range(1, 8)]


@pytest.mark.parametrize("per_update", [1, 2])
def test_interrupted_it_goes_on_behind_the_document(tmp_path, per_update):
    def interrupt(run):
        if run.counts.applied == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stream_run(tmp_path, per_update=per_update, checkpoint_every=100)(items(TEXTS), interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    run = stream_run(tmp_path, per_update=per_update)
    assert run.counts.applied == 3
    run(items(TEXTS))
    assert same(run, TEXTS, documents_per_update=per_update)


def test_interrupted_twice_what_was_under_way_is_done_again(tmp_path):
    seen = []

    def interrupt(run):
        if run.counts.applied == 4 and len(seen) < 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        seen.append(run.counts.applied)

    with pytest.raises(KeyboardInterrupt):
        stream_run(tmp_path, checkpoint_every=3)(items(TEXTS), interrupt)
    run = stream_run(tmp_path)
    assert run.counts.applied == 3
    seen.append(None)
    run(items(TEXTS), interrupt)
    assert seen == [1, 2, 3, None, 4, 5, 6, 7]  # what follows a document is not left out
    assert same(run, TEXTS)


def test_interrupted_while_waiting_for_documents(tmp_path):
    def waiting():
        yield from items(TEXTS[:3])
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        stream_run(tmp_path, checkpoint_every=100)(waiting())
    run = stream_run(tmp_path)
    assert run.counts.applied == 3
    run(items(TEXTS[3:]))  # standard input: only what was not given before
    assert same(run, TEXTS)


def test_new_documents_behind_the_old_ones(tmp_path):
    stream_run(tmp_path)(items(TEXTS[:4]))
    run = stream_run(tmp_path)
    assert run(items(TEXTS)).applied == 7
    assert same(run, TEXTS)
    again = stream_run(tmp_path)
    again(items(TEXTS))
    assert same(again, TEXTS)


@pytest.mark.parametrize("deduplicate", [True, False])
def test_a_text_that_was_there_before(tmp_path, deduplicate):
    twice = [*TEXTS[:3], TEXTS[0], TEXTS[3], TEXTS[0]]
    expected = TEXTS[:4] if deduplicate else twice

    def die(run):
        if run.counts.applied == 3:
            raise StopError

    with pytest.raises(StopError):
        stream_run(tmp_path, deduplicate=deduplicate)(items(twice), die)
    run = stream_run(tmp_path, deduplicate=deduplicate)
    counts = run(items(twice))
    assert (counts.applied, counts.duplicates) == ((4, 2) if deduplicate else (6, 0))
    assert same(run, expected)


@pytest.mark.parametrize("last", [2, 7, 8, 11])
def test_a_second_pass_is_no_duplicate(tmp_path, last):
    def die(run):
        if run.counts.applied == last:
            raise StopError

    def passes(run, on_document=None):
        for epoch in range(2):
            run(items(TEXTS), on_document, epoch)
        return run

    with pytest.raises(StopError):
        passes(stream_run(tmp_path, per_update=2), die)
    run = passes(stream_run(tmp_path, per_update=2))
    assert run.counts.applied == 14
    model = tiny_language_model("gpt2")
    by_hand = Adaptation(model, UniformWeighter(), learning_rate=0.01, documents_per_update=2)
    for _ in range(2):
        for text in TEXTS:
            by_hand.update(encode(text)[0])
        by_hand.step()  # the seventh alone: a pass ends with an update
    assert all(torch.equal(a, b) for a, b in zip(run.adaptation.model.parameters(), model.parameters(), strict=True))


def test_what_cannot_be_used_is_passed_over_and_told(tmp_path):
    stream = items(TEXTS[:2])
    stream.insert(1, StreamItem("s:bad", None, "binary"))
    stream.insert(2, StreamItem("s:short", "film", None, digest("film")))
    run = stream_run(tmp_path)
    counts = run(stream)
    assert (counts.applied, counts.skipped) == (2, 2)
    assert str(counts) == "2 documents applied (24 tokens), 2 skipped"
    found = {entry["name"]: entry for entry in entries(tmp_path)}
    assert found["s:bad"]["reason"] == "binary"
    assert "too short" in found["s:short"]["reason"]
    assert same(run, TEXTS[:2])
    assert stream_run(tmp_path)(stream).skipped == 2  # again nothing new


def test_a_mistake_in_the_stream_keeps_what_was_done(tmp_path):
    def strict():
        yield from items(TEXTS[:3])
        raise DataError("s:4: binary")

    with pytest.raises(DataError):
        stream_run(tmp_path, checkpoint_every=100)(strict())
    run = stream_run(tmp_path)
    assert run.counts.applied == 3
    run(items(TEXTS))
    assert same(run, TEXTS)


def test_a_stream_that_fails_at_once_leaves_no_checkpoint(tmp_path):
    def missing():
        raise DataError("no such file")
        yield

    with pytest.raises(DataError):
        stream_run(tmp_path)(missing())
    assert not (tmp_path / "checkpoints").exists()


def test_a_model_that_diverges_is_told(tmp_path):
    run = stream_run(tmp_path, rate=1e30)
    with pytest.raises(DivergedError, match=r"s:6: the loss of 5 documents in a row is not finite"):
        run(items(TEXTS))
    assert [entry["status"] for entry in entries(tmp_path)] == ["applied", *["skipped"] * 5]


def test_one_bad_document_is_no_divergence(tmp_path, monkeypatch):
    def infinite(ids, mask):
        bad = (ids == encode(TEXTS[2])[0]["input_ids"]).all() if ids.shape[1] == 12 else False
        return torch.full(ids.shape, float("inf") if bad else 1.0)

    run = stream_run(tmp_path)
    run.adaptation.weighter = infinite
    counts = run(items(TEXTS))
    assert (counts.applied, counts.skipped) == (6, 1)
    assert same(run, [*TEXTS[:2], *TEXTS[3:]])


def test_another_model_or_a_changed_log_is_refused(tmp_path):
    stream_run(tmp_path)(items(TEXTS))
    with pytest.raises(RunError, match=r"another model.*output=FOLDER"):
        stream_run(tmp_path, family="llama")
    from transformers import GPT2LMHeadModel

    wide = tiny_language_model("gpt2").config
    wide.n_embd = 64
    with pytest.raises(RunError, match="has the shape"):
        stream_run(tmp_path, GPT2LMHeadModel(wide))
    log = tmp_path / "documents.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="holds 6 documents, but the checkpoint is of 7"):
        stream_run(tmp_path)


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    import taskloom.online.stream_run as module

    run = stream_run(tmp_path)
    run(items(TEXTS[:2]))

    def full(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", full)
        with pytest.raises(OSError, match="No space"):
            run(items(TEXTS))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["stream-2"]
    (tmp_path / "checkpoints/.stream-4.0.partial").mkdir()
    shutil.copy(tmp_path / "documents.jsonl", tmp_path / "checkpoints/.stream-4.0.partial")
    run = stream_run(tmp_path)
    run(items(TEXTS))
    assert same(run, TEXTS)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["stream-7"]
