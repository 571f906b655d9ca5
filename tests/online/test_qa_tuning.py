"""QA tuning: one step by hand, learning, the best models, stopping, and a kill -9 that changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.normalizers import Lowercase
from transformers import AutoModelForCausalLM, AutoTokenizer

from taskloom.errors import RunError
from taskloom.online.qa import question_nll
from taskloom.online.qa_history import BestValue
from taskloom.online.qa_trainer import QATrainer
from taskloom.online.qa_tuning import tune_qa
from taskloom.online.questions import Question
from tests.tiny_language import tiny_language_model, tiny_tokenizer

SUBJECTS = ["film", "book", "meal", "answer", "question"]
ANSWERS = ["yes", "no", "very good", "not so bad", "true"]
TRAIN = [
    Question(f"was the {subject} {word} ?", (answer,))
    for subject, answer in zip(SUBJECTS, ANSWERS, strict=True)
    for word in ("good", "bad")
]
DEV = [Question(f"is the {subject} so ?", (answer,)) for subject, answer in zip(SUBJECTS, ANSWERS, strict=True)]
SETTINGS = {"batch_size": 3, "accumulation": 2, "learning_rate": 1e-2, "evaluate_every": 4, "log_every": 2, "seed": 5}


def lower_tokenizer():
    """The trained answer begins with a capital letter, which the tiny vocabulary does not have."""
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.backend_tokenizer.normalizer = Lowercase()
    return tokenizer


def tuned(model, folder: Path | None = None, **settings):
    return tune_qa(model, lower_tokenizer(), TRAIN, DEV, folder=folder, **{**SETTINGS, **settings})


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(before, after):
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def nll(model, questions):
    sums = question_nll(model, lower_tokenizer(), questions).sum(0)
    return sums[0] / sums[1]


def test_a_step_is_that_of_all_its_answer_tokens():
    """Whatever the batches: here all questions are one step of plain SGD."""
    expected = tiny_language_model("gpt2")
    sums = torch.zeros(())
    tokens = 0
    tokenizer = lower_tokenizer()
    for question in TRAIN:
        prompt = tokenizer(question.text).input_ids
        answer = [*tokenizer(f" {question.answer}").input_ids, tokenizer.eos_token_id]
        logs = expected(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        sums = sums - sum(logs[place, token] for place, token in zip(places, answer, strict=True))
        tokens += len(answer)
    (sums / tokens).backward()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    assert norm > 0.5
    torch.optim.SGD(expected.parameters(), lr=0.1).step()
    for size, accumulation in ((10, 1), (4, 3)):
        model = tiny_language_model("gpt2")
        tuned(
            model,
            max_steps=1,
            batch_size=size,
            accumulation=accumulation,
            optimizer="sgd",
            learning_rate=0.1,
            max_grad_norm=0.5,
            generate=False,
        )
        for (name, value), other in zip(model.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "adafactor"])
def test_learns_and_keeps_the_best_of_each_metric(tmp_path, optimizer):
    model = tiny_language_model("gpt2")
    before = nll(model, DEV)
    result = tuned(model, tmp_path, max_steps=40, optimizer=optimizer)
    steps = [entry["step"] for entry in result.history]
    assert steps == list(range(0, 41, 4)), "before the first step, at each evaluation, after the last"
    assert result.history[0]["nll"] == pytest.approx(before)
    assert result.chosen == "nll"
    assert result.best["nll"].value < before / 2
    assert result.best["exact_match"].value > 0
    assert nll(model, DEV) == pytest.approx(result.best["nll"].value, rel=1e-5), "the best model is restored"
    for metric, value in result.best.items():
        folder = tmp_path / f"best-{metric.replace('_', '-')}"
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        entry = next(entry for entry in result.history if entry["step"] == value.step)
        assert nll(loaded, DEV) == pytest.approx(entry["nll"], rel=1e-5)
        assert AutoTokenizer.from_pretrained(folder)("the film").input_ids == lower_tokenizer()("the film").input_ids
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["dev/nll"] for entry in logged if "dev/nll" in entry] == [entry["nll"] for entry in result.history]
    assert {"loss", "learning_rate", "grad_norm"} <= {name for entry in logged for name in entry}


def test_in_memory_it_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_disk, in_memory = tiny_language_model("gpt2"), tiny_language_model("gpt2")
    settings = {"max_steps": 8, "stop_on": "f1", "learning_rate": 3e-2, "evaluate_every": 2}
    first = tuned(on_disk, tmp_path / "folder", **settings)
    second = tuned(in_memory, **settings)
    assert first == second
    assert same(weights(on_disk), weights(in_memory))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"], "nothing is written without a folder"


def test_the_seed_decides():
    models = [tiny_language_model("gpt2", dropout=0.1) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.manual_seed(int(time.monotonic() * 1000) % 1000)  # what was drawn before must not matter
        tuned(model, max_steps=4, seed=seed, generate=False)
    assert same(weights(models[0]), weights(models[1]))
    assert not same(weights(models[0]), weights(models[2]))


def test_stops_without_patience_and_falls_back_to_the_nll(tmp_path):
    model = tiny_language_model("gpt2")
    result = tuned(
        model,
        tmp_path,
        max_steps=400,
        patience=2,
        evaluate_every=1,
        stop_on="exact_match",
        optimizer="sgd",
        learning_rate=1e-9,
    )
    assert result.steps < 10
    assert {entry["exact_match"] for entry in result.history} == {0.0}
    assert result.chosen == "nll"
    again = tuned(
        tiny_language_model("gpt2"),
        tmp_path,
        max_steps=400,
        patience=2,
        evaluate_every=1,
        stop_on="exact_match",
        optimizer="sgd",
        learning_rate=1e-9,
        resume=True,
    )
    assert again == result, "a training that has stopped is not trained on"


def test_only_what_requires_a_gradient_trains():
    model = tiny_language_model("gpt2").requires_grad_(False)
    model.transformer.h[-1].requires_grad_(True)
    before = weights(model)
    tuned(model, max_steps=3, generate=False, gradient_checkpointing=True)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("transformer.h.1.") for name in changed)
    assert not model.is_activation_checkpointing


def test_adapters_are_merged_into_what_is_kept(tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(tiny_language_model("gpt2"), LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    result = tuned(model, tmp_path, max_steps=8, generate=False, learning_rate=0.05)
    assert result.best["nll"].step > 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "best-nll")
    assert not any("lora" in name for name in weights(loaded))
    assert nll(loaded, DEV) == pytest.approx(nll(model, DEV), rel=1e-4)
    assert nll(model, DEV) == pytest.approx(result.best["nll"].value, rel=1e-5)


def test_bf16_leaves_no_trace():
    model = tiny_language_model("gpt2")
    tuned(model, max_steps=2, generate=False, precision="bf16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = AutoModelForCausalLM.from_config(model.config)
    exact.load_state_dict(model.state_dict())
    assert nll(model, DEV) == nll(exact.eval(), DEV), "the forward pass is in float32 again"


def test_what_has_diverged_leaves_the_best_before(tmp_path):
    model = tiny_language_model("gpt2")
    result = tuned(model, tmp_path, max_steps=4, evaluate_every=1, learning_rate=1e30, optimizer="sgd", max_grad_norm=0)
    assert result.best["nll"] == BestValue(0, pytest.approx(nll(tiny_language_model("gpt2"), DEV)))
    assert same(weights(model), weights(tiny_language_model("gpt2")))


LONG = {"max_steps": 60, "evaluate_every": 5, "checkpoint_every": 3, "patience": None}


def wavering():
    """A model whose training draws random numbers at each step."""
    return tiny_language_model("gpt2", dropout=0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("whole") / "run", wavering()
    return folder, tuned(model, folder, **LONG), weights(model)


def killed_when(moment, folder):
    """Start (or resume) a tuning in a process of its own and kill it as soon as `moment` holds."""
    code = (
        "from pathlib import Path; from tests.online.test_qa_tuning import LONG, tuned, wavering;"
        f"tuned(wavering(), Path({str(folder)!r}), **LONG, resume=True)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, env=environment, cwd=root)
    deadline = time.monotonic() + 120
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()


def test_killed_in_a_checkpoint(whole, tmp_path):
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoints"
    killed_when(lambda: any(checkpoints.glob(".checkpoint-[1-4]?.partial/*/optimizer.pt")), folder)
    assert list(checkpoints.glob(".*.partial")), "the kill came in the middle of a checkpoint"
    assert list(checkpoints.glob("checkpoint-*"))
    (folder / ".best-f1.0a1b2c3d.partial").mkdir()  # of a kill while the best model was written

    model = wavering()
    result = tuned(model, folder, **LONG, resume=True)
    expected_folder, expected, values = whole
    assert result == expected
    assert same(weights(model), values)
    files = ["checkpoints/checkpoint-60/trained.safetensors"]
    files += [f"best-{metric}/model.safetensors" for metric in ("nll", "f1", "exact-match")]
    for file in files:
        assert (folder / file).read_bytes() == (expected_folder / file).read_bytes(), file
    assert not list(folder.rglob(".*"))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in logged if "dev/nll" in entry]
    assert steps == [entry["step"] for entry in expected.history], "no evaluation is logged twice"


def test_ctrl_c_finishes_the_step(whole, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    step, interrupts = QATrainer.training_step, iter([signal.SIGINT])

    def interrupted(self, *arguments, **named):
        if self.state.global_step == 21:
            for number in interrupts:
                signal.raise_signal(number)
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(QATrainer, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned(wavering(), tmp_path, **LONG)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "checkpoints" / "checkpoint-22").is_dir()
    model = wavering()
    assert tuned(model, tmp_path, **LONG, resume=True) == whole[1]
    assert same(weights(model), whole[2])


def test_a_folder_is_not_begun_twice(whole):
    with pytest.raises(RunError, match="holds a training already"):
        tuned(wavering(), whole[0], **LONG)


def test_a_checkpoint_of_another_model(whole):
    config = wavering().config
    other = AutoModelForCausalLM.from_config(type(config)(**{**config.to_dict(), "n_embd": 16}))
    with pytest.raises(RunError, match="was made with another model"):
        tuned(other, whole[0], **LONG, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": []}, "`train` must hold at least one question"),
        ({"dev": []}, "`dev` must hold at least one question"),
        ({"generate": False, "stop_on": "f1"}, "`stop_on` must be one of nll, which are evaluated, found 'f1'"),
    ],
)
def test_api_misuse(change, message):
    arguments = {"train": TRAIN, "dev": DEV, **change}
    with pytest.raises(ValueError, match=message):
        tune_qa(tiny_language_model("gpt2"), lower_tokenizer(), **arguments)


def test_nothing_to_train():
    with pytest.raises(ValueError, match="`model` has no parameter that requires a gradient"):
        tuned(tiny_language_model("gpt2").requires_grad_(False))
