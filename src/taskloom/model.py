"""One encoder, one head per task: the model that is trained, saved and used for predictions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from peft import PeftModel
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from taskloom.errors import RunError
from taskloom.heads import TaskHeads, mean_over_tasks
from taskloom.storage import write_atomically
from taskloom.tasks import Task

__all__ = [
    "Declaration",
    "MultiTaskModel",
    "Pooling",
    "below",
    "count_parameters",
    "load_backbone",
    "read_declaration",
    "require_tasks",
    "save_backbone",
    "save_declaration",
]

Pooling = Literal["pooler", "cls", "mean"]

HEADS_FILE = "heads.safetensors"
DECLARATION_FILE = "multitask.json"
ENCODER_FOLDER = "encoder"
ADAPTER_FILE = "adapter_model.safetensors"


class Declaration(BaseModel):
    """What a saved model says about itself, besides its weights."""

    family: Literal["encoder", "generative"] = "encoder"
    pooling: Pooling | None = None
    tasks: tuple[Task, ...]


class MultiTaskModel(nn.Module):
    """An encoder, plain or wrapped by any PEFT method, with the heads of a suite's tasks.

    Args:
        encoder: a `transformers` encoder, or a `PeftModel` of one.
        tasks: the suite's tasks in order; the position of a task is its id.
        pooling: how a sequence becomes one vector: the encoder's own pooler, its first token, or the mean of its
            real tokens. None takes the pooler if the encoder has one, else the first token.
        head_dropout: dropout before the heads.
    """

    backbone_folder: ClassVar[str] = ENCODER_FOLDER
    layout: Literal["encoder"] = "encoder"

    def __init__(
        self,
        encoder: PreTrainedModel | PeftModel,
        tasks: Sequence[Task],
        pooling: Pooling | None = None,
        head_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        base: Any = encoder.get_base_model() if isinstance(encoder, PeftModel) else encoder
        has_pooler = getattr(base, "pooler", None) is not None
        if pooling == "pooler" and not has_pooler:
            raise ValueError(f"`pooling`: {type(base).__name__} has no pooler; choose 'cls' or 'mean'")
        self.tasks = tuple(tasks)
        self.encoder = encoder
        self.pooling: Pooling = pooling or ("pooler" if has_pooler else "cls")
        self.heads = TaskHeads(
            tasks, base.config.hidden_size, head_dropout, getattr(base.config, "initializer_range", 0.02)
        )
        # Methods that condition on the task take its id; PEFT's others would pass the argument on to the encoder.
        self.conditions_on_task = getattr(getattr(encoder, "base_model", None), "conditions_on_task", False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        task: Tensor,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        token_labels: Tensor | None = None,
        span_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Encode a batch that may mix tasks and apply each example's own head.

        Args:
            input_ids: ``[batch, tokens]``.
            attention_mask: ``[batch, tokens]``, 0 on padding.
            task: ``[batch]``, task ids.
            token_type_ids: ``[batch, tokens]``, for encoders that use them.
            labels, token_labels, span_labels: targets, see `TaskHeads.example_loss`.

        Returns:
            The heads' outputs (see `TaskHeads.forward`); with `labels` also ``example_loss`` ``[batch]``, ``loss``
            (mean over the tasks present), ``loss_sums`` and ``counts`` ``[tasks]``.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if self.conditions_on_task:
            inputs["task"] = task
        encoded = self.encoder(**inputs)
        hidden = encoded.last_hidden_state
        pooled = encoded.pooler_output if self.pooling == "pooler" else self.pool(hidden, attention_mask)
        outputs = self.heads(pooled, hidden, task)
        if labels is not None:
            loss = self.heads.example_loss(outputs, task, labels, attention_mask, token_labels, span_labels)
            outputs["example_loss"] = loss
            outputs["loss"], outputs["loss_sums"], outputs["counts"] = mean_over_tasks(loss, task, self.heads.num_tasks)
        return outputs

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Turn the encoder's last hidden states, ``[batch, tokens, hidden]``, into one vector an example.

        Args:
            hidden: ``[batch, tokens, hidden]``.
            attention_mask: ``[batch, tokens]``, 0 on padding.
        """
        if self.pooling == "pooler":
            encoder: Any = self.encoder.get_base_model() if isinstance(self.encoder, PeftModel) else self.encoder
            if isinstance(encoder.pooler, nn.Linear):  # ALBERT's is a layer without its activation
                return encoder.pooler_activation(encoder.pooler(hidden[:, 0]))
            return encoder.pooler(hidden)
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that belong to single tasks."""
        return list(self.heads.parameters())

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the trained parts: ``encoder/`` (whole, or only the adapter) and ``heads.safetensors``.

        Args:
            folder: where to.
            weights: the model's state, if the model itself holds only shards of it.
        """
        save_backbone(self.encoder, folder / ENCODER_FOLDER, below("encoder.", weights))
        found = below("heads.", weights) or self.heads.state_dict()
        heads = {name: value.contiguous() for name, value in found.items()}
        save_file(heads, folder / HEADS_FILE)
        save_declaration(folder, Declaration(pooling=self.pooling, tasks=self.tasks))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into this model, which must have the same encoder, adapter and tasks.

        Raises:
            RunError: the files are of another model, adapter or task list.
        """
        declaration = require_tasks(folder, self.tasks)
        self.pooling = declaration.pooling or self.pooling
        load_backbone(self.encoder, folder / ENCODER_FOLDER, folder)
        with _fits(folder):
            self.heads.load_state_dict(load_file(folder / HEADS_FILE))

    def trainable_parameters(self) -> tuple[int, int]:
        """Return the number of trained and of all parameters."""
        return count_parameters(self)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of trained and of all parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def below(prefix: str, weights: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """Return the weights of a part of a model, by their names in that part."""
    if weights is None:
        return None
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def save_backbone(
    backbone: PreTrainedModel | PeftModel, folder: Path, weights: dict[str, Tensor] | None = None
) -> None:
    """Write a pretrained model's weights, or only its adapter's; `weights` stand in for its own."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    backbone.save_pretrained(str(folder), **given)


