"""Token-level targets against what one writes down by hand, and scikit-learn's TF-IDF."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from taskloom.auxiliary.corpus import tokenise
from taskloom.auxiliary.targets import frequency_classes, holds_capital, weighed_frequencies
from tests.auxiliary.tiny_text import byte_tokenizer, piece_tokenizer


def capitals(tokenizer, text: str) -> list[tuple[str, int]]:
    corpus = tokenise([(text,)], tokenizer)
    return list(zip(tokenizer.convert_ids_to_tokens(corpus.tokens.tolist()), corpus.capital.astype(int), strict=True))


def test_word_pieces_with_capitals():
    tokenizer = piece_tokenizer(["Mc", "##Donald", "##s", "un", "##Happy", "the", "iPhone", "7", "."])
    assert capitals(tokenizer, "McDonalds unHappy the iPhone 7.") == [
        ("Mc", 1),
        ("##Donald", 1),
        ("##s", 0),
        ("un", 0),
        ("##Happy", 1),
        ("the", 0),
        ("iPhone", 1),
        ("7", 0),
        (".", 0),
    ]


def test_accents():
    tokenizer = piece_tokenizer(["É", "##cole", "école", "ÉCOLE", "ß", "Ω"])
    assert capitals(tokenizer, "École école ÉCOLE ß Ω") == [
        ("É", 1),
        ("##cole", 0),
        ("école", 0),
        ("ÉCOLE", 1),
        ("ß", 0),
        ("Ω", 1),
    ]


@pytest.mark.parametrize(
    "text", ["École the école Eric", "E\u0301cole the e\u0301cole Eric"], ids=["composed", "decomposed"]
)
def test_uncased_word_pieces_are_judged_by_the_original_text(text):
    tokenizer = piece_tokenizer(["eco", "##le", "the", "eri", "##c"], uncased=True)
    assert capitals(tokenizer, text) == [
        ("eco", 1),
        ("##le", 0),
        ("the", 0),
        ("eco", 0),
        ("##le", 0),
        ("eri", 1),
        ("##c", 0),
    ]


def test_byte_level_tokens():
    tokenizer = byte_tokenizer("the Cat sat on École café")
    assert capitals(tokenizer, "the Cat sat on École café") == [
        ("the", 0),
        ("ĠCat", 1),
        ("Ġsat", 0),
        ("Ġon", 0),
        ("ĠÃīcole", 1),
        ("ĠcafÃ©", 0),
    ]
    # Letters that it has not seen are bytes, and both bytes of Ö stand for the capital.
    assert capitals(tokenizer, "Ö ö") == [("Ã", 1), ("ĸ", 1), ("Ġ", 0), ("Ã", 0), ("¶", 0)]


def test_a_token_of_no_characters_has_no_capital():
    assert holds_capital("AB", [(1, 1), (0, 2)]).tolist() == [False, True]
    assert holds_capital("", []).tolist() == []


def test_frequency_classes_are_powers_of_ten():
    counts = {5: 1000, 6: 999, 7: 100, 8: 10, 9: 9, 10: 1, 11: 12345}
    tokens = np.concatenate([np.full(count, token) for token, count in counts.items()])
    np.random.default_rng(0).shuffle(tokens)
    found = {int(token): int(label) for token, label in zip(tokens, frequency_classes(tokens), strict=True)}
    assert found == {5: 3, 6: 2, 7: 2, 8: 1, 9: 0, 10: 0, 11: 3}


def test_tfidf_of_two_documents_by_hand():
    # "a a b" and "a c": idf(a) = ln(3/3) + 1 = 1, idf(b) = idf(c) = ln(3/2) + 1 = 1.4054651
    raw = np.array([2, 2, 1.4054651, 1, 1.4054651])
    mean, spread = 1.5621860, 0.3869207
    found = weighed_frequencies(np.array([7, 7, 3, 7, 9]), np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(found, (raw - mean) / spread, rtol=1e-5)


def test_tfidf_as_scikit_learn():
    rng = np.random.default_rng(1)
    documents = np.sort(rng.integers(0, 9, 300))
    tokens = rng.integers(0, 40, 300) ** 2
    texts = [" ".join(f"t{token}" for token in tokens[documents == document]) for document in range(9)]
    vectorizer = TfidfVectorizer(norm=None)
    table = vectorizer.fit_transform(texts).toarray()
    raw = np.array([table[d, vectorizer.vocabulary_[f"t{t}"]] for t, d in zip(tokens, documents, strict=True)])
    found = weighed_frequencies(tokens, documents)
    np.testing.assert_allclose(found, (raw - raw.mean()) / raw.std(), atol=1e-5)


def test_tfidf_without_spread_is_zero():
    assert not weighed_frequencies(np.array([1, 2, 3]), np.array([0, 0, 0])).any()
