"""What adapted models compute: where the adapters stand, for which examples, and for which positions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from taskloom.adapters.hyperdecoder.families import find_stacks
from tests.adapters.language_models import (
    DECODERS,
    ENCODER_DECODERS,
    KINDS,
    LAYERS,
    adapt,
    language_model,
    logits,
    prompts,
    rows,
    training_batch,
)

FAMILIES = ENCODER_DECODERS + DECODERS


class Watch:
    """The input and output of some modules in the last forward pass."""

    def __init__(self, model: Any, **names: str) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for label, name in names.items():
            model.get_submodule(name).register_forward_hook(self._hook(label), with_kwargs=True)

    def _hook(self, label: str) -> Any:
        def hook(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
            self.inputs[label] = args[0] if args else kwargs["hidden_states"]
            self.outputs[label] = output[0] if isinstance(output, tuple) else output

        return hook


def top(family: str) -> dict[str, str]:
    """Return the names of the decoder's top layer and of the modules around its feed-forward block."""
    layer = {
        "t5": f"decoder.block.{LAYERS - 1}",
        "bart": f"model.decoder.layers.{LAYERS - 1}",
        "gpt2": f"transformer.h.{LAYERS - 1}",
        "gpt_neox": f"gpt_neox.layers.{LAYERS - 1}",
    }.get({"t5-gated": "t5", "mt5": "t5"}.get(family, family), f"model.layers.{LAYERS - 1}")
    norm = {
        "bart": "encoder_attn_layer_norm",
        "gpt2": "ln_2",
    }.get(family, "layer.2.layer_norm" if family in ENCODER_DECODERS else "post_attention_layernorm")
    return {"layer": layer, "norm": f"{layer}.{norm}"}


