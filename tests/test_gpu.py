"""What needs a GPU: the same numbers as on the CPU, and training in bf16."""

import pytest
import torch
from peft import get_peft_model
from transformers import BertConfig, BertModel

from taskloom.adapters import CAMTLConfig
from taskloom.model import MultiTaskModel
from taskloom.tasks import Task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TASKS = [Task(name="topic", inputs="text", labels=("a", "b")), Task(name="score", kind="regression", inputs="text")]


def model_and_batch():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    adapter = CAMTLConfig(num_tasks=2, max_length=16, freeze_layers=None, init="published")
    model = MultiTaskModel(get_peft_model(BertModel(config), adapter), TASKS, head_dropout=0.0)
    batch = {
        "input_ids": torch.randint(64, (6, 12)),
        "attention_mask": (torch.arange(12) < torch.randint(4, 13, (6, 1))).long(),
        "task": torch.tensor([0, 1, 0, 1, 1, 0]),
        "labels": torch.tensor([1.0, 0.3, 0.0, 2.0, 1.5, 1.0]),
    }
    return model, batch


def loss_and_gradients(model, batch, device):
    model.to(device)
    loss = model(**{name: value.to(device) for name, value in batch.items()})["loss"]
    model.zero_grad()
    loss.backward()
    return loss.detach().cpu(), {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_equal_the_cpus():
    model, batch = model_and_batch()
    expected, expected_gradients = loss_and_gradients(model, batch, "cpu")
    found, found_gradients = loss_and_gradients(model, batch, "cuda")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-4)


def test_training_in_bf16_lowers_the_loss():
    model, batch = model_and_batch()
    model.to("cuda").train()
    batch = {name: value.to("cuda") for name, value in batch.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}])
def test_auxiliary_objectives_learn_their_weights(tmp_path, precision):
    from taskloom.tasks import TaskSuite
    from tests.auxiliary.support import make, masked_encoder
    from tests.tiny import tiny_tasks

    suite = TaskSuite.load(tiny_tasks(tmp_path / "data")[:1], cache_dir=tmp_path / "cache")
    folder = masked_encoder(tmp_path / "encoder")
    args = {"max_steps": 4, "use_cpu": False, "max_grad_norm": 1.0, **precision}
    trainer = make(folder, suite, tmp_path / "run", args=args)
    trainer.train()
    assert trainer.objective_weights.logits["joint"].abs().max() > 0
    assert trainer.tally.skipped.sum() == 0
    assert all(parameter.isfinite().all() for parameter in trainer.network.parameters())


@pytest.mark.parametrize("method", ["auto", "forward", "reverse"])
def test_meta_gradients_equal_the_cpus_and_go_in_bf16(method):
    from taskloom.gradients import unrolled_meta_gradient
    from tests.gradients.meta_support import build, differs, llama, stream

    def outer(updated):
        ids = torch.tensor([[3, 7, 1, 9, 4]], device=updated.device)
        return torch.nn.functional.cross_entropy(updated(input_ids=ids).logits[0, :-1].float(), ids[0, 1:])

    documents, weights, _ = stream(5, torch.float32)
    model = build(llama, torch.float32)
    _, expected = unrolled_meta_gradient(model, documents, weights, outer, 0.3)
    model.cuda()
    documents = [{name: value.cuda() for name, value in document.items()} for document in documents]
    weights = [weight.detach().cuda() for weight in weights]
    _, found = unrolled_meta_gradient(model, documents, weights, outer, 0.3, method=method)
    assert differs([gradient.cpu() for gradient in found], expected) < 1e-3
    with torch.autocast("cuda", dtype=torch.bfloat16):
        _, cast = unrolled_meta_gradient(model, documents, weights, outer, 0.3, method=method)
    _, stored = unrolled_meta_gradient(model.bfloat16(), documents, weights, outer, 0.3, method=method)
    for gradients in (cast, stored):
        a, b = (torch.cat([gradient.flatten().float() for gradient in each]) for each in (gradients, found))
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.95
