"""How often a step makes the processor wait for the device: counted on the CPU, where nothing waits.

A step's reads are those of a longer run less those of a shorter one, so that neither the start nor the log counts.
Each forward pass of a model of transformers reads its mask once (`_ignore_causal_mask_sdpa`): that is theirs; the
bounds are of taskloom.
"""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification

from taskloom.affinity import collect_gradients, signed_logit
from taskloom.gradients import Projection, unrolled_meta_gradient
from taskloom.online import UniformWeighter, adapt
from taskloom.sampling import Proportional, Uncertainty
from taskloom.tasks import TaskSuite
from tests.auxiliary.support import make, masked_encoder
from tests.efficiency.reads import count_reads
from tests.online.test_adaptation import documents
from tests.online.test_meta_trainer import base_model, trainer, weighter
from tests.test_training import build
from tests.tiny import tiny_encoder, tiny_tasks
from tests.tiny_language import tiny_language_model, tiny_tokenizer

#: Reads of what is on the processor anyway: collated rows, the data's hash, the weights of objectives; `kept` looks
#: nowhere else.
ON_PROCESSOR = ("meta_batches.py <listcomp>", "store.py _feed", "weights.py", "agreement.py kept", "step.py __call__")


def own_reads(run, monkeypatch, few=2, many=6):
    """Return by function how often taskloom reads from the device in a step, ``run(steps)`` being a run of so many."""
    short, long = (count_reads(run(steps), monkeypatch) for steps in (few, many))
    return {
        place.removeprefix("taskloom/"): (long[place] - short[place]) / (many - few)
        for place in long
        if place.startswith("taskloom/") and long[place] > short[place] and not any(x in place for x in ON_PROCESSOR)
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reads")
    suite = TaskSuite.load(tiny_tasks(folder / "data"), cache_dir=folder / "cache")
    return tiny_encoder(folder / "encoder"), suite


def training(place, folder, sampling, steps):
    made = build(
        place, folder / str(steps), sampling=sampling, steps=steps, logging_steps=1000, logging_nan_inf_filter=False
    )
    made.evaluate_every = 1000
    return made.train


@pytest.mark.parametrize(("sampling", "most"), [(Proportional(), 0), (Uncertainty(max_pool=2), 3)])
def test_a_training_step(place, tmp_path, monkeypatch, sampling, most):
    # With uncertainty: the width of the chosen examples, so that no padding is computed.
    found = own_reads(lambda steps: training(place, tmp_path, sampling, steps), monkeypatch)
    assert sum(found.values()) <= most, found


def test_a_batch_of_a_collection(tmp_path, monkeypatch):
    def run(steps):
        config = BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=8,
            num_labels=1,
        )
        model = BertForSequenceClassification(config)
        data = TensorDataset(torch.randint(30, (4 * steps, 8)), torch.arange(4 * steps) % 2)
        return lambda: collect_gradients(
            model,
            {"a": DataLoader(data, batch_size=4)},
            lambda outputs, batch: signed_logit(outputs["logits"][:, 0], batch[1]),
            projection=Projection(8),
            forward=lambda model, batch: model(input_ids=batch[0]),
        )

    # Which rows of the three embeddings are touched; all else waits for the end of a shard.
    assert own_reads(run, monkeypatch) == {"projection.py _project_touched: _unique2": 3}


def test_a_document_of_a_stream(monkeypatch):
    tokenizer = tiny_tokenizer("gpt2")

    def run(steps):
        model, texts = tiny_language_model("gpt2"), documents(steps)
        return lambda: adapt(model, tokenizer, texts, UniformWeighter(), learning_rate=1e-3)

    # Loss, mean weight and whether all is finite come together; the gradient's norm is known after the step.
    found = own_reads(run, monkeypatch)
    assert found == {"adaptation.py update: tolist": 1, "adaptation.py step: _local_scalar_dense": 1}


def test_a_step_of_meta_training(tmp_path, monkeypatch):
    def run(steps):
        return trainer(tmp_path / str(steps), weighter(), base_model(), max_steps=steps, log_every=1000).train

    found = own_reads(run, monkeypatch)
    # The widths of documents and questions, and the positions of a vocabulary's logits that count.
    assert sum(found.values()) <= 8, found


def test_updates_of_a_meta_gradient(monkeypatch):
    def run(updates):
        model = base_model()
        document = {"input_ids": torch.arange(6)[None], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
        weights = [torch.ones(1, 6, dtype=torch.float64) for _ in range(updates)]

        def outer(model):
            return model(**document).logits.square().mean()

        return lambda: unrolled_meta_gradient(model, [document] * updates, weights, outer, 0.1, method="reverse")

    assert own_reads(run, monkeypatch) == {}


def test_an_auxiliary_step_reads_no_more_of_a_deeper_model(place, tmp_path, monkeypatch):
    task = place[1][place[1].names[0]]
    suite = TaskSuite([task], {(task.name, split): place[1].examples(task.name, split) for split in task.splits})
    totals = []
    for layers in (2, 4):
        encoder = masked_encoder(tmp_path / f"{layers}", layers=layers)

        def run(steps, encoder=encoder, layers=layers):
            made = make(encoder, suite, tmp_path / f"{layers}-{steps}")
            made.args.max_steps, made.args.logging_steps, made.evaluate_every = steps, 1000, 1000
            return made.train

        found = own_reads(run, monkeypatch)
        found.pop("step.py _differentiate: _local_scalar_dense", None)  # of the objectives' weights, on the processor
        totals.append(sum(found.values()))
        assert totals[-1] <= 20, found
    assert abs(totals[0] - totals[1]) < 2  # views are drawn


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_training_step_on_a_gpu(place, tmp_path):
    counts = []
    for steps in (4, 12):
        made = build(
            place, tmp_path / str(steps), steps=steps, logging_steps=1000, logging_nan_inf_filter=False, use_cpu=False
        )
        made.evaluate_every = 1000
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            made.train()
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing" in str(each.message) for each in told))
    assert (counts[1] - counts[0]) / 8 <= 3
