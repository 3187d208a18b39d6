"""The gradient of a bilevel problem, min_x h(x) = F(x, y*(x)) with y*(x) = argmin_y G(x, y).

Source: the article's section "Inverse Hessian-vector products", whose formula has ∇_y G where
∇_y F belongs.
"""

from collections.abc import Callable
from typing import Any

from reproduce.algorithms.solve import Solution, solve
from reproduce.algorithms.vector import Hvp, Tree, Vector


def hypergradient(
    F_x: Tree, F_y: Tree, hvp: Hvp, cross: Callable[[Tree], Tree], **options: Any
) -> tuple[Tree, Solution]:
    """∇h(x) = ∇_x F − ∇²_xy G [∇²_yy G]⁻¹ ∇_y F at (x, y*(x)), and the solution that it contains.

    ``F_x`` is ∇_x F, a tree like x, and ``F_y`` is ∇_y F, a tree like y. For a tree v like y,
    ``hvp`` returns ∇²_yy G v, a tree like y, and ``cross`` returns ∇²_xy G v, a tree like x.
    ``options`` are those of `solve`. A ``v`` to start from, such as the last solution, saves HVPs.
    """
    solution = solve(hvp, F_y, **options)
    return (Vector(F_x) - Vector(cross(solution.v))).tree, solution
