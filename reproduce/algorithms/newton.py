"""Newton's method by HVPs.

Source: the article's section "Inverse Hessian-vector products".
"""

from typing import Any

from reproduce.algorithms.solve import Solution, solve
from reproduce.algorithms.vector import Hvp, Tree, Vector


def newton_step(
    x: Tree, gradient: Tree, hvp: Hvp, step: float = 1.0, **options: Any
) -> tuple[Tree, Solution]:
    """The next x, x − step · [∇²f(x)]⁻¹ ∇f(x), and the solution that gave the inverse-HVP.

    ``x`` and ``gradient`` are trees with d scalars. ``hvp`` and ``options`` are as for `solve`;
    at a saddle, enough damping makes the step one of descent. Check the solution's ``ending``: the
    step is only as good as the solution.
    """
    solution = solve(hvp, gradient, **options)
    return (Vector(x) - step * Vector(solution.v)).tree, solution
