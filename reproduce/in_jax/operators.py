"""Operators of JAX and Flax in float64, to find out through which of them an HVP is right.

Each is a function of one array w that is given by its shape; other arrays are constants.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

from reproduce.in_jax.hvp import METHODS as OF_ARTICLE
from reproduce.in_jax.hvp import Loss, Tree
from reproduce.plan import HVPS

METHODS = {name: OF_ARTICLE[name] for name in HVPS}
# Wide, since attention computes its softmax in float32 whatever it is given.
STEP, LIMIT = 1e-3, 1e-2
# What JAX raises while it traces what it cannot differentiate.
REFUSALS = (NotImplementedError, TypeError, ValueError)


class Operator(NamedTuple):
    """A function of w, and the shape of w."""

    function: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...]


def verdicts(operator: Operator) -> dict[str, str]:
    """By method: ``right``, ``wrong``, or ``refused``, against central differences."""
    with jax.enable_x64(True):
        found = jax.jit(partial(_products, operator))(*_point(operator))
    return {name: _verdict(found, name) for name in METHODS}


def _products(operator: Operator, w: jax.Array, v: jax.Array) -> dict[str, jax.Array]:
    """Central differences of the gradient, and every HVP that is not refused."""
    loss, found = _loss(operator), {}
    with suppress(*REFUSALS):
        ahead, behind = (jax.grad(loss)({"w": w + sign * STEP * v})["w"] for sign in (1, -1))
        found["differences"] = (ahead - behind) / (2 * STEP)
    for name, hvp in METHODS.items():
        with suppress(*REFUSALS):
            found[name] = hvp(loss, {"w": w}, {"w": v})["w"]
    return found


def _verdict(found: dict[str, jax.Array], name: str) -> str:
    if name not in found:
        return "refused"
    expected = np.asarray(found["differences"])
    off = np.linalg.norm(np.asarray(found[name]) - expected)
    return "right" if off <= LIMIT * np.linalg.norm(expected) else "wrong"


def _point(operator: Operator) -> tuple[np.ndarray, np.ndarray]:
    w, v = np.random.default_rng(1).standard_normal((2, *operator.shape))
    return w / 2, v


def _loss(operator: Operator) -> Loss:
    """A loss through the operator, whose HVPs depend on its second derivative."""

    def loss(params: Tree) -> jax.Array:
        values = operator.function(jnp.sin(params["w"]))
        weights = jnp.cos(jnp.arange(values.size)).reshape(values.shape)
        return (values * weights).sum() + (values**2).sum() / 10

    return loss


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


ROWS, IMAGES, SEQUENCE = _normal(3, 8), _normal(2, 6, 6, 4), _normal(2, 5, 8)
LABELS, TOKENS = np.array([1, 5, 2]), np.arange(10).reshape(2, 5)
HEADS = _normal(3, 2, 5, 2, 4)
ONES = np.ones((3, 8))


def of_rows(function: Callable[[jax.Array], jax.Array]) -> Operator:
    """``function`` of rows (3, 8) that are linear in w (8, 8)."""
    return Operator(lambda w: function(jnp.asarray(ROWS) @ w), (8, 8))


def of_images(function: Callable[[jax.Array], jax.Array]) -> Operator:
    """``function`` of images (2, 6, 6, 4) that are a convolution with w."""
    layout = ("NHWC", "HWIO", "NHWC")
    return Operator(
        lambda w: function(
            lax.conv_general_dilated(
                jnp.asarray(IMAGES), w, (1, 1), "SAME", dimension_numbers=layout
            )
        ),
        (3, 3, 4, 4),
    )


def of_heads(function: Callable[..., jax.Array]) -> Operator:
    """``function`` of queries, keys and values, each (2, 5, 2, 4), that are scaled by w."""
    return Operator(lambda w: function(*(HEADS * w)), (3, 2, 5, 2, 4))


def of_module(module: nn.Module, x: np.ndarray) -> Operator:
    """The Flax ``module`` at ``x`` times a w of its shape; its own parameters are constants."""

    def function(w: jax.Array) -> jax.Array:
        variables = module.init(jax.random.key(0), x)
        found: Any = module.apply(variables, x * w, mutable=["batch_stats"])
        return found[0]  # without the statistics

    return Operator(function, x.shape)


def _ctc(w: jax.Array) -> jax.Array:
    labels = np.array([[1, 2], [3, 4]])
    return optax.ctc_loss(SEQUENCE @ w, np.zeros((2, 5)), labels, np.zeros((2, 2)))


def _embedded(w: jax.Array) -> Any:
    return nn.Embed(20, 8).apply({"params": {"embedding": w}}, TOKENS)


def _scattered(x: jax.Array) -> jax.Array:
    return jnp.zeros((3, 4)).at[:, np.arange(8) % 4].add(x)


def _scan(x: jax.Array) -> jax.Array:
    return lax.scan(lambda carry, row: (jnp.tanh(carry + row),) * 2, jnp.zeros(8), x)[1]


def _while(x: jax.Array) -> jax.Array:
    return lax.while_loop(lambda state: (state**2).sum() > 1, jnp.sin, x)


OPERATORS: Mapping[str, Operator] = {
    "flax LayerNorm": of_module(nn.LayerNorm(), ROWS),
    "flax RMSNorm": of_module(nn.RMSNorm(), ROWS),
    "flax GroupNorm": of_module(nn.GroupNorm(num_groups=2), IMAGES),
    "flax BatchNorm (training)": of_module(nn.BatchNorm(use_running_average=False), IMAGES),
    "flax BatchNorm (inference)": of_module(nn.BatchNorm(use_running_average=True), IMAGES),
    "flax WeightNorm": of_module(nn.WeightNorm(nn.Dense(4)), ROWS),
    "flax MultiHeadDotProductAttention": of_module(
        nn.MultiHeadDotProductAttention(num_heads=2), SEQUENCE
    ),
    "flax Embed": Operator(_embedded, (20, 8)),
    "nn.dot_product_attention": of_heads(jax.nn.dot_product_attention),
    "nn.softmax": of_rows(jax.nn.softmax),
    "nn.log_softmax": of_rows(jax.nn.log_softmax),
    "nn.gelu": of_rows(jax.nn.gelu),
    "nn.silu": of_rows(jax.nn.silu),
    "nn.elu": of_rows(jax.nn.elu),
    "nn.softplus": of_rows(jax.nn.softplus),
    "nn.relu": of_rows(jax.nn.relu),
    "nn.hard_sigmoid": of_rows(jax.nn.hard_sigmoid),
    "nn.glu": of_rows(jax.nn.glu),
    "optax softmax_cross_entropy": of_rows(
        lambda x: optax.softmax_cross_entropy_with_integer_labels(x, LABELS)
    ),
    "optax sigmoid_binary_cross_entropy": of_rows(
        lambda x: optax.sigmoid_binary_cross_entropy(x, ONES / 3)
    ),
    "optax squared_error": of_rows(lambda x: optax.squared_error(x, ONES)),
    "optax huber_loss": of_rows(lambda x: optax.huber_loss(x, ONES)),
    "optax ctc_loss": Operator(_ctc, (8, 8)),
    "lax.conv_general_dilated": of_images(lambda x: x),
    "flax max_pool": of_images(lambda x: nn.max_pool(x, (2, 2), (2, 2))),
    "flax avg_pool": of_images(lambda x: nn.avg_pool(x, (2, 2), (2, 2))),
    "image.resize": of_images(lambda x: jax.image.resize(x, (2, 12, 12, 4), "bilinear")),
    "linalg.norm": of_rows(lambda x: jnp.linalg.norm(x, axis=-1)),
    "linalg.slogdet": Operator(lambda w: jnp.linalg.slogdet(w @ w.T + jnp.eye(8))[1], (8, 8)),
    "linalg.svd": Operator(lambda w: jnp.linalg.svd(w, compute_uv=False), (8, 6)),
    "linalg.inv": Operator(lambda w: jnp.linalg.inv(w + 5 * jnp.eye(8)), (8, 8)),
    "linalg.cholesky": Operator(lambda w: jnp.linalg.cholesky(w @ w.T + jnp.eye(8)), (8, 8)),
    "fft.rfft": of_rows(lambda x: jnp.abs(jnp.fft.rfft(x))),
    "sort": of_rows(lambda x: jnp.sort(x, axis=-1)),
    "lax.top_k": of_rows(lambda x: lax.top_k(x, 3)[0]),
    "cumsum": of_rows(lambda x: jnp.cumsum(x, axis=-1)),
    "scatter (at[].add)": of_rows(_scattered),
    "where": of_rows(lambda x: jnp.where(x > 0, x**2, jnp.sin(x))),
    "lax.cond": of_rows(lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)),
    "lax.scan": of_rows(_scan),
    "lax.while_loop": of_rows(_while),
    "jax.checkpoint": of_rows(jax.checkpoint(lambda x: jnp.tanh(jnp.sin(x)))),
}
