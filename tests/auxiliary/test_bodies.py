"""Bodies give what the models themselves give, for each family, and their vocabulary heads are the models' own."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AutoModel,
    BertGenerationConfig,
    BertGenerationEncoder,
    GraniteConfig,
    GraniteForCausalLM,
)

from taskloom.adapters import HyperdecoderConfig
from taskloom.auxiliary.bodies import DecoderBody, EncoderBody
from taskloom.auxiliary.views import visibility
from taskloom.auxiliary.vocabulary import load_vocabulary_head
from taskloom.errors import RecipeError
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from tests.adapters.language_models import language_model
from tests.adapters.support import adapt, encoder
from tests.auxiliary.tiny_bodies import (
    DECODERS,
    ENCODERS,
    TASK,
    camtl_body,
    decoder_body,
    encoder_body,
    generator,
    rows,
    states,
)


@pytest.mark.parametrize("family", [*ENCODERS, "ca-mtl"])
def test_an_encoder_and_its_pooling_are_those_of_the_task_model(family):
    body, batch = camtl_body() if family == "ca-mtl" else encoder_body(family), rows()
    network: Any = body.network
    found = states(body, batch)
    more = {"task": batch.task} if family == "ca-mtl" else {}
    with torch.no_grad():
        whole = network.encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **more)
        pooled = body.pool(found, batch.attention_mask)
    assert torch.equal(found, whole.last_hidden_state)
    assert torch.equal(pooled, whole.pooler_output if network.pooling == "pooler" else found[:, 0])


def test_alberts_pooler_is_a_layer_without_its_activation():
    body = EncoderBody(MultiTaskModel(_albert(), [TASK]).double().eval())
    batch, encoder = rows(), body.network.encoder
    with torch.no_grad():
        own = encoder(batch.input_ids, attention_mask=batch.attention_mask)
    assert torch.equal(body.pool(own.last_hidden_state, batch.attention_mask), own.pooler_output)


def _albert() -> Any:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return AutoModel.from_config(AlbertConfig(vocab_size=60, intermediate_size=16, **sizes))


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_the_pooled_position_is_what_the_vector_depends_on(pooling):
    body, batch = encoder_body(pooling=pooling), rows()
    found = states(body, batch).requires_grad_()
    (gradient,) = torch.autograd.grad(body.pool(found, batch.attention_mask).square().sum(), found)
    read = gradient.abs().sum(dim=-1) > 0
    position = body.pooled_position(batch.attention_mask)
    if pooling == "mean":
        assert position is None
        assert torch.equal(read, batch.attention_mask.bool())
    else:
        assert position is not None
        assert torch.equal(read, torch.arange(7) == position[:, None])


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_pools_its_last_word(family):
    body, batch = decoder_body(family), rows()
    found = states(body, batch)
    assert body.pooled_position(batch.attention_mask).tolist() == [6, 4, 3]
    assert torch.equal(body.pool(found, batch.attention_mask), torch.stack([found[0, 6], found[1, 4], found[2, 3]]))


@pytest.mark.parametrize("family", [*DECODERS, "lora"])
def test_a_decoders_words_are_those_of_its_own_head(family):
    network = language_model("llama" if family == "lora" else family)
    if family == "lora":
        network = get_peft_model(network, LoraConfig(task_type=TaskType.CAUSAL_LM, init_lora_weights=False)).eval()
    body, batch = DecoderBody(GenerativeModel(network, [])), rows()
    mask = visibility("left-to-right", batch.attention_mask, generator()).attention(batch.attention_mask, torch.float64)
    found = states(body, batch, mask)
    with torch.no_grad():
        logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        real = batch.attention_mask.bool()
        torch.testing.assert_close(body.vocabulary(found[real]), logits[real])


def test_a_scaled_head_is_scaled():
    network = language_model("llama")
    plain = DecoderBody(GenerativeModel(network, []))
    granite = _granite()
    body = DecoderBody(GenerativeModel(granite, []))
    found = torch.randn(4, 16, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(body.vocabulary(found), granite.lm_head(found) / 8.0)
    torch.testing.assert_close(plain.vocabulary(found), network.lm_head(found))


def _granite() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return GraniteForCausalLM(GraniteConfig(vocab_size=40, intermediate_size=16, logits_scaling=8.0, **sizes)).double()


# Noise


@pytest.mark.parametrize("family", [*ENCODERS, "ca-mtl", *DECODERS])
def test_noise_is_added_to_the_embeddings_it_is_meant_for(family):
    body = camtl_body() if family == "ca-mtl" else decoder_body(family) if family in DECODERS else encoder_body(family)
    batch = rows()
    noised = ~batch.special
    plain = states(body, batch)
    noise = torch.randn(*noised.shape, body.embedding.embedding_dim, generator=generator()) * noised[..., None]
    assert torch.equal(states(body, batch, noise=0 * noise), plain)
    found = states(body, batch, noise=noise)
    assert (found - plain)[noised].abs().amax(dim=-1).min() > 1e-4
    assert torch.equal(states(body, batch), plain)  # nothing stays behind


def test_noise_is_as_large_as_said():
    body, batch = encoder_body(), rows()
    noised = ~batch.special
    body.embedding.weight.data.normal_().mul_(3)
    seen = []
    body.network.encoder.embeddings.LayerNorm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    states(body, batch)
    noise = torch.randn(*noised.shape, body.embedding.embedding_dim, generator=generator()) * noised[..., None]
    states(body, batch, noise=noise)
    scale = body.embedding.weight.square().mean().sqrt()
    torch.testing.assert_close(seen[1] - seen[0], noise * scale, check_dtype=False)


# Vocabulary heads of encoders


@pytest.fixture(params=["bert", "roberta", "electra", "distilbert", "mpnet", "untied"])
def saved(request, tmp_path):
    family = "bert" if request.param == "untied" else request.param
    fields = {"tie_word_embeddings": False} if request.param == "untied" else {}
    model = encoder(family, auto="AutoModelForMaskedLM", **fields)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    model.save_pretrained(tmp_path)
    return tmp_path, model, not fields


def test_a_vocabulary_head_is_the_models_own(saved):
    path, whole, tied = saved
    base = AutoModel.from_pretrained(path, dtype=torch.float64)
    head = load_vocabulary_head(str(path), base, dtype="float64")
    assert head.pretrained
    batch = rows()
    with torch.no_grad():
        output = whole(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
        real = batch.attention_mask.bool()
        torch.testing.assert_close(head(output.hidden_states[-1][real]), output.logits[real])
    own, outside = dict(head.named_parameters()), base.get_input_embeddings().weight
    assert all(parameter is not outside for parameter in own.values())
    assert sum(parameter.numel() == outside.numel() for parameter in own.values()) == (0 if tied else 1)
    assert set(head.state_dict()) == set(own)


def test_a_tied_head_follows_and_trains_the_encoders_table(saved):
    path, _, tied = saved
    base = AutoModel.from_pretrained(path, dtype=torch.float64)
    head = load_vocabulary_head(str(path), base, dtype="float64")
    vector = torch.randn(2, 24, dtype=torch.float64, generator=generator())
    before = head(vector)
    table = base.get_input_embeddings().weight
    before.logsumexp(dim=-1).sum().backward()
    assert (table.grad is not None) == tied
    with torch.no_grad():
        table.mul_(2)
    assert torch.equal(head(vector), before) != tied
    # A copy of both is tied to the copy.
    both = copy.deepcopy(torch.nn.ModuleList([base, head]))
    with torch.no_grad():
        table.zero_()
    assert both[1](vector).std() > 0.01


def test_a_head_is_saved_and_loaded(saved, tmp_path):
    path, _, _ = saved
    base = AutoModel.from_pretrained(path, dtype=torch.float64)
    first, second = (load_vocabulary_head(str(path), base, dtype="float64") for _ in range(2))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    vector = torch.randn(2, 24, dtype=torch.float64, generator=generator())
    assert not torch.equal(first(vector), second(vector))
    save_file(first.state_dict(), tmp_path / "head.safetensors")
    second.load_state_dict(load_file(tmp_path / "head.safetensors"))
    assert torch.equal(first(vector), second(vector))


def test_a_checkpoint_without_a_head_gets_a_new_one_tied_to_the_encoder(tmp_path, capsys):
    encoder("bert").save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path, dtype=torch.float64)
    torch.manual_seed(0)
    capsys.readouterr()
    head = load_vocabulary_head(str(tmp_path), base, dtype="float64")
    assert "[transformers]" not in capsys.readouterr().err  # it has a table of what is missing, for its own users
    assert not head.pretrained
    assert head(torch.randn(3, 24, dtype=torch.float64)).shape == (3, 60)


def test_a_head_of_an_adapted_encoder(tmp_path):
    whole = encoder("bert", auto="AutoModelForMaskedLM")
    whole.save_pretrained(tmp_path)
    adapted = adapt(AutoModel.from_pretrained(tmp_path, dtype=torch.float64))
    head = load_vocabulary_head(str(tmp_path), adapted, dtype="float64")
    vector = torch.randn(1, 5, 24, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(head(vector[0]), whole.cls(vector)[0])


def test_an_encoder_without_such_a_head_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertGenerationEncoder(BertGenerationConfig(vocab_size=20, **sizes))
    with pytest.raises(RecipeError, match=r"denoise and fastsent.*none for BertGenerationEncoder"):
        load_vocabulary_head(str(tmp_path), model)


def test_a_body_without_head_has_no_words():
    with pytest.raises(ValueError, match="without a vocabulary head"):
        encoder_body().vocabulary(torch.zeros(1, 24))


# What does not fit


def test_an_encoder_decoder_is_refused():
    with pytest.raises(RecipeError, match="T5ForConditionalGeneration is an encoder-decoder"):
        DecoderBody(GenerativeModel(language_model("t5"), []))


def test_adapters_that_work_through_the_whole_model_are_refused():
    hyper = get_peft_model(language_model("llama"), HyperdecoderConfig(num_tasks=1, adapter_dim=4, bottleneck=4))
    with pytest.raises(RecipeError, match=r"adapter.method: .*works through the whole language model"):
        DecoderBody(GenerativeModel(hyper, []))
    prompted = get_peft_model(
        language_model("llama"), PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    )
    with pytest.raises(RecipeError, match="prompt_tuning puts tokens of its own"):
        DecoderBody(GenerativeModel(prompted, []))
    with pytest.raises(RecipeError, match="prompt_tuning puts tokens of its own"):
        EncoderBody(
            MultiTaskModel(
                get_peft_model(
                    encoder("bert"), PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=2)
                ),
                [TASK],
            )
        )
