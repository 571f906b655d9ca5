"""Online adaptation: questions before and after, the stream, and documents with the weights of their tokens."""

import math
from typing import Any

from taskloom.report.html.reading.files import number
from taskloom.report.html.reading.run import KINDS
from taskloom.report.html.reading.streams import documents, questions, token_weights
from taskloom.report.html.section import Section
from taskloom.report.html.svg import Line, LineChart, thinned
from taskloom.report.html.view import View
from taskloom.report.token_weights import TokenWeights

__all__ = ["online"]

#: Documents of a stream that the table lists: the first, and those that were passed over.
LISTED = 200


def online(view: View) -> Section | None:
    """Return what the online stages did; None if there are none."""
    parts: list[dict[str, Any]] = []
    charts: list[LineChart] = []
    left_out: list[str] = []
    tokens = view.limits.tokens
    for place, run in enumerate(view.runs):
        if run.kind not in ("tune-qa", "meta-train", "adapt"):
            continue
        stream = documents(run)
        own = []
        for field, title in (
            ("loss", "Loss of each document before its update"),
            ("mean_weight", "Mean weight of tokens"),
        ):
            points = [
                (float(count), value)
                for count, entry in enumerate(stream, start=1)
                if (value := number(entry.get(field))) is not None
            ]
            line = Line(
                view.labels.short(run.name), thinned(points, view.limits.points), view.colour(run), field == "loss"
            )
            own.append(LineChart(f"stream-{place}-{field}", title, [line], unit="document"))
        own = [chart for chart in own if chart]
        charts += own
        step, weighted = token_weights(run)
        shown: list[TokenWeights] = []
        for document in weighted:
            if tokens <= 0:
                break
            shown.append(_first(document, tokens))
            tokens -= len(shown[-1].tokens)
            if len(shown[-1].tokens) < len(document.tokens):
                left_out.append(
                    f"{run.name}: the last {len(document.tokens) - len(shown[-1].tokens):,} tokens of "
                    f"{view.labels.short(document.title)}; see {run.path / 'weights'}"
                )
        if len(shown) < len(weighted):
            left_out.append(
                f"{run.name}: {len(weighted) - len(shown):,} weighted documents; see {run.path / 'weights'}"
            )
        passed = [entry for entry in stream if entry.get("status") != "applied"]
        listed = (passed + [entry for entry in stream if entry.get("status") == "applied"])[:LISTED]
        if len(listed) < len(stream):
            left_out.append(
                f"{run.name}: {len(stream) - len(listed):,} of {len(stream):,} documents of the stream; see "
                f"{run.path / 'documents.jsonl'}"
            )
        parts.append(
            {
                "run": run.name,
                "kind": KINDS[run.kind],
                "rate": number(run.scores.get("learning_rate")) if run.kind == "adapt" else None,
                "questions": questions(run),
                "rates": run.files.csv("sweep.csv") if run.kind == "adapt" else [],
                "charts": own,
                "stream": listed,
                "counts": (len(stream) - len(passed), len(passed)),
                "step": step,
                "documents": shown,
            }
        )
    if not parts:
        return None
    data = {"charts": {chart.key: chart.data() for chart in charts}}
    return Section("online", "Online adaptation", {"parts": parts, "isfinite": math.isfinite}, data, left_out)


def _first(document: TokenWeights, most: int) -> TokenWeights:
    if len(document.tokens) <= most:
        return document
    return TokenWeights(document.title, document.tokens[:most], document.weights[:most])
