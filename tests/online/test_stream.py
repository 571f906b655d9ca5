"""Documents of a real stream: every kind of file, and everything that can be wrong with one."""

import hashlib
import io
import json
import os
import tracemalloc

import pytest

from taskloom.errors import DataError
from taskloom.online.stream import StreamItem, digest, read_stream


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def found(source, **options):
    return [(item.name, item.text, item.reason) for item in read_stream(source, **options)]


def reasons(source, **options):
    return {item.name: item.reason for item in read_stream(source, **options)}


def test_a_folder_in_the_order_of_its_paths(tmp_path):
    write(
        tmp_path,
        {
            "b.txt": "  second\nline \n",
            "a/z.md": "﻿# first",
            "a-c.jsonl": '{"text": "t1"}\n\n{"document": "t2", "id": 3}\r\n',
            "c.csv": 'id,text\n1,"one\nwith ""quotes"", and a comma"\n2,two\n',
            "c/d/e.csv": "raw_text\r\nthree\r\n",
            ".git/config.txt": "hidden",
            ".hidden.txt": "hidden",
        },
    )
    assert found(tmp_path) == [
        ("a/z.md", "# first", None),
        ("a-c.jsonl:1", "t1", None),
        ("a-c.jsonl:3", "t2", None),
        ("b.txt", "second\nline", None),
        ("c/d/e.csv:2", "three", None),
        ("c.csv:2", 'one\nwith "quotes", and a comma', None),
        ("c.csv:4", "two", None),
    ]
    assert list(read_stream(str(tmp_path))) == list(read_stream(tmp_path))


def test_a_digest_tells_texts_apart(tmp_path):
    write(tmp_path, {"a.txt": "same é", "b.txt": "same é\n", "c.txt": "other", "d.txt": ""})
    first, second, third, none = read_stream(tmp_path)
    assert first.digest == second.digest == digest("same é") != third.digest
    assert first.digest == hashlib.blake2b("same é".encode(), digest_size=16).hexdigest()
    assert none == StreamItem("d.txt", None, "empty", "")


def test_bad_documents_are_passed_over_with_a_reason(tmp_path):
    write(
        tmp_path,
        {
            "a.txt": "good",
            "binary.txt": b"PK\0\1",
            "empty.txt": " \n",
            "huge.md": "é" * 21,
            "latin.txt": "caf\xe9 au lait".encode("latin-1"),
            "none.txt": "",
            "picture.png": b"\x89PNG\0",
            "README": "no extension",
            "z.jsonl": '{"text": "good, too"}\n',
        },
    )
    assert reasons(tmp_path, max_characters=20) == {
        "README": "unknown kind (no extension)",
        "a.txt": None,
        "binary.txt": "binary",
        "empty.txt": "empty",
        "huge.md": "too large (21 characters; at most 20 characters)",
        "latin.txt": "not UTF-8 (byte 0xe9 at 3)",
        "none.txt": "empty",
        "picture.png": "unknown kind .png",
        "z.jsonl:1": None,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "malformed JSON at column 2"),
        (b"[1]", "not a JSON object"),
        (b'{"txt": "a"}', "no field 'text' or 'document'"),
        (b'{"text": 3}', "the field 'text' is not text"),
        (b'{"text": " "}', "empty"),
        (b'{"text": "\\u0000"}', "binary"),
        (b'{"text": "\\ud83d"}', "half of a surrogate pair at character 0"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 0xe9 at 13)"),
        (b'{"text": ' + b"[" * 100_000, "malformed JSON (nested"),
        (b'{"n": ' + b"1" * 5_000 + b', "text": "a"}', "a number too long"),
        (b'{"text": "' + b"a" * 99 + b'"}', "too large (99 characters"),
        (b'{"text": "' + b"a" * 2_000_000 + b'"}', "too large (2,000,013 bytes; at most 50 characters)"),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    good = b'{"text": "good"}\n'
    write(tmp_path, {"a.jsonl": good + line + b"\n" + good})
    first, bad, last = found(tmp_path, max_characters=50)
    assert (first, last) == (("a.jsonl:1", "good", None), ("a.jsonl:3", "good", None))
    assert (bad[0], bad[1]) == ("a.jsonl:2", None)
    assert reason in bad[2]


