"""Many vectors at one point, in JAX: one after another, or several at once.

The part of an HVP that does not depend on v (the loss, its gradient and everything between) is
the same for every vector, and needs to be computed only once.
"""

from collections.abc import Callable

import jax

from reproduce.in_jax.hvp import Loss, Tree, reverse_over_forward

LossOfBatch = Callable[[Tree, Tree], jax.Array]
Divided = tuple[Callable[[Tree, Tree], Tree], Callable[[Tree, Tree], Tree]]


def linearized(loss: LossOfBatch, params: Tree, v: Tree, batch: Tree) -> Divided:
    """``at_point(params, batch)`` and ``product(state, v)``, which is ∇²f(params) v.

    The state is the linear map v ↦ ∇²f(params) v, with everything that it needs. It is made by
    reverse-over-forward. ``jax.linearize(jax.grad(loss), params)`` costs as many operations, but
    it adds up the products for a weight and then transposes the sum, which took a fifth longer on
    a CPU for ViT and BERT. Both functions take trees like ``params``, ``v`` and ``batch``. Cost:
    1 gradient for a point, and 6/3 gradients for each vector. Source: the documentation of
    ``jax.linearize``.
    """

    def at_point(params: Tree, batch: Tree) -> Tree:
        def hvp(v: Tree) -> Tree:
            return reverse_over_forward(lambda params: loss(params, batch), params, v)

        return jax.linearize(hvp, params)[1]  # the same at any v

    def product(linear_map: Tree, v: Tree) -> Tree:
        return linear_map(v)

    return at_point, product


def at_once(hvp: Callable[[Loss, Tree, Tree], Tree]) -> Callable[[Loss, Tree, Tree], Tree]:
    """``hvp`` for several vectors, along the first axis of ``v`` and of the result.

    Cost: 2/3 gradients, and 6/3 for each vector.
    """
    return lambda loss, params, v: jax.vmap(lambda v: hvp(loss, params, v))(v)


def stacked(vectors: list[Tree]) -> Tree:
    """``vectors`` as one tree, stacked along a new first axis."""
    return jax.tree_util.tree_map(lambda *leaves: jax.numpy.stack(leaves), *vectors)


METHODS = {"linearized": linearized}
