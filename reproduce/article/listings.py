"""The article's hand-written listings, in our own words and corrected.

The example is ``f(U, W) = ½ ‖U W x‖²`` with ``x: (d,)``, ``W: (n, d)``, ``U: (m, n)``, and a
vector ``(vu, vw)`` shaped like ``(U, W)``. Its derivatives are written out by hand. A name that
ends in ``_tangent`` is a derivative along the vector; one that ends in ``_cotangent`` is a
derivative of the scalar that is differentiated. The article's JAX listings are in
``reproduce.in_jax.hvp``, its framed algorithms in ``reproduce.algorithms``, and the corrections
in ``reproduce.article.errata``.
Source: the article's sections "A quick detour by automatic differentiation" and "HVPs without
explicit Hessian computation".
"""

import jax
import jax.numpy as jnp

Pair = tuple[jax.Array, jax.Array]


def loss(x: jax.Array, U: jax.Array, W: jax.Array) -> jax.Array:
    """½ ‖U W x‖²: a scalar, whatever the number m of outputs."""
    output = U @ (W @ x)
    return output @ output / 2


def jvp(x: jax.Array, U: jax.Array, W: jax.Array, vu: jax.Array, vw: jax.Array) -> jax.Array:
    """⟨∇f, v⟩, a scalar, by forward mode. Cost: five products where ``loss`` takes two."""
    _, output, _, output_tangent = _with_tangents(x, U, W, vu, vw)
    return output @ output_tangent


def gradient(x: jax.Array, U: jax.Array, W: jax.Array) -> Pair:
    """∇f as a pair shaped like ``(U, W)``, by reverse mode."""
    hidden = W @ x
    output = U @ hidden
    return jnp.outer(output, hidden), jnp.outer(U.T @ output, x)


def forward_over_reverse(
    x: jax.Array, U: jax.Array, W: jax.Array, vu: jax.Array, vw: jax.Array
) -> Pair:
    """∇²f v as a pair shaped like ``(U, W)``: the derivative of ``gradient`` along v."""
    hidden, output, hidden_tangent, output_tangent = _with_tangents(x, U, W, vu, vw)
    cotangent_tangent = U.T @ output_tangent + vu.T @ output
    return (
        jnp.outer(output_tangent, hidden) + jnp.outer(output, hidden_tangent),
        jnp.outer(cotangent_tangent, x),
    )


def reverse_over_forward(
    x: jax.Array, U: jax.Array, W: jax.Array, vu: jax.Array, vw: jax.Array
) -> Pair:
    """∇²f v as a pair shaped like ``(U, W)``: the gradient of ``jvp`` in U and W."""
    hidden, output, hidden_tangent, output_tangent = _with_tangents(x, U, W, vu, vw)
    # The scalar is ⟨output, output_tangent⟩, so each is the cotangent of the other.
    output_cotangent, output_tangent_cotangent = output_tangent, output
    hidden_cotangent = vu.T @ output_tangent_cotangent + U.T @ output_cotangent
    return (
        jnp.outer(output_tangent_cotangent, hidden_tangent) + jnp.outer(output_cotangent, hidden),
        jnp.outer(hidden_cotangent, x),
    )


def reverse_over_reverse(
    x: jax.Array, U: jax.Array, W: jax.Array, vu: jax.Array, vw: jax.Array
) -> Pair:
    """∇²f v as a pair shaped like ``(U, W)``: the gradient of ⟨``gradient``, v⟩ in U and W.

    The scalar's value is not needed. Without it, this takes the same ten products as
    ``forward_over_reverse``.
    """
    hidden = W @ x
    output = U @ hidden
    # Back through ⟨output hiddenᵀ, vu⟩ + ⟨backward xᵀ, vw⟩, where backward = Uᵀ output.
    backward_cotangent = vw @ x
    output_cotangent = vu @ hidden + U @ backward_cotangent
    hidden_cotangent = vu.T @ output
    # Back through output = U hidden; the article's listing lacks the transpose.
    hidden_cotangent += U.T @ output_cotangent
    return (
        jnp.outer(output, backward_cotangent) + jnp.outer(output_cotangent, hidden),
        jnp.outer(hidden_cotangent, x),
    )


def _with_tangents(
    x: jax.Array, U: jax.Array, W: jax.Array, vu: jax.Array, vw: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    hidden, hidden_tangent = W @ x, vw @ x
    return hidden, U @ hidden, hidden_tangent, U @ hidden_tangent + vu @ hidden
