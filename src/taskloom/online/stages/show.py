"""`taskloom online show`: which tokens of a text a weighter would have a model learn."""

from pathlib import Path
from typing import Any

from taskloom.backbones import load_tokenizer
from taskloom.errors import RunError
from taskloom.online.meta_training import WEIGHTER_FOLDER
from taskloom.online.stages.meta import weighed
from taskloom.online.stages.parts import build_weighter
from taskloom.online.weighters import LearnedWeighter
from taskloom.recipe import Recipe, load_recipe
from taskloom.report.token_weights import TokenWeights

__all__ = ["find_weighter", "show"]


def show(run: str, texts: list[tuple[str, str]]) -> list[TokenWeights]:
    """Return texts, given with their names, as tokens with weights.

    Args:
        run: a run folder of meta-train or adapt, the folder of a learned weighter, or a recipe.
        texts: a name and a text each.

    Raises:
        UserError: there is no weighter, or a recipe that names one cannot be read.
    """
    weighter, tokenizer, length = find_weighter(run)
    return [part for name, text in texts for part in weighed(name, text, weighter, tokenizer, length)]


def find_weighter(run: str) -> tuple[Any, Any, int]:
    """Return a weighter, the tokenizer whose ids it takes, and the longest part of a document.

    Raises:
        UserError: there is none.
    """
    folder = Path(run).expanduser()
    weighter = folder / WEIGHTER_FOLDER if (folder / WEIGHTER_FOLDER).is_dir() else folder
    recipe: Recipe | None = None
    if (folder / "recipe.yaml").is_file() or not folder.is_dir():
        recipe = load_recipe(run)
    length = 1024 if recipe is None else recipe.questions.max_document_length
    if (weighter / "config.json").is_file():
        learned = LearnedWeighter.load(weighter)
        return learned, learned.tokenizer, length
    if recipe is None:
        raise RunError(
            f"{folder}: holds no weighter: expected a run of `taskloom online meta-train` or `adapt`, or a weighter's "
            "own folder"
        )
    settings = recipe.model
    tokenizer = load_tokenizer(
        settings.path,
        revision=settings.revision,
        gguf_file=settings.gguf_file,
        trust_remote_code=settings.trust_remote_code,
    )
    return build_weighter(recipe, tokenizer), tokenizer, length
