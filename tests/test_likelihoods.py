"""Scores of generated answers: those of the forward pass, without the logits of all steps in memory."""

from types import SimpleNamespace

import pytest
import torch
from benchmarks.measure import peak_allocated
from transformers import T5Config, T5ForConditionalGeneration

from taskloom.generative import GenerativeModel
from taskloom.likelihoods import AnswerLikelihoods
from taskloom.tasks import Task
from taskloom.tasks.collate_text import Text2TextCollator
from tests.tiny_language import FAMILIES, tiny_language_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("beams", "shortest"), [(1, None), (1, 3), (3, None), (3, 3)])
def test_the_likelihood_of_a_generated_answer_is_that_of_the_forward_pass(family, beams, shortest):
    network = tiny_language_model(family)
    network.set_output_embeddings(torch.nn.Linear(32, network.config.vocab_size))  # tied ones repeat the last token
    model = GenerativeModel(network, [Task(name="t", kind="text2text", inputs="x")]).eval()
    tokenizer = tiny_tokenizer(family)
    collator = Text2TextCollator(tokenizer, model.layout == "decoder")
    texts = ("the film was good", "a book", "is the meal very bad ?", "not", "so true :", "the the the")
    items = [{"input_ids": tokenizer(text)["input_ids"], "task": 0} for text in texts]
    batch = collator.prompts(items)
    prompts = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    options = {"num_beams": beams, "pad_token_id": collator.padding, "max_new_tokens": 6}
    start = int(family == "t5")
    endless = model.generate(**prompts, **options, eos_token_id=None)[:, start:].tolist()
    # A token that ends some answers early, and others late or not at all.
    end = max(range(2, 24), key=lambda token: len({row.index(token) if token in row else 6 for row in endless}))
    options |= {"eos_token_id": end, "min_new_tokens": shortest}
    ids, scores = model.generate_scored(**prompts, **options)
    rows = ids.tolist()
    assert rows == model.generate(**prompts, **options)[:, start:].tolist()
    rows = [row[: row.index(end) + 1] if end in row else row for row in rows]
    assert len({len(row) for row in rows}) > 1, rows
    targets = collator([{**item, "target_ids": row} for item, row in zip(items, rows, strict=True)])
    assert torch.allclose(model(**targets)["log_probability"], scores, atol=1e-4)


def test_one_step_s_logits_are_in_memory_at_a_time():
    words, rows, steps = 5000, 8, 24
    config = T5Config(vocab_size=words, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = GenerativeModel(T5ForConditionalGeneration(config), [Task(name="t", kind="text2text", inputs="x")]).eval()
    prompts = {"input_ids": torch.full((rows, 4), 7), "attention_mask": torch.ones(rows, 4, dtype=torch.long)}
    options = {**prompts, "max_new_tokens": steps, "min_new_tokens": steps}
    model.generate(**options)
    plain, scored = (peak_allocated(lambda run=run: run(**options)) for run in (model.generate, model.generate_scored))
    step = 4 * rows * words
    assert scored - plain < 3 * step, f"{(scored - plain) / step:.1f} steps more"


class Says(torch.nn.Module):
    """A model whose logits are its input."""

    def forward(self, logits):
        return SimpleNamespace(logits=logits[:, None])


def test_equally_good_tokens_have_one_likelihood():
    """More of them than are kept: the one that was taken need not be among these."""
    model = Says()
    first, second = torch.zeros(1, 6), torch.tensor([[0.0, 1, 1, 1, 1, 0]])
    with AnswerLikelihoods(model, steps=2, beams=1, end_token=None) as likelihoods:
        for logits in (first, second):
            model(logits)
            assert likelihoods(torch.LongTensor([[0]]), logits) is logits
    expected = (first.log_softmax(dim=1)[0, 0] + second.log_softmax(dim=1)[0, 1]).expand(1)
    for answer in ([0, 1], [5, 4], [3, 2]):
        assert torch.allclose(likelihoods.of(torch.tensor([answer])), expected)
