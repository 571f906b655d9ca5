"""`AuxiliaryTrainer` against a script that does every step of Algorithm 1 by brute force."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from taskloom.tasks import TaskSuite
from tests.auxiliary.support import make, masked_encoder
from tests.tiny import tiny_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return masked_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    return TaskSuite.load(tiny_tasks(data)[:1], cache_dir=data / "cache")


class Recorder:
    """What a trainer was given in each step: the tasks' batches, the objectives' rows, the held-out batch."""

    def __init__(self, trainer, monkeypatch):
        self.steps = []
        self.current = {"primary": [], "drawn": []}
        original = {name: getattr(owner, name) for owner, name in self._owners(trainer)}

        def compute_loss(model, inputs, *args, **kwargs):
            self.current["primary"].append(inputs)
            return original["compute_loss"](model, inputs, *args, **kwargs)

        def draw(share, objectives, *args):
            found = original["_draw"](share, objectives, *args)
            self.current["drawn"].append(found)
            return found

        def dev_loss(seed):
            function = original["_dev_loss"](seed)
            within = [cell.cell_contents for cell in function.__closure__]
            (part,) = [each for each in within if callable(each) and each.__name__ == "part"]
            self.current["dev"] = next(
                cell.cell_contents for cell in part.__closure__ if isinstance(cell.cell_contents, dict)
            )
            return function

        def note(result):
            self.current["result"] = result
            self.steps.append(self.current)
            self.current = {"primary": [], "drawn": []}
            return original["_note"](result)

        for owner, name in self._owners(trainer):
            monkeypatch.setattr(owner, name, locals()[name.lstrip("_")])

    @staticmethod
    def _owners(trainer):
        return [
            (trainer, "compute_loss"),
            (trainer.auxiliary, "_draw"),
            (trainer, "_dev_loss"),
            (trainer, "_note"),
        ]


class BruteForce:
    """Algorithm 1 on a copy of the trainer's model: whole losses, whole gradients, logits of one's own."""

    def __init__(self, trainer, rates, max_norm):
        self.model = copy.deepcopy(trainer.network)
        self.vocabulary = self.model.objectives.vocabulary
        # The copy's head is tied to the copy's embeddings.
        self.space = trainer.objective_weights.space
        self.rates, self.max_norm = rates, max_norm
        heads = list(self.model.heads.parameters()) + list(self.model.objectives.parameters())
        self.head_parameters = heads
        self.body = [p for p in self.model.parameters() if not any(p is head for head in heads)]
        self.optimizer = torch.optim.SGD([*self.body, *heads], lr=0.05)
        self.joint = dict.fromkeys(self.space, 0.0)
        self.factors = {(stage, word): 0.0 for stage, words in self.space.stages.items() for word in words}
        self.balance = [0.0, 0.0]
        self.pending = []

    def logit(self, objective):
        stages = zip(("data", "transform", "representation", "output"), objective.words, strict=True)
        return self.joint[objective] + sum(self.factors[pair] for pair in stages)

    def hidden(self, drawn):
        embedding = self.model.encoder.get_input_embeddings()
        embedded = embedding(drawn.input_ids)
        if drawn.noise is not None:
            embedded = embedded + drawn.noise * embedding.weight.detach().square().mean().sqrt()
        return self.model.encoder(inputs_embeds=embedded, attention_mask=drawn.mask).last_hidden_state

    def words(self, states):
        hidden = states
        head = self.model.objectives.vocabulary.transform.cls.predictions
        hidden = head.transform(hidden)
        table = self.model.encoder.get_input_embeddings().weight
        return hidden @ table.T + self.model.objectives.vocabulary.bias

    def loss(self, objective, drawn):
        """The mean loss by loops over rows and tokens, with logits at every position."""
        states, batch = self.hidden(drawn), drawn.batch
        head = self.model.objectives.heads
        key = f"of:{objective.output}"
        losses = []
        if objective.output in ("denoise", "tf", "tfidf", "cap"):
            logits = self.words(states) if objective.output == "denoise" else head[key].linear(states)
            target = batch.input_ids if objective.output == "denoise" else batch.targets[objective.output]
            wanted = drawn.counted if objective.output == "denoise" else ~batch.special
            found = [
                (row, drawn.predictor[row, token].item(), target[row, token].item())
                for row in range(len(batch))
                for token in range(batch.input_ids.shape[1])
                if wanted[row, token] and drawn.predictor[row, token] >= 0
            ]
            row, at, value = zip(*found, strict=True) if found else ((), (), ())
            if objective.output == "tfidf":
                losses = (logits[list(row), list(at), 0] - torch.tensor(value)) ** 2
            else:
                losses = -logits.log_softmax(-1)[list(row), list(at), list(value)]
        elif objective.output == "next-sentence":
            logits = head[key].linear(states[:, 0])
            losses = [-logits[row].log_softmax(-1)[label] for row, label in enumerate(batch.targets["next-sentence"])]
        elif objective.output == "fastsent":
            logits = self.words(states[:, 0]).log_softmax(-1)
            losses = [-logits[row, word] for row in range(len(batch)) for word in batch.targets["fastsent"][row]]
        else:
            f, g = head[key].row.linear(states[:, 0]), head[key].candidate.linear(states[:, 0])
            for row in range(len(batch)):
                others = range(1 - row % 2, len(batch), 2)
                neighbour = row + 1 if row % 2 == 0 else row - 1
                scores = torch.stack([f[row] @ g[other] if row % 2 == 0 else g[other] @ f[row] for other in others])
                losses.append(-scores.log_softmax(0)[list(others).index(neighbour)])
        losses = torch.stack(losses) if isinstance(losses, list) else losses
        return losses.mean() if len(losses) else states.sum() * 0

    def gradient(self, loss, parameters):
        found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def dev_gradient(self, step):
        batch = step["dev"]
        primary = step["primary"]
        features, labels = [], []
        for each in primary:
            with torch.no_grad():
                states = self.model.encoder(each["input_ids"], each["attention_mask"]).last_hidden_state
            features.append(states[:, 0])
            labels.append(each["labels"].long())
        features, labels = torch.cat(features), torch.cat(labels)
        head = nn.Linear(features.shape[1], 2)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        optimizer = torch.optim.LBFGS(
            head.parameters(), max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(head(features), labels) + 0.05 * head.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        states = self.model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        return self.gradient(F.cross_entropy(head(states[:, 0]), batch["labels"].long()), self.body)

    @staticmethod
    def cosine(a, b):
        a, b = (torch.cat([part.flatten() for part in each]).double() for each in (a, b))
        return (a @ b / (a.norm() * b.norm())).item()

    def step(self, step):
        primary, auxiliary = (math.exp(each) / sum(map(math.exp, self.balance)) for each in self.balance)
        sampled = [self.space[index] for index in step["result"].sampled]
        scores = [math.exp(self.logit(objective)) for objective in sampled]
        dev = self.dev_gradient(step)
        losses = []
        for each in step["primary"]:
            states = self.model.encoder(each["input_ids"], each["attention_mask"]).last_hidden_state
            losses.append(F.cross_entropy(self.model.heads.sequence.linear(states[:, 0]), each["labels"].long()))
        loss = torch.stack(losses).mean()
        body, heads = self.gradient(loss, self.body), self.gradient(loss, self.head_parameters)
        total, own = [primary * each for each in body], [primary * each for each in heads]
        agreements = {"primary": self.cosine(body, dev)}
        summed = [torch.zeros_like(each) for each in body]
        for drawn in step["drawn"]:
            for objective in drawn.objectives:
                share = scores[sampled.index(objective)] / sum(scores)
                loss = self.loss(objective, drawn)
                found = self.gradient(loss, self.body)
                norm = torch.cat([part.flatten() for part in found]).norm()
                clip = min(1.0, self.max_norm / norm.item()) if norm > 0 else 1.0
                agreements[objective] = self.cosine(found, dev) if norm > 0 else 0.0
                summed = [a + share * clip * b for a, b in zip(summed, found, strict=True)]
                for parameter, b in zip(own, self.gradient(loss, self.head_parameters), strict=True):
                    parameter += auxiliary * share * b  # published: the body's gradient alone is clipped
        agreements["auxiliary"] = self.cosine(summed, dev)
        for parameters, gradients in (
            (self.body, [a + auxiliary * b for a, b in zip(total, summed, strict=True)]),
            (self.head_parameters, own),
        ):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        self.learn(agreements)
        return agreements

    def learn(self, agreements):
        self.pending.append(agreements)
        if len(self.pending) < 2:
            return
        for found in self.pending:
            for objective, u in found.items():
                if isinstance(objective, str):
                    self.balance[objective == "auxiliary"] += self.rates[0] * u / 2
                    continue
                self.joint[objective] += self.rates[1] * u / 2
                for pair in zip(("data", "transform", "representation", "output"), objective.words, strict=True):
                    self.factors[pair] += self.rates[1] * u / 2
        self.pending = []


def test_twenty_steps_equal_brute_force(folder, suite, tmp_path, monkeypatch):
    trainer = make(folder, suite, tmp_path)
    recorder = Recorder(trainer, monkeypatch)
    oracle = BruteForce(trainer, rates=(0.5, 2.0), max_norm=0.5)
    trainer.train()
    assert len(recorder.steps) == 20
    for number, step in enumerate(recorder.steps):
        agreements = oracle.step(step)
        for index, cosine in zip(step["result"].sampled, step["result"].cosines.tolist(), strict=True):
            assert cosine == pytest.approx(agreements[oracle.space[index]], abs=2e-3), (number, index)
    weights = trainer.objective_weights
    joint = [oracle.joint[objective] for objective in oracle.space]
    assert np.abs(weights.logits["joint"].numpy() - joint).max() < 2e-3
    assert np.abs(weights.logits["balance"].numpy() - oracle.balance).max() < 2e-3
    assert weights.logits["balance"].abs().max() > 0.01
    for a, b in zip(trainer.network.parameters(), oracle.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
