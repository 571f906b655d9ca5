"""Affinity of text-to-text tasks: T5's kind and decoder-only models, with LoRA."""

import json

import pytest
import torch

from taskloom.affinity.run import estimate_affinity
from taskloom.affinity.suite import SuiteCollection
from taskloom.build import build_suite
from taskloom.predictor import load
from taskloom.recipe import Recipe
from tests.tiny_language import save_tiny

QUESTIONS = ["the film was good", "the film was bad", "a meal", "the book was good", "the book was bad", "very good"]


def recipe(folder, family, modules):
    save_tiny(family, folder / "model")
    rows = [{"text": text, "label": "yes" if "good" in text else "no"} for text in QUESTIONS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [
        {
            "name": name,
            "kind": "text2text",
            "inputs": [template],
            "answers": {"yes": yes, "no": no},
            "splits": dict.fromkeys(("train", "dev"), str(folder / "rows.jsonl")),
        }
        for name, template, yes, no in (("plain", "{text}", "so true", "no"), ("asked", "{text} ?", "yes", "not true"))
    ]
    return Recipe.model_validate(
        {
            "name": "text",
            "output": folder / "run",
            "model": {"path": str(folder / "model")},
            "data": {"cache": folder / "cache", "max_length": 24, "max_target_length": 4},
            "tasks": tasks,
            "adapter": {"method": "lora", "r": 2, "target_modules": modules, "init_lora_weights": False},
            "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-2},
            "affinity": {"batch_size": 4, "dimensions": 20, "C": 1.0},
        }
    )


@pytest.mark.parametrize(("family", "modules"), [("t5", ["q", "v"]), ("gpt2", ["c_attn"])])
def test_gradients_are_of_the_log_odds_of_the_whole_answer(tmp_path, family, modules):
    settings = recipe(tmp_path, family, modules)
    run, affinity = estimate_affinity(settings, quiet=True)
    assert affinity.tasks == ("plain", "asked")
    assert bool(affinity.values.isfinite().all())

    predictor = load(run.path)
    collection = SuiteCollection(settings, predictor.model, predictor.tokenizer, build_suite(settings))
    store = collection.collect(run.path / "affinity" / "gradients", None)
    rows, loader = store.train("plain"), collection.train["plain"]
    names, parameters = zip(
        *[(name, value) for name, value in collection.model.named_parameters() if value.requires_grad], strict=True
    )
    assert all("lora" in name for name in names)
    for position in (0, 3):
        log_p = collection.model(**loader.collate_fn([loader.dataset[position]]))["log_probability"][0].double()
        output = log_p - torch.log1p(-log_p.exp())
        torch.testing.assert_close(rows.outputs[position].double(), output.detach(), rtol=1e-4, atol=1e-5)
        gradients = torch.autograd.grad(output, parameters)
        whole = {name: gradient[None] for name, gradient in zip(names, gradients, strict=True)}
        torch.testing.assert_close(rows.gradients[position], store.projection.project(whole)[0], rtol=1e-3, atol=1e-4)
