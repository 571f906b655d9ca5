"""`taskloom predict`: a run's model on a file of new examples."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from taskloom.cli.arguments import QuietOption, RunArgument
from taskloom.cli.output import JsonOption, print_json
from taskloom.cli.quiet import hush_libraries
from taskloom.errors import DataError, UserError
from taskloom.plain_json import to_json
from taskloom.storage import write_atomically

__all__ = ["predict"]

_FORMATS = (".jsonl", ".csv", ".tsv", ".parquet", ".json")


def predict(
    run: RunArgument,
    task: Annotated[str, typer.Option("--task", help="One of the run's tasks.")],
    source: Annotated[
        Path, typer.Option("--input", metavar="FILE", help="CSV, TSV, JSONL, JSON or Parquet with the task's columns.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help=f"{', '.join(_FORMATS)} (of question answering, for `taskloom evaluate mrqa`); without it JSONL "
            "goes to stdout.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples a forward pass.")] = 64,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict for the examples of a file: a row each, with the prediction and the probability of each label."""
    if output is not None:
        _check_output(output, source)

    hush_libraries()
    from taskloom.predictor import load

    predictor = load(run)
    examples = predictor.suite.read_inputs(task, source)
    if output is not None and output.suffix.lower() == ".json":
        ids = _question_ids(output, task, examples.ids if predictor.suite[task].keeps_candidates else None)
        records = predictor.predict(task, examples, batch_size)
        rows, content = records, _predicted_answers(ids, records)
    else:
        rows = [_row(record) for record in predictor.predict(task, examples, batch_size)]
        content = "" if output is None else _encode(rows, output.suffix.lower())
    if output is not None:
        write_atomically(output, content)
    told = {"run": str(run), "task": task, "examples": len(rows)}
    if as_json:
        print_json(told | ({"predictions": rows} if output is None else {"output": str(output)}))
    elif output is None:
        typer.echo(_json_lines(rows), nl=False)
    elif not quiet:
        typer.echo(f"{len(rows):,} predictions: {output}", err=True)


def _check_output(output: Path, source: Path) -> None:
    if output.suffix.lower() not in _FORMATS:
        raise DataError(f"--output {output}: unknown format '{output.suffix}', expected one of {', '.join(_FORMATS)}")
    if output.is_dir():
        raise DataError(f"--output {output}: is a folder, expected a file")
    if output.resolve() == source.resolve():
        raise UserError(f"--output {output}: is the input file itself")


def _question_ids(output: Path, task: str, ids: Sequence[str] | None) -> Sequence[str]:
    if ids is None:
        raise DataError(
            f"--output {output}: .json is for the answers to questions that have an id, by that id; task '{task}' or "
            "the input file has none. Write .jsonl"
        )
    return ids


def _predicted_answers(ids: Sequence[str], records: Sequence[dict[str, Any]]) -> str:
    """Return the candidates of each question in the form of a run's `predicted_answers.json`."""
    answers: dict[str, list[list[Any]]] = {}
    for name, record in zip(ids, records, strict=True):
        found = [[candidate["text"], candidate["score"]] for candidate in record["candidates"]]
        answers.setdefault(name, []).extend(found)
    return to_json(answers) + "\n"


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """Return a `Predictor.predict` record as one flat row."""
    prediction = next(record[key] for key in ("label", "value", "tags", "answer") if key in record)
    shares = record.get("probabilities", {})
    row = {"prediction": prediction} | {f"probability_{label}": share for label, share in shares.items()}
    return row | {"candidates": record["candidates"]} if "candidates" in record else row


def _encode(rows: Sequence[dict[str, Any]], extension: str) -> str | bytes:
    match extension:
        case ".jsonl":
            return _json_lines(rows)
        case ".parquet":
            return _parquet(rows)
        case _:
            return _delimited(rows, "," if extension == ".csv" else "\t")


def _json_lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(to_json(row) + "\n" for row in rows)


def _delimited(rows: Sequence[dict[str, Any]], delimiter: str) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))  # examples may differ in their choices
    writer = csv.DictWriter(text, fieldnames=names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return the tags of a sentence as one text, and the candidates of an answer as JSON."""
    if not isinstance(value, list):
        return value
    return " ".join(value) if all(isinstance(item, str) for item in value) else to_json(value)


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()
