"""Gradients as taskloom's common currency: of each example, their projections, and how well they agree.

The names below are resolved on first use, so that importing the package loads neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "Columns": "taskloom.gradients.forms",
    "Outer": "taskloom.gradients.forms",
    "Projection": "taskloom.gradients.projection",
    "Rows": "taskloom.gradients.forms",
    "Rule": "taskloom.gradients.rules",
    "cosine": "taskloom.gradients.alignment",
    "inner": "taskloom.gradients.alignment",
    "per_example_gradients": "taskloom.gradients.per_example",
    "projected_gradients": "taskloom.gradients.per_example",
    "register_rule": "taskloom.gradients.rules",
    "written_back": "taskloom.gradients.write_back",
}

__all__ = [
    "Columns",
    "Outer",
    "Projection",
    "Rows",
    "Rule",
    "cosine",
    "inner",
    "per_example_gradients",
    "projected_gradients",
    "register_rule",
    "written_back",
]

if TYPE_CHECKING:
    from taskloom.gradients.alignment import cosine as cosine
    from taskloom.gradients.alignment import inner as inner
    from taskloom.gradients.forms import Columns as Columns
    from taskloom.gradients.forms import Outer as Outer
    from taskloom.gradients.forms import Rows as Rows
    from taskloom.gradients.per_example import per_example_gradients as per_example_gradients
    from taskloom.gradients.per_example import projected_gradients as projected_gradients
    from taskloom.gradients.projection import Projection as Projection
    from taskloom.gradients.rules import Rule as Rule
    from taskloom.gradients.rules import register_rule as register_rule
    from taskloom.gradients.write_back import written_back as written_back

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
