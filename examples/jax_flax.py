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
    return loss_of_logits(logits(params, batch), batch)


def logits(params, batch):
    """Return the logits, of shape (batch, 10)."""
    inputs, _ = batch
    return Network().apply(params, inputs)


def loss_of_logits(logits, batch):
    """Return the mean cross-entropy."""
    _, labels = batch
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
