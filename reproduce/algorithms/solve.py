"""Solving ∇²f(x) v = b by HVPs, with the same stopping rules for every method."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from reproduce.algorithms.conjugate_gradient import conjugate_gradient
from reproduce.algorithms.ending import Ending
from reproduce.algorithms.vector import Hessian, Hvp, Tree, Vector, real

# From ∇²f(x), v_0 and r_0 to the pairs v_t, r_t = ∇²f(x) v_t − b, for t = 0, 1, …
Method = Callable[[Hessian, Vector, Vector], Iterator[tuple[Vector, Vector]]]
ROUNDING = 1e-16  # of float64: an updated residual below it means nothing


class Solution(NamedTuple):
    """The inverse-HVP ``v``, how its method ended, and how many HVPs it took.

    ``residual_norm`` is the norm of ∇²f(x) v − b (with the damping, if any). It is computed from
    ``v`` if the method converged or reached its precision. Otherwise the method updated it from
    step to step, and rounding can make it too small. After a breakdown, ``v`` and
    ``residual_norm`` are from the step before.
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

    ``b`` is a tree with d scalars, and so is ``v``, where ``method`` starts. If ``v`` is None, it
    starts from zero, which saves an HVP. ``limit`` is the largest number of HVPs. Before a method
    counts as converged, one more HVP gives its true residual; if that is too large, the method
    starts again from there. The solution of b = 0 is 0 and takes no HVP.

    Raises:
        TypeError: if ``b`` or ``v`` is not of real floating-point numbers.
        ValueError: if an HVP is not shaped like its vector.
    """
    hessian, b = Hessian(hvp, damping), real(b)
    b_norm = b.norm()
    if b_norm == 0:
        return Solution((0.0 * b).tree, Ending.CONVERGED, 0, 0.0)
    scale = b.magnitude()  # keeps every method away from the ends of the arrays' range
    b, b_norm = b / scale, b_norm / scale
    v = None if v is None else real(v) / scale
    v, r = (0.0 * b, -b) if v is None else (v, hessian @ v - b)
    enough, carried_enough = tolerance * b_norm, max(tolerance, ROUNDING) * b_norm
    true_norm = r.norm()
    ending = Ending.CONVERGED if true_norm <= enough else None
    while ending is None:
        v, r, ending = _followed(method(hessian, v, r), v, r, hessian, carried_enough, limit)
        if ending is None:
            as_returned = (scale * v) / scale  # differs from v near the ends of the range
            true_r = hessian @ as_returned - b
            before, true_norm = true_norm, true_r.norm()
            ending = _ending(true_norm, before, enough)
            if ending is not Ending.BREAKDOWN:
                v, r = as_returned, true_r
    return Solution((scale * v).tree, ending, hessian.hvps, scale * r.norm())


def _followed(
    iterates: Iterator[tuple[Vector, Vector]],
    v: Vector,
    r: Vector,
    hessian: Hessian,
    enough: float,
    limit: int,
) -> tuple[Vector, Vector, Ending | None]:
    """The last good pair of ``iterates``, or ``v`` and ``r``, and how it ended if not done."""
    for v_t, r_t in iterates:
        if not math.isfinite(v_t.norm() + r_t.norm()):
            return v, r, Ending.BREAKDOWN
        v, r = v_t, r_t
        if r.norm() <= enough:
            return v, r, None
        if hessian.hvps >= limit:
            return v, r, Ending.LIMIT
    return v, r, Ending.NEGATIVE_CURVATURE


def _ending(true_norm: float, before: float, enough: float) -> Ending | None:
    if not math.isfinite(true_norm):
        return Ending.BREAKDOWN
    if true_norm <= enough:
        return Ending.CONVERGED
    return Ending.PRECISION if true_norm > before / 2 else None
