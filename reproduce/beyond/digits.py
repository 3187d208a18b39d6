"""Two problems on scikit-learn's digits, in JAX: small enough for a dense Hessian in float64.

Each has all of its parameters in one vector.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from reproduce.in_jax.hvp import forward_over_reverse

PIXELS, HIDDEN, CLASSES = 64, 32, 10
WEIGHT_DECAY = 1e-3
TRAINING_STEPS = 10_000
SEED = 0


class Images(NamedTuple):
    """``inputs``: (n, 64), grey values from 0 to 1; ``labels``: (n,), integers from 0 to 9."""

    inputs: jax.Array
    labels: jax.Array


def split(*sizes: int) -> list[Images]:
    """Disjoint sets of images of the given sizes, drawn with a fixed seed from all 1797."""
    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(labels))
    parts = np.split(order, np.cumsum(sizes))[: len(sizes)]
    return [Images(jnp.asarray(inputs[part] / 16), jnp.asarray(labels[part])) for part in parts]


class Network:
    """64 pixels, 32 tanh units, 10 classes: ``x: (2410,)``, trained by L-BFGS.

    Its loss is the mean cross-entropy plus 0.001 / 2 times the squared norm of x.
    """

    def __init__(self) -> None:
        self.train, self.validation = split(1200, 597)
        rng = np.random.default_rng(SEED)
        shapes = (PIXELS, HIDDEN), (1, HIDDEN), (HIDDEN, CLASSES), (1, CLASSES)
        start = [rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in shapes]
        evaluate = jax.jit(jax.value_and_grad(lambda x: self.loss(x, self.train)))
        x = np.concatenate([part.ravel() for part in start])
        options = {"maxiter": TRAINING_STEPS, "maxfun": 2 * TRAINING_STEPS}
        trained = minimize(evaluate, x, jac=True, method="L-BFGS-B", options=options)
        self.x = jnp.asarray(trained.x)

    def loss(self, x: jax.Array, images: Images) -> jax.Array:
        """The loss of ``images``, a scalar."""
        hidden = jnp.tanh(_affine(x[: -(HIDDEN + 1) * CLASSES], images.inputs, HIDDEN))
        logits = _affine(x[-(HIDDEN + 1) * CLASSES :], hidden, CLASSES)
        return cross_entropy(logits, images.labels) + WEIGHT_DECAY / 2 * x @ x

    def hvp(self, v: jax.Array) -> jax.Array:
        """The Hessian of the training loss times ``v``."""
        return forward_over_reverse(lambda x: self.loss(x, self.train), self.x, v)

    def validation_gradient(self) -> jax.Array:
        """The gradient of the loss of the validation images."""
        return jax.grad(self.loss)(self.x, self.validation)


class Regression:
    """Logistic regression on few digits, ``y: (650,)``, and the strength of its regularisation.

    ``x`` is the strength's logarithm. The inner loss G is the loss of 150 training images plus
    exp(x) / 2 times the squared norm of y. The outer loss F is the loss of 600 other images.
    Letters after the underscore are derivatives: ``G_xy(x, y, v)`` is ∇²_xy G times v.
    """

    def __init__(self) -> None:
        self.train, self.validation = split(150, 600)
        self.start = jnp.zeros((PIXELS + 1) * CLASSES)
        self.F_y, self.G_y = jax.jit(jax.grad(self.F)), jax.jit(jax.grad(self.G, 1))
        self.G_xy, self.G_yy = (
            jax.jit(_derivative_in_y(jax.grad(self.G, argument))) for argument in (0, 1)
        )

    def G(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The inner loss, a scalar."""
        return self._loss(y, self.train) + jnp.exp(x) / 2 * y @ y

    def F(self, y: jax.Array) -> jax.Array:
        """The outer loss, a scalar, which depends on x only through y."""
        return self._loss(y, self.validation)

    def _loss(self, y: jax.Array, images: Images) -> jax.Array:
        return cross_entropy(_affine(y, images.inputs, CLASSES), images.labels)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy, a scalar, of ``logits: (n, classes)`` and ``labels: (n,)``."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def _affine(x: jax.Array, inputs: jax.Array, width: int) -> jax.Array:
    """A layer whose weights, then biases, are ``x``."""
    weights = x.reshape(-1, width)
    return inputs @ weights[:-1] + weights[-1]


def _derivative_in_y(gradient: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda x, y, v: jax.jvp(lambda y: gradient(x, y), (y,), (v,))[1]
