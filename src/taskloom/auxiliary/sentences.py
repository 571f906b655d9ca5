"""Where the sentences of a text begin and end: a few rules, no model and no word list beyond the abbreviations here.

A sentence ends

- after ``.``, ``!`` or ``?`` (or several of them) and the quotes and brackets that they close, if white space and the
  start of a sentence follow: an upper-case letter, a letter of a script without case, or a digit, perhaps behind
  opening quotes and brackets;
- after ``。``, ``！`` or ``？``, which need no white space;
- at a blank line.

A full stop does not end a sentence after an abbreviation (*et al.*, *e.g.*, *Fig.*), an initial (*J. Smith*) or letters
with dots (*U.S.*), nor before the sentence has a letter (*1. Introduction*). Text that is tokenised already is read the
same way: ``( Och et al . , 2003 ) . We`` has one end, behind the bracket. The rules rather join two sentences than cut
one.
"""

import re

__all__ = ["split_sentences"]

_ENDS = re.compile(r"[.!?…]+|[。！？]+|\n\s*\n")
_WIDE = "。！？"
#: Behind an end: quotes and brackets that close at once, or in tokenised text behind a space.
_CLOSERS = re.compile(r"""["'”’»)\]」』）]*(?:\s+(?:''|[”’»)\]])(?=\s|$))*""")
_OPENERS = re.compile(r"""\s*(?:["'“‘«(\[「『（]|``|\s)*""")
_QUOTE = re.compile(r'\s+"(?=\s|$)')
_LAST_WORD = re.compile(r"[^\s(\[]+$")

#: Never the last word of a sentence.
_ABBREVIATION = re.compile(
    r"al|approx|ca|cf|dept|dr|e\.g|eg|eqs?|figs?|gen|hon|i\.e|ie|jr|messrs|mr|mrs|ms|prof|rep|resp|rev|sen|sr|st|viz|vs",
    re.IGNORECASE,
)
#: Not the last word where a number follows.
_NUMBERED = re.compile(r"app|art|ch|chap|col|eds?|nos?|par|pp?|pt|sect?|tab|vols?", re.IGNORECASE)
_DOTTED = re.compile(r"(?:\w\.)+\w$")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return the [start, end) of each sentence in characters, without the white space around it.

    Sentences follow each other, and every character that is not white space lies in one.

    >>> text = "It works ( Och et al . , 2003 ) . See Fig. 2."
    >>> [text[start:end] for start, end in split_sentences(text)]
    ['It works ( Och et al . , 2003 ) .', 'See Fig. 2.']
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for found in _ENDS.finditer(text):
        if found.start() < start:
            continue
        end = _end_of_sentence(text, start, found)
        if end is not None:
            spans.append((start, end))
            start = end
    spans.append((start, len(text)))
    stripped = (_stripped(text, *span) for span in spans)
    return [(first, last) for first, last in stripped if first < last]


def _end_of_sentence(text: str, start: int, found: re.Match[str]) -> int | None:
    """Return where the sentence from `start` ends if it does at the punctuation `found`."""
    mark = found.group()
    if mark[0] == "\n":
        return found.start()
    if not any(map(str.isalpha, text[start : found.start()])):
        return None
    closed = _CLOSERS.match(text, found.end())
    end = closed.end() if closed else found.end()
    if mark[0] in _WIDE:
        return end
    quote = _QUOTE.match(text, end)  # tokenised: it closes if one is open
    if quote and text.count('"', start, end) % 2:
        end = quote.end()
    if end < len(text) and not text[end].isspace():
        return None
    opened = _OPENERS.match(text, end)
    following = text[opened.end() : opened.end() + 1] if opened else ""
    if not following.isalnum() or following.islower():
        return None
    abbreviated = mark == "." and end == found.end() and _is_abbreviated(text, start, found.start(), following)
    return None if abbreviated else end


def _is_abbreviated(text: str, start: int, stop: int, following: str) -> bool:
    """Return whether the full stop at `stop` belongs to the word before it, perhaps behind a space."""
    before = text[max(start, stop - 40) : stop].rstrip()
    last = _LAST_WORD.search(before)
    if last is None:
        return False
    word = last.group().lstrip("\"'“‘«")
    if len(word) == 1 and word.isupper():
        return True
    if _ABBREVIATION.fullmatch(word) or _DOTTED.match(word):
        return True
    return following.isdigit() and _NUMBERED.fullmatch(word) is not None


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
