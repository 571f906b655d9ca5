"""Sentence-level rows against the documents that they are drawn from."""

from collections import Counter

import numpy as np
import pytest

from taskloom.auxiliary.corpus import tokenise
from taskloom.auxiliary.pairs import PAIR_CLASSES, Neighbours, without_replacement
from taskloom.auxiliary.stages import SENTENCE_OUTPUTS
from taskloom.auxiliary.template import RowTemplate, longest_first
from tests.auxiliary.tiny_text import TEMPLATES, numbered_documents, word_tokenizer

LENGTHS = [4, 1, 2, 6, 3, 1, 5]
LABEL = {name: dict(enumerate(classes)) for name, classes in PAIR_CLASSES.items()}


@pytest.fixture(scope="module")
def neighbours():
    documents, words = numbered_documents(LENGTHS)
    return Neighbours(tokenise(documents, word_tokenizer(words)))


#: (document, number) of each sentence, in the order of the corpus.
PLACES = [(document, number) for document, length in enumerate(LENGTHS) for number in range(length)]


def relation(a: int, b: int) -> str:
    """What the documents say about sentences a and b."""
    (document, number), (other, following) = PLACES[a], PLACES[b]
    if document != other:
        return "B is of another document"
    return {1: "B follows A", -1: "B precedes A", 0: "the same"}.get(following - number, "distant")


@pytest.mark.parametrize("output", ["next-sentence", "adjacent-sentence", "sentence-order"])
@pytest.mark.parametrize("rows", [1, 7, 12, 60])
def test_neighbours_are_what_their_class_says(neighbours, output, rows):
    for seed in range(5):
        drawn = neighbours.draw(output, rows, np.random.default_rng(seed))
        for a, b, label in zip(drawn.first, drawn.second, drawn.classes, strict=True):
            assert relation(a, b) == LABEL[output][label]


def test_continuity_is_about_the_document_alone(neighbours):
    drawn = neighbours.draw("sentence-continuity", 400, np.random.default_rng(0))
    found = Counter()
    for a, b, label in zip(drawn.first, drawn.second, drawn.classes, strict=True):
        found[label, relation(a, b)] += 1
    assert found.keys() == {(0, "B follows A"), (0, "B precedes A"), (0, "distant"), (1, "B is of another document")}
    assert found[0, "distant"] > 60  # of six sentences a third of the pairs are neighbours


@pytest.mark.parametrize("output", PAIR_CLASSES)
@pytest.mark.parametrize("rows", [5, 12, 50])
def test_classes_are_balanced(neighbours, output, rows):
    totals = np.zeros(len(PAIR_CLASSES[output]))
    for seed in range(30):
        counts = np.bincount(
            neighbours.draw(output, rows, np.random.default_rng(seed)).classes, minlength=len(PAIR_CLASSES[output])
        )
        assert counts.max() - counts.min() <= 1
        totals += counts
    assert totals.max() / totals.min() < 1.5  # nor is it always the same class that has one more


@pytest.mark.parametrize("output", ["next-sentence", "adjacent-sentence", "sentence-continuity"])
def test_where_a_sentence_stands_does_not_tell_its_class(neighbours, output):
    """Each side of a pair is as often the beginning of its document, whatever the class."""
    drawn = neighbours.draw(output, 6000, np.random.default_rng(0))
    for side in (drawn.first, drawn.second):
        begins = np.array([PLACES[sentence][1] == 0 for sentence in side])
        shares = [begins[drawn.classes == label].mean() for label in range(len(PAIR_CLASSES[output]))]
        if output == "adjacent-sentence":
            shares = [np.mean(shares[:2]), shares[2]]
        assert max(shares) - min(shares) < 0.1


@pytest.mark.parametrize("output", ["next-sentence", "sentence-order", "sentence-continuity", "fastsent"])
def test_no_row_comes_twice_while_there_are_others(neighbours, output):
    pool = 15 if output in ("next-sentence", "sentence-order") else 20
    drawn = neighbours.draw(output, pool, np.random.default_rng(3))
    first = np.minimum(drawn.first, drawn.second) if output == "sentence-order" else drawn.first
    assert len(set(first.tolist())) == pool
    again = neighbours.draw(output, pool, np.random.default_rng(4))
    assert drawn.first.tolist() != again.first.tolist()
    assert neighbours.draw(output, pool, np.random.default_rng(3)).first.tolist() == drawn.first.tolist()


def test_quick_thoughts_are_pairs_that_share_nothing(neighbours):
    for seed in range(20):
        drawn = neighbours.draw("quick-thoughts", 8, np.random.default_rng(seed)).first
        assert len(drawn) == 8 == len(set(drawn.tolist()))
        for a, b in drawn.reshape(-1, 2):
            assert relation(a, b) == "B follows A"
    # 4 + 2 + 6 + 3 + 5 sentences hold 2 + 1 + 3 + 1 + 2 pairs at most.
    assert len(neighbours.draw("quick-thoughts", 64, np.random.default_rng(0)).first) in range(10, 19, 2)


