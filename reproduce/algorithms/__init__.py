"""The article's algorithms that know a Hessian only by its products with vectors.

An ``hvp`` is a function from a tree to a tree like it, v ↦ ∇²f(x) v, in JAX, PyTorch or NumPy:
the algorithms are the same code for all of them.
"""
