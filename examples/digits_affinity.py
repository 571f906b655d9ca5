"""Task affinity for any torch module: who was asked the same question? From a base model to groups in half a minute.

    python -m examples.digits_affinity

Eight annotators have each labelled a few of scikit-learn's 8 x 8 digits. Four were asked whether the digit is even,
four whether it is five or more; which ones is not written down. An annotator is a task. Annotators of one question can
learn from each other, the others cannot, and nothing but the images and the answers says so. What the affinity
estimate needs is what any project has:

1. a model: here a multi-layer perceptron with one logit a task, called as ``model(**batch)``;
2. a `DataLoader` of training and one of validation examples for each task;
3. an output function, ``(model's outputs, batch) -> [batch]``: the margin of the right answer, which for a binary
   label is the task's logit, or minus it.

Then: train the model once on all tasks; `collect_gradients` reads every example's projected gradient in one pass;
`SubsetSurrogate` and `affinity_matrix` estimate how each task does when it is trained with each other, without
training; `cluster_tasks` groups them.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from taskloom.affinity import SubsetSurrogate, affinity_matrix, cluster_tasks, collect_gradients, signed_logit
from taskloom.gradients import Projection

QUESTIONS: list[Callable[[NDArray], NDArray]] = [lambda digit: digit % 2 == 0, lambda digit: digit >= 5]
#: Which question each annotator was asked. The estimate does not see it.
ASKED = {"ann": 0, "ben": 1, "cleo": 1, "dan": 0, "eva": 1, "finn": 0, "gina": 0, "hugo": 1}
TASKS = list(ASKED)
Examples = list[dict[str, Tensor]]


class Classifier(nn.Module):
    """A small perceptron with one logit a task; `task` and `labels` are left for the output function."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, len(TASKS))
        )

    def forward(self, pixels: Tensor, task: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return self.layers(pixels)


def margin(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """The output function: the logit of the example's task, signed by its label."""
    return signed_logit(logits.gather(1, batch["task"][:, None]).squeeze(1), batch["labels"])


def load(examples: int = 100) -> dict[str, dict[str, Examples]]:
    """For train and validation, each annotator's own images, drawn at random, with the answers."""
    pixels, digits = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype(np.float32) / 16)
    parts: dict[str, dict[str, Examples]] = {"train": {}, "validation": {}}
    for number, (task, question) in enumerate(ASKED.items()):
        drawn = np.random.default_rng(number).permutation(len(images))
        answers = torch.from_numpy(QUESTIONS[question](digits)).long()
        for start, part in enumerate(parts):
            rows = drawn[start * examples : (start + 1) * examples]
            parts[part][task] = [
                {"pixels": images[row], "task": torch.tensor(number), "labels": answers[row]} for row in rows
            ]
    return parts


def train(tasks: Mapping[str, Examples], epochs: int = 15, seed: int = 0) -> Classifier:
    """Train one model on all tasks."""
    torch.manual_seed(seed)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    everything = DataLoader([example for examples in tasks.values() for example in examples], 64, shuffle=True)
    for _ in range(epochs):
        for batch in everything:
            loss = F.softplus(-margin(model(**batch), batch)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def group(folder: Path, k: int = 2, seed: int = 0) -> tuple[Tensor, list[list[str]]]:
    """Return the affinity matrix and the groups; the gradients are stored in `folder`."""
    parts = load()
    model = train(parts["train"], seed=seed)
    loaders = {part: {task: DataLoader(rows, 64) for task, rows in tasks.items()} for part, tasks in parts.items()}
    store = collect_gradients(
        model, loaders["train"], margin, validation=loaders["validation"], folder=folder, projection=Projection(200)
    )
    affinity = affinity_matrix(SubsetSurrogate(store, C=0.01), metric="loss")
    clusters = cluster_tasks(affinity.symmetric("standardize").numpy(), k)
    return affinity.values, [[TASKS[task] for task in cluster] for cluster in clusters]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        affinity, groups = group(Path(folder) / "gradients")
    print("estimated: minus the loss of the row's task when it is trained with the column's\n")
    print("     ", *(f"{task:>7}" for task in TASKS))
    for task, row in zip(TASKS, affinity, strict=True):
        print(f"{task:5}", *(f"{value:7.3f}" for value in row.tolist()))
    print()
    for members in groups:
        print(f"group: {', '.join(members)} (asked question {', '.join(str(ASKED[task]) for task in members)})")


if __name__ == "__main__":
    main()
