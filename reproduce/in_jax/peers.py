"""HVPs of other libraries, in JAX: none, as they all call ``jax.jvp`` of ``jax.grad``."""

METHODS = {}
