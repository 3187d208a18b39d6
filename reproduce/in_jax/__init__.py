"""The article's computations in JAX."""
