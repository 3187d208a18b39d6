"""The loss, its gradient and the article's three Hessian-vector products, in PyTorch.

Each takes ``(loss, params, v)``: ``loss`` maps a dictionary of parameters with d
scalars to a scalar, and ``v`` is a dictionary like ``params``. The first two return a scalar,
the others a dictionary like ``params``.
Costs are operation counts for a network of dense layers, where one evaluation
takes one product with each weight, a gradient three and an HVP eight.
Source: the article's section "HVPs without explicit Hessian computation".
"""

from collections.abc import Callable

import torch
from torch.func import grad, jvp, vmap

Tree = dict[str, torch.Tensor]
Loss = Callable[[Tree], torch.Tensor]


def evaluation(loss: Loss, params: Tree, v: Tree) -> torch.Tensor:
    """f(params), a scalar; ``v`` is not used. Cost: 1/3 gradient."""
    return loss(params)


def directional_derivative(loss: Loss, params: Tree, v: Tree) -> torch.Tensor:
    """⟨∇f(params), v⟩, a scalar: the JVP of the loss, by forward mode. Cost: 1 gradient."""
    return jvp(loss, (params,), (v,))[1]


def gradient(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇f(params), by reverse mode; ``v`` is not used. Cost: 1 gradient."""
    return grad(loss)(params)


def forward_over_reverse(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v as the JVP of the gradient along v.

    Cost: 9/3 gradients. ∇f itself is computed as well, although it is not needed.
    """
    return jvp(grad(loss), (params,), (v,))[1]


def reverse_over_forward(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v as the gradient of the JVP ⟨∇f(·), v⟩. Cost: 8/3 gradients.

    It is wrong, without a warning, if the loss uses PyTorch's own layer norm, or its batch or
    instance norm in training: their forward modes cannot be differentiated again.
    """

    def directional_derivative(params: Tree) -> torch.Tensor:
        return jvp(loss, (params,), (v,))[1]

    return grad(directional_derivative)(params)


def reverse_over_reverse(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v as the gradient of ⟨∇f(·), v⟩ by reverse mode.

    Cost: 9/3 gradients, because ∇f itself is computed as well. The article's
    listing does not call the function that it builds.
    """

    def directional_derivative(params: Tree) -> torch.Tensor:
        return inner_product(grad(loss)(params), v)

    return grad(directional_derivative)(params)


def dense_hessian_product(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v from the whole d × d Hessian: the naive way, for small d only.

    The Hessian's columns are products by reverse-over-reverse. ``torch.func.hessian`` would have
    the same faults as the forward modes that are tested with it: both are wrong for PyTorch's own
    layer norm, and for its batch and instance norm in training.
    Costs d HVPs and d² scalars of memory (for BERT-base 48 PB in float32).
    """
    sizes = [value.numel() for value in params.values()]

    def flat(tree: Tree) -> torch.Tensor:
        return torch.cat([tree[name].flatten() for name in params])

    def tree(flat: torch.Tensor) -> Tree:
        parts = zip(params.items(), flat.split(sizes), strict=True)
        return {name: part.view_as(value) for (name, value), part in parts}

    def column(unit: torch.Tensor) -> torch.Tensor:
        return flat(reverse_over_reverse(loss, params, tree(unit)))

    units = torch.eye(sum(sizes)).to(flat(v))
    return tree(vmap(column, out_dims=1)(units) @ flat(v))


def inner_product(a: Tree, b: Tree) -> torch.Tensor:
    """⟨a, b⟩, a scalar: the sum over all entries."""
    products = (torch.dot(a[name].ravel(), b[name].ravel()) for name in a)
    return sum(products)  # type: ignore[return-value]  # no tree is empty


METHODS = {
    "evaluation": evaluation,
    "jvp": directional_derivative,
    "gradient": gradient,
    "forward_over_reverse": forward_over_reverse,
    "reverse_over_forward": reverse_over_forward,
    "reverse_over_reverse": reverse_over_reverse,
}
