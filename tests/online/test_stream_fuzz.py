"""Whatever bytes a stream holds: no exception, bounded documents, the same again, and none is lost."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskloom.errors import DataError
from taskloom.online.stream import digest, read_stream

LIMIT = 30
names = st.sampled_from(["a.txt", "b.md", "c.jsonl", "d.csv", "e/f.csv", "g.png", "-"])
marks = [b'"', b"\n", b"\r", b"\r\n", b",", b"text", b"text,id\n", b'{"text": "', b'"}\n', b"{", b"[", b"\\ud800"]
pieces = st.sampled_from([*marks, b"\0", b"\xe9", b"\xc3\xa9", b"\xef\xbb\xbf", b"a" * 40, b" "])
contents = st.binary(max_size=40) | st.lists(pieces, max_size=25).map(b"".join)


@given(st.dictionaries(names, contents, max_size=4))
@settings(max_examples=150)
def test_any_bytes(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        streams = [list(read_stream(Path(folder), max_characters=LIMIT)) for _ in range(2)]
        standard = list(read_stream("-", max_characters=LIMIT, stdin=io.BytesIO(b"\n".join(files.values()))))
        assert streams[0] == streams[1]
        for items in (streams[0], standard):
            assert len({item.name for item in items}) == len(items)
            for item in items:
                if item.text is None:
                    assert item.reason
                    assert item.digest == ""
                else:
                    assert item.reason is None
                    assert 0 < len(item.text) <= LIMIT
                    assert item.text == item.text.strip()
                    assert item.digest == digest(item.text)
        whole_files = [name for name in files if not name.endswith((".jsonl", ".csv"))]
        assert set(whole_files) <= {item.name for item in streams[0]}
        if any(item.reason for item in streams[0]):
            with pytest.raises(DataError):
                list(read_stream(Path(folder), strict=True, max_characters=LIMIT))


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), max_size=5)


@given(texts)
@settings(max_examples=100)
def test_what_was_written_is_read(texts):
    """Oracles: Python's own writers of CSV and JSON."""
    expected = [text.strip() or None for text in texts]
    lines = "".join(json.dumps({"document": text}, ensure_ascii=len(text) % 2 == 0) + "\n" for text in texts)
    assert [item.text for item in read_stream("-", stdin=io.BytesIO(lines.encode()))] == expected
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.jsonl").write_bytes(lines.encode())
        with Path(folder, "b.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            writer.writerows(enumerate(texts))
        assert [item.text for item in read_stream(folder)] == expected * 2
