"""Groups of tasks that do well together: the densest partition of an affinity matrix (Grad-TAG, section 3.3).

The objective is the sum of the clusters' average densities, ``sum over clusters C of (1 / |C|) * sum over i, j in C of
A_ij``. Adding a constant to all of A, or to its diagonal, changes no comparison of partitions into as many clusters.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh, qr

from taskloom.affinity.sdp import solve_relaxation
from taskloom.errors import did_you_mean

__all__ = ["cluster_tasks", "density", "transformed"]

Method = Literal["sdp", "spectral", "coclustering"]
Transform = Literal["standardize", "exponential"]
Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


def cluster_tasks(
    affinity: ArrayLike,
    k: int | Literal["auto"],
    method: Method = "sdp",
    *,
    transform: Transform | None = None,
    max_clusters: int = 30,
) -> list[list[int]]:
    """Partition tasks into exactly k clusters, by the affinity of each two; the same answer each time.

    Args:
        affinity: ``[n, n]``, symmetric, finite; larger means better together. `AffinityMatrix.symmetric` gives one.
        k: the number of clusters. "auto" tries 2 to `max_clusters` (at most n - 1), each by leading eigenvectors and by
            average linkage with local search, and takes the number with the largest mean silhouette (Rousseeuw 1987)
            for the dissimilarity ``max(A) - A``; one cluster when no silhouette is positive. The chosen number is then
            solved by `method`.
        method: "sdp", the paper's: relaxation, rounding, local search; and as baselines "spectral" (scikit-learn's
            spectral clustering) and "coclustering" (Dhillon 2001), both on the affinity shifted to be positive.
        transform: applied first, see `transformed`.
        max_clusters: the largest number that "auto" tries.

    Returns:
        The clusters as sorted lists of positions, in the order of their first member.

    Raises:
        ValueError: the matrix is not square, finite and symmetric, `k` is not in 1..n, or a setting is unknown.
    """
    matrix = _checked(affinity)
    n = len(matrix)
    if k != "auto" and (not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= n):
        raise ValueError(f"`k` must be 'auto' or between 1 and the number of tasks, {n}; found {k!r}")
    if method not in get_args(Method):
        raise ValueError(f"`method` {method!r} is unknown.{did_you_mean(str(method), get_args(Method))}")
    if max_clusters < 2:
        raise ValueError(f"`max_clusters` must be at least 2, found {max_clusters}")
    matrix = transformed(matrix, transform)
    matrix = (matrix + matrix.T) / 2
    count = _silhouette_choice(matrix, max_clusters) if k == "auto" else int(k)
    if count == 1:
        labels = np.zeros(n, dtype=np.int64)
    elif count == n:
        labels = np.arange(n)
    else:
        labels = _METHODS[method](matrix, count)
    clusters = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    return sorted(clusters)


def density(affinity: ArrayLike, clusters: list[list[int]]) -> float:
    """Return the sum over clusters of ``(1 / |C|) * sum of A_ij over i, j in C``."""
    matrix = np.asarray(affinity, dtype=float)
    return float(sum(matrix[np.ix_(cluster, cluster)].sum() / len(cluster) for cluster in clusters))


def transformed(affinity: ArrayLike, transform: Transform | None) -> Matrix:
    """Return the matrix, each row standardised, or ``exp`` of it: the two that the published code offers.

    "standardize" takes a row's mean off and divides by its standard deviation (a constant row becomes 0), so that
    tasks whose performance moves much do not outweigh the others; the result is asymmetric.
    """
    matrix = np.asarray(affinity, dtype=float)
    if transform is None:
        return matrix
    if transform == "exponential":
        # exp up to a factor, which changes no comparison and cannot overflow.
        return np.exp(matrix - matrix.max())
    if transform == "standardize":
        spread = matrix.std(1, keepdims=True)
        constant = spread <= 1e-12 * np.abs(matrix).max(1, keepdims=True)
        return np.where(constant, 0, (matrix - matrix.mean(1, keepdims=True)) / np.where(constant, 1, spread))
    raise ValueError(f"`transform` must be None, 'standardize' or 'exponential', found {transform!r}")


def _checked(affinity: ArrayLike) -> Matrix:
    matrix = np.asarray(affinity, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"`affinity` must be a square matrix with a row for each task, found shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"`affinity` must be finite, found {matrix[row, column]} in row {row}, column {column}")
    difference = np.abs(matrix - matrix.T)
    if difference.max() > 1e-8 * np.abs(matrix).max():
        row, column = np.unravel_index(difference.argmax(), matrix.shape)
        raise ValueError(
            f"`affinity` must be symmetric; entries ({row}, {column}) and ({column}, {row}) differ by"
            f" {difference.max():.3g}. Pass (A + A.T) / 2, which `AffinityMatrix.symmetric()` gives"
        )
    return (matrix + matrix.T) / 2


def _by_relaxation(matrix: Matrix, k: int) -> Labels:
    found: list[tuple[float, Labels]] = []

    def rounded_value(X: Matrix) -> float:  # noqa: N803
        candidates = [_improved(matrix, labels) for labels in (_leading_rounding(X, k), _linkage_rounding(X, k))]
        found.extend((_value(matrix, labels), labels) for labels in candidates)
        return max(value for value, _ in found)

    relaxation = solve_relaxation(matrix, k, tolerance=1e-5, max_steps=1000, good_enough=rounded_value)
    rounded_value(relaxation.X)
    labels = _directly(matrix, k)
    found.append((_value(matrix, labels), labels))
    return max(found, key=lambda pair: pair[0])[1]


def _directly(matrix: Matrix, k: int) -> Labels:
    """Return labels made without the relaxation: the denser of both roundings of the matrix itself."""
    both = [_improved(matrix, rounding(matrix, k)) for rounding in (_leading_rounding, _linkage_rounding)]
    return max(both, key=lambda labels: _value(matrix, labels))


def _leading_rounding(matrix: Matrix, k: int) -> Labels:
    """Return labels from the leading eigenvectors, by pivoted QR (Damle, Minden, Ying 2019): no random start."""
    n = len(matrix)
    # A shift of all entries moves the vector 1 only, which every indicator basis contains: make it the first.
    lifted = matrix + (np.linalg.norm(matrix) + 1) * 2 / n
    _, vectors = eigh(lifted, subset_by_index=(n - k, n - 1))
    pivots = qr(vectors.T, pivoting=True, mode="r")[-1]
    left, _, right = np.linalg.svd(vectors[pivots[:k]].T)
    return _exactly(np.abs(vectors @ (left @ right)).argmax(1), matrix, k)


def _linkage_rounding(X: Matrix, k: int) -> Labels:  # noqa: N803
    """Return labels from average linkage of the relaxation's entries: large within a cluster, near 0 across."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(X.max() - X, checks=False), method="average")
    return _exactly(fcluster(tree, k, criterion="maxclust") - 1, X, k)


