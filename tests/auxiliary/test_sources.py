"""Sources: what is drawn from tasks, files and labelled examples, against the tasks' own encoding."""

import timeit
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from taskloom.auxiliary.batch import BLOCKS
from taskloom.auxiliary.labelled_source import LabelledSource
from taskloom.auxiliary.sources import build_sources, unavailable
from taskloom.auxiliary.space import Objective
from taskloom.auxiliary.transforms import Transforms
from taskloom.errors import DataError, RecipeError
from taskloom.tasks import MultiTaskCollator, TaskSuite
from tests.auxiliary.tiny_text import word_tokenizer
from tests.tiny import write_jsonl

WORDS = ["Good", "bad", "film", "The", "was", "and", "A", "B", "Who", "saw", "it", "?", "."]


@pytest.fixture
def suite(tmp_path):
    rng = np.random.default_rng(0)

    def text(sentences: int) -> str:
        return " ".join("The " + " ".join(rng.choice(WORDS, rng.integers(1, 6))) + " ." for _ in range(sentences))

    rows = [
        {"text": text(rng.integers(1, 4)), "other": text(2), "label": "pq"[i % 2], "score": i / 7} for i in range(30)
    ]
    tags = [{"words": text(1).split(), "tags": None} for _ in range(20)]
    for row in tags:
        row["tags"] = [word[0].lower() if word[0] in "Tb" else "o" for word in row["words"]]
    spans = []
    for number in range(12):
        context = text(5)
        word = context.split()[number % 4]
        answers = {"text": [word], "answer_start": [context.index(word)]}
        spans.append({"question": "Who saw it ?", "context": context, "answers": answers})
    for split in ("train", "dev"):
        write_jsonl(tmp_path / "rows" / f"{split}.jsonl", rows)
        write_jsonl(tmp_path / "tags" / f"{split}.jsonl", tags)
        write_jsonl(tmp_path / "spans" / f"{split}.jsonl", spans)
    return TaskSuite.load(
        [
            {"name": "sentiment", "inputs": ["text"], "labels": ["p", "q"], "path": "rows"},
            {"name": "same", "inputs": ["text", "other"], "labels": ["p", "q"], "path": "rows"},
            {"name": "strength", "kind": "regression", "inputs": ["text"], "target": "score", "path": "rows"},
            {"name": "tags", "kind": "token", "inputs": ["words"], "target": "tags", "path": "tags"},
            {"name": "spans", "kind": "span", "inputs": ["question", "context"], "path": "spans"},
        ],
        base_dir=tmp_path,
        cache_dir=tmp_path / "cache",
    )


def objectives(data: str, output: str = "denoise", transform: str = "mask") -> list[Objective]:
    return [Objective(data, transform, "bidirectional", output)]


