"""The section of a recipe about its pipeline: which stages `taskloom run` goes through, in which order."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from taskloom.recipe.base import Section

__all__ = ["PipelineSection", "StageKind", "StageSettings"]

StageKind = Literal[
    "train",
    "affinity",
    "group",
    "train-groups",
    "auxiliary",
    "retrain",
    "tune-qa",
    "meta-train",
    "adapt",
    "evaluate",
    "report",
]


class StageSettings(Section):
    """One stage: what it does, its name, and in which fields it departs from the recipe."""

    stage: StageKind = Field(description="what it does")
    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][\w.+-]*$", description="its name and folder; null: what it does"
    )
    of: str | None = Field(
        default=None, description="the earlier stage that it works on, by name; null: the latest that it can"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="fields that differ from the recipe's, e.g. {adapter.method: ca_mtl}"
    )
    k: PositiveInt | Literal["auto"] = Field(default="auto", description="group: how many groups")
    method: Literal["sdp", "spectral", "coclustering"] = Field(
        default="sdp", description="group: sdp is Grad-TAG's; the others are baselines"
    )
    transform: Literal["standardize", "exponential"] | None = Field(
        default=None, description="group: of each task's affinities, before they are compared"
    )
    split: str = Field(default="dev", description="evaluate: the split that the trained models are scored on")


class PipelineSection(Section):
    """What `taskloom run` does."""

    stages: list[StageSettings] | None = Field(
        default=None, description="stages by name, or as mappings; null: what the other sections call for"
    )

    @field_validator("stages", mode="before")
    @classmethod
    def _names_are_stages(cls, stages: Any) -> Any:
        if not isinstance(stages, list):
            return stages
        return [{"stage": stage} if isinstance(stage, str) else stage for stage in stages]
