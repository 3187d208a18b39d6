"""Whether HVPs are right: each method against the others and against central differences.

Central differences are (∇f(x + hv) − ∇f(x − hv)) / 2h, for several steps h. How far the best two
neighbouring steps are apart is how far they can be trusted; where that is too far, what most
methods agree on is the reference.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from reproduce.measuring import comparing
from reproduce.measuring.framework import Own
from reproduce.mine.found import Product
from reproduce.mine.kit import Kit

Leaves = list[np.ndarray]
Say = Callable[[str], None]
SEED = 0
# Steps as shares of ‖x‖ / ‖v‖, and the least relative difference that counts, by precision.
STEPS = {"float64": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6), "float32": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)}
LIMITS = {"float64": 1e-5, "float32": 1e-2}
# Of the differences' own error: how much a right HVP may be off, and where it tells nothing.
ALLOWED_ERRORS, TOO_LARGE_ERROR = 10, 1e-2


class Differences(NamedTuple):
    """Central differences along v: of the gradient, of the loss, and how far to trust each."""

    product: Leaves
    product_error: float
    slope: float
    slope_error: float


class Checked(NamedTuple):
    """The right HVP, in what precision it was found, and every method's verdict."""

    reference: Leaves
    precision: str
    products: list[Product]


def check(kit: Kit, found: Own, repairs: bool, say: Say) -> Checked:
    """The verdict on each method, as it is, and repaired where that is not right.

    In float64 where that is possible, else in the user's own precision.
    """
    with kit.own.float64_allowed():
        try:
            exact = found.in_float64()
            exact.value_and_gradient(exact.params)
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:
            say(f"In float64 it cannot be computed ({first_line(error)}): float32 has to do.")
        else:
            return _check(kit, exact, "float64", repairs, say)
    return _check(kit, found, "float32", repairs, say)


def _check(kit: Kit, found: Own, precision: str, repairs: bool, say: Say) -> Checked:
    params = kit.device.to_numpy(found.params)
    v = vector(params)
    differences = central_differences(kit, found, params, v, STEPS[precision])
    _check_gradient(kit, found, v, differences, precision, say)
    tree = kit.own.from_numpy(v, found.params)
    results: list[tuple[Product, Leaves | None]] = []
    for method in (*kit.own.DIRECT, *kit.own.AT_A_POINT):
        for is_repaired in (False, True)[: 1 + (repairs and kit.own.CAN_BE_REPAIRED)]:
            product = Product(method=method, is_repaired=is_repaired)
            results.append((product, _computed(kit, found, product, tree)))
    reference = _reference(differences, [leaves for _, leaves in results if leaves], say)
    limit = max(LIMITS[precision], ALLOWED_ERRORS * min(differences.product_error, 0.01))
    for product, leaves in results:
        if leaves is not None:
            _judge(product, leaves, reference, limit)
    products = _needed([product for product, _ in results])
    for product in products:
        say(_sentence(product))
    right = [each for each, leaves in results if leaves and each.verdict == "right"]
    closest = next((leaves for each, leaves in results if each in right[:1]), reference)
    return Checked(closest or reference, precision, products)


def vector(params: Leaves) -> Leaves:
    """The normal vector that all HVPs are taken of, shaped like ``params``."""
    rng = np.random.default_rng(SEED)
    return [rng.standard_normal(leaf.shape).astype(leaf.dtype) for leaf in params]


def central_differences(
    kit: Kit, found: Own, params: Leaves, v: Leaves, steps: Sequence[float]
) -> Differences:
    """Of gradient and loss along ``v``: those of the two neighbouring steps that agree best."""
    scale = (comparing.norm(params) or comparing.norm(v)) / comparing.norm(v)
    tried = [_difference(kit, found, params, v, step * scale) for step in steps]
    neighbours = list(pairwise(tried))
    apart = [comparing.relative_difference(a[1], b[1]) for a, b in neighbours]
    slopes_apart = [abs(a[0] - b[0]) for a, b in neighbours]
    best, best_slope = int(np.nanargmin(apart)), int(np.nanargmin(slopes_apart))
    return Differences(
        tried[best + 1][1], apart[best], tried[best_slope + 1][0], slopes_apart[best_slope]
    )


