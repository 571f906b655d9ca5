"""Saving and loading a multi-task model, and how a sequence becomes one vector."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from taskloom.adapters import CAMTLConfig
from taskloom.backbones import load_encoder
from taskloom.errors import RunError, UserError
from taskloom.model import MultiTaskModel
from taskloom.tasks import Task
from tests.tiny import tiny_encoder

TASKS = [
    Task(name="topic", inputs="text", labels=("a", "b", "c")),
    Task(name="score", kind="regression", inputs="text"),
    Task(name="answer", kind="span", inputs=("question", "context")),
]


def encoder(seed=0, **options):
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return BertModel(config, **options)


ADAPTERS = {
    "plain": lambda base: base,
    "ca_mtl": lambda base: get_peft_model(base, CAMTLConfig(num_tasks=3, max_length=16, freeze_layers="0")),
    "lora": lambda base: get_peft_model(base, LoraConfig(target_modules=["query", "value"])),
}


def batch(tokens=6):
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(1, 50, (4, tokens), generator=generator),
        "attention_mask": torch.ones(4, tokens, dtype=torch.long),
        "task": torch.tensor([2, 0, 1, 0]),
    }


def outputs(model):
    with torch.no_grad():
        return model.eval()(**batch())


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_save_and_load_give_the_same_bits(adapter, tmp_path):
    model = MultiTaskModel(ADAPTERS[adapter](encoder()), TASKS)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save(tmp_path)
    torch.manual_seed(7)
    other = MultiTaskModel(ADAPTERS[adapter](encoder()), TASKS)
    other.load(tmp_path)
    before, after = outputs(model), outputs(other)
    assert before.keys() == after.keys() == {"logits", "token_logits"}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_pooling_is_saved_with_the_model(tmp_path):
    model = MultiTaskModel(encoder(), TASKS, pooling="mean")
    model.save(tmp_path)
    other = MultiTaskModel(encoder(), TASKS)
    assert other.pooling == "pooler"
    other.load(tmp_path)
    assert other.pooling == "mean"
    assert torch.equal(outputs(model)["logits"], outputs(other)["logits"])


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_pooling_by_hand(pooling):
    model = MultiTaskModel(encoder(), TASKS, pooling=pooling).eval()
    inputs = batch()
    inputs["attention_mask"][:, 4:] = 0
    with torch.no_grad():
        encoded = model.encoder(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        hidden = encoded.last_hidden_state
        vectors = {"pooler": encoded.pooler_output, "cls": hidden[:, 0], "mean": hidden[:, :4].mean(dim=1)}
        expected = model.heads(vectors[pooling], hidden, inputs["task"])["logits"]
        torch.testing.assert_close(model(**inputs)["logits"], expected)


def test_without_a_pooler_the_first_token_stands_for_the_text():
    config = DistilBertConfig(vocab_size=50, dim=24, n_layers=1, n_heads=2, hidden_dim=32)
    model = MultiTaskModel(DistilBertModel(config), TASKS)
    assert model.pooling == "cls"
    with pytest.raises(ValueError, match="`pooling`: DistilBertModel has no pooler"):
        MultiTaskModel(DistilBertModel(config), TASKS, pooling="pooler")


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    MultiTaskModel(ADAPTERS["ca_mtl"](encoder()), TASKS).save(tmp_path)
    other = get_peft_model(encoder(), CAMTLConfig(num_tasks=3, max_length=16, norm_layers="0-1", freeze_layers="0"))
    with pytest.raises(RunError, match="does not fit this recipe's model, adapter or labels"):
        MultiTaskModel(other, TASKS).load(tmp_path)


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(RunError, match="holds no saved model"):
        MultiTaskModel(encoder(), TASKS).load(tmp_path)


def test_weights_that_a_checkpoint_lacks_are_told_in_a_line(tmp_path, caplog, capsys):
    path = tiny_encoder(tmp_path)
    weights = load_file(path / "model.safetensors")
    lost = "encoder.layer.1.output.dense.weight"
    save_file({name: value for name, value in weights.items() if name != lost}, path / "model.safetensors")
    _, missing = load_encoder(str(path))
    assert missing == {lost}
    assert f"lacks 1 of its encoder's weights ({lost}); they start at random" in caplog.text
    assert "LOAD REPORT" not in capsys.readouterr().err


def test_weights_of_other_shapes_than_the_configuration_are_refused(tmp_path):
    path = tiny_encoder(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "intermediate_size": 10}))
    with pytest.raises(UserError, match="weights have other shapes"):
        load_encoder(str(path))
