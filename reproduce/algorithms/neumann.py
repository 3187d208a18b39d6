"""Neumann iterations for ∇²f(x) v = b.

Source: the article's section "Inverse Hessian-vector products"; S. Ghadimi, M. Wang,
"Approximation Methods for Bilevel Programming", 2018.
"""

from collections.abc import Iterator

from reproduce.algorithms.vector import Hessian, Vector


def neumann(
    hessian: Hessian, v: Vector, r: Vector, *, step: float
) -> Iterator[tuple[Vector, Vector]]:
    """v_t and r_t = ∇²f(x) v_t − b for t = 0, 1, …, with one HVP per step.

    From v_0 = 0, v_t is step · Σ_{i<t} (I − step · ∇²f(x))^i b, the series of the inverse. It
    converges if ∇²f(x) is positive definite and 0 < ``step`` < 2 / its largest eigenvalue.
    `gradient_descent` with the same step has the same iterates.

    Yields:
        The pair ``(v_t, r_t)``.
    """
    term = -r  # (I − step · ∇²f(x))^t b, which is what v_t leaves of b
    while True:
        yield v, -term
        v = v + step * term
        term = term - step * (hessian @ term)
