"""A language model that answers in text: T5's kind (encoder-decoder) or GPT's and Llama's kind (decoder-only).

The counterpart of `taskloom.model.MultiTaskModel` for text2text and lm tasks: no heads, since every task speaks through
the model's own vocabulary. The loss of an example is the mean negative log-likelihood of its answer's tokens, the end
token included, and that of a batch the same mean over tasks. `log_probability` is the sum over the whole answer,
log p(answer | prompt), from which Grad-TAG's margin log p/(1 - p) follows (arXiv 2409.06091, section 3.1: the published
code takes the first token only).
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from taskloom.heads import IGNORED, mean_over_tasks
from taskloom.likelihoods import AnswerLikelihoods
from taskloom.model import (
    Declaration,
    below,
    count_parameters,
    load_backbone,
    require_tasks,
    save_backbone,
    save_declaration,
)
from taskloom.tasks import Task

__all__ = ["GenerativeModel"]


class GenerativeModel(nn.Module):
    """A language model, plain or wrapped by any PEFT method, that answers the text2text and lm tasks of a suite.

    Args:
        backbone: a `transformers` model with a language-modelling head, or a `PeftModel` of one.
        tasks: the suite's tasks in order; the position of a task is its id.
        label_smoothing: share, in [0, 1), of each answer token's target that goes to all words of the vocabulary
            alike. It enters the losses in training mode only; `log_probability`, and in evaluation mode the losses,
            are those of the answers as they are.

    Raises:
        ValueError: a task needs a head on an encoder, an lm task meets an encoder-decoder model, or `label_smoothing`
            is no such share.
    """

    backbone_folder: ClassVar[str] = "language_model"
    sharded_calls: ClassVar[tuple[str, ...]] = ("generate", "generate_scored")

    def __init__(
        self, backbone: PreTrainedModel | PeftModel, tasks: Sequence[Task], label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be a share in [0, 1), found {label_smoothing}")
        self.tasks = tuple(tasks)
        self.label_smoothing = label_smoothing
        self.backbone = backbone
        base: Any = backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
        self.layout: Literal["encoder_decoder", "decoder"] = (
            "encoder_decoder" if base.config.is_encoder_decoder else "decoder"
        )
        for task in tasks:
            if task.needs_head:
                raise ValueError(f"`tasks`: '{task.name}' is of kind '{task.kind}', which needs a head on an encoder")
            if task.kind == "lm" and self.layout == "encoder_decoder":
                raise ValueError(f"`tasks`: '{task.name}' is of kind 'lm', which needs a decoder-only model")
        self._takes = set(inspect.signature(base.forward).parameters)
        # Methods that condition on the task or on the prompt take its id or its extent; PEFT's others would pass these
        # arguments on to the model.
        tuner = getattr(backbone, "base_model", None)
        self.conditions_on_task = getattr(tuner, "conditions_on_task", False)
        self.conditions_on_prompt = self.layout == "decoder" and getattr(tuner, "conditions_on_prompt", False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None, task: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and the log-probability of each example's answer.

        Args:
            input_ids: ``[batch, tokens]``, the prompts; of a decoder-only model prompts and answers in one row.
            attention_mask: ``[batch, tokens]``, 0 on padding, on either side.
            labels: ``[batch, answer tokens]``, -100 where there is nothing to predict. Of a decoder-only model
                they belong to the last columns of `input_ids`, as many as there are; all of them if the widths are
                equal. Vocabulary logits are made for these columns alone.
            task: ``[batch]``, task ids; None takes all examples for one task.

        Returns:
            ``logits`` ``[batch, answer tokens, vocabulary]``, each the prediction of the label at its place; with
            `labels` also ``log_probability`` ``[batch]``, the sum of the labels' log-probabilities,
            ``example_loss`` ``[batch]``, ``loss`` (mean over the tasks present), ``loss_sums`` and ``counts``
            ``[tasks]``.
        """
        inputs: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": False}
        if self.conditions_on_task and task is not None:
            inputs["task"] = task
        if self.conditions_on_prompt:
            inputs["prompt_length"] = _prompt_columns(input_ids, labels)
        if self.layout == "encoder_decoder":
            logits = self._answer_logits(input_ids, labels, inputs)
        else:
            logits = self._last_logits(input_ids, attention_mask, labels, inputs)
        outputs = {"logits": logits}
        if labels is not None:
            outputs |= self._losses(logits, labels, task)
        return outputs

    def _answer_logits(self, input_ids: Tensor, labels: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        base = self._base
        if labels is None:
            start = torch.full_like(input_ids[:, :1], base.config.decoder_start_token_id)
        else:
            # The model would make these itself from labels, and a loss that nobody needs.
            start = base.prepare_decoder_input_ids_from_labels(labels=labels)
        return self.backbone(input_ids=input_ids, decoder_input_ids=start, **inputs).logits

    def _last_logits(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None, inputs: dict[str, Any]
    ) -> Tensor:
        width = input_ids.shape[1] if labels is None else labels.shape[1]
        wanted = min(width + 1, input_ids.shape[1])  # a token is predicted at the position before it
        if "position_ids" in self._takes:
            inputs["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = wanted
        logits = self.backbone(input_ids=input_ids, **inputs).logits[:, -wanted:]
        if wanted == width:
            logits = F.pad(logits, (0, 0, 1, 0))  # nothing comes before the first column, which no label may have
        return logits[:, :-1]

    def _losses(self, logits: Tensor, labels: Tensor, task: Tensor | None) -> dict[str, Tensor]:
        labelled = labels != IGNORED
        log_probabilities = F.log_softmax(logits.float(), dim=-1)
        nll = F.nll_loss(
            log_probabilities.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)
        log_probability = -nll.sum(dim=1)
        if self.training and self.label_smoothing:
            nll = _smoothed(nll, log_probabilities, labelled, self.label_smoothing)
        example_loss = nll.sum(dim=1) / labelled.sum(dim=1).clamp(min=1)
        task = torch.zeros(len(labels), dtype=torch.long, device=labels.device) if task is None else task
        loss, sums, counts = mean_over_tasks(example_loss, task, len(self.tasks))
        return {
            "log_probability": log_probability,
            "example_loss": example_loss,
            "loss": loss,
            "loss_sums": sums,
            "counts": counts,
        }

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        task: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Answer prompts, by default greedily.

        Args:
            input_ids: ``[batch, tokens]``, padded on the left for decoder-only models.
            attention_mask: ``[batch, tokens]``.
            max_new_tokens: longest answer.
            task: ``[batch]``, task ids, for methods that condition on them.
            options: further arguments of `generate` in transformers.

        Returns:
            ``[batch, answer tokens]``, token ids without the prompt.
        """
        generated = self._generate(input_ids, attention_mask, max_new_tokens, task, **options)
        return generated if self.layout == "encoder_decoder" else generated[:, input_ids.shape[1] :]

    @torch.no_grad()
    def generate_scored(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        task: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Answer prompts, and say how likely the model holds each answer to be; arguments as `generate`, no sampling.

        Returns:
            The answers, and ``[batch]`` log p(answer | prompt), the end token included where the answer has one: what
            `forward` gives as ``log_probability``.
        """
        end_token, beams = options.get("eos_token_id"), options.get("num_beams", 1)
        with AnswerLikelihoods(self._base, max_new_tokens, beams, end_token) as likelihoods:
            options |= {"return_dict_in_generate": True, "logits_processor": [likelihoods]}
            found = self._generate(input_ids, attention_mask, max_new_tokens, task, **options)
        prompt = 1 if self.layout == "encoder_decoder" else input_ids.shape[1]
        answers = found.sequences[:, prompt:]
        return answers, likelihoods.of(answers, getattr(found, "beam_indices", None))

    def _generate(
        self, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int, task: Tensor | None, **options: Any
    ) -> Any:
        options = {"do_sample": False, "num_beams": 1, **options}
        if self.conditions_on_task and task is not None:
            options["task"] = task
        return self.backbone.generate(  # pyright: ignore[reportCallIssue]
            input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, **options
        )

    @property
    def _base(self) -> Any:
        return self.backbone.get_base_model() if isinstance(self.backbone, PeftModel) else self.backbone

    def head_parameters(self) -> list[nn.Parameter]:
        """Return no parameters: the tasks have no heads."""
        return []

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the trained parts, ``language_model/`` (whole, or only the adapter), and the tasks.

        Args:
            folder: where to.
            weights: the model's state, if the model itself holds only shards of it.
        """
        save_backbone(self.backbone, folder / self.backbone_folder, below("backbone.", weights))
        save_declaration(folder, Declaration(family="generative", tasks=self.tasks))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into this model, which must have the same backbone, adapter and tasks.

        Raises:
            RunError: the files are of another model, adapter or task list.
        """
        require_tasks(folder, self.tasks)
        load_backbone(self.backbone, folder / self.backbone_folder, folder)

    def trainable_parameters(self) -> tuple[int, int]:
        """Return the number of trained and of all parameters."""
        return count_parameters(self)


def _smoothed(nll: Tensor, log_probabilities: Tensor, labelled: Tensor, share: float) -> Tensor:
    """Return the label-smoothed losses of the answers' tokens, ``[batch, answer tokens]``.

    With V words, a token of loss -log p(y) has the loss ``-(1 - share) log p(y) - share / V * sum_v log p(v)``: the
    convention of fairseq, of the published Hyperdecoders code and of torch's `cross_entropy` alike. The published code
    (with its setting ``loss_scaling`` false, as in all its configurations) adds these up over the batch, where ours are
    means over an answer's tokens, so that a long answer does not outweigh a short one.

    Args:
        nll: ``[batch, answer tokens]``, 0 where there is no label.
        log_probabilities: ``[batch, answer tokens, vocabulary]``, whose softmax has been taken once, for `nll` too.
        labelled: ``[batch, answer tokens]``, whether there is a label.
        share: what of the target goes to all words alike.
    """
    # A sum and a division, not a mean: its backward pass spreads one number over the vocabulary without a copy.
    uniform = -log_probabilities.sum(dim=-1) / log_probabilities.shape[-1]
    return (1 - share) * nll + share * uniform * labelled


def _prompt_columns(input_ids: Tensor, labels: Tensor | None) -> int | Tensor:
    """Return how many columns of a decoder-only model's input are prompt; ``[batch]`` if the labels cover them all."""
    if labels is None:
        return input_ids.shape[1]
    if labels.shape[1] < input_ids.shape[1]:
        return input_ids.shape[1] - labels.shape[1]
    return (labels != IGNORED).int().argmax(dim=1)
