"""Weighters: what says how much each token of a document counts in an update of the language model (CaMeLS).

Every weighter maps ``(input_ids, attention_mask)`` to weights of the same shape, 0 on padding. The names are loaded
on first use.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "LearnedWeighter": "taskloom.online.weighters.learned",
    "SalientSpanWeighter": "taskloom.online.weighters.salient",
    "TfIdfWeighter": "taskloom.online.weighters.tfidf",
    "UniformWeighter": "taskloom.online.weighters.uniform",
}

__all__ = ["LearnedWeighter", "SalientSpanWeighter", "TfIdfWeighter", "UniformWeighter"]

if TYPE_CHECKING:
    from taskloom.online.weighters.learned import LearnedWeighter as LearnedWeighter
    from taskloom.online.weighters.salient import SalientSpanWeighter as SalientSpanWeighter
    from taskloom.online.weighters.tfidf import TfIdfWeighter as TfIdfWeighter
    from taskloom.online.weighters.uniform import UniformWeighter as UniformWeighter

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
