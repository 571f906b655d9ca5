"""The generative model against sums by hand: log-probabilities, padding, the loss, saving."""

import math
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from taskloom.errors import RunError
from taskloom.generative import GenerativeModel
from taskloom.tasks import Task
from taskloom.tasks.answers import answer_ids, language_ids, prompt_ids
from taskloom.tasks.collate_text import Text2TextCollator
from tests.tiny_language import FAMILIES, tiny_language_model, tiny_tokenizer

TASKS = [Task(name="first", kind="text2text", inputs="text"), Task(name="second", kind="text2text", inputs="text")]
PAIRS = [
    ("the film was very good ?", "yes"),
    ("question :", "so not true"),
    ("a meal", "no"),
    ("is the book bad ? answer :", "false answer"),
]
LORA = {"t5": ["q", "v"], "gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}


def items(family, pairs=PAIRS):
    tokenizer, decoder_only = tiny_tokenizer(family), family != "t5"
    prompts, answers = zip(*pairs, strict=True)
    inputs, _ = prompt_ids(prompts, tokenizer, 32, decoder_only)
    targets, _, _ = answer_ids(prompts, answers, tokenizer, 8, decoder_only)
    return [
        {"input_ids": prompt, "target_ids": answer, "task": index % 2}
        for index, (prompt, answer) in enumerate(zip(inputs, targets, strict=True))
    ]


def collate(family, rows, **options):
    return Text2TextCollator(tiny_tokenizer(family), family != "t5", **options)(rows)


def model(family, **options):
    return GenerativeModel(tiny_language_model(family, **options), TASKS).eval()


def summed_by_hand(family, network, item):
    """One plain forward a token: the answer so far in, the log-probability of the next token out."""
    total = 0.0
    for position, token in enumerate(item["target_ids"]):
        before = item["target_ids"][:position]
        if family == "t5":
            logits = network(
                input_ids=torch.tensor([item["input_ids"]]), decoder_input_ids=torch.tensor([[0, *before]])
            ).logits
        else:
            logits = network(input_ids=torch.tensor([[*item["input_ids"], *before]])).logits
        total += logits[0, -1].log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probability_is_the_sum_over_all_answer_tokens(family):
    network, rows = model(family), items(family)
    with torch.no_grad():
        outputs = network(**collate(family, rows))
        expected = [summed_by_hand(family, network.backbone, row) for row in rows]
    assert outputs["log_probability"].tolist() == pytest.approx(expected, abs=1e-4)
    lengths = torch.tensor([len(row["target_ids"]) for row in rows])
    torch.testing.assert_close(outputs["example_loss"], -outputs["log_probability"] / lengths)
    loss = outputs["example_loss"]
    assert outputs["loss"].item() == pytest.approx(((loss[0] + loss[2]) / 2 + (loss[1] + loss[3]) / 2).item() / 2)
    assert outputs["counts"].tolist() == [2, 2]
    assert outputs["logits"].shape[1] == max(lengths), "logits for the answers only"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_library_s(family):
    network, row = model(family), items(family)[1]
    with torch.no_grad():
        ours = network(**collate(family, [row]))["loss"]
        if family == "t5":
            theirs = network.backbone(
                input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["target_ids"]])
            ).loss
        else:
            ids = [*row["input_ids"], *row["target_ids"]]
            labels = [-100] * len(row["input_ids"]) + row["target_ids"]
            theirs = network.backbone(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_example_alone_equals_itself_in_a_batch(family):
    network, rows = model(family), items(family)
    with torch.no_grad():
        together = network(**collate(family, rows, pad_to=20))["log_probability"]
        alone = torch.cat([network(**collate(family, [row]))["log_probability"] for row in rows])
        batch = Text2TextCollator(tiny_tokenizer(family), family != "t5").prompts(rows)
        generated = network.generate(batch["input_ids"], batch["attention_mask"], 5, pad_token_id=0, eos_token_id=1)
        for row, ids in zip(rows, generated, strict=True):
            own = network.generate(
                torch.tensor([row["input_ids"]]),
                torch.ones(1, len(row["input_ids"]), dtype=torch.long),
                5,
                pad_token_id=0,
                eos_token_id=1,
            )[0]
            assert [token for token in own.tolist() if token] == [token for token in ids.tolist() if token]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_labels_as_wide_as_the_row_padded_on_the_right(family):
    network, rows = model(family), items(family)
    joined = [[*row["input_ids"], *row["target_ids"]] for row in rows]
    width = max(map(len, joined))
    batch = {
        "input_ids": torch.tensor([ids + [1] * (width - len(ids)) for ids in joined]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in joined]),
        "labels": torch.tensor(
            [
                [-100] * len(row["input_ids"]) + row["target_ids"] + [-100] * (width - len(ids))
                for row, ids in zip(rows, joined, strict=True)
            ]
        ),
    }
    with torch.no_grad():
        expected = network(**collate(family, rows))["log_probability"]
        found = network(**batch)
    torch.testing.assert_close(found["log_probability"], expected, atol=1e-4, rtol=1e-4)
    assert found["logits"].shape[:2] == batch["labels"].shape


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_give_the_same_bits(family, lora, tmp_path):
    def build(seed):
        base = tiny_language_model(family, seed=0 if lora else seed)
        if lora:
            base = get_peft_model(base, LoraConfig(r=4, lora_alpha=32, target_modules=LORA[family]))
        return GenerativeModel(base, TASKS).eval()

    network = build(1)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    network.save(tmp_path)
    other = build(2)
    other.load(tmp_path)
    batch = collate(family, items(family))
    with torch.no_grad():
        assert torch.equal(network(**batch)["log_probability"], other(**batch)["log_probability"])
    assert not list(tmp_path.rglob("*.bin"))
    with pytest.raises(RunError, match="was trained on the tasks first, second, not on first"):
        GenerativeModel(other.backbone, TASKS[:1]).load(tmp_path)


