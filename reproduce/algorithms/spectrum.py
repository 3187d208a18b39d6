"""The density of a Hessian's eigenvalues, by stochastic Lanczos quadrature.

Source: B. Ghorbani, S. Krishnan, Y. Xiao, "An Investigation into Neural Net Optimization via
Hessian Eigenvalue Density", 2019, which the article cites.
"""

from collections.abc import Iterable

import numpy as np

from reproduce.algorithms.lanczos import Lanczos


def quadrature(decompositions: Iterable[Lanczos]) -> tuple[np.ndarray, np.ndarray]:
    """Nodes θ and weights τ: Σ τ g(θ) approximates the mean of g over the eigenvalues of ∇²f(x).

    Each decomposition starts from a standard normal vector, whose direction is uniform. The
    weights sum to 1.
    """
    every = list(decompositions)
    nodes = np.concatenate([each.ritz_values for each in every])
    return nodes, np.concatenate([each.weights for each in every]) / len(every)


def density(at: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """Σ τ N(at; θ, width²), (n,): the density of the eigenvalues, each a Gaussian of ``width``."""
    bells = np.exp(-(((at[:, None] - nodes) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    return bells @ weights
