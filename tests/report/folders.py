"""Run folders as taskloom writes them, made by hand: every kind in no time, and as hostile as can be."""

import csv
import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

#: What must never be anything but text.
HOSTILE = '<script>document.title="owned"</script>"\'>&lt;<img src=x onerror=alert(1)><!-- {{ 7*7 }} \u2028 </script>'
ARABIC = "مهمة \u202e تصنيف"
EMOJI = "👩‍👩‍👧‍👦🏳️‍🌈 weather 🌦️"
LONG = "long-" + "x" * 10_000
NAMES = (HOSTILE, ARABIC, EMOJI, LONG)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def write_run(
    folder: Path,
    scores: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    finished: bool = True,
    steps: int = 20,
    baseline: float = 0.5,
    **fields: object,
) -> Path:
    """Write a run of `train`: dev accuracies by task, ten entries of the log, two evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = scores or {"rte": 0.7, "mrpc": 0.8}
    recipe = {"name": folder.name, "seed": seed, "output": str(folder), "training": {"learning_rate": 0.001}, **fields}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    packages = {"torch": "2.13.0", "taskloom": "0.1.0"}
    command = ["taskloom", "train", "r.yaml"]
    started = "2026-01-02T03:04:05+00:00"
    write_json(
        folder / "environment.json",
        {"started": started, "command": command, "seed": seed, "cpus": 2, "packages": packages, "git": None},
    )
    log: list[dict[str, object]] = []
    for number in range(1, 11):
        step = steps * number // 10
        entry: dict[str, object] = {"step": step, "loss": 2 / number}
        for place, task in enumerate(scores):
            entry |= {f"loss/{task}": 1.5 / number + place / 100, f"share/{task}": 1 / len(scores)}
        log.append(entry)
        if number in (5, 10):
            part = number / 10
            means = {f"dev/{task}/accuracy": value * part for task, value in scores.items()}
            log.append({"step": step, "dev/mean": sum(scores.values()) / len(scores) * part, **means})
    write_lines(folder / "metrics.jsonl", log)
    if finished:
        dev = {task: {"accuracy": value} for task, value in scores.items()}
        majority = {task: {"accuracy": baseline} for task in scores}
        mean = sum(scores.values()) / len(scores)
        write_json(folder / "scores.json", {"mean": mean, "dev": dev, "majority": majority})
        write_json(folder / "finished.json", {"finished": "2026-01-02T03:10:05+00:00"})
    return folder


def write_affinity(folder: Path, tasks: Sequence[str], groups: Sequence[Sequence[str]] | None = None) -> None:
    """Write affinities: the first half of the tasks help each other and hurt the others."""
    rng = random.Random(0)
    count = len(tasks)
    gain = [[0.0 if i == j else (1 if (i < count / 2) == (j < count / 2) else -1) * rng.uniform(0.1, 1)
             for j in range(count)] for i in range(count)]  # fmt: skip
    same = [[0.25] * count for _ in range(count)]
    content = {
        "tasks": list(tasks), "metric": "loss", "order": "pairwise", "gain": gain, "gain_stderr": same,
        "values": [[value - 1 for value in row] for row in gain], "stderr": same, "counts": [[1] * count] * count,
    }  # fmt: skip
    write_json(folder / "affinity" / "affinity.json", content)
    if groups is not None:
        write_json(folder / "affinity" / "groups.json", {"groups": [list(group) for group in groups]})


def write_generations(folder: Path, count: int, name: str = "squad", answer: str = "Paris") -> None:
    """Write answers to `count` questions, every third of which is wrong."""
    rows = [
        {
            "input": f"question {number}: where is the tower?",
            "references": ["Paris"],
            "prediction": answer if number % 3 else f"in place {number}",
            "scores": {"exact_match": float(number % 3 > 0 and answer == "Paris"), "token_f1": 0.5},
        }
        for number in range(count)
    ]
    write_lines(folder / "generations" / f"{name}.jsonl", rows)


def write_objectives(folder: Path, count: int = 12) -> None:
    """Write what a run with auxiliary objectives leaves besides."""
    names = [f"task/mask/bidirectional/output-{number}" for number in range(count)]
    rows: list[dict[str, object]] = []
    for step in range(0, 50, 5):
        weights = [math.exp(number * step / 200) for number in range(count)]
        shares = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
        stages = {"transform=mask": 0.5 + step / 100, "transform=none": 0.5 - step / 100}
        rows.append({"step": step, "primary": 0.5, "auxiliary": 0.5, **stages, **shares})
    write_table(folder / "objective_weights.csv", rows)
    write_table(
        folder / "objectives.csv",
        [
            {"rank": rank, "objective": name, "weight": 0.1, "cosine": "", "loss": 1.0, "sampled": 3, "skipped": 0}
            for rank, name in enumerate(reversed(names), start=1)
        ],
    )
    write_json(folder / "auxiliary.json", {"pre": {"rte": {"f1": 0.6}}, "post": {"rte": {"f1": 0.65}}, "split": "test"})


def write_stream(folder: Path, text: str = "one two three") -> Path:
    """Write a run of `online adapt` and beside it one of `meta-train` with weighted tokens; return their folder."""
    adapt, meta = folder / "adapt-learned", folder / "meta-train"
    for each in (adapt, meta):
        write_run(each)
        for name in ("scores.json", "metrics.jsonl"):
            (each / name).unlink()
    nll = {"nll": 3.0, "f1": 0.1}
    write_json(
        adapt / "scores.json",
        {"learning_rate": 0.01, "before": {"stream": nll}, "after": {"stream": {"nll": 2.0, "f1": 0.1}}},
    )
    entries = [{"step": n, "name": f"doc {n}", "status": "applied", "tokens": 9, "loss": 3 / n} for n in range(1, 6)]
    skipped = {"step": 6, "name": "bad", "status": "skipped", "reason": "not UTF-8"}
    write_lines(adapt / "documents.jsonl", [*entries, skipped])
    rows = [{"question": "who?", "answers": '["me"]', "generations": '["you"]', "exact_match": 0, "f1": 0, "nll": 2}]
    write_table(adapt / "answers" / "after.csv", rows)
    step = {"step": 2, "loss": 2.0, "nll": 2.0}
    write_json(meta / "scores.json", {"steps": 2, "before": {**step, "loss": 2.5}, "best": step})
    tokens = text.split(" ")
    weights = [place - 1.5 for place in range(len(tokens))]
    document = {"title": "doc 1", "tokens": [f"{token} " for token in tokens], "weights": weights}
    write_json(meta / "weights" / "step-000002.json", {"documents": [document]})
    return folder


def write_sweep(folder: Path) -> Path:
    """Write a sweep of four settings with two seeds each, and one that failed."""
    rates = (0.001, 0.01, 0.1)
    plan = {"space": {"training.learning_rate": {"values": [*rates]}, "sampling.strategy": {"values": ["a", "b"]}},
            "metric": "mean", "minimize": False, "trials": None}  # fmt: skip
    write_json(folder / "sweep.json", plan)
    (folder / "base.yaml").write_text("name: base\nseed: 0\n")
    for number, (rate, strategy, value) in enumerate(
        [(0.001, "a", 0.5), (0.01, "a", 0.7), (0.1, "a", 0.2), (0.01, "b", 0.6), (0.1, "b", None)]
    ):
        trial = folder / "trials" / f"t{number}"
        write_json(trial / "settings.json", {"training.learning_rate": rate, "sampling.strategy": strategy})
        for seed in (0, 1):
            failed = {"status": "failed", "value": None, "reason": "exit code 1: OutOfMemoryError"}
            ok = {"status": "ok", "value": None if value is None else value + seed / 10, "reason": ""}
            write_json(trial / f"seed-{seed}-outcome.json", failed if value is None else ok)
    return folder


def write_pipeline(folder: Path, folders: Mapping[str, str]) -> Path:
    """Write a pipeline's stages: folders by the stage's name."""
    stages = [
        {"name": name, "kind": "train", "folder": below, "status": "done", "seconds": 61.5, "message": None}
        for name, below in folders.items()
    ]
    failed = {"name": "later", "kind": "affinity", "folder": "later", "status": "failed", "message": "no disk left"}
    write_json(folder / "pipeline.json", {"recipe": "my pipeline", "description": "what it does",
                                          "stages": [*stages, failed]})  # fmt: skip
    return folder


def write_hostile(folder: Path, tasks: int = 200, answers: int = 5000) -> list[Path]:
    """Write two runs of 200 tasks with names, answers and documents that are out to do harm."""
    rng = random.Random(0)
    names = [*NAMES, *(f"task-{number}" for number in range(tasks - len(NAMES)))]
    runs = []
    for number in range(2):
        run = write_run(
            folder / f"hostile-{number}",
            {name: rng.uniform(0.4, 1) for name in names},
            description=HOSTILE,
            tasks=names,
            model={"path": f"model-{number}{HOSTILE}"},
        )
        rows = [
            {
                "input": f"{rng.choice(NAMES[:3])} {place} " + "words " * 40,
                "references": [rng.choice(NAMES[:3])],
                "prediction": rng.choice(NAMES) if place % 50 == 0 else rng.choice(NAMES[:3]),
                "scores": {"exact_match": float(place % 2)},
            }
            for place in range(answers)
        ]
        write_lines(run / "generations" / "squad.jsonl", rows)
        runs.append(run)
    groups = [names[start : start + 25] for start in range(0, tasks, 25)]
    write_affinity(runs[0], names, groups)
    return [*runs, write_stream(folder / "online", f"{HOSTILE} {ARABIC} {EMOJI} {LONG}")]
