"""Products besides the article's HVPs, in JAX: smaller HVPs, and the Gauss-Newton product.

Each takes ``(loss, params, v)``, like the article's HVPs in ``hvp.py``. An HVP normally keeps all
results of its forward pass for the backward pass; these HVPs keep fewer and compute the others
again.
"""

from collections.abc import Callable
from typing import Any

import jax

from reproduce.in_jax.hvp import Loss, Tree, forward_over_reverse
from reproduce.in_jax.models import activations_in, layers_computed_again
from reproduce.problems.loss import LossOfLogits


def checkpointed(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by forward-over-reverse, keeping only the results of matrix products.

    Everything between the products of a layer's input and weight is computed again. Convolutions
    count as products. Cost: 8/3 gradients. Source: the documentation of ``jax.checkpoint``,
    policy ``dots_saveable``.
    """
    keep = jax.checkpoint_policies.dots_saveable
    return forward_over_reverse(jax.checkpoint(loss, policy=keep), params, v)


def checkpointed_layers(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by forward-over-reverse, keeping only the inputs of layers.

    Each layer of the network is computed again, with its derivative along ``v``. Cost: 11/3
    gradients. Source: Chen et al., "Training deep nets with sublinear memory cost" (2016).
    """
    with layers_computed_again():
        return forward_over_reverse(loss, params, v)


def gauss_newton(loss: LossOfLogits, params: Tree, v: Tree) -> Tree:
    """Jᵀ H J v, plus the HVP of any penalty: the Gauss-Newton product, which is no HVP.

    J is the Jacobian of the logits, and H is the Hessian of the loss as a function of the logits.
    If that function is convex, like cross-entropy or squares, Jᵀ H J has no negative eigenvalue.
    It leaves out the curvature of the logits, and equals ∇²f where they are linear in the
    parameters. The logits and J v are computed in one pass. Cost: 5/3 gradients. Source:
    Schraudolph, "Fast curvature matrix-vector products" (2002).
    """

    def logits_and_jvp(params: Tree) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(loss.logits, (params,), (v,))

    logits, transposed, jvp = jax.vjp(logits_and_jvp, params, has_aux=True)
    (product,) = transposed(forward_over_reverse(loss.of_logits, logits, jvp))
    if loss.penalty is None:
        return product
    of_penalty = forward_over_reverse(loss.penalty, params, v)
    return jax.tree_util.tree_map(jax.numpy.add, product, of_penalty)


def bfloat16(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by forward-over-reverse, with the network's activations in bfloat16.

    Parameters, ``v``, the loss of the logits and the result stay as they are. The error is that
    of 8 significant bits, about one percent. Cost: 8/3 gradients.
    """
    with activations_in(jax.numpy.bfloat16):
        return forward_over_reverse(loss, params, v)


METHODS: dict[str, Callable[[Any, Tree, Tree], Tree]] = {
    "checkpointed": checkpointed,
    "checkpointed_layers": checkpointed_layers,
    "gauss_newton": gauss_newton,
    "bfloat16": bfloat16,
}
