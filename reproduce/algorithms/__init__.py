"""The article's algorithms that use a Hessian only through its products with vectors.

An ``hvp`` is a function v ↦ ∇²f(x) v from a tree to a tree like it, in JAX, PyTorch or NumPy.
The algorithms are the same code for all three.
"""
