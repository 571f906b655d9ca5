"""The cost of auxiliary objectives: learning their weights, over the published procedure and over static weights.

    python -m benchmarks.auxiliary [--quick] [views] [outputs]

A step at MiniLM's size (6 layers, 384 wide, vocabulary 30,522; random weights): 32 labelled rows, 64 rows of eight
objectives, 32 held-out rows, 64 tokens each, as large as a micro-batch of the published runs, and AdamW on everything.

views: the eight objectives are eight views of the text (two transforms, four representations), each with a forward pass
of its own. outputs: they are four views with two outputs each (denoise and tf), so four forward passes.

taskloom, learned: the full step, with a held-out gradient, a fitted dev head, a gradient and a cosine an objective.
taskloom, learned, top 2: the same, where gradients are compared on the two top layers. taskloom, static: both learning
rates of the weights are 0. plain: one forward and backward pass of one batch of as many rows, with the classes of the
labelled ones and masked language modelling at 15% of the other tokens. published: `benchmarks/reference/auxiliary.py`
as its authors run it; leanest: the same with one vocabulary head for all objectives, as here, and without the
vocabulary logits that its body computes in vain. Its fit of the dev head ends early where the loss stands still;
`dev_passes` says after how many passes through the body.

Targets: learned at most half of published (aim: a third) and 1.5 of static; static at most 1.1 of plain. They are for
the size above: with half the rows, what costs the same for any number of rows (a gradient of all parameters for each
objective) weighs twice as much. Peak memory counts tensors at a step's peak, its gradients among them but not
parameters and AdamW's state; resident memory beside it. Times are processor time on one thread, on a GPU elapsed time.
"""

import argparse
import statistics
import tempfile
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast, TrainingArguments

from benchmarks.measure import Run, interleaved_seconds, peak_allocated, peak_memory, print_row, ratio
from benchmarks.reference.auxiliary import AuxiliaryBatch, LabelledBatch, PublishedAuxiliary
from taskloom.auxiliary import AuxiliaryTrainer, ObjectiveWeights, SearchSpace
from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.views import additive, visibility
from taskloom.auxiliary.vocabulary import VocabularyHead
from taskloom.model import MultiTaskModel
from taskloom.tasks import Task, TaskSuite
from taskloom.tasks.examples import Examples

TOKENS, CLASSES, TF_CLASSES = 64, 6, 4
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
REPRESENTATIONS = ["bidirectional", "left-to-right", "right-to-left", "random-factorized"]
SPACES: dict[str, dict[str, list[str]]] = {
    "views": {
        "data": ["task"],
        "transforms": ["replace", "mask"],
        "representations": REPRESENTATIONS,
        "outputs": ["denoise"],
    },
    "outputs": {
        "data": ["task"],
        "transforms": ["replace", "mask"],
        "representations": REPRESENTATIONS[:2],
        "outputs": ["denoise", "tf"],
    },
}
LEARNED, TOP, STATIC, PLAIN = "taskloom, learned", "taskloom, learned, top 2", "taskloom, static", "plain"
PUBLISHED: dict[str, dict[str, Any]] = {
    "published": {},
    "published, leanest": {"share_heads": True, "idle_logits": False},
}


def bert_config() -> BertConfig:
    return BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def words(rows: int, seed: int) -> Tensor:
    """Return rows of random words between the two special tokens, ``[rows, tokens]``."""
    ids = torch.randint(len(SPECIAL), 30522, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
    return ids


def classes(rows: int, seed: int) -> Tensor:
    return torch.randint(CLASSES, (rows,), generator=torch.Generator().manual_seed(seed))


class FixedRows:
    """Rows that are always the same: drawing them costs nothing."""

    name = "task"

    def supports(self, output: str) -> None:
        return None

    def draw(self, rows: str, n: int, generator: np.random.Generator) -> RowBatch:
        ids = words(n, seed=3)
        special = ids < len(SPECIAL)
        frequencies = (ids % TF_CLASSES).masked_fill(special, -100)
        zeros = torch.zeros(n, dtype=torch.long)
        return RowBatch(ids, torch.ones_like(ids), special, zeros, targets={"tf": frequencies})


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(SPECIAL)}
    vocabulary |= {f"w{index}": index for index in range(len(SPECIAL), 30522)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)


