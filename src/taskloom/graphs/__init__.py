"""Communities of a graph as tasks: data, positional features, SIGN and its training (design: multi-label node tasks).

Every community (or label) of a graph is a binary task over its nodes. The names are resolved on first use, so that
importing the package costs neither torch nor SciPy.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "CommunityGraph": "taskloom.graphs.data",
    "NodeTasks": "taskloom.graphs.examples",
    "SIGN": "taskloom.graphs.sign",
    "SIGNSettings": "taskloom.graphs.training",
    "community_loaders": "taskloom.graphs.loaders",
    "community_margin": "taskloom.graphs.loaders",
    "graph_from_pyg": "taskloom.graphs.pyg",
    "load_snap": "taskloom.graphs.snap",
    "personalized_pagerank_features": "taskloom.graphs.features",
    "propagate": "taskloom.graphs.sign",
    "score_sign": "taskloom.graphs.training",
    "spectral_features": "taskloom.graphs.features",
    "split_communities": "taskloom.graphs.examples",
    "train_sign": "taskloom.graphs.training",
}

__all__ = [
    "SIGN",
    "CommunityGraph",
    "NodeTasks",
    "SIGNSettings",
    "community_loaders",
    "community_margin",
    "graph_from_pyg",
    "load_snap",
    "personalized_pagerank_features",
    "propagate",
    "score_sign",
    "spectral_features",
    "split_communities",
    "train_sign",
]

if TYPE_CHECKING:
    from taskloom.graphs.data import CommunityGraph as CommunityGraph
    from taskloom.graphs.examples import NodeTasks as NodeTasks
    from taskloom.graphs.examples import split_communities as split_communities
    from taskloom.graphs.features import personalized_pagerank_features as personalized_pagerank_features
    from taskloom.graphs.features import spectral_features as spectral_features
    from taskloom.graphs.loaders import community_loaders as community_loaders
    from taskloom.graphs.loaders import community_margin as community_margin
    from taskloom.graphs.pyg import graph_from_pyg as graph_from_pyg
    from taskloom.graphs.sign import SIGN as SIGN
    from taskloom.graphs.sign import propagate as propagate
    from taskloom.graphs.snap import load_snap as load_snap
    from taskloom.graphs.training import SIGNSettings as SIGNSettings
    from taskloom.graphs.training import score_sign as score_sign
    from taskloom.graphs.training import train_sign as train_sign

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
