"""The loss, its gradient and the article's three Hessian-vector products, in JAX.

Each takes ``(loss, params, v)``: ``loss`` maps a tree of parameters with d scalars
to a scalar, and ``v`` is a tree like ``params``. The first two return a scalar, the others a
tree like ``params``.
Costs are operation counts for a network of dense layers, where one evaluation
takes one product with each weight, a gradient three and an HVP eight.
Source: the article's section "HVPs without explicit Hessian computation".
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Tree = Any
Loss = Callable[[Tree], jax.Array]


def evaluation(loss: Loss, params: Tree, v: Tree) -> jax.Array:
    """f(params), a scalar; ``v`` is not used. Cost: 1/3 gradient."""
    return loss(params)


def directional_derivative(loss: Loss, params: Tree, v: Tree) -> jax.Array:
    """⟨∇f(params), v⟩, a scalar: the JVP of the loss, by forward mode. Cost: 1 gradient."""
    return jax.jvp(loss, (params,), (v,))[1]


def gradient(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇f(params), by reverse mode; ``v`` is not used. Cost: 1 gradient."""
    return jax.grad(loss)(params)


def forward_over_reverse(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v as the JVP of the gradient along v. Cost: 8/3 gradients."""
    return jax.jvp(jax.grad(loss), (params,), (v,))[1]


def reverse_over_forward(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v as the gradient of the JVP ⟨∇f(·), v⟩. Cost: 8/3 gradients."""

    def directional_derivative(params: Tree) -> jax.Array:
        return jax.jvp(loss, (params,), (v,))[1]

    return jax.grad(directional_derivative)(params)


def reverse_over_reverse(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v as the gradient of ⟨∇f(·), v⟩ by reverse mode. Cost: 8/3 gradients.

    The article's listing does not call the function that it builds.
    """

    def directional_derivative(params: Tree) -> jax.Array:
        return inner_product(jax.grad(loss)(params), v)

    return jax.grad(directional_derivative)(params)


def dense_hessian_product(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v from the whole d × d Hessian: the naive way, for small d only.

    The Hessian's columns are products by reverse-over-reverse, as in PyTorch.
    Costs d HVPs and d² scalars of memory (for BERT-base 48 PB in float32).
    """
    flat, tree_of = ravel_pytree(params)

    def column(unit: jax.Array) -> jax.Array:
        return ravel_pytree(reverse_over_reverse(loss, params, tree_of(unit)))[0]

    columns = jax.vmap(column, out_axes=1)(jnp.eye(flat.size, dtype=flat.dtype))
    return tree_of(columns @ ravel_pytree(v)[0])


def inner_product(a: Tree, b: Tree) -> jax.Array:
    """⟨a, b⟩, a scalar: the sum over all leaves."""
    products = jax.tree_util.tree_leaves(jax.tree_util.tree_map(jnp.vdot, a, b))
    return sum(products)  # type: ignore[return-value]  # no tree is empty


METHODS = {
    "evaluation": evaluation,
    "jvp": directional_derivative,
    "gradient": gradient,
    "forward_over_reverse": forward_over_reverse,
    "reverse_over_forward": reverse_over_forward,
    "reverse_over_reverse": reverse_over_reverse,
}
