"""Central differences of the user's loss, by which derivatives of one order more are judged.

The central difference of a function F along v is (F(x + hv) − F(x − hv)) / 2h. Several steps h are
tried; the distance between the best neighbouring ones is the error to expect. Where the loss has
kinks, two slopes may agree by chance, so three must; and the smallest steps cross the fewest.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from reproduce.measuring import comparing
from reproduce.measuring.framework import Own, Scalar, Tree
from reproduce.mine.kit import Kit
from reproduce.problems.loss import Logits, LossByParts

Leaves = list[np.ndarray]
# As shares of ‖x‖ / ‖v‖, by precision.
STEPS = {
    "float64": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
    "float32": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3),
}


class Differences(NamedTuple):
    """Central differences along v, of the gradient and of the loss, and the error of each."""

    product: Leaves
    product_error: float
    slope: float
    slope_error: float


def central_differences(kit: Kit, found: Own, v: Leaves, steps: Sequence[float]) -> Differences:
    """Central differences of gradient and loss along ``v``, with the steps that agree best."""
    scale = _scale(kit, found, v)
    tried = [_difference(kit, found, v, step * scale) for step in steps]
    slopes = np.array([slope for slope, _ in tried])
    apart = np.ptp(np.lib.stride_tricks.sliding_window_view(slopes, 3), axis=1)
    best = _smallest(apart)
    product, error = _steadiest([product for _, product in tried])
    return Differences(product, error, slopes[best + 1], apart[best])


def gauss_newton_differences(
    kit: Kit, found: Own, loss: LossByParts, v: Leaves, steps: Sequence[float]
) -> tuple[Leaves, float]:
    """Jᵀ H J v, by first derivatives in reverse mode only, and its error.

    J v is the central difference of the logits along v, H J v that of the loss's gradient in the
    logits along J v, and Jᵀ u is the gradient of ⟨logits, u⟩.
    """
    gradient, params, batch = kit.methods["gradient"], found.params, found.batch

    def in_logits(z: Logits, batch: Tree) -> Logits:
        return gradient(lambda z: loss.of_logits(z, batch), z, z)

    def transposed(params: Tree, u: Logits, batch: Tree) -> Tree:
        return gradient(lambda params: (loss.logits(params, batch) * u).sum(), params, params)

    logits = kit.program(loss.logits, params, batch)
    z = logits(params, batch)
    slope, pulled = kit.program(in_logits, z, batch), kit.program(transposed, params, z, batch)
    scale = _scale(kit, found, v)

    def product(step: float) -> Leaves:
        h = step * scale
        ahead, behind = (logits(_moved(kit, found, v, each), batch) for each in (h, -h))
        jvp = (ahead - behind) / (2 * h)
        h = step * max(_size(z), 1) / (_size(jvp) or 1)
        u = (slope(z + h * jvp, batch) - slope(z - h * jvp, batch)) / (2 * h)
        return kit.device.to_numpy(pulled(params, u, batch))

    return _steadiest([product(step) for step in steps])


def _difference(kit: Kit, found: Own, v: Leaves, h: float) -> tuple[float, Leaves]:
    sides = (found.value_and_gradient(_moved(kit, found, v, each)) for each in (h, -h))
    (ahead, gradient_ahead), (behind, gradient_behind) = sides
    product = [
        np.subtract(a, b, dtype="float64") / (2 * h)
        for a, b in zip(*map(kit.device.to_numpy, (gradient_ahead, gradient_behind)), strict=True)
    ]
    return (ahead - behind) / (2 * h), product


def _steadiest(tried: list[Leaves]) -> tuple[Leaves, float]:
    """The product at which two neighbouring steps agree best, and how well they agree."""
    apart = [comparing.relative_difference(a, b) for a, b in pairwise(tried)]
    best = _smallest(apart)
    return tried[best + 1], apart[best]


def _smallest(errors: Sequence[float] | np.ndarray) -> int:
    """The place of the smallest of ``errors``, of which some or all may not be numbers."""
    return int(np.argmin(np.nan_to_num(errors, nan=np.inf)))


def _moved(kit: Kit, found: Own, v: Leaves, h: float) -> Tree:
    params = kit.device.to_numpy(found.params)
    moved = [x + h * direction for x, direction in zip(params, v, strict=True)]
    return kit.own.from_numpy(moved, found.params)


def _scale(kit: Kit, found: Own, v: Leaves) -> float:
    params = kit.device.to_numpy(found.params)
    return (comparing.norm(params) or comparing.norm(v)) / comparing.norm(v)


def _size(z: Logits) -> Scalar:
    """The root of the mean square."""
    return float((z * z).mean()) ** 0.5
