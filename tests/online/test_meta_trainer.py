"""One batch of meta-training against torch's optimizers and finite differences, and the chain of batches."""

import copy
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributions import Categorical, kl_divergence
from torch.nn.functional import cosine_similarity
from transformers import TrainerCallback

from taskloom.errors import RecipeError
from taskloom.online.encode import QACollator
from taskloom.online.meta_batches import LocalityTexts, MetaCollator, MetaRows
from taskloom.online.meta_trainer import MetaTrainer
from taskloom.online.meta_training import meta_train
from taskloom.online.outer_loss import answer_nll
from taskloom.online.questions import Document, Question, QuestionSet
from taskloom.online.trained_parameters import trained_parameters
from taskloom.online.trainings import training_arguments
from taskloom.online.weighters import LearnedWeighter
from taskloom.recipe.online import MetaTrainSection
from tests.tiny_language import tiny_language_model, tiny_tokenizer

# The second one has two parts of at most five tokens.
TEXTS = ["the film was", "no meal is so very good ?", "the answer was not true", "a bad book", "is it a question"]
WEB = ["was the meal good", "the book is bad : no", "not so"]
TOKENIZER = tiny_tokenizer("gpt2")
COLLATOR = QACollator(TOKENIZER)


def questions(count=5):
    words = ["film", "meal", "true", "bad", "question"]
    pairs = zip(TEXTS[:count], words, strict=False)
    return QuestionSet(
        tuple(Document(text, questions=(Question(f"was it {word} ?", (f"{word} it is",)),)) for text, word in pairs)
    )


def weighter(dropout=0.0, dtype=torch.float64):
    torch.manual_seed(3)
    made = LearnedWeighter(tiny_language_model("gpt2", seed=3, dropout=dropout), TOKENIZER, width=8).to(dtype)
    torch.nn.init.normal_(made.head[-1].weight, std=0.5)  # so that the body has a gradient in the first step
    return made


def base_model(kind="gpt2", dtype=torch.float64):
    if kind != "lora":
        return tiny_language_model(kind, seed=9, dropout=0.3).to(dtype)
    model = get_peft_model(
        tiny_language_model("llama", seed=9), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    ).to(dtype)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


def trainer(folder, model, base, *, rows=5, callbacks=None, precision="float32", log_every=1, **options):
    settings = MetaTrainSection(
        **{
            "documents": 2,
            "accumulation": 1,
            "reset_every": 4,
            "inner_lr": 0.1,
            "kl_weight": 0.3,
            "max_steps": 1,
            "validate_every": 1000,
            "method": "reverse",
            **options,
        }
    )
    known = questions().questions if settings.question_locality else ()
    locality = LocalityTexts(WEB, known, TOKENIZER, COLLATOR, settings.locality_batch_size)
    made = MetaRows(questions(rows), TOKENIZER, 5)
    arguments = training_arguments(
        precision,
        output_dir=str(folder),
        seed=4,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.documents,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.outer_lr,
        max_grad_norm=settings.max_grad_norm,
        eval_steps=settings.validate_every,
        save_strategy="no",
        logging_steps=log_every,
    )
    return MetaTrainer(
        model,
        arguments,
        base,
        made,
        made,
        MetaCollator(COLLATOR),
        settings,
        locality=locality,
        dev_locality=locality,
        callbacks=callbacks,
    )


def batch_of(made, places):
    return made.data_collator([made.rows[place] for place in places])


# --- one batch


