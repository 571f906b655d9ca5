"""A tiny working folder for `taskloom online`: a random GPT-2, questions about documents of its words, a recipe."""

import json
import random
from pathlib import Path

import yaml

from tests.tiny_language import WORDS, save_tiny

__all__ = ["COUNTS", "documents", "write_project", "write_questions"]

#: Documents of each use.
COUNTS = {"qa_train": 12, "qa_dev": 4, "meta_train": 12, "meta_dev": 6, "stream": 8}

_RECIPE = {
    "model": {"path": "./lm"},
    "questions": {
        **{role: f"{role}.jsonl" for role in COUNTS},
        "web_text": "web.txt",
        "max_document_length": 24,
        "max_question_length": 16,
        "max_answer_length": 6,
    },
    "training": {"log_every": 1},
    "tune_qa": {"max_steps": 4, "batch_size": 4, "accumulation": 1, "evaluate_every": 2, "learning_rate": 0.01},
    "meta_train": {
        "documents": 3,
        "reset_every": 6,
        "accumulation": 1,
        "max_steps": 4,
        "validate_every": 2,
        "checkpoint_every": 1,
        "outer_lr": 0.01,
        "inner_lr": 0.1,
        "pictures": 1,
    },
    "adapt": {"learning_rate": 0.001, "unrelated_questions": True, "checkpoint_every": 3},
    "answers": {"beams": 2, "groups": 2, "max_new_tokens": 3},
}


def documents(count: int, seed: int, length: int = 12) -> list[str]:
    """Return texts of the tiny language's words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=length)) for _ in range(count)]


def write_questions(path: Path, texts: list[str], seed: int = 0) -> None:
    """Write documents with a question each."""
    rng = random.Random(seed)
    rows = [
        {"document": text, "questions": [{"question": f"is it {rng.choice(WORDS)} ?", "answers": [rng.choice(WORDS)]}]}
        for text in texts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_project(folder: Path, dropout: float = 0.0, **sections: dict) -> Path:
    """Write data, model and ``r.yaml``, some fields of which may be other ones, and return the folder."""
    save_tiny("gpt2", folder / "lm", dropout=dropout)
    for seed, (role, count) in enumerate(COUNTS.items()):
        write_questions(folder / f"{role}.jsonl", documents(count, seed), seed)
    (folder / "web.txt").write_text("\n".join(documents(5, 99, length=9)) + "\n")
    recipe = {name: fields | sections.get(name, {}) for name, fields in _RECIPE.items()}
    recipe |= {name: fields for name, fields in sections.items() if name not in _RECIPE}
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return folder
