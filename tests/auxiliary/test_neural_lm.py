"""Generated text: the same for the same seed, cached, and gone on with after a kill."""

import json
import subprocess
import sys

import numpy as np
import pytest

from taskloom.auxiliary import neural_lm
from taskloom.auxiliary.neural_lm import generated_documents
from taskloom.auxiliary.sources import build_sources
from taskloom.auxiliary.space import Objective
from taskloom.errors import DataError, RecipeError, RunError, UserError
from taskloom.recipe.auxiliary import NeuralLMSection
from taskloom.tasks import TaskSuite
from tests.auxiliary.tiny_text import word_tokenizer
from tests.tiny import tiny_encoder, write_jsonl
from tests.tiny_language import WORDS, save_tiny

TEXTS = ["the film was very good", "a book is bad", " ", "the meal was not good so no"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request, tmp_path_factory):
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


def settings(model, **changes) -> NeuralLMSection:
    fields = {"model": str(model), "documents": 7, "prompt_tokens": 2, "new_tokens": 5, "batch_size": 3}
    return NeuralLMSection(**{**fields, **changes})


class CountedWriter(neural_lm._Writer):
    """Stops after `limit` batches."""

    limit = 100
    batches = 0

    def __call__(self, texts, seed):
        if CountedWriter.batches == CountedWriter.limit:
            raise KeyboardInterrupt
        CountedWriter.batches += 1
        return super().__call__(texts, seed)


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(neural_lm, "_Writer", CountedWriter)
    CountedWriter.limit, CountedWriter.batches = 100, 0
    return CountedWriter


def test_texts_begin_as_the_prompts_and_go_on(model, tmp_path):
    found = generated_documents(settings(model), TEXTS, tmp_path)
    assert len(found) == 7
    starts = [" ".join(text.split()[:2]) for text in found]
    assert set(starts) == {"the film", "a book", "the meal"}
    assert min(starts.count(start) for start in set(starts)) == 2  # all of them before one comes again
    assert any(len(text.split()) > 2 for text in found)
    assert all(len(text.split()) <= 7 for text in found)
    assert len(set(found)) > 3


def test_they_depend_on_seed_settings_and_prompts_alone(model, tmp_path):
    first = generated_documents(settings(model), TEXTS, tmp_path / "a")
    assert generated_documents(settings(model), TEXTS, tmp_path / "b") == first
    for changed in (
        generated_documents(settings(model), TEXTS, tmp_path / "a", seed=1),
        generated_documents(settings(model, temperature=3.0), TEXTS, tmp_path / "a"),
        generated_documents(settings(model), TEXTS[:2], tmp_path / "a"),
    ):
        assert changed != first
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_batches_differ_though_their_prompts_do_not(model, tmp_path):
    found = generated_documents(settings(model, documents=6), TEXTS[:1], tmp_path)
    assert found[:3] != found[3:]


def test_a_finished_text_is_not_written_again(model, tmp_path, counted):
    first = generated_documents(settings(model), TEXTS, tmp_path)
    assert counted.batches == 3
    assert generated_documents(settings(model), TEXTS, tmp_path) == first
    assert counted.batches == 3


@pytest.mark.parametrize("damage", [b"", b'{"text": "half a li', b'{"text": "of a batch that is not whole"}\n'])
def test_a_killed_writer_goes_on_where_it_was(model, tmp_path, counted, damage):
    whole = generated_documents(settings(model), TEXTS, tmp_path / "whole")
    counted.limit, counted.batches = 2, 0
    with pytest.raises(KeyboardInterrupt):
        generated_documents(settings(model), TEXTS, tmp_path / "killed")
    (partial,) = (tmp_path / "killed").glob("*/documents.partial")
    assert len(partial.read_text("utf-8").splitlines()) == 6
    with partial.open("ab") as file:
        file.write(damage)
    counted.limit, counted.batches = 100, 0
    assert generated_documents(settings(model), TEXTS, tmp_path / "killed") == whole
    assert counted.batches == 1
    assert not partial.exists()


def test_a_second_process_is_refused(tmp_path, counted):
    model = save_tiny("gpt2", tmp_path / "model")
    counted.limit = 0
    with pytest.raises(KeyboardInterrupt):
        generated_documents(settings(model), TEXTS, tmp_path / "texts")
    (entry,) = (tmp_path / "texts").iterdir()
    hold = "\n".join(
        [
            "import sys",
            "from pathlib import Path",
            "from taskloom.locks import FolderLock",
            "lock = FolderLock(Path(sys.argv[1]))",
            "print('held', flush=True)",
            "sys.stdin.read()",
        ]
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(entry)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"in use by process {other.pid}"):
            generated_documents(settings(model), TEXTS, tmp_path / "texts")
        other.communicate("")
    counted.limit = 100
    assert len(generated_documents(settings(model), TEXTS, tmp_path / "texts")) == 7


def test_mistakes(tmp_path):
    model = save_tiny("gpt2", tmp_path / "model")
    with pytest.raises(RecipeError, match=r"neural_lm\.new_tokens: a text of 70 tokens .* longer than the 64 that"):
        generated_documents(settings(model, prompt_tokens=10, new_tokens=60), TEXTS, tmp_path / "texts")
    with pytest.raises(UserError, match=r"neural_lm\.model: cannot load"):
        generated_documents(settings(tmp_path / "nothing"), TEXTS, tmp_path / "texts")
    with pytest.raises(RecipeError, match=r"neural_lm\.model: .* is an encoder, which does not go on with a text"):
        generated_documents(settings(tiny_encoder(tmp_path / "bert")), TEXTS, tmp_path / "texts")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the cache folder .*data\.cache"):
        generated_documents(settings(model), TEXTS, tmp_path / "file")


def test_as_a_source(tmp_path):
    model = save_tiny("gpt2", tmp_path / "model")
    write_jsonl(
        tmp_path / "t" / "train.jsonl", [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS[:2])]
    )
    suite = TaskSuite.load(
        [{"name": "t", "inputs": ["text"], "labels": ["a", "b"], "path": "t"}],
        base_dir=tmp_path,
        cache_dir=tmp_path / "c",
    )
    space = [Objective("neural-lm", "mask", "bidirectional", "denoise")]
    tokenizer = word_tokenizer(WORDS)
    sources = build_sources(space, suite=suite, tokenizer=tokenizer, max_length=16, paths={}, neural_lm=settings(model))
    (file,) = (tmp_path / "c" / "neural-lm").glob("*/documents.jsonl")
    written = [json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()]
    source = sources["neural-lm"]
    assert len(written) == 7
    starts = {tuple(row.tolist()) for row in source.draw("blocks", 7, np.random.default_rng(0)).input_ids[:, 1:3]}
    assert starts == {
        tuple(tokenizer(start, add_special_tokens=False)["input_ids"]) for start in ("the film", "a book")
    }
