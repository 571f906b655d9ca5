"""The published estimate of one subset: a regression of the classes on the gradients, by scikit-learn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from taskloom.affinity import GradientTable

__all__ = ["fit_subset"]


def fit_subset(source: GradientTable, subset: Sequence[str], C: float, tolerance: float) -> NDArray[np.float64]:  # noqa: N803
    """Return the coefficients ``[dimensions]`` of one subset, without the offset of the base model.

    A source's gradients are those of the right answer's margin; with the class's sign they are features of the class.
    """
    rows = [source.train(task) for task in subset]
    signs = np.concatenate([2 * part.labels.numpy() - 1 for part in rows])
    gradients = np.concatenate([part.gradients.numpy() for part in rows])
    model = LogisticRegression(C=C, fit_intercept=False, tol=tolerance, max_iter=1000)
    return model.fit(gradients * signs[:, None], signs).coef_[0]