def test_tasks_that_need_heads_or_a_decoder_are_refused():
    with pytest.raises(ValueError, match="'topic' is of kind 'classification', which needs a head"):
        GenerativeModel(tiny_language_model("gpt2"), [Task(name="topic", inputs="text", labels=("a", "b"))])
    with pytest.raises(ValueError, match="'text' is of kind 'lm', which needs a decoder-only model"):
        GenerativeModel(tiny_language_model("t5"), [Task(name="text", kind="lm", inputs="text")])


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_answer_as_token_ids(family):
    tokenizer = tiny_tokenizer(family)
    row = items(family, [("the film was good ?  ", "yes")])[0]
    prompt, answer = tokenizer.decode(row["input_ids"]), tokenizer.decode(row["target_ids"])
    expected = {"t5": "the film was good ? </s>", "gpt2": "the film was good ?", "llama": "<s> the film was good ?"}
    assert prompt == expected[family]
    assert answer == "yes </s>", "the end token tells the model to stop"


@pytest.mark.parametrize("family", FAMILIES)
def test_long_prompts_and_answers_are_cut_and_counted(family):
    tokenizer, decoder_only = tiny_tokenizer(family), family != "t5"
    prompts, answers = ["the film was very good ?", "a"], ["yes", "so not true very bad"]
    rows, cut = prompt_ids(prompts, tokenizer, 4, decoder_only)
    assert cut == [0]
    assert max(map(len, rows)) <= 4
    rows, cut, empty = answer_ids(prompts, answers, tokenizer, 3, decoder_only)
    assert (cut, empty) == ([1], [])
    assert tokenizer.decode(rows[1]) == "so not </s>"
    assert answer_ids(prompts, ["yes", "  "], tokenizer, 3, decoder_only)[2] == [1]


def test_a_text_to_continue_is_all_but_its_first_token():
    tokenizer = tiny_tokenizer("llama")
    first, others, _ = language_ids(["the film was good"], tokenizer, 8)
    assert (first, tokenizer.decode(others[0])) == ([[3]], "the film was good")
    first, others, cut = language_ids(["the film was good"], tiny_tokenizer("gpt2"), 3)
    assert (len(first[0]), len(others[0]), cut) == (1, 2, [0])