def labelled_suite(rows: int) -> TaskSuite:
    task = Task(name="task", inputs=("text",), labels=tuple(map(str, range(CLASSES))), path="none")
    examples = {}
    for seed, split in enumerate(("train", "dev")):
        texts = [(" ".join(f"w{index}" for index in row[1:-1]),) for row in words(rows, seed).tolist()]
        examples["task", split] = Examples(texts, classes(rows, seed).tolist(), list(range(1, rows + 1)), "random")
    return TaskSuite([task.model_copy(update={"splits": {"train": "train", "dev": "dev"}})], examples)


def trainer(
    space: SearchSpace, rows: int, folder: str, primary_lr: float, auxiliary_lr: float, layers: int | None
) -> AuxiliaryTrainer:
    torch.manual_seed(0)
    suite = labelled_suite(rows)
    model = MultiTaskModel(BertModel(bert_config()), list(suite), pooling="mean")
    embedding: Any = model.encoder.get_input_embeddings()
    return AuxiliaryTrainer(
        model,
        TrainingArguments(folder, per_device_train_batch_size=rows, report_to="none", disable_tqdm=True),
        suite,
        word_tokenizer(),
        max_length=TOKENS,
        weights=ObjectiveWeights(space, primary_lr=primary_lr, auxiliary_lr=auxiliary_lr, step_every=3),
        sources={"task": FixedRows()},
        vocabulary=VocabularyHead(BertForMaskedLM(bert_config()), embedding, pretrained=False),
        dev_batch_size=rows,
        step={
            "rows": 2 * rows,
            "objectives_per_step": len(space),
            "split": "even",
            "cosine_layers": layers,
            "chunk": 2 * rows,
        },
    )


def trainer_step(own: AuxiliaryTrainer) -> Run:
    inputs = next(iter(own.get_train_dataloader()))
    optimizer = own.create_optimizer()
    own.current_gradient_accumulation_steps = 1
    network: Any = own.model

    def step() -> None:
        own.training_step(network, dict(inputs))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        network.zero_grad()

    return step


