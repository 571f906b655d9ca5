"""What all sections of a recipe have in common."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PathField", "Section", "Share"]

# YAML has no path type, so a path is read from text although everything else is strict ("3" is not a number).
PathField = Annotated[Path, Field(strict=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A mapping of the recipe: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
