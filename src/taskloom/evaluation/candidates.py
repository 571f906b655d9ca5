"""The answers that a model gives to one question, one for each window of its context, and which of them counts.

A model that reads a long context in windows answers once for each, with the empty text where the window has no answer
(as Hyperdecoders do on MRQA, arXiv 2203.08304). The answer to the question is the likeliest that is not empty.

A candidate's score is -log p(answer | question, window), the end token included: the lower, the likelier. The published
code writes this sum divided by the length of the longest answer in the batch, which orders the windows of one batch in
the same way, but not those that fall into two.
"""

from collections.abc import Sequence

__all__ = ["Candidate", "likeliest_answer"]

#: An answer's text, and its negative log-likelihood in nats.
Candidate = tuple[str, float]


def likeliest_answer(candidates: Sequence[Candidate]) -> str:
    """Return the text with the lowest score, the first of equals, among those that are not empty; else the empty text.

    >>> likeliest_answer([("", 0.1), ("Paris", 2.0), ("in France", 1.5)])
    'in France'
    """
    texts = [candidate for candidate in candidates if candidate[0] != ""]
    return min(texts, key=lambda candidate: candidate[1])[0] if texts else ""
