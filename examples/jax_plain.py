"""Logistic regression through one hidden layer, in plain JAX."""

import jax
import jax.numpy as jnp


def problem():
    """Return ``(loss, params, batch)``."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "hidden": jax.random.normal(keys[0], (20, 64)) / 20**0.5,
        "out": jax.random.normal(keys[1], (64, 10)) / 8,
    }
    batch = jax.random.normal(keys[2], (32, 20)), jax.random.randint(keys[3], (32,), 0, 10)
    return loss, params, batch


def loss(params, batch):
    """Return the mean cross-entropy."""
    inputs, labels = batch
    logits = jnp.tanh(inputs @ params["hidden"]) @ params["out"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
