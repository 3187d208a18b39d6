"""Lanczos' algorithm: eigenvalues of ∇²f(x) from HVPs.

Source: the article's box "Lanczos' algorithm"; C. Lanczos, "An iteration method for the
solution of the eigenvalue problem of linear differential and integral operators", 1950.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reproduce.algorithms.ending import Ending
from reproduce.algorithms.vector import Hessian, Hvp, Tree, Vector, real


@dataclass(frozen=True)
class Lanczos:
    """k steps of Lanczos: ∇²f(x) V = V T, except in the last column, which differs by ``beta_k``.

    ``V`` has k orthonormal vectors, trees with d scalars. ``alphas`` are the k entries of T's
    diagonal, ``betas`` the k − 1 entries beside it. It took k HVPs, or k + 1 if it broke down.
    """

    V: list[Tree]
    alphas: list[float]
    betas: list[float]
    beta_k: float
    ending: Ending
    hvps: int

    @property
    def T(self) -> np.ndarray:
        """The tridiagonal matrix, (k, k)."""
        return np.diag(self.alphas) + np.diag(self.betas, 1) + np.diag(self.betas, -1)

    @property
    def ritz_values(self) -> np.ndarray:
        """The eigenvalues θ of T, ascending, (k,). The outermost approximate those of ∇²f(x)."""
        return self._eigen[0]

    @property
    def residuals(self) -> np.ndarray:
        """‖∇²f(x) u − θ u‖ of each Ritz value θ and its vector u, (k,).

        Some eigenvalue of ∇²f(x) is within this distance of θ.
        """
        return self.beta_k * np.abs(self._eigen[1][-1:].ravel())

    @property
    def weights(self) -> np.ndarray:
        """⟨v_0, u⟩² of each Ritz vector u, (k,): they sum to 1."""
        return self._eigen[1][:1].ravel() ** 2

    def ritz_vector(self, index: int) -> Tree:
        """The vector u of the Ritz value ``index``: a tree with d scalars, of norm 1."""
        parts = self._eigen[1][:, index].tolist()
        first, *rest = (part * Vector(v) for part, v in zip(parts, self.V, strict=True))
        return sum(rest, first).tree

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.eigh(self.T)


def lanczos(
    hvp: Hvp, v: Tree, k: int, *, reorthogonalise: bool = False, tolerance: float = 1e-6
) -> Lanczos:
    """Take ``k`` steps of Lanczos on ∇²f(x) from ``v``, with one HVP per step.

    ``v`` is a tree with d scalars, not all zero. It is scaled to norm 1, which the box leaves
    out. The method converges early, with fewer than k eigenvalues, if the next β is at most
    ``tolerance`` times the largest entry of T. If a number is not finite, the method returns the
    steps before it.

    Through rounding, the vectors lose their orthogonality as Ritz values converge, and duplicate
    Ritz values appear. With ``reorthogonalise``, each new vector is made orthogonal to all earlier
    ones. All k vectors are kept in memory either way.

    Raises:
        TypeError: if ``v`` is not of real floating-point numbers.
        ValueError: if ``k`` is below 1, the norm of ``v`` is 0 or not finite, or an HVP is not
            shaped like its vector.
    """
    if k < 1:
        raise ValueError(f"{k} steps of Lanczos' algorithm were asked for; take 1 or more")
    hessian, w = Hessian(hvp), real(v)
    beta = w.norm()
    if not 0 < beta < math.inf:
        raise ValueError(
            f"Lanczos' algorithm cannot start from a vector of norm {beta}; take a random one"
        )
    V: list[Vector] = []
    alphas: list[float] = []
    betas: list[float] = []
    ending = Ending.LIMIT
    for _ in range(k):
        v = w.unit()
        w = hessian @ v
        alpha = w @ v
        w = w - alpha * v
        if V:
            w = w - beta * V[-1]
        if reorthogonalise:
            for earlier in [*V, v]:
                w = w - (w @ earlier) * earlier
        beta = w.norm()
        if not math.isfinite(beta):
            ending = Ending.BREAKDOWN
            break
        V.append(v)
        alphas.append(alpha)
        betas.append(beta)
        if beta <= tolerance * max(map(abs, [*alphas, *betas[:-1]])):
            ending = Ending.CONVERGED
            break
    *betas, beta_k = betas or [math.nan]
    return Lanczos([v.tree for v in V], alphas, betas, beta_k, ending, hessian.hvps)
