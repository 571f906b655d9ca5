"""A tiny masked language model, rows without any text behind them, and trainers of both."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, TrainingArguments

from taskloom.auxiliary import AuxiliaryTrainer, ObjectiveWeights, SearchSpace
from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.vocabulary import load_vocabulary_head
from taskloom.backbones import load_encoder, load_tokenizer
from taskloom.model import MultiTaskModel
from tests.tiny import WORDS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}


def masked_encoder(folder: Path, layers: int = 3, hidden: int = 16, dropout: float = 0.0) -> Path:
    """Save a random BERT with its vocabulary head and a word tokenizer with a mask token."""
    model = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, model_max_length=64, **{f"{name}_token": token for name, token in names.items()}
    )
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.3,  # so that texts differ to an untrained model, and gradients are no rounding errors
    )
    BertForMaskedLM(config).save_pretrained(str(folder))
    return folder


STAGES = {
    "data": ["task"],
    "transforms": ["none", "mask", "noisy-embedding"],
    "representations": ["bidirectional", "left-to-right", "random-factorized"],
    "outputs": ["denoise", "tf", "tfidf", "cap", "next-sentence", "quick-thoughts", "fastsent"],
}


class RandomRows:
    """A source of random rows, of which the targets are random too."""

    name = "task"

    def supports(self, output: str) -> str | None:
        return None

    def draw(self, rows: str, n: int, generator: np.random.Generator) -> RowBatch:
        n = n - n % 2 if rows == "quick-thoughts" else n
        longest = 9
        lengths = generator.integers(4, longest + 1, size=n)
        lengths[0] = longest
        ids = np.full((n, longest), VOCABULARY["[PAD]"])
        special = np.ones((n, longest), dtype=bool)
        for row, length in enumerate(lengths):
            ids[row, 1 : length - 1] = generator.integers(len(SPECIAL), len(VOCABULARY), size=length - 2)
            ids[row, 0], ids[row, length - 1] = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
            special[row, 1 : length - 1] = False
        outside = torch.from_numpy(special)

        def classes(count: int, shape: tuple[int, ...]) -> torch.Tensor:
            return torch.from_numpy(generator.integers(count, size=shape))

        targets = {
            "tf": classes(4, (n, longest)).masked_fill(outside, -100),
            "cap": classes(2, (n, longest)).masked_fill(outside, -100),
            "tfidf": torch.from_numpy(generator.normal(size=(n, longest))).float().masked_fill(outside, 0),
            "fastsent": classes(len(WORDS), (n, 5)) + len(SPECIAL),
            "adjacent-sentence": classes(3, (n,)),
            **{name: classes(2, (n,)) for name in ("next-sentence", "sentence-order", "sentence-continuity")},
        }
        return RowBatch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(np.arange(longest) < lengths[:, None]).long(),
            special=outside,
            task=torch.zeros(n, dtype=torch.long),
            targets=targets,
        )


def arguments(folder: Path, **given: object) -> TrainingArguments:
    """Return training arguments for a few steps of gradient descent at a constant rate."""
    settings: dict = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "max_steps": 20,
        "learning_rate": 0.05,
        "optim": "sgd",  # AdamW would make steps of the noise in gradients that are zero
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 5,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(**{**settings, **given})


def make(
    folder,
    suite,
    out,
    *,
    weights=None,
    rates=(0.5, 2.0),
    step=None,
    stages=STAGES,
    args=None,
    wrap=None,
    source=None,
    **settings,
) -> AuxiliaryTrainer:
    """Return a trainer on a fresh model of fixed initial weights; `wrap` may put an adapter on its encoder."""
    torch.manual_seed(1)
    encoder, _ = load_encoder(str(folder))
    model = MultiTaskModel(encoder if wrap is None else wrap(encoder), list(suite), pooling="cls", head_dropout=0.0)
    vocabulary = load_vocabulary_head(str(folder), encoder)
    space = SearchSpace.from_mapping(stages)
    weights = ObjectiveWeights(space, primary_lr=rates[0], auxiliary_lr=rates[1], step_every=2)
    return AuxiliaryTrainer(
        model,
        arguments(out, **(args or {})),
        suite,
        load_tokenizer(str(folder)),
        weights=weights,
        sources={"task": source or RandomRows()},
        vocabulary=vocabulary,
        dev_batch_size=6,
        head_dropout=0.0,
        step={"rows": 16, "objectives_per_step": 4, "max_grad_norm": 0.5, **(step or {})},
        max_length=32,
        group_by_length=False,
        **settings,
    )