def _exactly(labels: NDArray[np.integer], matrix: Matrix, k: int) -> Labels:
    """Return labels 0..k-1, all used: while some are missing, a largest cluster gives away its least attached task."""
    used = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    while (count := int(used.max()) + 1) < k:
        members = np.flatnonzero(used == np.bincount(used).argmax())
        attached = matrix[np.ix_(members, members)].sum(1)
        used[members[attached.argmin()]] = count
    return used


def _value(matrix: Matrix, labels: Labels) -> float:
    member = np.eye(labels.max() + 1)[labels]
    return float((np.einsum("ic,ij,jc->c", member, matrix, member, optimize=True) / member.sum(0)).sum())


def _improved(matrix: Matrix, labels: Labels) -> Labels:
    """Return the labels after moving single tasks, the best move first, for as long as the density grows."""
    labels = labels.copy()
    n, k = len(labels), int(labels.max()) + 1
    member = np.eye(k)[labels]
    links = matrix @ member  # affinity of each task to each cluster
    sizes, inside = member.sum(0), (member * links).sum(0)
    diagonal, tasks = matrix.diagonal(), np.arange(n)
    least = 1e-10 * np.abs(matrix).max()
    while True:
        own = links[tasks, labels]
        rest = np.maximum(sizes[labels] - 1, 1)
        loss = inside[labels] / sizes[labels] - (inside[labels] - 2 * own + diagonal) / rest
        gain = (inside + 2 * links + diagonal[:, None]) / (sizes + 1) - inside / sizes - loss[:, None]
        gain[tasks, labels] = -np.inf
        gain[sizes[labels] == 1] = -np.inf
        task, new = np.unravel_index(gain.argmax(), gain.shape)
        if gain[task, new] <= least:
            return labels
        old = labels[task]
        inside[old] -= 2 * links[task, old] - diagonal[task]
        inside[new] += 2 * links[task, new] + diagonal[task]
        sizes[old] -= 1
        sizes[new] += 1
        links[:, old] -= matrix[:, task]
        links[:, new] += matrix[:, task]
        labels[task] = new


def _spectral(matrix: Matrix, k: int) -> Labels:
    from sklearn.cluster import SpectralClustering

    model = SpectralClustering(k, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    return _exactly(model.fit_predict(_positive(matrix)), matrix, k)


def _coclustering(matrix: Matrix, k: int) -> Labels:
    from sklearn.cluster import SpectralCoclustering

    return _exactly(SpectralCoclustering(k, random_state=0).fit(_positive(matrix)).row_labels_, matrix, k)


def _positive(matrix: Matrix) -> Matrix:
    """Return the matrix shifted to be positive: both methods read it as the weights of a connected graph."""
    span = np.ptp(matrix)
    return matrix - matrix.min() + (1e-6 * span if span else 1.0)


_METHODS: dict[str, Callable[[Matrix, int], Labels]] = {
    "sdp": _by_relaxation,
    "spectral": _spectral,
    "coclustering": _coclustering,
}


def _silhouette_choice(matrix: Matrix, max_clusters: int) -> int:
    n = len(matrix)
    distance = matrix.max() - matrix
    np.fill_diagonal(distance, 0)
    best, choice = 0.0, 1
    for k in range(2, min(max_clusters, n - 1) + 1):
        score = _silhouette(distance, _directly(matrix, k))
        if score > best + 1e-12:
            best, choice = score, k
    return choice


def _silhouette(distance: Matrix, labels: Labels) -> float:
    """Return the mean over tasks of (distance to the nearest other cluster - own) / larger; 0 for a task alone."""
    member = np.eye(labels.max() + 1)[labels]
    sizes, tasks = member.sum(0), np.arange(len(labels))
    sums = distance @ member
    own = sums[tasks, labels] / np.maximum(sizes[labels] - 1, 1)
    others = sums / sizes
    others[tasks, labels] = np.inf
    nearest = others.min(1)
    larger = np.maximum(own, nearest)
    score = np.where(larger > 0, (nearest - own) / np.where(larger > 0, larger, 1), 0)
    return float(np.where(sizes[labels] > 1, score, 0).mean())
