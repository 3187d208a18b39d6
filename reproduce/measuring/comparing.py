"""Comparing results: how far apart they are, whether they are finite, and their digests."""

import hashlib
import math
from collections.abc import Callable, Iterable

import numpy as np

DIFFERENCE_LIMIT = 1e-2


def relative_difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """‖a − b‖ / ‖b‖ over all leaves, without a unit: 0 if both are zero, inf if only b is."""
    difference, reference = norm([x - y for x, y in zip(a, b, strict=True)]), norm(b)
    if difference == 0:
        return 0.0
    return difference / reference if reference else math.inf


def norm(leaves: Iterable[np.ndarray]) -> float:
    """The Euclidean norm of all ``leaves`` as one vector, computed in float64."""
    return math.hypot(*map(_norm, leaves))


def _norm(x: np.ndarray) -> float:
    largest = float(np.abs(x).max(initial=0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    scaled = np.divide(x, largest, dtype="float64").ravel()
    return largest * math.sqrt(scaled @ scaled)


def finite(value: float, what: str) -> float:
    """``value``, if it is finite; ``what`` describes it in the error.

    A row with a value that is not finite is never done.

    Raises:
        FloatingPointError: if it is not finite.
    """
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{what} was to be finite, and it is {value}; "
            "look for an overflow or a division by zero in the loss or its derivatives"
        )
    return value


def digest(leaves: Iterable[np.ndarray]) -> str:
    """SHA-256 of ``leaves``: of the type, shape and bytes of each, in their order."""
    found = hashlib.sha256()
    for leaf in leaves:
        found.update(f"{leaf.dtype.str} {leaf.shape} ".encode())
        found.update(np.ascontiguousarray(leaf))  # type: ignore[arg-type]  # it is a buffer
    return found.hexdigest()


def disagreement(difference: float | None, by_layer_norm: bool = False) -> list[str]:
    """A sentence if an HVP's relative ``difference`` from the reference is beyond rounding.

    PyTorch's own layer normalisation (``by_layer_norm``) is a known cause.
    """
    if difference is None or difference < DIFFERENCE_LIMIT:
        return []
    if by_layer_norm:
        return [
            f"the HVP is wrong by {difference:.0%}, as the article's probably was: PyTorch's own "
            "layer normalisation is the cause; --layer-norm repaired gives the right one"
        ]
    return [
        f"the HVP differs from forward-over-reverse's by {difference:.0%}: "
        "one of the two is wrong; do not use this row, and look for an operation without "
        "a second derivative"
    ]


def product_error(product: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The relative error of one product of two 1024² matrices in float32.

    It shows the precision in use: about 2e-7 in float32, 3e-4 in TF32.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1024, 1024), dtype=np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return relative_difference([product(a, b)], [exact])