@torch.enable_grad()
def plain_outer_loss(model, base, rows, batches, settings):
    """The outer loss of rows, updated on one by one with torch's optimizer and without padding."""
    base = copy.deepcopy(base).eval()
    parameters = list(trained_parameters(base, settings.layers).values())
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings.inner_optimizer](
        parameters, lr=settings.inner_lr
    )
    with torch.no_grad():
        before = [base(input_ids=b["input_ids"], attention_mask=b["attention_mask"]).logits for b in batches]
    parts = [part for row in rows for part in row["parts"]]
    with torch.no_grad():
        weights = [model(part["input_ids"], part["attention_mask"])[0] for part in parts]
    pairs = list(zip(parts, weights, strict=True))
    for update in ([[pair] for pair in pairs] if settings.sequential else [pairs]) * settings.inner_steps:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for part, weight in update:
            ids = part["input_ids"][0]
            logs = base(**part).logits[0].log_softmax(-1)
            total = total - sum(weight[t] * logs[t - 1, ids[t]] for t in range(1, len(ids)))
            count += len(ids) - 1
        optimizer.zero_grad()
        (total / (settings.loss_length * len(update) if settings.loss_length else count)).backward()
        optimizer.step()
    with torch.no_grad():
        answers = []
        for row in rows:
            batch = COLLATOR([row["question"]])
            logs = base(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0].log_softmax(-1)
            places = (batch["labels"][0] != -100).nonzero()[:, 0].tolist()
            answers += [-logs[place - 1, batch["labels"][0, place]] for place in places]
        loss = torch.stack(answers).mean()
        for old, batch in zip(before, batches, strict=True):
            new = base(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            where = batch["attention_mask"].bool()
            if "labels" in batch:
                where = torch.zeros_like(where)
                where[:, :-1] = batch["labels"][:, 1:] != -100
            kl = kl_divergence(Categorical(logits=old[where]), Categorical(logits=new[where])).mean()
            loss = loss + settings.kl_weight * kl / len(batches)
        if settings.norm_weight:
            distances = [(weight - float(settings.norm_from_one)).abs() for weight in weights]
            norms = [(each**settings.norm).mean() ** (1 / settings.norm) for each in distances]
            loss = loss + settings.norm_weight * torch.stack(norms).mean()
    return loss.item()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {}),
        ("llama", {"sequential": False}),
        ("lora", {"inner_lr": 0.5}),
        ("gpt2", {"inner_steps": 2}),
        ("gpt2", {"inner_optimizer": "adam", "inner_lr": 0.01, "kl_weight": 0.0}),
        ("gpt2", {"inner_optimizer": "adam", "inner_lr": 0.01, "inner_steps": 2, "checkpoints": "sqrt"}),
        ("gpt2", {"loss_length": 7}),
        ("gpt2", {"loss_length": 7, "sequential": False}),
        ("llama", {"question_locality": True, "locality_batch_size": 3, "kl_weight": 2.0}),
        ("gpt2", {"norm_weight": 0.5, "norm": 3.0, "kl_weight": 0.0}),
        ("gpt2", {"norm_weight": 0.5, "norm_from_one": False, "sequential": False}),
        ("llama", {"layers": 1, "inner_lr": 0.5, "method": "forward"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_a_batch_s_loss_and_its_slope(tmp_path, kind, options):
    model, base = weighter(), base_model(kind)
    made = trainer(tmp_path, model, base, **options)
    places = [1, 0]
    loss = made.training_step(model, [batch_of(made, places)])
    made.reset_base()
    rows, batches = [made.rows[place] for place in places], made.locality.draw((4, 0, 0))
    batches = batches if made.settings.kl_weight else []

    def plain():
        return plain_outer_loss(model.eval(), base, rows, batches, made.settings)

    assert loss.item() == pytest.approx(plain(), rel=1e-5)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for part in ("", "head.", "body.h.0."):
        direction = {name: g / g.norm() for name, g in gradients.items() if name.startswith(part) and g.norm() > 0}
        slope = sum((gradients[name] * d).sum() for name, d in direction.items()).item()
        assert slope > 1e-4
        # Adam's first step is the gradient's sign but for the smallest entries, whose slopes are steep.
        values, step = [], 1e-8 if made.settings.inner_optimizer == "adam" else 1e-4
        with torch.no_grad():
            for by in (step, -2 * step):
                for name, parameter in model.named_parameters():
                    if name in direction:
                        parameter += by * direction[name]
                values.append(plain())
            for name, parameter in model.named_parameters():
                if name in direction:
                    parameter += step * direction[name]
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-3)


def test_first_order_leaves_the_hessians_out(tmp_path):
    gradients = []
    for first_order in (True, False):
        model = weighter()
        made = trainer(tmp_path, model, base_model(), first_order=first_order, inner_steps=2)
        made.training_step(model, [batch_of(made, [0, 2])])
        gradients.append(torch.cat([p.grad.flatten() for p in model.head.parameters()]))
    assert 0.5 < cosine_similarity(*gradients, dim=0) < 1 - 1e-6


def test_the_base_model_is_left_as_it_was(tmp_path):
    base = base_model().train()
    base.transformer.wpe.weight.requires_grad_(False)
    before = {name: (p, p.data_ptr(), p.clone(), p.requires_grad) for name, p in base.named_parameters()}
    made = trainer(tmp_path, weighter(), base, max_steps=3)
    made.train()
    made.evaluate()
    assert any(not torch.equal(p, before[name][2]) for name, p in base.named_parameters())
    assert not base.training
    made.reset_base()
    for name, parameter in base.named_parameters():
        same, pointer, value, required = before[name]
        assert parameter is same
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == required
        assert parameter.grad is None
    tied = base.get_output_embeddings().weight is base.get_input_embeddings().weight
    assert tied


def test_the_weighter_drops_out_in_training_alone(tmp_path):
    model = weighter(dropout=0.3)
    made = trainer(tmp_path, model, base_model(), reset_every=2)

    def loss(seed):
        torch.manual_seed(seed)
        made._step = -1
        return made.training_step(model, [batch_of(made, [0, 1])]).item()

    assert loss(0) == loss(0) != loss(1)
    assert made.evaluate() == made.evaluate()


# --- the chain of batches


class Recorder(TrainerCallback):
    """Notes gradients before each outer step, and whether the base model stands at its start after it."""

    def __init__(self, model, base):
        self.model, self.base = model, base
        self.start = {name: value.clone() for name, value in base.state_dict().items()}
        self.gradients, self.at_start = [], []

    def on_pre_optimizer_step(self, *_, **__):
        self.gradients.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})

    def on_step_end(self, *_, **__):
        values = self.base.state_dict()
        self.at_start.append(all(torch.equal(values[name], value) for name, value in self.start.items()))