@pytest.mark.parametrize(
    ("row", "reason", "follows"),
    [
        (b"1,2,3\n", "3 fields, expected 2", True),
        (b"1\n", "1 fields, expected 2", True),
        (b"1,\n", "empty", True),
        (b"1,caf\xe9\n", "not UTF-8 (byte 0xe9", True),
        (b'1,"x\n\0\n"\n', "binary", True),
        (b'1,"' + b"a\n" * 40 + b'"\n', "too large (79 characters", True),
        (b'1,"' + b'a""\n' * 400_000 + b'"\n', "too large (1,600,005 bytes", True),
        (b'1,"' + b"a" * 1_500_000 + b'\nb"\n', "too large (1,500,007 bytes", True),
        (b'1,"a"b\n', "malformed row", False),
        (b'1,"a\n', "malformed row", False),
        (b'1,"' + b"a" * 1_500_000 + b"\n", "too large (", False),
    ],
)
def test_bad_rows(tmp_path, row, reason, follows):
    write(tmp_path, {"a.csv": b"id,text\n0,good\n" + row + b"2,last\n"})
    first, bad, *last = found(tmp_path, max_characters=50)
    assert first == ("a.csv:2", "good", None)
    assert (bad[0], bad[1]) == ("a.csv:3", None)
    assert reason in bad[2]
    # Behind a row that does not end where it seems to, fragments would be taken for documents.
    assert [text for _, text, _ in last] == (["last"] if follows else [])


def test_a_quote_inside_of_a_field_is_a_character(tmp_path):
    write(tmp_path, {"a.csv": 'text,id\n5" disk,1\n3" disk,2\nlast,3\n'})
    assert found(tmp_path) == [("a.csv:2", '5" disk', None), ("a.csv:3", '3" disk', None), ("a.csv:4", "last", None)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"id,txt\n1,a\n", "none of the columns 'text', 'document', 'raw_text'. Did you mean 'txt'?"),
        (b"caf\xe9,text\n", "header line: not UTF-8"),
    ],
)
def test_a_table_without_documents(tmp_path, content, reason):
    """In a folder it is told and passed over; if it is all that was asked for, it is a mistake."""
    write(tmp_path, {"a.csv": content, "b.txt": "good"})
    first, second = read_stream(tmp_path)
    assert (first.name, first.text, second.text) == ("a.csv", None, "good")
    assert reason in str(first.reason)
    with pytest.raises(DataError) as caught:
        list(read_stream(tmp_path / "a.csv"))
    assert str(tmp_path / "a.csv") in str(caught.value)
    assert reason in str(caught.value)


def test_single_files(tmp_path):
    write(tmp_path, {"a.txt": "one\ntwo", "b.jsonl": '{"text": "x"}', "c.png": "x", "d.txt": b"\0"})
    assert found(tmp_path / "a.txt") == [("a.txt", "one\ntwo", None)]
    assert found(tmp_path / "b.jsonl") == [("b.jsonl:1", "x", None)]
    assert found(tmp_path / "d.txt") == [("d.txt", None, "binary")]
    with pytest.raises(DataError, match=r"c\.png: unknown kind \.png; expected a folder of \.txt, \.md, \.jsonl"):
        list(read_stream(tmp_path / "c.png"))
    with pytest.raises(DataError, match=r"no file 'a\.text'.*Did you mean 'a\.txt'"):
        list(read_stream(tmp_path / "a.text"))


def test_strict_stops_at_the_first_bad_document(tmp_path):
    write(tmp_path, {"a.txt": "good", "b/c.jsonl": '{"text": "good"}\n{"text": ""}\n'})
    stream = read_stream(tmp_path, strict=True)
    assert [next(stream).text, next(stream).text] == ["good", "good"]
    with pytest.raises(DataError) as caught:
        next(stream)
    assert str(tmp_path / "b/c.jsonl:2: empty; mend or remove it") in str(caught.value)
    with pytest.raises(DataError, match=rf"{tmp_path}/b/c.jsonl:2: empty"):
        list(read_stream(tmp_path / "b/c.jsonl", strict=True))
    with pytest.raises(DataError, match="-:2: empty"):
        list(read_stream("-", strict=True, stdin=io.BytesIO(b"a\n\n")))


