"""Gradients as taskloom's common currency: of each example, projected, compared, and through updates.

The names below are resolved on first use, so that importing the package loads neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "Adam": "taskloom.gradients.inner_updates",
    "Columns": "taskloom.gradients.forms",
    "Outer": "taskloom.gradients.forms",
    "Projection": "taskloom.gradients.projection",
    "Rows": "taskloom.gradients.forms",
    "Rule": "taskloom.gradients.rules",
    "SGD": "taskloom.gradients.inner_updates",
    "cosine": "taskloom.gradients.alignment",
    "inner": "taskloom.gradients.alignment",
    "per_example_gradients": "taskloom.gradients.per_example",
    "projected_gradients": "taskloom.gradients.per_example",
    "register_rule": "taskloom.gradients.rules",
    "unrolled_meta_gradient": "taskloom.gradients.meta",
    "written_back": "taskloom.gradients.write_back",
}

__all__ = [
    "SGD",
    "Adam",
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
    "unrolled_meta_gradient",
    "written_back",
]

if TYPE_CHECKING:
    from taskloom.gradients.alignment import cosine as cosine
    from taskloom.gradients.alignment import inner as inner
    from taskloom.gradients.forms import Columns as Columns
    from taskloom.gradients.forms import Outer as Outer
    from taskloom.gradients.forms import Rows as Rows
    from taskloom.gradients.inner_updates import SGD as SGD
    from taskloom.gradients.inner_updates import Adam as Adam
    from taskloom.gradients.meta import unrolled_meta_gradient as unrolled_meta_gradient
    from taskloom.gradients.per_example import per_example_gradients as per_example_gradients
    from taskloom.gradients.per_example import projected_gradients as projected_gradients
    from taskloom.gradients.projection import Projection as Projection
    from taskloom.gradients.rules import Rule as Rule
    from taskloom.gradients.rules import register_rule as register_rule
    from taskloom.gradients.write_back import written_back as written_back

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
