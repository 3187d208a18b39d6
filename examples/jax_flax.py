"""A small network with layer normalisation and attention, in Flax."""

import jax
import jax.numpy as jnp
from flax import linen as nn

parameters = r"params"  # everything except Flax's other collections


class Network(nn.Module):
    """Attention over a sequence, then a classifier of its mean."""

    @nn.compact
    def __call__(self, x):
        """Return the logits at ``x`` of shape (batch, sequence, width)."""
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x))
        return nn.Dense(10)(nn.gelu(x).mean(axis=1))


def problem():
    """Return ``(loss, params, batch)``."""
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (8, 12, 32))
    labels = jax.random.randint(keys[1], (8,), 0, 10)
    return loss, Network().init(keys[2], inputs), (inputs, labels)


def loss(params, batch):
    """Return the mean cross-entropy."""
    inputs, labels = batch
    logits = Network().apply(params, inputs)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