def load_backbone(backbone: PreTrainedModel | PeftModel, folder: Path, run: Path) -> None:
    """Read what `save_backbone` wrote into a model of the same kind.

    Raises:
        RunError: the files are of another model or adapter; the message names `run`.
    """
    with _fits(run):
        if isinstance(backbone, PeftModel):
            state = load_file(folder / ADAPTER_FILE)
            expected = set(get_peft_model_state_dict(backbone, save_embedding_layers=False))
            if difference := expected.symmetric_difference(state):
                raise KeyError(f"adapter parameters differ, first: {min(difference)}")
            set_peft_model_state_dict(backbone, state)
        else:
            trained = type(backbone).from_pretrained(str(folder), dtype=backbone.dtype)
            backbone.load_state_dict(trained.state_dict())


def save_declaration(folder: Path, declaration: Declaration) -> None:
    """Write what a saved model says about itself."""
    write_atomically(folder / DECLARATION_FILE, declaration.model_dump_json(indent=2, exclude_defaults=True))


def require_tasks(folder: Path, tasks: Sequence[Task]) -> Declaration:
    """Return what a saved model says about itself.

    Raises:
        RunError: the folder holds no saved model, or one of other tasks.
    """
    declaration = read_declaration(folder)
    saved = [task.name for task in declaration.tasks]
    if saved != [task.name for task in tasks]:
        raise RunError(
            f"{folder}: was trained on the tasks {', '.join(saved)}, "
            f"not on {', '.join(task.name for task in tasks)}. Use the recipe that it was trained with."
        )
    return declaration


@contextmanager
def _fits(folder: Path) -> Iterator[None]:
    """Say of weights that do not fit what they do not fit."""
    try:
        yield
    except SafetensorError as error:
        raise RunError(f"{folder}: its weights are damaged ({error}). Train again, or copy them again") from error
    except (RuntimeError, KeyError, OSError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        # torch's first line only says that there are errors, and for which class.
        reason = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]
        raise RunError(
            f"{folder}: does not fit this recipe's model, adapter or labels ({reason.rstrip('.')}). "
            "Use the recipe that it was trained with."
        ) from error


def read_declaration(folder: Path) -> Declaration:
    """Return what a saved model says about itself.

    Raises:
        RunError: the folder holds no saved model.
    """
    try:
        return Declaration.model_validate_json((folder / DECLARATION_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: holds no saved model ({error}). Train one, or finish it with --resume.") from error
