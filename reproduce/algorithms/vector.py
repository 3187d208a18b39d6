"""Trees of arrays as vectors, so that the algorithms read as the article writes them."""

import math
import operator
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from optree import tree_leaves, tree_map

Tree = Any
Hvp = Callable[[Tree], Tree]
SMALLEST_SQUARE = 1e-280  # float64 may have lost digits of a smaller sum of squares


class Vector:
    """A tree with d scalars as one vector; every operation returns a new one.

    ``tree`` is an array of NumPy, JAX or PyTorch, or anything that ``optree`` accepts as a tree:
    dictionaries, lists, tuples and NamedTuples of trees, and None, which has no scalars.
    Dictionaries are matched by their keys. The result keeps the order of the first operand's keys,
    as PyTorch's derivatives require. Scalars are Python's, so that the arrays keep their precision.
    Products and norms are summed in float64 on the arrays' device, and no norm overflows or
    underflows on the way.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def __add__(self, other: "Vector") -> "Vector":
        return Vector(tree_map(operator.add, self.tree, other.tree))

    def __sub__(self, other: "Vector") -> "Vector":
        return Vector(tree_map(operator.sub, self.tree, other.tree))

    def __neg__(self) -> "Vector":
        return Vector(tree_map(operator.neg, self.tree))

    def __rmul__(self, scalar: float) -> "Vector":
        return Vector(tree_map(lambda leaf: scalar * leaf, self.tree))

    def __truediv__(self, scalar: float) -> "Vector":
        return Vector(tree_map(lambda leaf: leaf / scalar, self.tree))

    def __matmul__(self, other: "Vector") -> float:
        # Not a matrix product, which would round to TF32 on a GPU.
        with _float64():
            products = tree_map(lambda a, b: (_wide(a) * _wide(b)).sum(), self.tree, other.tree)
            return float(sum(tree_leaves(products)))

    def norm(self) -> float:
        """The Euclidean norm."""
        with np.errstate(over="ignore"):
            squared = self @ self
        if SMALLEST_SQUARE < squared < math.inf:
            return math.sqrt(squared)
        scale = self.magnitude()
        with _float64():
            scaled = Vector(tree_map(_wide, self.tree)) / scale
            return scale * math.sqrt(scaled @ scaled)

    def magnitude(self) -> float:
        """The power of two below the largest magnitude: dividing by it is exact."""
        with _float64():
            leaves = map(_wide, tree_leaves(self.tree))
            largest = np.max([float(abs(leaf).max()) for leaf in leaves if 0 not in leaf.shape])
        return math.ldexp(1.0, math.frexp(largest)[1] - 1)

    def unit(self) -> "Vector":
        """The vector of norm 1 with the same direction."""
        root = math.sqrt(self.norm())  # within the arrays' range, even where the norm is not
        return self / root / root


class Hessian:
    """The matrix ∇²f(x) + damping · I, known only by its products ``hessian @ v``.

    ``hvps`` counts these products, which are trees like ``v``.
    """

    def __init__(self, hvp: Hvp, damping: float = 0.0) -> None:
        self.hvp, self.damping, self.hvps = hvp, damping, 0

    def __matmul__(self, v: Vector) -> Vector:
        self.hvps += 1
        product = Vector(tree_map(_product_like, v.tree, self.hvp(v.tree)))
        return product + self.damping * v if self.damping else product


def real(tree: Tree) -> Vector:
    """``tree`` as a vector.

    Raises:
        TypeError: if a leaf is not of real floating-point numbers; others cannot be solved for.
    """
    for leaf in tree_leaves(tree):
        found = getattr(leaf, "dtype", type(leaf).__name__)
        if "float" not in str(found):
            raise TypeError(
                "a vector must have real floating-point numbers, and one of its arrays is of "
                f"{found}; convert it, to float32 for instance"
            )
    return Vector(tree)


def _product_like(v: Any, product: Any) -> Any:
    if np.shape(v) != np.shape(product):
        raise ValueError(
            f"an HVP for an array of shape {tuple(np.shape(v))} returned one of shape "
            f"{tuple(np.shape(product))}; return a tree like v"
        )
    return product


def _float64() -> AbstractContextManager[object]:
    """A context in which JAX, if it is loaded, can use float64."""
    jax = sys.modules.get("jax")
    return jax.enable_x64(True) if jax else nullcontext()


def _wide(leaf: Any) -> Any:
    """``leaf`` in float64, on its own device."""
    if hasattr(leaf, "double"):  # PyTorch
        return leaf.double()
    return leaf.astype("float64") if hasattr(leaf, "astype") else np.float64(leaf)
