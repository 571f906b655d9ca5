"""Diverse beam search against the paper's algorithm written down plainly, and one group against `transformers`."""

from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model

from taskloom.evaluation.diverse_beams import diverse_beam_search
from tests.adapters.language_models import DECODERS, language_model, prompts

ENDS = [1, 5, 8, 13]
PADDING = 2
STEPS = 6


def search(model, batch=None, **options):
    batch = batch or prompts(left=True)
    options = {"max_new_tokens": STEPS, "end_tokens": ENDS, "padding": PADDING, **options}
    return diverse_beam_search(model, batch["input_ids"], batch["attention_mask"], **options)


def one(position: int):
    """Return one prompt of the batch, without padding."""
    batch = prompts(left=True)
    ids = batch["input_ids"][position][batch["attention_mask"][position] == 1]
    return {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}


def by_hand(model, prompt, beams, groups, diversity, length_penalty=1.0, early_stopping=True):
    """Algorithm 1 of the paper: no cache, no batch, one forward pass a beam and step."""
    size = beams // groups
    beams_of: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(groups)]
    done: list[list[tuple[float, list[int]]]] = [[] for _ in range(groups)]
    closed: set[int] = set()
    for step in range(1, STEPS + 1):
        said: Counter[int] = Counter()
        for group in set(range(groups)) - closed:
            candidates = []
            for score, tokens in beams_of[group]:
                with torch.no_grad():
                    logits = model(torch.tensor([prompt + tokens]), use_cache=False).logits[0, -1]
                for token, value in enumerate(logits.log_softmax(-1).tolist()):
                    candidates.append((score + value - diversity * said[token], [*tokens, token]))
            candidates.sort(key=lambda candidate: -candidate[0])
            for score, tokens in candidates[:size]:
                if tokens[-1] in ENDS or step == STEPS:
                    done[group].append((score / step**length_penalty, tokens))
            done[group] = sorted(done[group], key=lambda answer: -answer[0])[:size]
            beams_of[group] = [each for each in candidates if each[1][-1] not in ENDS][:size]
            said.update(tokens[-1] for _, tokens in beams_of[group])
        for group in range(groups):
            if len(done[group]) == size and (
                early_stopping or beams_of[group][0][0] / step**length_penalty <= done[group][-1][0]
            ):
                closed.add(group)
        if len(closed) == groups:
            break
    return sorted((answer for group in done for answer in group), key=lambda answer: -answer[0])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 4, "groups": 2, "diversity": 1.5},
        {"beams": 6, "groups": 3, "diversity": 0.5, "length_penalty": 0.0, "early_stopping": False},
        {"beams": 4, "groups": 4, "diversity": 10.0, "length_penalty": 2.0},
        {"beams": 3, "groups": 1, "diversity": 10.0, "early_stopping": False},
    ],
)
def test_is_the_papers_algorithm(family, settings):
    model = language_model(family)
    found = search(model, top_k=settings["beams"], **settings)
    batch = prompts(left=True)
    for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        expected = by_hand(model, ids[mask == 1].tolist(), **settings)
        scores = torch.tensor([score for score, _ in expected])
        torch.testing.assert_close(found.scores[row], scores, rtol=1e-4, atol=1e-4)
        for tokens, (_, answer) in zip(found.tokens[row].tolist(), expected, strict=True):
            assert tokens == answer + [PADDING] * (STEPS - len(answer))


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize(("early_stopping", "length_penalty"), [(True, 1.0), (False, 1.0), (False, 0.0), (True, 2.0)])
def test_one_group_is_the_beam_search_of_transformers(family, early_stopping, length_penalty):
    model, batch = language_model(family, dtype=torch.float32), prompts(left=True)
    reference = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        num_beams=3,
        num_return_sequences=3,
        max_new_tokens=STEPS,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        pad_token_id=PADDING,
        eos_token_id=ENDS,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = search(model, beams=3, top_k=3, early_stopping=early_stopping, length_penalty=length_penalty)
    expected = reference.sequences[:, batch["input_ids"].shape[1] :].view(4, 3, -1)
    assert torch.equal(found.tokens[..., : expected.shape[-1]], expected)
    assert (found.tokens[..., expected.shape[-1] :] == PADDING).all()
    torch.testing.assert_close(found.scores, reference.sequences_scores.view(4, 3), rtol=1e-4, atol=1e-5)


def test_one_beam_is_greedy_search():
    model, batch = language_model("llama"), prompts(left=True)
    expected = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=PADDING,
        eos_token_id=ENDS,
    )[:, batch["input_ids"].shape[1] :]
    assert torch.equal(search(model, beams=1).tokens[:, 0, : expected.shape[1]], expected)


@pytest.mark.parametrize("family", DECODERS)
def test_a_batch_gives_what_its_prompts_give_alone(family):
    model = language_model(family)
    settings = {"beams": 6, "groups": 3, "diversity": 1.0, "top_k": 6}
    together = search(model, **settings)
    for position in range(4):
        alone = search(model, one(position), **settings)
        assert torch.equal(alone.tokens[0], together.tokens[position])
        torch.testing.assert_close(alone.scores[0], together.scores[position], rtol=1e-4, atol=1e-4)


def test_groups_differ_as_much_as_diversity_demands():
    model = language_model("llama")
    alike = search(model, beams=4, groups=4, top_k=4, diversity=0.0).tokens
    assert (alike == alike[:, :1]).all(), "without diversity each group finds the same"
    diverse = search(model, beams=4, groups=4, top_k=4, diversity=1000.0, max_new_tokens=1, end_tokens=[]).tokens
    assert all(len(set(answers)) == 4 for answers in diverse[..., 0].tolist())


def test_a_prompt_is_read_once_and_leaves_when_it_is_answered():
    model = language_model("llama")
    watched = []
    model.register_forward_pre_hook(
        lambda _module, _args, inputs: watched.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    search(model, beams=6, groups=3, diversity=2.0)
    assert watched[0] == (4, 7)
    rows = [rows for rows, tokens in watched[1:] if tokens == 1]
    assert len(rows) == len(watched) - 1 == STEPS - 1
    assert rows[0] == 24
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 24, "a prompt whose groups have all ended costs nothing more"


def test_adapters_take_part():
    model = language_model("llama", dtype=torch.float32)
    plain = search(model, beams=4, groups=2, diversity=1.0).scores
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    found = search(adapted, beams=4, groups=2, diversity=1.0, top_k=4)
    assert not torch.allclose(found.scores[:, :1], plain)
    batch = prompts(left=True)
    expected = by_hand(adapted, batch["input_ids"][0].tolist(), 4, 2, 1.0)
    assert found.tokens[0, 0].tolist()[: len(expected[0][1])] == expected[0][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 5, "groups": 2}, "`groups` must divide `beams`, found 2 groups of 5 beams"),
        ({"beams": 2, "top_k": 3}, "`top_k` must be between 1 and `beams` \\(2\\), found 3"),
        ({"beams": 1, "max_new_tokens": 0}, "`max_new_tokens` must be at least 1, found 0"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        search(language_model("gpt2"), **options)


def test_a_prompt_without_tokens():
    empty = torch.zeros(1, 0, dtype=torch.long)
    with pytest.raises(ValueError, match="`input_ids` must be"):
        search(language_model("gpt2"), {"input_ids": empty, "attention_mask": empty}, beams=1)
