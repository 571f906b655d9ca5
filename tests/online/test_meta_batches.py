"""The batches of meta-training: rows, padding, updates of a batch, the order of rows, and draws of locality text."""

import pytest
import torch

from taskloom.online.encode import QACollator
from taskloom.online.meta_batches import LocalityTexts, MetaCollator, MetaRows, ShuffledRows, documents_of
from taskloom.online.questions import Document, Question, QuestionSet
from tests.tiny_language import WORDS, tiny_tokenizer


def question_set(*texts):
    return QuestionSet(
        tuple(
            Document(text, questions=(Question(f"is {word} ?", ("no",)),))
            for text, word in zip(texts, WORDS, strict=False)
        )
    )


def test_documents_without_a_token_to_predict_are_left_out():
    rows = MetaRows(question_set("film", "the film", "", "a good meal"), tiny_tokenizer("gpt2"))
    assert [row["parts"][0]["input_ids"].shape[1] for row in rows] == [2, 3]
    assert [row["question"].text for row in rows] == ["is a ?", "is book ?"]
    with pytest.raises(ValueError, match="must hold a document with a question"):
        MetaRows(question_set("film"), tiny_tokenizer("gpt2"))


@pytest.mark.parametrize(("long", "lengths"), [("split", [3, 3]), ("truncate", [4])])
def test_longer_documents(long, lengths):
    rows = MetaRows(question_set("the film was very good so"), tiny_tokenizer("gpt2"), max_length=4, long=long)
    assert [part["input_ids"].shape[1] for part in rows[0]["parts"]] == lengths


@pytest.mark.parametrize("sequential", [True, False])
def test_a_batch_gives_back_its_documents_and_their_weights(sequential):
    tokenizer = tiny_tokenizer("llama")
    rows = MetaRows(question_set("the film was very good so", "a meal", "the book is bad"), tokenizer, max_length=5)
    batch = MetaCollator(QACollator(tokenizer))([rows[place] for place in range(3)])
    parts = [part["input_ids"] for place in range(3) for part in rows[place]["parts"]]
    ids, mask = batch["documents"]["input_ids"], batch["documents"]["attention_mask"]
    assert [part.shape[1] for part in parts] == [4, 4, 3, 5]
    assert ids.shape == mask.shape == (4, 5)
    assert (ids[mask == 0] == tokenizer.pad_token_id).all()
    assert batch["questions"]["labels"].shape[0] == 3
    weights = torch.arange(20.0).view(4, 5)
    documents, given = documents_of(batch["documents"], weights, sequential)
    if not sequential:
        assert documents == [batch["documents"]]
        assert given[0] is weights
        return
    for row, (document, weight, part) in enumerate(zip(documents, given, parts, strict=True)):
        assert torch.equal(document["input_ids"], part)
        assert document["attention_mask"].all()
        assert torch.equal(weight, weights[row : row + 1, : part.shape[1]])


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    batches = ShuffledRows(11, 4, seed=3)
    seen = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        found = list(batches)
        assert [len(batch) for batch in found] == [4, 4, 3]
        assert len(batches) == 3
        seen.append([row for batch in found for row in batch])
    assert all(sorted(order) == list(range(11)) for order in seen)
    assert seen[0] == seen[2] != seen[1]
    assert [row for batch in ShuffledRows(11, 4, seed=4) for row in batch] != seen[0]


class TestLocality:
    TEXTS = ("the film was very good", "meal", "a bad book", "is it so ?", "not the meal")

    def texts(self, **options):
        tokenizer = tiny_tokenizer("gpt2")
        questions = [Question("is it ?", ("no",)), Question("was it so ?", ("yes",))]
        return LocalityTexts(self.TEXTS, questions, tokenizer, QACollator(tokenizer), **options)

    def test_draws_follow_from_the_seed(self):
        texts = self.texts(batch_size=3)
        first, again, other = (texts.draw(seed) for seed in ((1, 2, 0), (1, 2, 0), (1, 2, 1)))
        assert len(first) == 2
        assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)
        assert any(
            a[name].shape != b[name].shape or not torch.equal(a[name], b[name])
            for a, b in zip(first, other, strict=True)
            for name in a
        )

    def test_all_texts_of_two_tokens_come_in_batches_of_the_size_asked_for(self):
        texts, tokenizer = self.texts(batch_size=3, max_length=4), tiny_tokenizer("gpt2")
        seen = set()
        for number in range(30):
            batch, questions = texts.draw((number,))
            assert len(batch["input_ids"]) == len(questions["labels"]) == 3
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                assert mask.tolist() == sorted(mask.tolist(), reverse=True)
                seen.add(tokenizer.decode(ids[mask.bool()]))
        assert seen == {"the film was very", "a bad book", "is <unk> so ?", "not the meal"}

    def test_there_may_be_one_kind_or_none(self):
        tokenizer = tiny_tokenizer("gpt2")
        collator = QACollator(tokenizer)
        assert LocalityTexts((), (), tokenizer, collator).draw((0,)) == []
        assert len(LocalityTexts(self.TEXTS, (), tokenizer, collator).draw((0,))) == 1
        (batch,) = LocalityTexts((), [Question("is it ?", ("no",))], tokenizer, collator).draw((0,))
        assert "labels" in batch
