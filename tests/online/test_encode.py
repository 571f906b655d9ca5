"""Documents and questions as token ids."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from taskloom.online.encode import QACollator, encode_documents, encode_question
from taskloom.online.questions import Question
from tests.tiny_language import WORDS, tiny_language_model, tiny_tokenizer

TOKENIZERS = {family: tiny_tokenizer(family) for family in ("gpt2", "llama", "t5")}
#: What each puts before and behind a text.
AROUND = {"gpt2": ([], []), "llama": ([3], []), "t5": ([], [1])}
PAD, EOS = 0, 1

texts = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
families = st.sampled_from(sorted(TOKENIZERS))


def ids(parts):
    return [part["input_ids"][0].tolist() for part in parts]


@given(texts, families, st.integers(4, 12))
def test_parts_hold_every_token_once(text, family, max_length):
    tokenizer = TOKENIZERS[family]
    before, behind = AROUND[family]
    (parts,) = encode_documents([text], tokenizer, max_length)
    rows = ids(parts)
    body = tokenizer.convert_tokens_to_ids(text.split())  # one token a word
    assert bool(rows) == bool(body)
    joined = [token for row in rows for token in row[len(before) :]]
    assert joined == (body + behind if body else [])
    assert all(row[: len(before)] == before for row in rows)
    assert all(len(row) <= max_length for row in rows)
    if rows:
        room = max_length - len(before) - len(behind)
        assert len(rows) == max(1, -(-len(body) // room))  # no more than needed
        sizes = [len(row) - len(before) for row in rows]
        sizes[-1] -= len(behind)
        assert max(sizes) - min(sizes) <= 1
    for part in parts:
        assert part["input_ids"].dtype == torch.long
        assert torch.equal(part["attention_mask"], torch.ones_like(part["input_ids"]))


@given(texts.filter(bool), families, st.integers(4, 12))
def test_truncation_is_the_tokenizers_own(text, family, max_length):
    tokenizer = TOKENIZERS[family]
    (parts,) = encode_documents([text], tokenizer, max_length, long="truncate")
    assert ids(parts) == [tokenizer(text, truncation=True, max_length=max_length)["input_ids"]]


def test_no_part_is_a_single_token():
    (parts,) = encode_documents(["the " * 9], TOKENIZERS["gpt2"], max_length=8)
    assert [part["input_ids"].shape for part in parts] == [(1, 4), (1, 5)]


def test_a_document_that_fits_is_as_the_tokenizer_writes_it():
    for family, tokenizer in TOKENIZERS.items():
        first, nothing, last = encode_documents(["the film", " ", "a book"], tokenizer)
        assert ids(first) == [tokenizer("the film")["input_ids"]], family
        assert nothing == []
        assert ids(last) == [tokenizer("a book")["input_ids"]]


@pytest.mark.parametrize(("family", "least"), [("gpt2", 2), ("llama", 3), ("t5", 3)])
def test_parts_without_room_are_refused(family, least):
    assert len(encode_documents(["the film was good"], TOKENIZERS[family], least)[0]) == 2
    with pytest.raises(ValueError, match=f"`max_length` must be at least {least}, found {least - 1}"):
        encode_documents(["the film"], TOKENIZERS[family], least - 1)


def words(tokenizer, text):
    return tokenizer.convert_tokens_to_ids(text.split())


def test_question_and_answer():
    for family, tokenizer in TOKENIZERS.items():
        prompt, answer = encode_question(" was the film good ? ", "very good", tokenizer)
        before = AROUND[family][0]
        assert prompt == before + words(tokenizer, "was the film good ?"), family  # T5's end token is left out
        assert answer == [*words(tokenizer, "very good"), EOS]
        assert encode_question("was ?", "good", tokenizer, end=False)[1] == words(tokenizer, "good")
        assert encode_question("was ?", "", tokenizer)[1] == [EOS]


def test_a_long_question_keeps_its_end_and_a_long_answer_its_beginning():
    for family, tokenizer in TOKENIZERS.items():
        before = AROUND[family][0]
        prompt, answer = encode_question(
            "the film was not very good : was the book ?",
            "the film was bad",
            tokenizer,
            max_question_length=4 + len(before),
            max_answer_length=3,
        )
        assert prompt == before + words(tokenizer, "was the book ?")
        assert answer == [*words(tokenizer, "the film"), EOS]


def test_impossible_settings():
    tokenizer = TOKENIZERS["llama"]
    with pytest.raises(ValueError, match="`max_question_length` must be at least 2, found 1"):
        encode_question("was ?", "good", tokenizer, max_question_length=1)
    with pytest.raises(ValueError, match="`max_answer_length` must be at least 2, found 1"):
        encode_question("was ?", "good", tokenizer, max_answer_length=1)
    with pytest.raises(ValueError, match="`question` has no tokens, found ' '"):
        encode_question(" ", "good", tokenizer)
    endless = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ValueError, match="`tokenizer` has no end token"):
        encode_question("a", "a", endless)
    with pytest.raises(ValueError, match="neither a padding nor an end token"):
        QACollator(endless)


QUESTIONS = [
    Question("was the film good ?", ("very good", "no")),
    Question("question :", ("true",)),
    Question("was the book not very bad ?", ("the book was so good",)),
]


@pytest.mark.parametrize("family", sorted(TOKENIZERS))
def test_batches(family):
    tokenizer = TOKENIZERS[family]
    collator = QACollator(tokenizer, max_answer_length=4)
    batch = collator(QUESTIONS)
    padding = EOS if family == "gpt2" else PAD
    pairs = [encode_question(q.text, q.answer, tokenizer, max_answer_length=4) for q in QUESTIONS]
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    assert all(tensor.shape == (3, width) and tensor.dtype == torch.long for tensor in batch.values())
    for row, (prompt, answer) in enumerate(pairs):
        real = len(prompt) + len(answer)
        fill = width - real
        assert batch["input_ids"][row].tolist() == prompt + answer + [padding] * fill
        assert batch["attention_mask"][row].tolist() == [1] * real + [0] * fill
        assert batch["labels"][row].tolist() == [-100] * len(prompt) + answer + [-100] * fill

    starts = collator.prompts(QUESTIONS)
    width = max(len(prompt) for prompt, _ in pairs)
    for row, (prompt, _) in enumerate(pairs):
        fill = width - len(prompt)
        assert starts["input_ids"][row].tolist() == [padding] * fill + prompt
        assert starts["attention_mask"][row].tolist() == [0] * fill + [1] * len(prompt)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_padding_changes_neither_losses_nor_generated_answers(family):
    model = tiny_language_model(family, seed=3).eval().double()
    collator = QACollator(TOKENIZERS[family])
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": PAD}
    together = model.generate(**collator.prompts(QUESTIONS), **settings)
    with torch.no_grad():
        logits = model(**{k: v for k, v in collator(QUESTIONS).items() if k != "labels"}).logits
        for row, question in enumerate(QUESTIONS):
            alone = collator([question])
            width = alone["input_ids"].shape[1]
            torch.testing.assert_close(logits[row, :width], model(input_ids=alone["input_ids"]).logits[0])
            assert torch.equal(model.generate(**collator.prompts([question]), **settings)[0, -4:], together[row, -4:])