def build(suite, names, tokenizer=None, max_length=12, **options):
    space = [objective for name in names for objective in objectives(name)]
    settings = {"suite": suite, "tokenizer": tokenizer or word_tokenizer(WORDS), "max_length": max_length, "paths": {}}
    return build_sources(space, **{**settings, **options})


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_only_the_sources_of_legal_objectives_are_built(suite, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The film was Good .\n", "utf-8")
    found = build(suite, ["in-domain", "task"], paths={"in-domain": [path]})
    assert set(found) == {"in-domain", "task"}


def test_task_text_is_the_suites_own_with_its_ids(suite):
    tokenizer = word_tokenizer(WORDS)
    source = build(suite, ["task"], tokenizer, max_length=64)["task"]
    batch = source.draw(BLOCKS, 122, generator())
    texts = {
        "sentiment": [" ".join(texts) for texts in suite.examples("sentiment", "train").texts],
        "same": [" ".join(texts) for texts in suite.examples("same", "train").texts],
        "tags": [" ".join(words) for words in suite.examples("tags", "train").texts],
        "spans": [" ".join(texts) for texts in suite.examples("spans", "train").texts],
    }
    texts["strength"] = texts["sentiment"]
    expected = Counter((suite.index(name), text) for name, found in texts.items() for text in found)
    found = Counter(
        (int(task), tokenizer.decode(ids, skip_special_tokens=True))
        for task, ids in zip(batch.task, batch.input_ids, strict=True)
    )
    assert found == expected  # every document once, in one block, for there are 122 of them


def test_blocks_are_drawn_once_each_and_padded_on_the_right(suite):
    tokenizer = word_tokenizer(WORDS)
    tokenizer.padding_side = "left"
    source = build(suite, ["task"], tokenizer)["task"]
    batch = source.draw(BLOCKS, 40, generator())
    assert batch.input_ids.shape[1] <= 12
    lengths = batch.attention_mask.sum(1)
    assert torch.equal(batch.attention_mask, (torch.arange(batch.input_ids.shape[1]) < lengths[:, None]).long())
    assert (batch.input_ids[batch.attention_mask == 0] == tokenizer.pad_token_id).all()
    special = torch.isin(batch.input_ids, torch.tensor([0, 2, 3]))
    assert torch.equal(batch.special, special)
    assert torch.equal(batch.targets["tf"] == -100, special)
    assert torch.equal(batch.targets["cap"] == -100, special)
    assert (batch.targets["tfidf"][special] == 0).all()
    capitals = torch.tensor(tokenizer.convert_tokens_to_ids([word for word in WORDS if word[0].isupper()]))
    known = ~special & (batch.input_ids != tokenizer.unk_token_id)
    assert torch.equal(batch.targets["cap"][known], torch.isin(batch.input_ids, capitals)[known].long())
    assert batch.targets["tfidf"].dtype == torch.float32
    assert {batch.targets[name].dtype for name in ("tf", "cap")} == {torch.int64}


def test_draws_repeat_with_their_generator(suite):
    source = build(suite, ["task"])["task"]
    for rows in (BLOCKS, "next-sentence", "fastsent"):
        first, again = source.draw(rows, 16, generator(5)), source.draw(rows, 16, generator(5))
        assert torch.equal(first.input_ids, again.input_ids)
        assert not torch.equal(first.input_ids[:, 1:4], source.draw(rows, 16, generator(6)).input_ids[:, 1:4])


def test_sentence_rows(suite, tmp_path):
    (tmp_path / "in.txt").write_text("The film was Good . It was . The was bad .\nA film . The B and bad .\n", "utf-8")
    tokenizer = word_tokenizer(WORDS)
    source = build(suite, ["in-domain"], tokenizer, paths={"in-domain": [tmp_path / "in.txt"]})["in-domain"]
    batch = source.draw("sentence-order", 3, generator())
    assert batch.targets.keys() == {"sentence-order"}
    assert (batch.input_ids[:, 0] == tokenizer.cls_token_id).all()
    separators = (batch.input_ids == tokenizer.sep_token_id).sum(1)
    assert (separators == 2).all()
    assert batch.token_type_ids is not None
    assert (batch.token_type_ids.sum(1) > 0).all()
    assert (batch.task == 0).all()

    batch = source.draw("fastsent", 4, generator())
    sentences = ["The film was Good .", "It was .", "The was bad .", "A film .", "The B and bad ."]
    around = {0: (1,), 1: (0, 2), 2: (1,), 3: (4,), 4: (3,)}
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in sentences]
    for ids, target, special in zip(batch.input_ids, batch.targets["fastsent"], batch.special, strict=True):
        number = encoded.index(ids[~special].tolist())
        words = [word for neighbour in around[number] for word in encoded[neighbour]]
        assert target[target != -100].tolist() == words
    assert (batch.targets["fastsent"] != -100).sum(1).max() == batch.targets["fastsent"].shape[1]
    assert source.draw("quick-thoughts", 4, generator()).targets == {}


