"""Trees of arrays as vectors, so that the algorithms read as the article writes them."""

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

Tree = Any
Hvp = Callable[[Tree], Tree]


class Vector:
    """A tree with d scalars as one vector; every operation gives a new one.

    ``tree`` is an array of NumPy, JAX or PyTorch, or a dictionary, list or tuple of trees.
    Scalars are Python's, which leave the arrays' precision as it is.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def __add__(self, other: "Vector") -> "Vector":
        return Vector(mapped(operator.add, self.tree, other.tree))

    def __sub__(self, other: "Vector") -> "Vector":
        return Vector(mapped(operator.sub, self.tree, other.tree))

    def __neg__(self) -> "Vector":
        return Vector(mapped(operator.neg, self.tree))

    def __rmul__(self, scalar: float) -> "Vector":
        return Vector(mapped(lambda leaf: scalar * leaf, self.tree))

    def __truediv__(self, scalar: float) -> "Vector":
        return Vector(mapped(lambda leaf: leaf / scalar, self.tree))

    def __matmul__(self, other: "Vector") -> float:
        # No matrix product: on a GPU that would round to TF32.
        products = mapped(lambda a, b: (a * b).sum(), self.tree, other.tree)
        return float(sum(_leaves(products)))

    def norm(self) -> float:
        """The Euclidean norm."""
        return math.sqrt(self @ self)


class Hessian:
    """The matrix ∇²f(x) + damping · I, of which only ``hessian @ v`` is known.

    ``hvps`` counts these products.
    """

    def __init__(self, hvp: Hvp, damping: float = 0.0) -> None:
        self.hvp, self.damping, self.hvps = hvp, damping, 0

    def __matmul__(self, v: Vector) -> Vector:
        self.hvps += 1
        product = Vector(self.hvp(v.tree))
        return product + self.damping * v if self.damping else product


def mapped(function: Callable, *trees: Tree) -> Tree:
    """The tree of ``function`` of the leaves that have the same place in all ``trees``.

    Dictionaries keep the order of the first tree's, as PyTorch's derivatives require.
    """
    first = trees[0]
    if isinstance(first, dict):
        return {name: mapped(function, *(tree[name] for tree in trees)) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(mapped(function, *parts) for parts in zip(*trees, strict=True))
    return function(*trees)


def _leaves(tree: Tree) -> Iterator[Any]:
    if isinstance(tree, dict | list | tuple):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(part)
    else:
        yield tree
