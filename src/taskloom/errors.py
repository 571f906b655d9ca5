"""What the user got wrong, said once and plainly.

Every mistake that a user can make (recipe, data, paths, shapes, memory) ends in a `UserError`: one message that
names the file, line or field, what was found, what was expected and what to do. The command line prints it and
exits with code 2; a traceback appears only with `--debug`. Anything else that escapes is a bug in taskloom.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = ["DataError", "LostProcessError", "RecipeError", "RunError", "UserError", "did_you_mean", "listed"]

#: A longer list of what is known is cut: nobody reads it.
MOST_SHOWN = 30


class UserError(ValueError):
    """A mistake in what the user gave. The message is complete: it needs no traceback to be understood."""


class RecipeError(UserError):
    """A recipe has an unknown key, a value of the wrong type, or settings that contradict each other."""


class DataError(UserError):
    """A task's data is missing, malformed or inconsistent with what the task declares."""


class RunError(UserError):
    """A run folder cannot be used as asked: not empty, of another recipe, incomplete or damaged."""


class LostProcessError(RuntimeError):
    """Another process of this run has ended, and the run with it. No mistake of the user's; the message is complete."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of `known`, or ``" Known: a, b."`` when none is near."""
    known = list(known)
    lowered = {name.lower(): name for name in known}
    near = get_close_matches(found.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{lowered[near[0]]}'?"
    return f" Known: {listed(known)}." if known else ""


def listed(names: Sequence[str]) -> str:
    """Return names with commas; of many the first, and how many more there are."""
    few = names if len(names) <= MOST_SHOWN else [*names[: MOST_SHOWN // 2], f"and {len(names) - MOST_SHOWN // 2} more"]
    return ", ".join(few)
