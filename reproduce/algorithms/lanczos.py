"""Lanczos' algorithm: eigenvalues of ∇²f(x) from HVPs.

Source: the article's box "Lanczos' algorithm"; C. Lanczos, "An iteration method for the
solution of the eigenvalue problem of linear differential and integral operators", 1950.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh_tridiagonal

from reproduce.algorithms.ending import Ending
from reproduce.algorithms.vector import Hessian, Hvp, Tree, Vector


@dataclass(frozen=True)
class Lanczos:
    """What k steps found: ∇²f(x) V = V T, but for the last column, which differs by ``beta_k``.

    ``V`` has k orthonormal vectors, trees with d scalars; ``alphas`` are the k entries of T's
    diagonal, ``betas`` the k − 1 beside it. It took k HVPs.
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
        """The eigenvalues θ of T, ascending, (k,): the outermost are near those of ∇²f(x)."""
        return self._eigen[0]

    @property
    def residuals(self) -> np.ndarray:
        """‖∇²f(x) u − θ u‖ of each Ritz value θ and its vector u, (k,).

        Some eigenvalue is no further from θ than that.
        """
        return self.beta_k * np.abs(self._eigen[1][-1])

    @property
    def weights(self) -> np.ndarray:
        """⟨v_0, u⟩² of each Ritz vector u, (k,): they sum to 1."""
        return self._eigen[1][0] ** 2

    def ritz_vector(self, index: int) -> Tree:
        """The vector u of the Ritz value ``index``: a tree with d scalars, of norm 1."""
        parts = self._eigen[1][:, index].tolist()
        first, *rest = (part * Vector(v) for part, v in zip(parts, self.V, strict=True))
        return sum(rest, first).tree

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        return eigh_tridiagonal(self.alphas, self.betas)


def lanczos(
    hvp: Hvp, v: Tree, k: int, *, reorthogonalise: bool = False, tolerance: float = 1e-6
) -> Lanczos:
    """What ``k`` steps from ``v`` find of ∇²f(x), at an HVP a step.

    ``v`` is a tree with d scalars, any but zero: it is scaled to norm 1, which the box does not
    ask for. Where ``v`` leads to fewer than k eigenvalues, it ends with them, converged: when
    the next β is at most ``tolerance`` times the largest entry of T.

    By rounding, the vectors lose their orthogonality as Ritz values converge, and copies of
    these appear. With ``reorthogonalise``, each new one is made orthogonal to all before it.
    All k are kept in memory either way.
    """
    hessian, v = Hessian(hvp), Vector(v)
    V = [v / v.norm()]
    w = hessian @ V[0]
    alphas, betas = [w @ V[0]], []
    w = w - alphas[0] * V[0]
    for i in range(1, k):
        beta = w.norm()
        if _ending(alphas, betas, beta, tolerance) is not Ending.LIMIT:
            break
        betas.append(beta)
        V.append(w / beta)
        w = hessian @ V[i]
        alphas.append(w @ V[i])
        w = w - alphas[i] * V[i] - beta * V[i - 1]
        if reorthogonalise:
            for earlier in V:
                w = w - (w @ earlier) * earlier
    ending = _ending(alphas, betas, w.norm(), tolerance)
    return Lanczos([v.tree for v in V], alphas, betas, w.norm(), ending, hessian.hvps)


def _ending(alphas: list[float], betas: list[float], beta: float, tolerance: float) -> Ending:
    if not math.isfinite(beta):
        return Ending.BREAKDOWN
    largest = max(map(abs, [*alphas, *betas]))
    return Ending.CONVERGED if beta <= tolerance * largest else Ending.LIMIT
