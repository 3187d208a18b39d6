"""The gradient of a bilevel problem, min_x h(x) = F(x, y*(x)) with y*(x) = argmin_y G(x, y).

Source: the article's section "Inverse Hessian-vector products", whose formula has ∇_y G where
∇_y F belongs.
"""

from collections.abc import Callable
from typing import Any

from reproduce.algorithms.solve import Solution, solve
from reproduce.algorithms.vector import Hvp, Tree, Vector


def hypergradient(
    F_x: Tree, F_y: Tree, hvp: Hvp, cross: Callable[[Tree], Tree], **settings: Any
) -> tuple[Tree, Solution]:
    """∇h(x) = ∇_x F − ∇²_xy G [∇²_yy G]⁻¹ ∇_y F at (x, y*(x)), and the solution in it.

    ``F_x`` is a tree like x and ``F_y`` one like y: ∇_x F and ∇_y F. Of a tree v like y, ``hvp``
    gives ∇²_yy G v, like y, and ``cross`` gives ∇²_xy G v, like x. ``settings`` are those of
    `solve`; with a ``v``, the last solution for instance, it needs fewer HVPs.
    """
    solution = solve(hvp, F_y, **settings)
    return (Vector(F_x) - Vector(cross(solution.v))).tree, solution
