"""Hessians that are known in full: matrices of given eigenvalues, and that of a small network."""

from functools import cache, partial

import jax
import numpy as np
from cases import build, module
from jax.flatten_util import ravel_pytree


def symmetric(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    noise = np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2)
    basis = np.linalg.qr(noise)[0]
    return basis @ np.diag(eigenvalues) @ basis.T


def normal(size, seed=1):
    return np.random.default_rng(seed).standard_normal(size)


def failing_after(calls, matrix, bad=np.nan):
    """An HVP that gives ``bad`` numbers after so many calls."""
    left = iter(range(calls))
    return lambda v: matrix @ v if next(left, None) is not None else bad * v


@cache
def network(framework):
    """``(hvp, params, dense)`` of a small network: its dense Hessian is indefinite."""
    loss, params = build("jax", "mlp")
    point, tree_of = ravel_pytree(params)
    dense = np.asarray(jax.jit(jax.hessian(lambda flat: loss(tree_of(flat))))(point))
    loss, params = build(framework, "mlp")
    product = partial(module(framework, "hvp").forward_over_reverse, loss, params)
    return (jax.jit(product) if framework == "jax" else product), params, dense