def test_no_gradient_where_there_is_no_answer():
    network = model("gpt2").train()
    rows = items("gpt2")
    outputs = network(**collate("gpt2", rows))
    outputs["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


class Fixed(torch.nn.Module):
    """A decoder-only model of three words that gives every next word the same probabilities, and notes its inputs."""

    def __init__(self, probabilities, is_encoder_decoder=False):
        super().__init__()
        self.config = SimpleNamespace(is_encoder_decoder=is_encoder_decoder)
        self.logits = torch.nn.Parameter(torch.tensor(probabilities).log() + 5)
        self.base_model = SimpleNamespace(conditions_on_task=True, conditions_on_prompt=True)

    def forward(self, input_ids, attention_mask, use_cache, task=None, prompt_length=None):
        self.received = {"task": task, "prompt_length": prompt_length}
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_label_smoothing_in_closed_form_on_three_words():
    network = GenerativeModel(Fixed([1 / 2, 1 / 4, 1 / 4]), TASKS, label_smoothing=0.3)
    batch = {
        "input_ids": torch.tensor([[2, 2, 0, 1], [2, 2, 0, 0]]),
        "attention_mask": torch.ones(2, 4, dtype=torch.long),
        "labels": torch.tensor([[0, 1], [0, -100]]),
        "task": torch.tensor([0, 1]),
    }
    # In units of log 2 the words cost 1, 2 and 2; the right one keeps 0.7 + 0.1 of the target, each other one gets 0.1.
    first, second = 0.8 * 1 + 0.1 * 2 + 0.1 * 2, 0.1 * 1 + 0.8 * 2 + 0.1 * 2
    expected = torch.tensor([(first + second) / 2, first]) * math.log(2)
    outputs = network.train()(**batch)
    torch.testing.assert_close(outputs["example_loss"], expected)
    torch.testing.assert_close(outputs["loss"], expected.mean())
    torch.testing.assert_close(outputs["log_probability"], torch.tensor([-3.0, -1.0]) * math.log(2))
    exact = network.eval()(**batch)
    torch.testing.assert_close(exact["example_loss"], torch.tensor([1.5, 1.0]) * math.log(2))
    torch.testing.assert_close(exact["log_probability"], outputs["log_probability"])


@pytest.mark.parametrize("family", FAMILIES)
def test_label_smoothing_is_torch_s_and_keeps_no_more_of_the_vocabulary(family):
    batch, base = collate(family, items(family)), tiny_language_model(family)

    def run(smoothing):
        kept = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add((t.data_ptr(), t.shape)) or t, lambda t: t):
            outputs = GenerativeModel(base, TASKS, smoothing).train()(**batch)
        wide = [shape for _, shape in kept if shape[-1:] == outputs["logits"].shape[-1:] and len(shape) > 2]
        return outputs, wide

    (smoothed, kept), (plain, kept_without) = run(0.1), run(0.0)
    assert kept == kept_without
    assert kept, "the log-probabilities of all words are kept for the backward pass, once"
    for row in range(len(PAIRS)):
        theirs = torch.nn.functional.cross_entropy(
            smoothed["logits"][row], batch["labels"][row], ignore_index=-100, label_smoothing=0.1
        )
        torch.testing.assert_close(smoothed["example_loss"][row], theirs)
    assert torch.equal(plain["log_probability"], smoothed["log_probability"])
    with pytest.raises(ValueError, match="`label_smoothing` must be a share in"):
        GenerativeModel(base, TASKS, 1.0)


def test_what_a_conditional_method_is_told():
    network = GenerativeModel(backbone := Fixed([0.5, 0.25, 0.25]), TASKS)
    mask, task = torch.ones(2, 4, dtype=torch.long), torch.tensor([1, 0])
    network(torch.zeros_like(mask), mask, torch.tensor([[0, 1], [0, -100]]), task)
    assert (backbone.received["task"].tolist(), backbone.received["prompt_length"]) == ([1, 0], 2)
    network(torch.zeros_like(mask), mask, task=task)
    assert backbone.received["prompt_length"] == 4, "without an answer all is prompt"
    network(torch.zeros_like(mask), mask, torch.tensor([[-100, 0, 1, -100], [-100, -100, -100, 2]]))
    assert (backbone.received["task"], backbone.received["prompt_length"].tolist()) == (None, [1, 3])
    assert not GenerativeModel(Fixed([0.5, 0.5], is_encoder_decoder=True), TASKS).conditions_on_prompt
