"""Asking questions: the nll against a forward pass by hand, answers against `transformers`, and the scores."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from taskloom.evaluation import exact_match, token_f1
from taskloom.online.encode import encode_question
from taskloom.online.qa import answer_questions, question_nll
from taskloom.online.qa_scores import AnsweredQuestion, QAScores, score_questions
from taskloom.online.questions import Question
from tests.tiny_language import tiny_language_model, tiny_tokenizer

QUESTIONS = [
    Question("was the film good ?", ("yes",)),
    Question("the book", ("very very good", "not bad")),
    Question("is a meal so so so so so bad ?", ("the answer is no",)),
    Question("question : true", ("false",)),
    Question("a", ("a",)),
]


@pytest.fixture(params=["gpt2", "llama"])
def asked(request):
    model = tiny_language_model(request.param)
    # Random weights of the usual size make all words nearly alike.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval(), tiny_tokenizer(request.param)


def test_nll_is_that_of_the_answer_and_its_end(asked):
    model, tokenizer = asked
    found = question_nll(model, tokenizer, QUESTIONS, batch_size=2)
    for (total, tokens), question in zip(found, QUESTIONS, strict=True):
        prompt, answer = encode_question(question.text, question.answer, tokenizer)
        assert answer[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        expected = -sum(logs[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer))
        assert tokens == len(answer)
        assert total == pytest.approx(expected, rel=1e-5)


def test_batches_and_padding_change_nothing(asked):
    model, tokenizer = asked
    alone = question_nll(model, tokenizer, QUESTIONS, batch_size=1)
    for size in (2, 5):
        np.testing.assert_allclose(question_nll(model, tokenizer, QUESTIONS, batch_size=size), alone, rtol=1e-5)
    backwards = question_nll(model, tokenizer, QUESTIONS[::-1], batch_size=2)
    np.testing.assert_allclose(backwards[::-1], alone, rtol=1e-5)
    search = {"beams": 4, "groups": 2, "diversity": 1.0, "top_k": 3, "max_new_tokens": 5}
    one_by_one = [answer_questions(model, tokenizer, [question], **search)[0] for question in QUESTIONS]
    assert answer_questions(model, tokenizer, QUESTIONS, batch_size=3, **search) == one_by_one


def test_greedy_answers_are_those_of_transformers(asked):
    model, tokenizer = asked
    found = answer_questions(model, tokenizer, QUESTIONS, max_new_tokens=6)
    for question, answers in zip(QUESTIONS, found, strict=True):
        prompt, _ = encode_question(question.text, question.answer, tokenizer)
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
        )
        assert answers == [tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True).strip()]


def test_an_answer_ends_at_the_end_token():
    """Of a tokenizer whose padding is the end token as of one with its own."""
    for family in ("gpt2", "llama"):
        model, tokenizer = tiny_language_model(family).eval(), tiny_tokenizer(family)
        with torch.no_grad():
            model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))  # ties end: id 0 or 1
        texts = answer_questions(model, tokenizer, QUESTIONS, beams=4, groups=2, top_k=4, max_new_tokens=3)
        assert all("</s>" not in text and "<pad>" not in text for answers in texts for text in answers)


def test_the_model_keeps_its_mode(asked):
    model, tokenizer = asked
    model.train()
    score_questions(model, tokenizer, QUESTIONS[:1], max_new_tokens=2)
    assert model.training


def test_scores():
    rows = (
        AnsweredQuestion(Question("who ?", ("the Beatles", "Beatles")), 2.0, 3, ("Beatles of Liverpool", "beatles")),
        AnsweredQuestion(Question("where ?", ("Paris",)), 1.0, 1, ("Paris.", "Rome")),
    )
    scores = QAScores(rows)
    assert scores.count == 2
    assert scores.nll == pytest.approx((2.0 * 3 + 1.0 * 1) / 4), "each token counts alike"
    assert scores.exact_match == 0.5, "of the best-ranked answer"
    assert scores.top_k_exact_match == 1.0
    assert scores.f1 == pytest.approx((0.5 + 1.0) / 2)
    assert scores.max_f1 == 1.0
    assert scores.prefix_exact_match == 1.0, "the published rule takes the beginning for the answer"
    assert scores.metrics().keys() >= {"nll", "exact_match", "f1", "prefix_exact_match"}
    assert rows[0].metrics["exact_match"] == exact_match("Beatles of Liverpool", ["Beatles"]) == 0.0
    assert rows[0].metrics["f1"] == token_f1("Beatles of Liverpool", ["Beatles"])


@pytest.mark.parametrize(
    ("answer", "trained", "expected"),
    [("1995 to 1996", "1995", 1.0), ("1995", "1995 to 1996", 0.0), ("in 1995", "1995", 0.0), ("x", "The", 1.0)],
)
def test_published_exact_match(answer, trained, expected):
    row = AnsweredQuestion(Question("when ?", (trained,)), 1.0, 1, (answer,))
    assert row.metrics["prefix_exact_match"] == expected


def test_without_generation_there_is_the_nll_alone(asked, tmp_path):
    model, tokenizer = asked
    scores = score_questions(model, tokenizer, QUESTIONS, generate=False)
    assert scores.metrics().keys() == {"nll"}
    assert scores.exact_match is scores.f1 is None
    sums = question_nll(model, tokenizer, QUESTIONS).sum(0)
    assert scores.nll == pytest.approx(sums[0] / sums[1])
    scores.write_csv(tmp_path / "rows.csv")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(QUESTIONS)


def test_rows_as_csv(asked, tmp_path):
    model, tokenizer = asked
    scores = score_questions(model, tokenizer, QUESTIONS, beams=2, top_k=2, max_new_tokens=3)
    path = tmp_path / "deep" / "rows.csv"
    scores.write_csv(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["question"] for row in rows] == [question.text for question in QUESTIONS]
    assert [tuple(json.loads(row["answers"])) for row in rows] == [question.answers for question in QUESTIONS]
    assert [tuple(json.loads(row["generations"])) for row in rows] == [row.generations for row in scores.rows]
    assert np.mean([float(row["f1"]) for row in rows]) == pytest.approx(scores.f1)
    assert [float(row["nll"]) for row in rows] == [row.nll for row in scores.rows]
    assert list(path.parent.iterdir()) == [path], "nothing half-written is left"


def test_a_model_that_has_diverged_is_scored_as_such(asked):
    model, tokenizer = asked
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    scores = score_questions(model, tokenizer, QUESTIONS, beams=4, groups=2, max_new_tokens=3)
    assert math.isnan(scores.nll)
    assert scores.exact_match == 0.0


def test_api_misuse(asked):
    model, tokenizer = asked
    with pytest.raises(ValueError, match="`questions` must hold at least one"):
        score_questions(model, tokenizer, [])
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, found 0"):
        question_nll(model, tokenizer, QUESTIONS, batch_size=0)
    assert question_nll(model, tokenizer, []).shape == (0, 2)