@pytest.mark.parametrize("name", ["sentiment", "same", "strength", "tags", "spans"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_labelled_rows_are_the_tasks_own_encoding(suite, name, kind):
    tokenizer = word_tokenizer(WORDS, kind)
    source = LabelledSource(suite, name, 3, tokenizer, 16, stride=4)
    features = suite.task_features(name, "train", tokenizer, 16, stride=4)
    n = len(features)
    batch = source.draw(BLOCKS, n, generator(1))
    expected = MultiTaskCollator(tokenizer, TaskSuite([suite[name]]))(features.__getitems__(range(n)))
    # The same rows in another order, so they are compared sorted.
    assert n == len(source)
    labels = batch.targets[name]
    assert labels.keys() == expected.keys() & {"labels", "token_labels", "span_labels"}

    def rows(ids, types, targets):
        parts = [ids, *([] if types is None else [types]), *(targets[key] for key in sorted(targets))]
        return sorted(map(tuple, torch.cat([part.reshape(len(ids), -1).double() for part in parts], dim=1).tolist()))

    assert rows(batch.input_ids, batch.token_type_ids, labels) == rows(
        expected["input_ids"], expected.get("token_type_ids"), {key: expected[key] for key in labels}
    )
    assert (batch.task == 3).all()
    assert all(labels[key].dtype == expected[key].dtype for key in labels)

    # Where tokens come from: capitals are those of the words, and nothing but special tokens is left out.
    special = torch.isin(batch.input_ids, torch.tensor([0, 2, 3]))
    assert torch.equal(batch.special, special)
    assert torch.equal(batch.targets["cap"] == -100, special)
    capitals = torch.tensor(tokenizer.convert_tokens_to_ids([word for word in WORDS if word[0].isupper()]))
    assert torch.equal(batch.targets["cap"][~special], torch.isin(batch.input_ids, capitals)[~special].long())


def test_labelled_sources_have_text_outputs_and_ids(suite, tmp_path):
    further = TaskSuite.load(
        [{"name": "extra", "inputs": ["text"], "labels": ["p", "q"], "path": "rows"}],
        base_dir=tmp_path,
        cache_dir=tmp_path,
    )
    found = build(suite, ["same", "extra"], labelled=further)
    assert (found["same"].draw(BLOCKS, 4, generator()).task == suite.index("same")).all()
    assert (found["same"].draw("next-sentence", 4, generator()).task == suite.index("same")).all()
    assert (found["extra"].draw(BLOCKS, 4, generator()).task == 0).all()
    assert found["extra"].supports("extra") is None
    assert found["extra"].supports("tf") is None
    assert found["extra"].supports("next-sentence") is None
    assert found["extra"].supports("same") == "labels of 'same' are those of its own examples"


def test_a_tokenizer_without_padding(suite):
    tokenizer = word_tokenizer(WORDS, "gpt2", pad_token=None, mask_token=None, eos_token="[SEP]")
    for source in build(suite, ["task", "same"], tokenizer).values():
        for rows in (BLOCKS, "sentence-order"):
            batch = source.draw(rows, 8, generator())
            assert torch.equal(batch.special, batch.attention_mask == 0)
            assert batch.token_type_ids is None
            assert (batch.input_ids[batch.special] == tokenizer.eos_token_id).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("in-domain", r"auxiliary\.in_domain: the search space has in-domain text, but the recipe names none"),
        ("out-domain", r"auxiliary\.out_domain: "),
        ("neural-lm", r"neural_lm\.model: "),
        ("sentimant", r"auxiliary\.tasks: .*'sentimant', but no task is named so\. Did you mean 'sentiment'\?"),
    ],
)
def test_what_the_recipe_lacks_is_named(suite, data, message):
    with pytest.raises(RecipeError, match=message):
        build(suite, [data])


def test_rows_without_room(suite, tmp_path):
    (tmp_path / "in.txt").write_text("xyz\n", "utf-8")
    tokenizer = word_tokenizer(WORDS)
    with pytest.raises(DataError, match=r"auxiliary\.max_length .* is 4, which leaves no room for two sentences"):
        build(suite, ["in-domain"], tokenizer, max_length=4, paths={"in-domain": [tmp_path / "in.txt"]})


def test_what_cannot_be_made_is_told_with_its_reason(suite, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("The film was Good .\nThe film .\n", "utf-8")
    tokenizer = word_tokenizer(WORDS, mask_token=None)
    space = [
        Objective("in-domain", transform, "bidirectional", output)
        for transform in ("none", "mask", "bert", "replace", "noisy-embedding")
        for output in ("denoise", "next-sentence")
    ]
    sources = build_sources(space, suite=suite, tokenizer=tokenizer, max_length=12, paths={"in-domain": [path]})
    found = unavailable(space, sources, Transforms(tokenizer))
    no_mask = "the model's tokenizer has no mask token"
    one_sentence = "output next-sentence of in-domain: every document has one sentence"
    assert {objective.name: reason for objective, reason in found.items()} == {
        "in-domain/none/bidirectional/next-sentence": one_sentence,
        "in-domain/replace/bidirectional/next-sentence": one_sentence,
        "in-domain/noisy-embedding/bidirectional/next-sentence": one_sentence,
        **{
            f"in-domain/{transform}/bidirectional/{output}": f"transform {transform}: {no_mask}"
            for transform in ("mask", "bert")
            for output in ("denoise", "next-sentence")
        },
    }
    assert unavailable(space[:1], sources, Transforms(word_tokenizer(WORDS))) == {}
    # Each transform of the published mixture masks some of the words.
    mixed = unavailable(space[6:7], sources, Transforms(tokenizer, pure=False))
    assert list(mixed.values()) == [f"transform replace: {no_mask}"]


def test_drawing_is_fast(suite):
    """64 rows take well under a millisecond each way; ten times as much fails."""
    tokenizer = word_tokenizer(WORDS)
    for source in build(suite, ["task", "spans"], tokenizer, max_length=64).values():
        for rows in (BLOCKS, "next-sentence", "fastsent"):
            source.draw(rows, 64, generator())
            draw = partial(source.draw, rows, 64, generator())
            assert min(timeit.repeat(draw, number=1, repeat=10)) < 0.01