@pytest.mark.parametrize("reset_every", [1, 4, 5, 7])
def test_the_base_model_begins_anew_after_so_many_documents(tmp_path, reset_every):
    model, base = weighter(), base_model()
    recorder = Recorder(model, base)
    made = trainer(tmp_path, model, base, callbacks=[recorder], max_steps=9, reset_every=reset_every)
    made.train()
    expected, since = [], 0
    for documents in [2, 2, 1] * 3:  # an epoch ends with a shorter batch, and the chain goes on
        since = 0 if since + documents >= reset_every else since + documents
        expected.append(since == 0)
    assert recorder.at_start == expected


def test_a_last_short_group_of_batches_is_averaged_over_what_it_has(tmp_path):
    options = {"documents": 1, "accumulation": 2, "kl_weight": 0.0, "reset_every": 1, "outer_lr": 1e-30}
    model, base = weighter(), base_model()
    recorder = Recorder(model, base)
    made = trainer(tmp_path, model, base, rows=3, callbacks=[recorder], max_steps=2, **options)
    made.train()
    single = []
    for places in made.batches:
        model.zero_grad()
        made.training_step(model, [batch_of(made, places)])
        single.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    first, last = recorder.gradients
    for name in last:
        torch.testing.assert_close(first[name], (single[0][name] + single[1][name]) / 2, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(last[name], single[2][name], rtol=1e-9, atol=1e-12)


def test_validation_leaves_no_trace(tmp_path):
    states = []
    for every in (1, 1000):
        model, base = weighter(dropout=0.2), base_model()
        recorder = Recorder(model, base)
        made = trainer(
            tmp_path, model, base, callbacks=[recorder], max_steps=5, validate_every=every, outer_lr=1e-2, reset_every=5
        )
        made.train()
        states.append([*model.state_dict().values(), *base.state_dict().values()])
        assert recorder.at_start == [False, False, True, False, False]
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_each_batch_has_locality_text_of_its_own(tmp_path, monkeypatch):
    model, base = weighter(), base_model()
    made = trainer(tmp_path, model, base, rows=4, max_steps=3, accumulation=2)
    drawn, draw = [], made.locality.draw
    monkeypatch.setattr(made.locality, "draw", lambda seed: drawn.append(seed) or draw(seed))
    made.train()
    assert drawn[:6] == [(4, step, batch) for step in range(3) for batch in range(2)]
    drawn.clear()
    made.evaluate()
    made.evaluate()
    assert drawn == [(0, 0), (0, 1)] * 2


def test_the_log_has_means_since_the_last_entry(tmp_path):
    made = trainer(tmp_path, weighter(), base_model(), max_steps=4, log_every=2)
    made.train()
    fine = trainer(tmp_path, weighter(), base_model(), max_steps=4)
    fine.train()
    coarse, each = ([e for e in t.state.log_history if "nll" in e] for t in (made, fine))
    assert [entry["step"] for entry in coarse] == [2, 4]
    for entry, (first, second) in zip(coarse, list(pairwise(each))[::2], strict=True):
        for name in ("loss", "nll", "nll_gain", "kl"):
            assert entry[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-4, abs=1e-6)
        assert entry["loss"] == pytest.approx(entry["nll"] + 0.3 * entry["kl"], rel=1e-4)


def test_the_gain_is_what_the_updates_lower_the_nll_by(tmp_path):
    base = base_model()
    made = trainer(tmp_path, weighter(), base)
    made.train()
    (entry,) = (entry for entry in made.state.log_history if "nll" in entry)
    made.reset_base()
    before = answer_nll(base, batch_of(made, next(iter(made.batches)))["questions"]).item()
    assert entry["nll_gain"] == pytest.approx(before - entry["nll"], rel=1e-4)
    assert abs(entry["nll_gain"]) > 1e-3


# --- precision


def test_bf16_is_of_all_passes_and_of_no_parameters(tmp_path):
    found = []
    for precision in ("float32", "bf16"):
        model, base = weighter(dtype=torch.float32), base_model("llama", torch.float32)
        types = set()
        base.lm_head.register_forward_hook(lambda _m, _a, out, types=types: types.add(out.dtype))
        made = trainer(tmp_path, model, base, precision=precision)
        loss = made.training_step(model, [batch_of(made, [1, 0])])
        gradient = torch.cat([p.grad.flatten() for p in model.head.parameters()])
        metrics = made.evaluate()
        assert types == {torch.float32 if precision == "float32" else torch.bfloat16}
        assert {p.dtype for module in (model, base) for p in module.parameters()} == {torch.float32}
        found.append((loss.item(), gradient, metrics["eval_loss"]))
    exact, cast = found
    assert exact[0] != cast[0] == pytest.approx(exact[0], rel=0.03)
    assert exact[2] != cast[2] == pytest.approx(exact[2], rel=0.03)
    assert cosine_similarity(exact[1], cast[1], dim=0) > 0.97


def test_fp16_is_refused():
    with pytest.raises(RecipeError, match=r"training.precision: fp16 .* Use float32 or bf16"):
        meta_train(weighter(), base_model(), TOKENIZER, questions(), questions(), web_text=WEB, precision="fp16")
