"""HVPs of other libraries in JAX: none, because they all call ``jax.jvp`` of ``jax.grad``."""

from collections.abc import Callable

from reproduce.in_jax.hvp import Tree

METHODS: dict[str, Callable[..., Tree]] = {}
