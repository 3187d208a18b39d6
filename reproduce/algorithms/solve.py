"""Solving ∇²f(x) v = b by HVPs: when to stop, for every method alike."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from reproduce.algorithms.conjugate_gradient import conjugate_gradient
from reproduce.algorithms.ending import Ending
from reproduce.algorithms.vector import Hessian, Hvp, Tree, Vector

# From ∇²f(x), v_0 and r_0 to the pairs v_t, r_t = ∇²f(x) v_t − b, for t = 0, 1, …
Method = Callable[[Hessian, Vector, Vector], Iterator[tuple[Vector, Vector]]]


class Solution(NamedTuple):
    """The inverse-HVP ``v``, how its method ended, and what it cost in HVPs.

    ``residual_norm`` is that of ∇²f(x) v − b (damped, if damping was asked for), as the
    method has carried it on: by rounding, it can fall below the true one.
    """

    v: Tree
    ending: Ending
    hvps: int
    residual_norm: float


def solve(
    hvp: Hvp,
    b: Tree,
    v: Tree | None = None,
    *,
    method: Method = conjugate_gradient,
    damping: float = 0.0,
    tolerance: float = 1e-6,
    limit: int = 1000,
) -> Solution:
    """The solution of (∇²f(x) + damping · I) v = b, to ‖residual‖ ≤ tolerance · ‖b‖.

    ``b`` is a tree with d scalars, and so is ``v``, from which ``method`` starts: zero if it
    is None, which saves an HVP. ``limit`` is of HVPs.
    """
    hessian, b = Hessian(hvp, damping), Vector(b)
    enough = tolerance * b.norm()
    v, r = (0.0 * b, -b) if v is None else (Vector(v), hessian @ Vector(v) - b)
    for v_t, r_t in method(hessian, v, r):
        v, r = v_t, r_t
        ending = _ending(r.norm(), enough, hessian.hvps >= limit)
        if ending is not None:
            break
    else:
        ending = Ending.NEGATIVE_CURVATURE
    return Solution(v.tree, ending, hessian.hvps, r.norm())


def _ending(residual_norm: float, enough: float, is_limit: bool) -> Ending | None:
    if not math.isfinite(residual_norm):
        return Ending.BREAKDOWN
    if residual_norm <= enough:
        return Ending.CONVERGED
    return Ending.LIMIT if is_limit else None