@pytest.mark.parametrize("norm_input", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_stands_beside_the_feed_forward_block(family: str, norm_input: bool) -> None:
    """In the top layer: h + FF(norm(h)) + adapter(h or norm(h)); BART's norm comes last instead."""
    inputs = training_batch(family)
    base = language_model(family)
    watch = Watch(base, **top(family))
    logits(base, {name: tensor for name, tensor in inputs.items() if name != "task"})
    # What enters BART's block is normed already.
    hidden = watch.outputs["norm"] if norm_input or family == "bart" else watch.inputs["norm"]
    plain = watch.outputs["layer"]

    fields = {"adapter_norm_input": norm_input, "adapt_prompt": True, "encoder": "none", "decoder": "shared"}
    adapted = adapt(base, **fields)
    own = {}
    for name, parameter in adapted.named_parameters():
        if "hyperdecoder_" in name and top(family)["layer"] in name:
            own[name.split(".default.")[1]] = parameter
        elif "hyperdecoder_" in name:
            parameter.data.zero_()  # only the top layer's adapter does anything
    watch = Watch(adapted.get_base_model(), layer=top(family)["layer"])
    logits(adapted, inputs)
    delta = (hidden @ own["down.weight"].T + own["down.bias"]).relu() @ own["up.weight"].T
    delta = delta + own["up.bias"]
    if family == "bart":
        layer = adapted.get_base_model().model.decoder.layers[-1]
        fed = hidden + layer.fc2(layer.activation_fn(layer.fc1(hidden)))
        expected = torch.nn.functional.layer_norm(
            fed + delta, (hidden.shape[-1],), layer.final_layer_norm.weight, layer.final_layer_norm.bias
        )
    else:
        expected = plain + delta
    torch.testing.assert_close(watch.outputs["layer"], expected)


def test_a_decoder_only_model_by_its_formula() -> None:
    """Llama, instance by instance: two plain layers, the prompt's mean normed states, then adapted answer positions."""
    inputs = training_batch("llama")
    adapted = adapt(language_model("llama"), prompt_layer=2)
    found = logits(adapted, inputs)
    model = adapted.get_base_model()
    plain = language_model("llama")
    states = plain.model(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True).hidden_states[2]
    [generator] = [part for name, part in model.named_modules() if name.endswith("hyperdecoder_generator.default")]
    layer = plain.model.layers[2]
    watch = Watch(plain, norm="model.layers.2.post_attention_layernorm")
    plain.model(inputs["input_ids"], inputs["attention_mask"])
    before_norm = watch.inputs["norm"]
    for row in range(4):
        real = inputs["attention_mask"][row, :7].bool()
        pooled = layer.input_layernorm(states[row, :7][real]).mean(dim=0)
        down, up, down_bias, up_bias = (part[0] for part in generator(generator.process(pooled[None]), 0))
        hidden = before_norm[row]
        output = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        adapter = (hidden @ down + down_bias).relu() @ up + up_bias
        answers = torch.arange(10) >= 6  # from the prompt's last token on
        expected = plain.lm_head(plain.model.norm(output + adapter * answers[:, None]))
        visible = inputs["attention_mask"][row].bool()
        torch.testing.assert_close(found[row][visible], expected[visible])


@pytest.mark.parametrize("decoder", ["none", *KINDS])
@pytest.mark.parametrize("encoder", ["none", *KINDS])
def test_an_example_alone_equals_it_in_a_mixed_batch(encoder: str, decoder: str) -> None:
    if encoder == decoder == "none":
        pytest.skip("nothing is adapted")
    inputs = training_batch("t5")
    adapted = adapt(language_model("t5"), encoder=encoder, decoder=decoder)
    together = logits(adapted, inputs)
    for row in range(4):
        torch.testing.assert_close(logits(adapted, rows(inputs, [row])), together[row : row + 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bart", *DECODERS])
def test_an_example_alone_in_every_family(family: str, kind: str) -> None:
    inputs = training_batch(family)
    adapted = adapt(language_model(family), encoder=kind, decoder=kind)
    together = logits(adapted, inputs)
    for row in (1, 3):
        alone = rows(inputs, [row])
        if family in DECODERS:  # without its padding
            start = int((alone["attention_mask"] == 0).sum())
            alone = {name: tensor if name == "task" else tensor[:, start:] for name, tensor in alone.items()}
            positions = {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}
            together = logits(adapted, {**inputs, **positions})
            torch.testing.assert_close(logits(adapted, alone), together[row : row + 1, start:])
        else:
            torch.testing.assert_close(logits(adapted, alone), together[row : row + 1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_the_task_matters_only_where_it_should(family: str, kind: str) -> None:
    inputs = training_batch(family)
    adapted = adapt(language_model(family), encoder="none", decoder=kind)
    other = {**inputs, "task": torch.tensor([1, 2, 1, 2])}
    changed = (logits(adapted, inputs) != logits(adapted, other)).flatten(1).any(dim=1)
    conditioned = kind in ("per_task", "task_generated")
    assert changed.tolist() == [conditioned, False, False, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", DECODERS)
def test_prompts_stay_as_they_are(family: str, kind: str) -> None:
    """The prompt's last position predicts the answer's first token, and is the first that is adapted."""
    inputs = training_batch(family)
    plain = logits(language_model(family), {name: tensor for name, tensor in inputs.items() if name != "task"})
    found = logits(adapt(language_model(family), decoder=kind), inputs)
    real = inputs["attention_mask"][:, :6].bool()
    torch.testing.assert_close(found[:, :6][real], plain[:, :6][real])
    assert ((found - plain)[:, 6:].abs().amax(dim=-1) > 1e-6).all()
    everywhere = logits(adapt(language_model(family), decoder=kind, adapt_prompt=True), inputs)
    assert ((everywhere - plain)[:, :6].abs().amax(dim=-1)[real] > 1e-6).all()


@pytest.mark.parametrize("family", DECODERS)
def test_answers_never_look_ahead(family: str) -> None:
    inputs = training_batch(family)
    adapted = adapt(language_model(family))
    changed = inputs["input_ids"].clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 30 + 3
    before, after = logits(adapted, inputs), logits(adapted, {**inputs, "input_ids": changed})
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_ways_to_say_where_the_prompt_ends() -> None:
    inputs = training_batch("llama")
    adapted = adapt(language_model("llama"))
    expected = logits(adapted, inputs)
    labels = inputs.pop("labels")
    for length in (7, torch.tensor([7, 7, 7, 7])):
        torch.testing.assert_close(logits(adapted, inputs, prompt_length=length), expected)
    assert not torch.allclose(logits(adapted, inputs, prompt_length=5), expected)
    # Without a word the whole input is the prompt, as when generation begins.
    torch.testing.assert_close(logits(adapted, inputs), logits(adapted, inputs, prompt_length=10))
    # A row each: right-padded rows of plain fine-tuning, their labels beginning anywhere.
    ragged = torch.where(torch.arange(10) >= torch.tensor([3, 5, 7, 9])[:, None], labels.clamp(min=3), -100)
    together = logits(adapted, {**inputs, "labels": ragged})
    for row, length in enumerate((3, 5, 7, 9)):
        alone = logits(adapted, rows(inputs, [row]), prompt_length=length)
        torch.testing.assert_close(alone, together[row : row + 1])
    # All tokens are labelled, as in language modelling: the first is the prompt.
    whole = logits(adapted, {**inputs, "labels": inputs["input_ids"].clamp(min=1)})
    torch.testing.assert_close(whole, logits(adapted, inputs, prompt_length=1))


def test_training_must_say_where_the_prompt_ends() -> None:
    """As where a trainer takes the labels away to smooth them: else the last position alone would be trained."""
    inputs = training_batch("llama")
    del inputs["labels"]
    for kind in KINDS:
        adapted = adapt(language_model("llama"), decoder=kind).train()
        with pytest.raises(ValueError, match="does not tell"):
            adapted(**inputs)
        adapted(**inputs, prompt_length=7)
        with torch.no_grad():
            adapted(**inputs)
        with adapted.disable_adapter():
            adapted(**inputs)
        adapt(language_model("llama"), decoder=kind, adapt_prompt=True).train()(**inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_and_sdpa_agree(family: str) -> None:
    inputs = training_batch(family)
    # Not in float64, in which transformers' eager attention makes NaN of rows that are all padding.
    models = [language_model(family, attention, torch.float32) for attention in ("sdpa", "eager")]
    found = [logits(adapt(model), inputs) for model in models]
    real = torch.ones(4, found[0].shape[1]).bool() if family in ENCODER_DECODERS else inputs["attention_mask"].bool()
    torch.testing.assert_close(found[0][real], found[1][real], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_places_are_found(family: str) -> None:
    model = language_model(family)
    stacks = find_stacks(model, norm_input=False)
    assert list(stacks) == (["encoder", "decoder"] if family in ENCODER_DECODERS else ["decoder"])
    for stack in stacks.values():
        assert [place.layer for place in stack.places] == list(range(LAYERS))
        names = {name for name, _ in model.named_modules()}
        assert all({place.wrapped, place.tap, place.entry} <= names for place in stack.places)


def test_a_fresh_adapter_changes_next_to_nothing() -> None:
    """The published start: adapters of almost zero."""
    from peft import get_peft_model

    from taskloom.adapters import HyperdecoderConfig

    for family in ("t5", "llama"):
        inputs = {name: tensor for name, tensor in training_batch(family).items() if name != "task"}
        plain = logits(language_model(family), inputs)
        fresh = logits(get_peft_model(language_model(family), HyperdecoderConfig()).eval(), inputs)
        assert 0 < (fresh - plain).abs().max() < 1e-2


@pytest.mark.parametrize("task_type", [None, "SEQ_2_SEQ_LM"])
def test_all_ways_of_calling_agree(task_type: str | None) -> None:
    inputs = training_batch("t5")
    adapted = adapt(language_model("t5"), encoder="task_generated", task_type=task_type)
    ways = (adapted, adapted.base_model, adapted.get_base_model())
    outputs = [logits(way, inputs) for way in ways]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    generated = [way.generate(**prompts(left=False), max_new_tokens=4) for way in ways]
    assert all(torch.equal(tokens, generated[0]) for tokens in generated)
