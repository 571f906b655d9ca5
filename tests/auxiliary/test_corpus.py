"""Documents from files, and what tokenising and packing them must keep."""

import json

import numpy as np
import pytest

from taskloom.auxiliary import corpus as corpus_module
from taskloom.auxiliary.corpus import cached_corpus, pack_blocks, tokenise
from taskloom.auxiliary.documents import read_documents
from taskloom.errors import DataError
from tests.auxiliary.tiny_text import byte_tokenizer, numbered_documents, word_tokenizer


def test_a_text_file_has_a_document_a_line(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("One.  Two.\n\n  \nThree. \n", "utf-8")
    assert read_documents([path]) == [("One.  Two.",), ("Three.",)]


def test_other_files_and_folders(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "First", "label": 1}\n\n{"text": " "}\n{"text": "Second"}\n', "utf-8")
    (tmp_path / "b.csv").write_text('id,text\n1,"Third,\nstill third"\n', "utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "2.txt").write_text("Sixth\nline two\n", "utf-8")
    (folder / "1.txt").write_text("Fifth", "utf-8")
    found = read_documents([tmp_path / "a.jsonl", tmp_path / "b.csv", folder])
    assert found == [("First",), ("Second",), ("Third,\nstill third",), ("Fifth",), ("Sixth\nline two",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', r"a\.jsonl:2: the field 'text' is missing.*Did you mean 'txt'"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": 3}\n', r"a\.jsonl:3: the field 'text' holds 3, expected text"),
        ("a.jsonl", b'{"text": null}\n', r"a\.jsonl:1: the field 'text' holds null"),
        ("a.jsonl", b'{"text": \n', r"a\.jsonl:1: malformed JSON"),
        ("a.csv", b"id\n1\n", r"a\.csv:2: the field 'text' is missing"),
        ("a.txt", b"fine\ncaf\xe9\n", r"a\.txt:2: not UTF-8"),
        ("a.txt", b"\n \n", r"a\.txt: there is no text"),
        ("a.docx", b"x", r"a\.docx: unknown file format '\.docx'; use a folder of \.txt files or one of \.txt, \.tsv"),
    ],
)
def test_mistakes_in_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_documents([tmp_path / name])


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"no file 'in\.txt'"):
        read_documents([tmp_path / "in.txt"])
    with pytest.raises(DataError, match=r"no \.txt file in this folder"):
        read_documents([tmp_path])


def test_tokens_lie_in_their_sentences_and_documents():
    documents, words = numbered_documents([3, 1, 2])
    tokenizer = word_tokenizer(words)
    corpus = tokenise(documents, tokenizer)
    sentences = [
        tokenizer.convert_ids_to_tokens(corpus.tokens[first:last].tolist())
        for first, last in zip(corpus.sentences[:-1], corpus.sentences[1:], strict=True)
    ]
    assert [" ".join(words[:2]) for words in sentences] == ["D0 S0", "D0 S1", "D0 S2", "D1 S0", "D2 S0", "D2 S1"]
    assert corpus.documents.tolist() == [0, 3, 4, 6]
    assert corpus.document_of_sentence.tolist() == [0, 0, 0, 1, 2, 2]
    assert corpus.document_of_token.tolist() == [0] * 9 + [1] * 3 + [2] * 6


def test_a_space_before_a_token_belongs_to_the_sentence_of_its_word():
    text = "The cat sat. The dog ran.  A bird flew."
    tokenizer = byte_tokenizer(text)
    corpus = tokenise([(text,)], tokenizer)
    parts = [
        tokenizer.decode(corpus.tokens[a:b].tolist())
        for a, b in zip(corpus.sentences, corpus.sentences[1:], strict=False)
    ]
    assert [part.strip() for part in parts] == ["The cat sat.", "The dog ran.", "A bird flew."]
    assert "".join(parts) == text


def test_texts_of_a_pair_are_sentences_of_one_document():
    tokenizer = word_tokenizer(["a", "b", "c", "."])
    corpus = tokenise([("a b", "b c . A"), ("", "c"), ("a", "b c . A")], tokenizer)
    assert corpus.texts.tolist() == [0, 2, 6, 6, 7, 8, 12]
    assert corpus.sentences.tolist() == [0, 2, 5, 6, 7, 8, 11, 12]
    assert corpus.documents.tolist() == [0, 3, 4, 7]
    # The first and the last are about the same text.
    assert corpus.groups[0] == corpus.groups[2] != corpus.groups[1]
    # "b c ." in both, and "A" (unknown) in both, have the same wording; others differ.
    wordings = corpus.wordings.tolist()
    assert wordings[1] == wordings[5]
    assert wordings[2] == wordings[6]
    assert len(set(wordings)) == 5


@pytest.mark.parametrize("room", [1, 2, 5, 7, 100])
def test_blocks_hold_every_token_once(room):
    rng = np.random.default_rng(room)
    documents = [
        (" ".join("A " + "b " * rng.integers(0, 12) + "." for _ in range(rng.integers(1, 6))),) for _ in range(30)
    ]
    corpus = tokenise(documents, word_tokenizer(["A", "b", "."]))
    blocks = pack_blocks(corpus, room)
    assert np.concatenate([np.arange(*block) for block in blocks]).tolist() == list(range(len(corpus.tokens)))
    assert (np.diff(blocks) <= room).all()
    documents_of = [set(corpus.document_of_token[first:last].tolist()) for first, last in blocks]
    assert all(len(found) == 1 for found in documents_of)
    starts = set(corpus.sentences.tolist())
    for first, last in blocks[:-1]:
        if last not in starts:  # only a sentence that does not fit is cut, and then the block is full
            assert last - first == room
        elif corpus.document_of_token[first] == corpus.document_of_token[last]:
            assert min(start for start in starts if start > last) - first > room


def test_blocks_by_hand():
    # Sentences of 3, 2, 7 and 1 tokens, room for 5.
    corpus = tokenise([("Ab b . Ab . Ab b b b b b . Ab",)], word_tokenizer(["Ab", "b", "."]))
    assert np.diff(corpus.sentences).tolist() == [3, 2, 7, 1]
    assert pack_blocks(corpus, 5).tolist() == [[0, 5], [5, 10], [10, 13]]


def test_the_cache_is_used_and_mended(tmp_path, monkeypatch, caplog):
    documents, words = numbered_documents([3, 2])
    tokenizer = word_tokenizer(words)
    first = cached_corpus(documents, tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()

    def fail(*_):
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patched:
        patched.setattr(corpus_module, "tokenise", fail)
        again = cached_corpus(documents, tokenizer, tmp_path)
        with pytest.raises(AssertionError, match="tokenised again"):
            cached_corpus(documents[::-1], tokenizer, tmp_path)
        with pytest.raises(AssertionError, match="tokenised again"):
            cached_corpus(documents, word_tokenizer([*words, "more"]), tmp_path)
    for name, value in vars(tokenise(documents, tokenizer)).items():
        np.testing.assert_array_equal(getattr(first, name), value)
        np.testing.assert_array_equal(getattr(again, name), value)

    path.write_bytes(path.read_bytes()[:40])
    mended = cached_corpus(documents, tokenizer, tmp_path)
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(mended.tokens, first.tokens)
    assert json.dumps(mended.documents.tolist()) == "[0, 3, 5]"