def plain_step(rows: int, device: str) -> Run:
    """Return one training step on one batch: classes of a third of its rows, masked words of the others."""
    torch.manual_seed(0)
    model: Any = BertForMaskedLM(bert_config()).train()
    model.to(device)
    head = torch.nn.Linear(384, CLASSES).to(device)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ids = words(3 * rows, seed=3)
    masked = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(4)) < 0.15) & (ids >= len(SPECIAL))
    masked[:rows] = False
    inputs = ids.masked_fill(masked, SPECIAL.index("[MASK]")).to(device)
    targets, labels, masked, mask = (
        x.to(device) for x in (ids[masked], classes(rows, 0), masked, torch.ones_like(ids))
    )

    def step() -> None:
        states = model.bert(inputs, mask).last_hidden_state
        loss = F.cross_entropy(head(states[:rows].mean(dim=1)), labels)
        (loss + F.cross_entropy(model.cls(states[masked]), targets)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def labelled_batch(rows: int, seed: int, device: str) -> LabelledBatch:
    ids = words(rows, seed)
    return LabelledBatch(ids.to(device), torch.ones_like(ids).to(device), classes(rows, seed).to(device))


def auxiliary_batches(space: SearchSpace, rows: int, device: str) -> list[AuxiliaryBatch]:
    """Return a batch a view, as large as those of `trainer`."""
    views: dict[tuple[str, str], list[int]] = {}
    for index, objective in enumerate(space):
        views.setdefault((objective.transform, objective.representation), []).append(index)
    generator = torch.Generator().manual_seed(5)
    batches = []
    for (_, representation), members in views.items():
        ids = words(2 * rows // len(views), seed=3)
        seen = visibility(representation, torch.ones_like(ids), generator).mask
        mask = torch.ones_like(ids) if seen is None else additive(seen, torch.float32)
        counted = torch.rand(ids.shape, generator=generator) < 0.15
        targets = {"denoise": ids.where(counted, -100), "tf": (ids % TF_CLASSES).masked_fill(ids < len(SPECIAL), -100)}
        of_objective = {indices(space, index): targets[space[index].output].to(device) for index in members}
        batches.append(AuxiliaryBatch(ids.to(device), mask.to(device), of_objective))
    return batches


def indices(space: SearchSpace, index: int) -> tuple[int, int, int, int]:
    data, transform, representation, output = (int(value) for value in space.stage_indices[index])
    return data, transform, representation, output


def published(space: SearchSpace, device: str, options: dict[str, Any]) -> PublishedAuxiliary:
    torch.manual_seed(0)
    data, transforms, representations, outputs = (len(values) for values in space.stages.values())
    with torch.device(device):
        return PublishedAuxiliary(
            bert_config(),
            CLASSES,
            [indices(space, index) for index in range(len(space))],
            [None if output == "denoise" else TF_CLASSES for output in space.outputs],
            (data, transforms, representations, outputs),
            **options,
        )


def published_step(method: PublishedAuxiliary, space: SearchSpace, rows: int, device: str) -> Run:
    primary, held_out = (labelled_batch(rows, seed, device) for seed in (0, 1))
    batches = auxiliary_batches(space, rows, device)

    def step() -> None:
        method.micro_batch(primary, batches, primary, held_out)
        method.step()

    return step


def rows_of(setting: str, quick: bool, rounds: int, device: str, folder: str) -> None:
    rows, compared = (16, ["published"]) if quick else (32, list(PUBLISHED))
    space = SearchSpace.from_mapping(SPACES[setting])
    trainers = {
        LEARNED: trainer(space, rows, folder, 0.1, 1.0, None),
        TOP: trainer(space, rows, folder, 0.1, 1.0, 2),
        STATIC: trainer(space, rows, folder, 0.0, 0.0, None),
    }
    methods = {name: published(space, device, PUBLISHED[name]) for name in compared}
    steps = {name: trainer_step(each) for name, each in trainers.items()}
    steps[PLAIN] = plain_step(rows, device)
    steps |= {name: published_step(method, space, rows, device) for name, method in methods.items()}
    seconds = interleaved_seconds(steps, rounds, warmup=1)
    peaks = {name: peak_allocated(step) for name, step in steps.items()}
    resident = {name: None if quick else peak_memory(step) for name, step in steps.items()}
    targets = {LEARNED: "over_published <= 0.5, over_static <= 1.5", STATIC: "over_plain <= 1.1"}
    for name in steps:
        print_row(
            benchmark=setting,
            variant=name,
            over_published=ratio(seconds, name, "published"),
            over_leanest_published=ratio(seconds, name, compared[-1]),
            over_static=ratio(seconds, name, STATIC),
            over_plain=ratio(seconds, name, PLAIN),
            target=None if quick else targets.get(name),
            peak_megabytes=peaks[name] / 1e6,
            resident_megabytes=None if (held := resident[name]) is None else held / 1e6,
            seconds=statistics.median(seconds[name]),
            dev_passes=methods[name].dev_passes if name in methods else None,
            labelled_rows=rows,
            auxiliary_rows=2 * rows,
            objectives=len(space),
            device=device,
            rounds=rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(SPACES)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="half the rows, eight views, one round: within two minutes"
    )
    parser.add_argument("--rounds", type=int, help="rounds (default 3, quick 1)")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(SPACES)):
        parser.error(f"{unknown[0]!r} is no part: one of {', '.join(SPACES)}")
    parts = arguments.parts or (["views"] if arguments.quick else list(SPACES))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        for setting in parts:
            rows_of(setting, arguments.quick, arguments.rounds or (1 if arguments.quick else 3), device, folder)


if __name__ == "__main__":
    main()
