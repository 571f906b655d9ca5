"""The search space of auxiliary objectives: data × transform × representation × output, less what is illegal.

AANG (Dery et al. 2022), section 3: an objective is a path (d, t, r, o) through four stages; |A| is their product.
Illegal are sentence outputs of a representation that is not bidirectional, supervised outputs of a left-to-right or
right-to-left one, a supervised output of any text but its own data set's, and the pairs that a space lists.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import yaml

from taskloom.auxiliary.published import named_space
from taskloom.auxiliary.reading import KEYS, IllegalPair, read_stages
from taskloom.auxiliary.stages import DATA, OUTPUTS, REPRESENTATIONS, SENTENCE_OUTPUTS, STAGES, TRANSFORMS
from taskloom.errors import RecipeError, did_you_mean
from taskloom.tasks.files import require_file

__all__ = ["Objective", "SearchSpace"]


@dataclass(frozen=True)
class Objective:
    """One auxiliary objective, the paper's (d, t, r, o): text, how it is changed, what a position sees, the target."""

    data: str
    transform: str
    representation: str
    output: str

    @property
    def name(self) -> str:
        """The four words joined by slashes, such as ``task/mask/bidirectional/denoise``."""
        return "/".join(self.words)

    @property
    def words(self) -> tuple[str, str, str, str]:
        """The four words in the order of the stages."""
        return self.data, self.transform, self.representation, self.output

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Parse `name`. A labelled task's name may hold slashes.

        Raises:
            RecipeError: it is not four words, or its transform or representation is unknown.
        """
        match = re.fullmatch(rf"(.+)/({'|'.join(TRANSFORMS)})/({'|'.join(REPRESENTATIONS)})/(.+)", name)
        if match is None:
            raise RecipeError(
                f"'{name}' is not an objective: expected data/transform/representation/output, such as "
                f"task/mask/bidirectional/denoise, with a transform of {', '.join(TRANSFORMS)} and a representation of "
                f"{', '.join(REPRESENTATIONS)}"
            )
        return cls(*match.groups())


class SearchSpace(Sequence[Objective]):
    """The legal objectives of four stages, in the order of the stages' product.

    Attributes:
        name: how messages call the space.
        data, transforms, representations, outputs: the values of each stage.
        labelled: the labelled tasks among data and outputs.
        illegal: the pairs that the space itself forbids, each value as (stage, word).
    """

    def __init__(
        self, stages: Mapping[str, Sequence[str]], illegal: Sequence[IllegalPair] = (), name: str = ""
    ) -> None:
        """Use `named`, `from_mapping`, `load` or `read`: they check what is written.

        Raises:
            RecipeError: no combination is legal; the message counts the reasons.
        """
        self.name = name
        self._stages = {stage: tuple(stages[stage]) for stage in STAGES}
        self.data, self.transforms, self.representations, self.outputs = self._stages.values()
        self.labelled = tuple(dict.fromkeys(word for word in self.data + self.outputs if word not in DATA + OUTPUTS))
        self.illegal = tuple(illegal)
        self._legal = tuple(objective for objective in self._product() if self.why_illegal(objective) is None)
        if not self._legal:
            reasons = Counter(self.why_illegal(objective) for objective in self._product())
            raise RecipeError(
                f"{self._title}: none of its {self.combinations} combinations is legal: "
                + "; ".join(f"{count} because {reason}" for reason, count in reasons.items())
            )

    @classmethod
    def named(cls, name: str, labelled: Sequence[str] | None = None) -> Self:
        """Return a published space, or a task's ``<task>.supervised``, ``<task>.all`` or ``<task>.ext``.

        ``supervised``: the task's text, its labels and denoising; ``all``: in-domain text as well; ``ext``: denoising
        of in-domain text alone. The published spaces of tasks call their sets citation_intent, sciie, chemprot,
        hyperpartisan, semeval2016task6, perspectrum and mnli.

        Args:
            name: of the space.
            labelled: names of the labelled tasks that there are. None: any that a published space needs.

        Raises:
            RecipeError: there is no such space, or a labelled task that it needs is not among `labelled`.
        """
        stages = named_space(name, labelled)
        tasks = stages.pop("labelled", [])
        return cls.from_mapping(stages, tasks, name)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], labelled: Sequence[str] = (), name: str = "") -> Self:
        """Read a space of one's own: the keys data, transforms, representations, outputs, and illegal if need be.

        Args:
            values: words of each stage, published spellings included; `illegal` lists pairs of values of different
                stages, in the order of the stages.
            labelled: names of labelled tasks, which may stand in data and outputs.
            name: how messages call the space.

        Raises:
            RecipeError: a key or value is unknown or missing, or no combination is legal.
        """
        stages, illegal = read_stages(values, labelled, _title(name))
        return cls(stages, illegal, name)

    @classmethod
    def load(cls, path: str | Path, labelled: Sequence[str] = ()) -> Self:
        """Read a space of one's own from a YAML file; see `from_mapping`.

        Raises:
            RecipeError: what `from_mapping` refuses, or the file is no YAML mapping.
            DataError: there is no such file.
        """
        path = Path(path)
        require_file(path)
        try:
            values = yaml.safe_load(path.read_text("utf-8"))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RecipeError(f"{path}:{line}: not valid YAML: {error.problem}") from None
        if not isinstance(values, Mapping):
            raise RecipeError(f"{path}: a search space is a mapping with the keys {', '.join(KEYS)}")
        return cls.from_mapping(values, labelled, str(path))

    @classmethod
    def read(cls, written: str | Mapping[str, Any], labelled: Sequence[str]) -> Self:
        """Return what a recipe's `auxiliary.space` means: a name, a YAML file, or the stages themselves."""
        if isinstance(written, Mapping):
            return cls.from_mapping(written, labelled, "auxiliary.space")
        if written.endswith((".yaml", ".yml")):
            return cls.load(written, labelled)
        return cls.named(written, labelled)

    def __len__(self) -> int:
        return len(self._legal)

    @overload
    def __getitem__(self, index: int) -> Objective: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Objective, ...]: ...
    def __getitem__(self, index: int | slice) -> Objective | tuple[Objective, ...]:
        return self._legal[index]

    def __iter__(self) -> Iterator[Objective]:
        return iter(self._legal)

    def __repr__(self) -> str:
        return f"SearchSpace({self.name or 'own'}: {len(self)} of {self.combinations} objectives)"

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The values of each stage: data, transform, representation, output."""
        return dict(self._stages)

    @property
    def combinations(self) -> int:
        """How many combinations the stages have, illegal ones included."""
        return int(np.prod([len(words) for words in self._stages.values()]))

    @property
    def stage_indices(self) -> np.ndarray:
        """The place of each objective's value in each stage: int64 ``[objectives, 4]``."""
        places = [{word: place for place, word in enumerate(words)} for words in self._stages.values()]
        return np.array(
            [[place[word] for place, word in zip(places, objective.words, strict=True)] for objective in self],
            dtype=np.int64,
        )

    def why_illegal(self, objective: Objective) -> str | None:
        """Return why a combination of the stages is illegal, or None if it is legal."""
        view, output = objective.representation, objective.output
        if output in SENTENCE_OUTPUTS and view != "bidirectional":
            return f"the output {output} is about whole sentences, which a {view} position does not see"
        if output in self.labelled and view in ("left-to-right", "right-to-left"):
            return f"the labels of {output} are about whole examples, which a {view} position does not see"
        if output in self.labelled and objective.data != output:
            return f"the data {objective.data} has no labels of {output}"
        chosen = set(zip(STAGES, objective.words, strict=True))
        for one, other in self.illegal:
            if one in chosen and other in chosen:
                return f"the space forbids {one[1]} with {other[1]}"
        return None

    def why_unused(self, stage: str, word: str) -> str | None:
        """Return why no combination with this value is legal, or None if one is."""
        place = STAGES.index(stage)
        reasons = [self.why_illegal(each) for each in self._product() if each.words[place] == word]
        return None if None in reasons else "; ".join(dict.fromkeys(map(str, reasons)))

    def find(self, name: str) -> Objective:
        """Return the legal objective of this name.

        Raises:
            RecipeError: the space has no such objective, or it is illegal there.
        """
        objective = Objective.from_name(name)
        if objective in self._legal:
            return objective
        if all(word in words for word, words in zip(objective.words, self._stages.values(), strict=True)):
            raise RecipeError(f"{self._title}: the objective '{name}' is illegal: {self.why_illegal(objective)}")
        nearest = did_you_mean(name, [known.name for known in self])
        stages = "; ".join(f"{stage}: {', '.join(words)}" for stage, words in self._stages.items())
        raise RecipeError(
            f"{self._title} has no objective '{name}'."
            + (nearest if "Did you mean" in nearest else f" Its stages are {stages}")
        )

    def restrict(self, keep: Iterable[Objective]) -> "SearchSpace":
        """Return the space of these objectives of it alone; values that none of them has leave the stages.

        Raises:
            RecipeError: none of them is one of the space's.
        """
        wanted = set(keep)
        legal = tuple(objective for objective in self if objective in wanted)
        if not legal:
            raise RecipeError(f"{self._title}: none of its {len(self)} objectives is left")
        used = [{objective.words[stage] for objective in legal} for stage in range(len(STAGES))]
        stages = {
            stage: [word for word in words if word in left]
            for (stage, words), left in zip(self._stages.items(), used, strict=True)
        }
        restricted = SearchSpace(stages, self.illegal, self.name)
        restricted._legal = legal
        return restricted

    @property
    def _title(self) -> str:
        return _title(self.name)

    def _product(self) -> Iterator[Objective]:
        return (Objective(*words) for words in product(*self._stages.values()))


def _title(name: str) -> str:
    return f"search space '{name}'" if name else "the search space"