def _difference(kit: Kit, found: Own, params: Leaves, v: Leaves, h: float) -> tuple[float, Leaves]:
    sides = []
    for sign in (1, -1):
        moved = [x + sign * h * direction for x, direction in zip(params, v, strict=True)]
        value, gradient = found.value_and_gradient(kit.own.from_numpy(moved, found.params))
        sides.append((value, kit.device.to_numpy(gradient)))
    (ahead, gradient_ahead), (behind, gradient_behind) = sides
    product = [
        np.subtract(a, b, dtype="float64") / (2 * h)
        for a, b in zip(gradient_ahead, gradient_behind, strict=True)
    ]
    return (ahead - behind) / (2 * h), product


def _check_gradient(
    kit: Kit, found: Own, v: Leaves, differences: Differences, precision: str, say: Say
) -> None:
    """Says whether ⟨∇f, v⟩ is the slope of the loss along v."""
    gradient = kit.device.to_numpy(found.value_and_gradient(found.params)[1])
    slope = sum(float(np.vdot(g, d)) for g, d in zip(gradient, v, strict=True))
    size = max(abs(slope), comparing.norm(gradient))
    off, error = abs(slope - differences.slope) / size, differences.slope_error / size
    if off > max(LIMITS[precision], ALLOWED_ERRORS * error):
        say(
            f"The gradient is WRONG: by {percent(off)} off central differences of the loss. Look "
            "for a derivative of your own (custom_vjp, autograd.Function), a detach() or a "
            "stop_gradient; HVPs below are derivatives of this gradient."
        )
    else:
        say(f"The gradient agrees with central differences of the loss to {off:.0e} ({precision}).")


def _computed(kit: Kit, found: Own, product: Product, v: object) -> Leaves | None:
    """The HVP, or None where the framework refuses it, which ``product`` then tells."""
    function = kit.product(product.method, kit.loss(found, product.is_repaired))
    arguments = found.params, v, found.batch
    try:
        program, _, _ = kit.device.compile(function, kit.own.MODE, *arguments)
        return kit.device.to_numpy(program(*arguments))
    except Exception as error:  # whatever a framework raises where it has no derivative
        product.verdict, product.reason = "refused", first_line(error)
        return None


def _reference(differences: Differences, results: list[Leaves], say: Say) -> Leaves:
    """Central differences, or where they cannot be trusted, what most methods agree on."""
    if differences.product_error <= TOO_LARGE_ERROR or not results:
        say(f"Central differences of the gradient are good to {differences.product_error:.0e}.")
        return differences.product
    say(
        f"Central differences of the gradient are good to {percent(differences.product_error)} "
        "only, which is too little to judge by: the methods are held against each other."
    )
    agreeing = [sum(comparing.relative_difference(a, b) < 1e-3 for a in results) for b in results]
    return results[int(np.argmax(agreeing))]


def _judge(product: Product, leaves: Leaves, reference: Leaves, limit: float) -> None:
    product.difference = comparing.relative_difference(leaves, reference)
    if not product.difference <= limit:  # nor if it is not a number
        product.verdict = "wrong"
        product.reason = f"off by {percent(product.difference)}"


def _needed(products: list[Product]) -> list[Product]:
    """``products`` without those repaired where the method is right as it is, or refused alike."""
    as_is = {each.method: each for each in products if not each.is_repaired}

    def is_needed(product: Product) -> bool:
        other = as_is[product.method]
        is_alike = (product.verdict, product.reason) == (other.verdict, other.reason)
        return not product.is_repaired or not (other.verdict == "right" or is_alike)

    return list(filter(is_needed, products))


def _sentence(product: Product) -> str:
    if product.verdict == "right":
        return f"{product.label}: right (differs by {product.difference:.0e})."
    return f"{product.label}: {product.verdict.upper()} ({product.reason})."


def percent(share: float) -> str:
    """``share`` in percent with two digits, or that it is none."""
    return f"{100 * share:.2g} %" if math.isfinite(share) else "something that is no number"


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, with what it is called where that says nothing."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:160]