def test_fastsent_knows_the_sentences_around(neighbours):
    drawn = neighbours.draw("fastsent", 60, np.random.default_rng(0))
    for sentence, (before, after) in zip(drawn.first, drawn.around, strict=True):
        document, number = PLACES[sentence]
        assert (before < 0) == (number == 0)
        assert (after < 0) == (number == LENGTHS[document] - 1)
        assert before < 0 or relation(sentence, before) == "B precedes A"
        assert after < 0 or relation(sentence, after) == "B follows A"
        assert before >= 0 or after >= 0


@pytest.mark.parametrize(
    ("documents", "reasons"),
    [
        (["A b .", "B a ."], dict.fromkeys(SENTENCE_OUTPUTS, "every document has one sentence")),
        (
            ["Aa b . Bb a ."],
            {
                **dict.fromkeys(("next-sentence", "adjacent-sentence", "sentence-continuity"), "only one document"),
                "quick-thoughts": "only one pair",
            },
        ),
        (
            ["Aa b . Bb a ."] * 3,  # a repeated document is no other document
            {
                **dict.fromkeys(("next-sentence", "adjacent-sentence", "sentence-continuity"), "only one document"),
                "quick-thoughts": "only one pair",
            },
        ),
        (["Aa b . Bb a .", "Bb c . Aa c ."], {}),
    ],
)
def test_what_cannot_be_drawn_is_said(documents, reasons):
    corpus = tokenise([(text,) for text in documents], word_tokenizer(["Aa", "Bb", "a", "b", "c", "."]))
    neighbours = Neighbours(corpus)
    for output in SENTENCE_OUTPUTS:
        reason = neighbours.supports(output)
        assert (reason or "").startswith(reasons.get(output, ""))
        assert (reason is None) == (output not in reasons)


def test_repeated_documents_are_not_each_others_contrast():
    """Of two equal documents neither is another document, and equal sentences are one for quick thoughts."""
    documents, words = numbered_documents([3, 3])
    corpus = tokenise([documents[0], documents[0], documents[1]], word_tokenizer(words))
    neighbours = Neighbours(corpus)
    drawn = neighbours.draw("next-sentence", 200, np.random.default_rng(0))
    other = drawn.classes == 1
    assert ((drawn.first[other] < 6) != (drawn.second[other] < 6)).all()
    for seed in range(10):
        pairs = neighbours.draw("quick-thoughts", 6, np.random.default_rng(seed)).first
        assert len(pairs) == 4
        assert len({corpus.wordings[sentence] for sentence in pairs}) == 4


def test_unknown_outputs_are_refused(neighbours):
    with pytest.raises(ValueError, match=r"`output` must be one of quick-thoughts, .* found 'nsp'"):
        neighbours.supports("nsp")


def test_draws_without_replacement():
    generator = np.random.default_rng(0)
    assert sorted(without_replacement(5, 5, generator)) == list(range(5))
    assert len(set(without_replacement(1000, 100, generator).tolist())) == 100
    assert sorted(Counter(without_replacement(4, 10, generator).tolist()).values()) == [2, 2, 3, 3]


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("pair", [False, True])
def test_rows_are_written_as_the_tokenizer_writes_them(kind, pair):
    """Special tokens, token types, truncation and padding equal the tokenizer's own, on texts of many lengths."""
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30)]
    tokenizer = word_tokenizer(words, kind)
    lengths = rng.integers(1, 20, (40, 2))
    texts = [[" ".join(rng.choice(words, length)) for length in row] for row in lengths]
    corpus = tokenise([(text,) for row in texts for text in row], tokenizer)
    bounds = np.stack([corpus.texts[:-1], corpus.texts[1:]], axis=1).reshape(-1, 2, 2)
    expected = tokenizer(
        [row[0] for row in texts],
        [row[1] for row in texts] if pair else None,
        truncation="longest_first",
        max_length=17,
        padding=True,
        return_tensors="np",
    )
    found = RowTemplate(tokenizer, 17).rows(corpus.tokens, bounds[:, 0], bounds[:, 1] if pair else None)
    np.testing.assert_array_equal(found.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(found.attention_mask, expected["attention_mask"])
    assert (found.token_type_ids is None) == ("token_type_ids" not in expected)
    if found.token_type_ids is not None:
        np.testing.assert_array_equal(found.token_type_ids, expected["token_type_ids"])
    special = np.isin(found.input_ids, [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id])
    np.testing.assert_array_equal(found.place < 0, special)


def test_cutting_the_longer_text_first():
    first, second = longest_first(np.array([3, 9, 9, 2]), np.array([3, 2, 9, 20]), 8)
    assert first.tolist() == [3, 6, 4, 2]
    assert second.tolist() == [3, 2, 4, 6]
