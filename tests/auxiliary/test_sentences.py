"""Sentences against text split by hand."""

import random
from itertools import pairwise

import pytest

from taskloom.auxiliary.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["One sentence without an end"],
        ["It works.", "So does this!", "Does it?", "Yes."],
        ["What?!", "No ...", "Well."],
        ["We follow ( Och , 2003 ) .", "Then we stop ."],
        ["It was shown by Och et al . , 2003 and others .", "We agree ."],
        ["See Och et al. (2003), e.g. Fig. 2 or Sec. 3, i.e. No. 4.", "Done."],
        ["He said no.", "Then he left."],
        ["J. R. Smith met Dr. Who in the U.S. Senate.", "They spoke."],
        ['He said "Go."', 'She said "Stop."', "(They did.)", "Fine."],
        ['He said , " Go . "', "She went ."],
        ["Version 3.14 costs 2.5 dollars.", "12 people bought it."],
        ["1. Introduction to things.", "2. Methods."],
        ["Élan vital.", "Über alles.", "Ärger!"],
        ["これは文です。", "次の文！", "「終わり？」", "はい。"],
        ["a heading\nof two lines", "Another paragraph"],
        ["It ended with google.com and etc. in lower case."],
    ],
    ids=lambda sentences: sentences[0][:20],
)
def test_sentences(sentences):
    wide = any("。" in sentence for sentence in sentences)
    joined = ("" if wide else "\n\n" if "heading" in sentences[0] else " ").join(sentences)
    assert [joined[start:end] for start, end in split_sentences(joined)] == sentences


def test_nothing_is_lost():
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(
            rng.choice(["a", "B", " ", ".", "?", "。", '"', ")", "(", "\n", "7", "al", "É"]) for _ in range(60)
        )
        spans = split_sentences(text)
        kept = "".join(text[start:end] for start, end in spans)
        assert "".join(kept.split()) == "".join(text.split())
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(first[1] <= second[0] for first, second in pairwise(spans))
        assert all(text[start:end] == text[start:end].strip() for start, end in spans)


def test_blank_text_has_no_sentence():
    assert split_sentences(" \n ") == []
