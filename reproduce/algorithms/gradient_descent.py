"""Gradient descent on v ↦ ½ ⟨∇²f(x) v, v⟩ − ⟨b, v⟩, whose minimum solves ∇²f(x) v = b.

Source: the article's section "Inverse Hessian-vector products".
"""

from collections.abc import Iterator

from reproduce.algorithms.vector import Hessian, Vector


def gradient_descent(
    hessian: Hessian, v: Vector, r: Vector, *, step: float | None = None
) -> Iterator[tuple[Vector, Vector]]:
    """v_t and the gradient r_t = ∇²f(x) v_t − b for t = 0, 1, …, with one HVP per step.

    Without a ``step``, each step goes to the minimum along r_t. The method ends if there is no
    minimum, which means that r_t is a direction without positive curvature. With a ``step``, the
    method converges under the conditions of `neumann`.

    Yields:
        The pair ``(v_t, r_t)``.
    """
    while True:
        yield v, r
        Hr = hessian @ r
        curvature = r @ Hr
        if step is None and curvature <= 0:
            return
        eta = (r @ r) / curvature if step is None else step
        v = v - eta * r
        r = r - eta * Hr
