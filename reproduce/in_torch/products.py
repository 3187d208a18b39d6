"""Products besides the article's HVPs, in PyTorch: the Gauss-Newton product.

It takes ``(loss, params, v)``, like the article's HVPs in ``hvp.py``.
"""

import torch
from torch.func import jvp, vjp

from reproduce.in_torch.hvp import Tree, forward_over_reverse
from reproduce.problems.loss import LossOfLogits


def gauss_newton(loss: LossOfLogits, params: Tree, v: Tree) -> Tree:
    """Jᵀ H J v, plus the HVP of any penalty: the Gauss-Newton product, which is no HVP.

    J is the Jacobian of the logits, and H is the Hessian of the loss as a function of the logits.
    If that function is convex, like cross-entropy or squares, Jᵀ H J has no negative eigenvalue.
    It leaves out the curvature of the logits, and equals ∇²f where they are linear in the
    parameters. The logits and J v are computed in one pass. Cost: 5/3 gradients. Source:
    Schraudolph, "Fast curvature matrix-vector products" (2002).
    """

    def logits_and_jvp(params: Tree) -> tuple[torch.Tensor, torch.Tensor]:
        return jvp(loss.logits, (params,), (v,))

    logits, transposed, of_logits = vjp(logits_and_jvp, params, has_aux=True)
    (product,) = transposed(forward_over_reverse(loss.of_logits, logits, of_logits))
    if loss.penalty is None:
        return product
    of_penalty = forward_over_reverse(loss.penalty, params, v)
    return {name: product[name] + of_penalty[name] for name in params}


METHODS = {"gauss_newton": gauss_newton}
