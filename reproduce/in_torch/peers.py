"""HVPs that are timed beside the article's, in PyTorch: other libraries', and a repaired one.

Each takes ``(loss, params, v)``, like the article's HVPs in ``hvp.py``. Dictionaries are matched by
name. For a parameter that the loss does not use, or uses linearly, the HVP has zeros where ∇²f has.
"""

from collections.abc import Callable
from typing import Any

import torch

from reproduce.in_torch.hvp import Loss, Tree, reverse_over_forward
from reproduce.in_torch.many_vectors import in_order, recorded_vjp
from reproduce.in_torch.models import every_layer_norm


def autograd_grad(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by ``torch.autograd.grad`` twice. Cost: 9/3 gradients.

    Source: PyHessian's ``hessian_vector_product``, including the gradient that it needs.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    inputs = list(leaves.values())
    gradient = recorded_vjp([loss(leaves)], inputs, create_graph=True)
    products = recorded_vjp(gradient, inputs, in_order(v, params))
    return dict(zip(params, products, strict=True))


def autograd_hvp(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by ``torch.autograd.functional.hvp``. Cost: 5 gradients.

    It differentiates the gradient's VJP with respect to the cotangent, which takes two backward
    passes through the gradient where ``autograd_vhp`` takes one.
    """
    return _functional(torch.autograd.functional.hvp, loss, params, v)


def autograd_vhp(loss: Loss, params: Tree, v: Tree) -> Tree:
    """vᵀ∇²f(params), which is ∇²f(params) v by symmetry, by ``torch.autograd.functional.vhp``.

    Cost: 9/3 gradients.
    """
    return _functional(torch.autograd.functional.vhp, loss, params, v)


def curvlinops(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by curvlinops' ``HessianLinearOperator``. Cost: 9/3 gradients.

    Raises:
        ImportError: if curvlinops is not installed.
    """
    from curvlinops import HessianLinearOperator  # noqa: PLC0415 - for this method alone

    def product(loss: Loss) -> Tree:
        module = _Module(loss, params)
        operator = HessianLinearOperator(
            module,
            _Identity(),
            list(module.parameters()),
            [(torch.zeros(1), torch.zeros(1))],  # the batch is in the loss
            check_deterministic=False,
        )
        with every_layer_norm("native"):
            return dict(zip(params, operator @ in_order(v, params), strict=True))

    try:
        return product(loss)
    except RuntimeError:  # its vmap fails if a part of the product does not depend on v
        return product(lambda params: loss(params) + 0 * sum((x**2).sum() for x in params.values()))


def repaired_reverse_over_forward(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by reverse-over-forward, repaired for PyTorch's own layer normalisation.

    It is replaced by an equal function through which the HVP is right. Cost: 8/3 gradients.
    """
    with every_layer_norm("repaired"):
        return reverse_over_forward(loss, params, v)


class _Module(torch.nn.Module):
    """``loss`` as a module with the same parameters, under names without dots."""

    def __init__(self, loss: Loss, params: Tree) -> None:
        super().__init__()
        self.loss, self.names = loss, {name: name.replace(".", "/") for name in params}
        for name, value in params.items():
            self.register_parameter(self.names[name], torch.nn.Parameter(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The loss, which does not depend on ``x``."""
        return self.loss({name: getattr(self, own) for name, own in self.names.items()})


class _Identity(torch.nn.Module):
    """The loss of a module that computes the loss itself."""

    reduction = "sum"

    def forward(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """``prediction``, unchanged."""
        return prediction


def _functional(product: Callable[..., Any], loss: Loss, params: Tree, v: Tree) -> Tree:
    def of_values(*values: torch.Tensor) -> torch.Tensor:
        return loss(dict(zip(params, values, strict=True)))

    _, products = product(of_values, tuple(params.values()), tuple(in_order(v, params)))
    return dict(zip(params, products, strict=True))


METHODS = {
    "autograd_grad": autograd_grad,
    "autograd_hvp": autograd_hvp,
    "autograd_vhp": autograd_vhp,
    "curvlinops": curvlinops,
    "repaired_reverse_over_forward": repaired_reverse_over_forward,
}
