"""HVPs as other libraries compute them, in PyTorch, to be timed beside ours.

Each takes ``(loss, params, v)``, as the article's in ``hvp.py`` do.
"""

import torch

from reproduce.in_torch.hvp import Loss, Tree
from reproduce.in_torch.models import native_layer_norm


def autograd_grad(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by ``torch.autograd.grad`` twice. Cost: 9/3 gradients.

    Source: PyHessian's ``hessian_vector_product``, with the gradient that goes before it.
    """
    leaves = _leaves(params)
    inputs = list(leaves.values())
    gradient = torch.autograd.grad(loss(leaves), inputs, create_graph=True)
    products = torch.autograd.grad(gradient, inputs, list(v.values()), materialize_grads=True)
    return dict(zip(params, products, strict=True))


def autograd_hvp(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by ``torch.autograd.functional.hvp``. Cost: 5 gradients.

    It differentiates the gradient's VJP by its cotangent, and so goes backwards twice
    through what ``autograd_vhp`` goes through once.
    """
    return _functional(torch.autograd.functional.hvp, loss, params, v)


def autograd_vhp(loss: Loss, params: Tree, v: Tree) -> Tree:
    """vᵀ∇²f(params), the same by symmetry, by ``torch.autograd.functional.vhp``.

    Cost: 9/3 gradients.
    """
    return _functional(torch.autograd.functional.vhp, loss, params, v)


def curvlinops(loss: Loss, params: Tree, v: Tree) -> Tree:
    """∇²f(params) v by curvlinops' ``HessianLinearOperator``. Cost: 9/3 gradients.

    Raises:
        ImportError: if curvlinops is not installed.
    """
    from curvlinops import HessianLinearOperator  # noqa: PLC0415 - for this method alone

    module = _Module(loss, params)
    operator = HessianLinearOperator(
        module,
        _Identity(),
        list(module.parameters()),
        [(torch.zeros(1), torch.zeros(1))],  # the batch is in the loss
        check_deterministic=False,
    )
    with native_layer_norm():
        return dict(zip(params, operator @ list(v.values()), strict=True))


class _Module(torch.nn.Module):
    """``loss`` as a module, whose parameters are those of the loss, under names without dots."""

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
        """``prediction``, as it is."""
        return prediction


def _leaves(params: Tree) -> Tree:
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def _functional(product, loss: Loss, params: Tree, v: Tree) -> Tree:
    def of_values(*values: torch.Tensor) -> torch.Tensor:
        return loss(dict(zip(params, values, strict=True)))

    _, products = product(of_values, tuple(params.values()), tuple(v.values()))
    return dict(zip(params, products, strict=True))


METHODS = {
    "autograd_grad": autograd_grad,
    "autograd_hvp": autograd_hvp,
    "autograd_vhp": autograd_vhp,
    "curvlinops": curvlinops,
}
