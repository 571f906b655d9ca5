"""Answers of a trained generative model: by greedy generation, or the likeliest of an example's choices."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taskloom.evaluation.candidates import Candidate, likeliest_answer
from taskloom.generative import GenerativeModel
from taskloom.inference import Inference, Outputs
from taskloom.shares import over_processes
from taskloom.tasks import Examples, Task, TaskFeatures
from taskloom.tasks.answers import answer_ids, longest_answer
from taskloom.tasks.collate_text import Text2TextCollator

__all__ = ["TextInference"]


class TextInference(Inference):
    """A generative model with what it takes to feed it and to read its answers.

    Args:
        model: the model; it is put into evaluation mode for every call and back into its former mode.
        tokenizer: its tokenizer.
        batch_size: examples (or choices of examples) a forward pass.
        max_target_length: longest answer in tokens, of tasks that do not say their own and whose answers are not known.
        shared: whether several processes share the work. All of them must call then, and all get everything.
    """

    def __init__(
        self,
        model: GenerativeModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int = 64,
        max_target_length: int = 128,
        shared: bool = False,
    ) -> None:
        self.text_collator = Text2TextCollator(tokenizer, model.layout == "decoder")
        super().__init__(model, self.text_collator, batch_size, shared)
        self.generative = model
        self.tokenizer = tokenizer
        self.max_target_length = max_target_length

    @torch.no_grad()
    def predict(self, task: Task, features: TaskFeatures, examples: Examples) -> tuple[list[Any], Outputs]:
        """Answer all examples of one task.

        Returns:
            The answers as texts (of an lm task, each text's mean negative log-likelihood a token), and the outputs:
            `logits` are the log-probabilities of each example's choices, in the order of `Examples.choices`, if the
            task ranks them; `loss` is None without targets. Of a question over several windows the answer is the
            likeliest that is not empty, and `candidates` are the answers of all windows.
        """
        training = self.model.training
        self.model.eval()
        try:
            has_targets = len(features) > 0 and "target_ids" in features[0]
            losses = self._forward(features.__getitems__, features.lengths, "example_loss") if has_targets else None
            loss = None if losses is None else float(np.mean(losses))
            if task.kind == "lm":
                return list(losses if losses is not None else []), Outputs([], loss)
            if task.ranks:
                answers, scores = self._ranked(task, features, examples)
                return answers, Outputs(scores, loss)
            answers, scores = self._generated(task, features)
            if not task.keeps_candidates:
                return answers, Outputs([], loss)
            candidates: list[list[Candidate]] = [[] for _ in range(len(examples))]
            for example, answer, score in zip(features.examples.tolist(), answers, scores.tolist(), strict=True):
                candidates[example].append((answer, score))
            return [likeliest_answer(found) for found in candidates], Outputs([], loss, candidates)
        finally:
            self.model.train(training)

    def _targets(self, task: Task, features: TaskFeatures, examples: Examples) -> Sequence[Any]:
        if task.kind == "lm":
            return [len(item["target_ids"]) for item in features.__getitems__(range(len(features)))]
        return super()._targets(task, features, examples)

    def _generated(self, task: Task, features: TaskFeatures) -> tuple[list[str], np.ndarray]:
        """Return the generated answers and, if the task keeps candidates, -log p of each."""
        answers, scores = [""] * len(features), np.zeros(len(features))
        room = self._room(task)

        def run(positions: list[int]) -> tuple[list[str], np.ndarray | None]:
            batch = self._on_device(self.text_collator.prompts(features.__getitems__(positions)))
            options: dict[str, Any] = {
                "input_ids": batch["input_ids"],
                "attention_mask": batch["attention_mask"],
                "max_new_tokens": room,
                "task": batch["task"],
                "num_beams": task.num_beams or 1,
                "min_new_tokens": task.min_target_length,
                "pad_token_id": self.text_collator.padding,
                "eos_token_id": self.tokenizer.eos_token_id,
            }
            score = None
            if task.keeps_candidates:
                ids, log_probability = self.generative.generate_scored(**options)
                score = -log_probability.cpu().numpy()
            else:
                ids = self.generative.generate(**options)
            return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)], score

        batches = self._batches(features.lengths)
        for positions, (texts, score) in zip(batches, over_processes(run, batches, self.shared), strict=True):
            if score is not None:
                scores[positions] = score
            for position, text in zip(positions, texts, strict=True):
                answers[position] = text
        return answers, scores

    def _room(self, task: Task) -> int:
        """Return the most tokens of a generated answer: as declared, else as many as the task's known answers need."""
        longest = task.max_target_length or self.max_target_length
        if task.max_generated_length is not None:
            return task.max_generated_length
        if task.known_answers is not None:
            needed = longest_answer(task.known_answers, self.tokenizer, longest, self.generative.layout == "decoder")
            return max(needed, task.min_target_length or 0)
        return longest

    def _ranked(self, task: Task, features: TaskFeatures, examples: Examples) -> tuple[list[str], list[np.ndarray]]:
        """Score every choice of every example by its log-probability, the end token included."""
        items = features.__getitems__(range(len(features)))
        choices = examples.choices
        assert choices is not None
        sizes = [len(texts) for texts in choices]
        owners = np.repeat(np.arange(len(items)), sizes)
        flat = [text for texts in choices for text in texts]
        ids, _, _ = answer_ids(
            [examples.texts[owner][0] for owner in owners],
            flat,
            self.tokenizer,
            task.max_target_length or self.max_target_length,
            self.generative.layout == "decoder",
        )
        candidates = [{**items[owner], "target_ids": answer} for owner, answer in zip(owners, ids, strict=True)]
        lengths = np.array([len(item["input_ids"]) + len(item["target_ids"]) for item in candidates])
        found = self._forward(lambda positions: [candidates[p] for p in positions], lengths, "log_probability")
        scores = np.split(found, np.cumsum(sizes)[:-1])
        best = [texts[int(np.argmax(values))] for texts, values in zip(choices, scores, strict=True)]
        return best, scores

    def _forward(
        self, fetch: Callable[[list[int]], list[dict[str, Any]]], lengths: np.ndarray, name: str
    ) -> np.ndarray:
        """Return one of the model's outputs for items with targets, ``[items]``.

        Args:
            fetch: returns the items at some positions; a large split is never in memory as a whole.
            lengths: tokens of each item.
            name: of the output.
        """

        def run(positions: list[int]) -> np.ndarray:
            return self.generative(**self._on_device(self.text_collator(fetch(positions))))[name].float().cpu().numpy()

        found, batches = np.zeros(len(lengths)), self._batches(lengths)
        for positions, values in zip(batches, over_processes(run, batches, self.shared), strict=True):
            found[positions] = values
        return found

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        return {name: value.to(device) for name, value in batch.items()}
