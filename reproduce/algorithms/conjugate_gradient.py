"""The conjugate gradient method for ∇²f(x) v = b.

Source: the article's box "Conjugate gradient"; M. R. Hestenes, E. Stiefel, "Methods of
Conjugate Gradients for Solving Linear Systems", 1952.
"""

from collections.abc import Iterator

from reproduce.algorithms.vector import Hessian, Vector


def conjugate_gradient(hessian: Hessian, v: Vector, r: Vector) -> Iterator[tuple[Vector, Vector]]:
    """v_t and r_t = ∇²f(x) v_t − b for t = 0, 1, …, with one HVP per step.

    ∇²f(x) has to be positive definite, which the box does not say. The method ends at a direction
    p_t without positive curvature. In exact arithmetic r_t is zero for some t ≤ d.

    Yields:
        The pair ``(v_t, r_t)``.
    """
    p = -r
    while True:
        yield v, r
        Hp = hessian @ p
        curvature = p @ Hp
        if curvature <= 0:
            return
        r_squared = r @ r
        alpha = r_squared / curvature
        v = v + alpha * p
        r = r + alpha * Hp
        beta = (r @ r) / r_squared
        p = -r + beta * p