def test_links_pipes_and_what_cannot_be_opened(tmp_path, monkeypatch):
    folder = tmp_path / "news"
    write(folder, {"a.txt": "good", "sub/b.txt": "good", "locked.txt": "secret"})
    (folder / "sub/loop").symlink_to(folder, target_is_directory=True)
    (folder / "gone.txt").symlink_to(folder / "nowhere.txt")
    (folder / "round.txt").symlink_to(folder / "round.txt")
    (folder / "same.txt").symlink_to(folder / "a.txt")
    os.mkfifo(folder / "pipe.txt")
    opened = type(folder).open

    def refusing(path, *arguments, **options):
        if path.name == "locked.txt":  # tests may run as root, whom no mode keeps out
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(type(folder), "open", refusing)
    assert reasons(folder) == {
        "a.txt": None,
        "gone.txt": "unreadable (No such file or directory)",
        "locked.txt": "unreadable (Permission denied)",
        "pipe.txt": "not a regular file",
        "round.txt": "unreadable (Too many levels of symbolic links)",
        "same.txt": None,
        "sub/b.txt": None,
        "sub/loop": "a link to a folder",
    }


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    write(tmp_path, {"a.txt": "good", "locked/b.txt": "secret"})
    listed = os.scandir

    def refusing(path):
        if path.name in locked:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refusing)
    locked = {"locked"}
    assert reasons(tmp_path) == {"a.txt": None, "locked": "a folder that cannot be read"}
    locked = {tmp_path.name}
    with pytest.raises(DataError, match=r"unreadable \(Permission denied\)"):
        list(read_stream(tmp_path))


def test_names_that_are_not_utf8(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    with open(path, "wb") as file:  # noqa: PTH123 (the name is bytes)
        file.write(b"good")
    (item,) = read_stream(tmp_path)
    assert (item.name, item.text) == ("caf\\udce9.txt", "good")
    assert json.dumps(item.name).encode("utf-8")


def test_huge_files_are_not_read_whole(tmp_path):
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "line.jsonl").write_bytes(b'{"text": "' + b"a" * (16 << 20) + b'"}\n{"text": "good"}\n')
    (tmp_path / "table.csv").write_bytes(b'text\n"' + (b"a" * 1023 + b"\n") * (16 << 10) + b'"\ngood\n')
    tracemalloc.start()
    items = found(tmp_path, max_characters=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [text for _, text, _ in items] == [None, "good", None, None, "good"]
    assert items[2][2] == "too large (1,099,511,627,776 bytes; at most 1,000 characters)"
    assert peak < 5 << 20


def test_standard_input_lines_and_objects():
    lines = '﻿plain é\n{"text": "from JSON"}\r\n\n{broken\n"in quotes"\nlast'.encode()
    assert found("-", stdin=io.BytesIO(lines)) == [
        ("-:1", "plain é", None),
        ("-:2", "from JSON", None),
        ("-:3", None, "empty"),
        ("-:4", None, "malformed JSON at column 2 (Expecting property name enclosed in double quotes)"),
        ("-:5", '"in quotes"', None),
        ("-:6", "last", None),
    ]


def test_standard_input_is_read_as_it_comes():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb", buffering=0) as writer:
        stream = read_stream("-", stdin=pipe)
        for text in ("first", "second"):
            writer.write(f"{text}\n".encode())
            assert next(stream).text == text  # the next line is not there yet
        writer.write(b"half a line")
        writer.close()
        assert next(stream).text == "half a line"
        assert next(stream, None) is None


def test_files_are_opened_one_at_a_time(tmp_path):
    write(tmp_path, {"a.txt": "one", "b.txt": "two"})
    stream = read_stream(tmp_path)
    assert next(stream).text == "one"
    (tmp_path / "b.txt").write_text("changed meanwhile")
    assert next(stream).text == "changed meanwhile"


def test_a_limit_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`max_characters` must be at least 1, found 0"):
        list(read_stream(tmp_path, max_characters=0))
