"""Whether products are right: each method against the others and against central differences.

If central differences of the gradient cannot be trusted, the HVP on which most methods agree is
the reference. A Gauss-Newton product is another product and has its own reference.
"""

import math
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from reproduce.measuring import comparing
from reproduce.measuring.framework import Own
from reproduce.mine.differences import (
    STEPS,
    Differences,
    Leaves,
    central_differences,
    gauss_newton_differences,
)
from reproduce.mine.found import Product
from reproduce.mine.kit import Kit
from reproduce.plan import GAUSS_NEWTON
from reproduce.problems.loss import LossByParts

Say = Callable[[str], None]
SEED = 0
# The least relative difference that counts, by precision of the check, and in the user's own.
LIMITS = {"float64": 1e-5, "float32": 1e-2}
ROUNDING = 1e-2
# Of an error that is known: how much a right HVP may be off, and where it tells nothing.
ALLOWED_ERRORS, TOO_LARGE_ERROR = 10, 1e-2
LEAST_ERROR = 1e-10
# How far a loss or its gradient may be from that in float64, in relative terms.
SAME_LOSS, SAME_GRADIENT = 1e-5, 5e-2


class Right(NamedTuple):
    """The right HVP, and the right Gauss-Newton product if the user's file allows one.

    A product may be off by ``rounding``, a relative difference, in the user's own precision.
    """

    hvp: Leaves
    gauss_newton: Leaves = []
    rounding: float = ROUNDING

    def of(self, product: Product) -> Leaves:
        """The right result for ``product``."""
        return self.hvp if product.is_hvp else self.gauss_newton


class Checked(NamedTuple):
    """The right products, and every method's verdict."""

    right: Right
    products: list[Product]


# Products, and what each gave; None where the framework refused.
Results = list[tuple[Product, Leaves | None]]


def check(kit: Kit, found: Own, repairs: bool, say: Say) -> Checked:
    """The verdict on each method as it is and, if that is not right, repaired.

    The check is in float64 if the loss can be computed in it, else in the user's own precision. If
    the loss is another there, the right products are those of the first right methods.
    """
    value, gradient = found.value_and_gradient(found.params)
    checked = None
    with kit.own.float64_by_default():
        try:
            exact = found.in_float64()
            exact_value, exact_gradient = exact.value_and_gradient(exact.params)
        except Exception as error:  # whatever the user's code raises
            say(f"It cannot be computed in float64 ({first_line(error)}): the check is in float32.")
        else:
            leaves = map(kit.device.to_numpy, (gradient, exact_gradient))
            off = comparing.relative_difference(*leaves)
            rounding = ALLOWED_ERRORS * min(off, SAME_GRADIENT)
            checked = _check(kit, exact, "float64", rounding, repairs, say)
            if off <= SAME_GRADIENT or math.isclose(value, exact_value, rel_tol=SAME_LOSS):
                return checked
    if not checked:
        return _check(kit, found, "float32", 0.0, repairs, say)
    say(
        f"In your precision it is another loss, whose gradient is off by {percent(off)}, as where "
        "its random numbers are others: there, the methods are compared with the first right one."
    )
    return checked._replace(right=_right_here(kit, found, checked))


def _right_here(kit: Kit, found: Own, checked: Checked) -> Right:
    """The first right HVP and the first right Gauss-Newton product, in the user's precision."""
    tree = kit.own.from_numpy(vector(kit.device.to_numpy(found.params)), found.params)
    leaves = {
        is_hvp: next(
            (
                result
                for each in checked.products
                if each.verdict == "right" and each.is_hvp == is_hvp
                if (result := _computed(kit, found, each, tree))
            ),
            [],
        )
        for is_hvp in (True, False)
    }
    return checked.right._replace(hvp=leaves[True], gauss_newton=leaves[False], rounding=ROUNDING)


def _check(
    kit: Kit, found: Own, precision: str, rounding: float, repairs: bool, say: Say
) -> Checked:
    v = vector(kit.device.to_numpy(found.params))
    differences = central_differences(kit, found, v, STEPS[precision])
    _check_gradient(kit, found, v, differences, precision, say)
    hvps = _results(kit, found, (*kit.own.DIRECT, *kit.own.AT_A_POINT), v, repairs)
    reference = _reference(differences, [leaves for _, leaves in hvps if leaves], say)
    error = differences.product_error
    hvp = _judged(hvps, reference, error, precision)
    right = Right(hvp, rounding=max(ROUNDING, rounding, _limit(precision, error)))
    others: Results = []
    if found.users_parts:
        others = _results(kit, found, GAUSS_NEWTON, v, repairs)
        right = right._replace(gauss_newton=_gauss_newton(kit, found, others, v, precision, say))
    products = _needed([product for product, _ in hvps + others])
    for sentence in _verdicts(products):
        say(sentence)
    return Checked(right, products)


def _limit(precision: str, error: float) -> float:
    """How far a right product may be from its reference, which is good to ``error``."""
    return max(LIMITS[precision], ALLOWED_ERRORS * min(error, TOO_LARGE_ERROR))


def _results(kit: Kit, found: Own, methods: Sequence[str], v: Leaves, repairs: bool) -> Results:
    """The result of each method, as it is and repaired."""
    both = (False, True)[: 1 + (repairs and kit.own.CAN_BE_REPAIRED)]
    products = [
        Product(method=method, is_repaired=is_repaired)
        for method in methods
        for is_repaired in both
    ]
    tree = kit.own.from_numpy(v, found.params)
    return [(each, _computed(kit, found, each, tree)) for each in products]


def _judged(results: Results, reference: Leaves, error: float, precision: str) -> Leaves:
    """The first that is right by the ``reference``, which is good to ``error``; or that itself."""
    for product, leaves in results:
        if leaves is not None:
            _judge(product, leaves, reference, error, _limit(precision, error))
    return next(
        (leaves for each, leaves in results if leaves and each.verdict == "right"), reference
    )


def _gauss_newton(
    kit: Kit, found: Own, results: Results, v: Leaves, precision: str, say: Say
) -> Leaves:
    """Judges Gauss-Newton products by central differences, and gives the right one."""
    given = [product for product, leaves in results if leaves]
    if not given:
        return []
    loss = kit.loss(given[0], found)
    assert isinstance(loss, LossByParts)
    reference, error = gauss_newton_differences(kit, found, loss, v, STEPS[precision])
    say(f"Central differences of the logits, for Gauss-Newton, are good to {error:.0e}.")
    if error <= TOO_LARGE_ERROR:
        return _judged(results, reference, error, precision)
    for product in given:
        product.verdict, product.reason = "refused", "its central differences tell too little"
    return reference


def vector(params: Leaves) -> Leaves:
    """The normal vector that all HVPs multiply by, shaped like ``params``."""
    rng = np.random.default_rng(SEED)
    return [rng.standard_normal(leaf.shape).astype(leaf.dtype) for leaf in params]


def _check_gradient(
    kit: Kit, found: Own, v: Leaves, differences: Differences, precision: str, say: Say
) -> None:
    """Says whether ⟨∇f, v⟩ is the slope of the loss along v."""
    gradient = kit.device.to_numpy(found.value_and_gradient(found.params)[1])
    slope = sum(float(np.vdot(g, d)) for g, d in zip(gradient, v, strict=True))
    size = max(abs(slope), comparing.norm(gradient))
    off, error = abs(slope - differences.slope) / size, differences.slope_error / size
    if not error <= TOO_LARGE_ERROR:  # nor if it is not a number
        say(
            "The gradient is not checked: central differences of the loss are only good to "
            f"{percent(error)}."
        )
    elif off > max(LIMITS[precision], ALLOWED_ERRORS * error):
        say(
            f"The gradient is WRONG: by {percent(off)} off central differences of the loss. Look "
            "for a derivative of your own (custom_vjp, autograd.Function), a detach() or a "
            "stop_gradient; HVPs below are derivatives of this gradient."
        )
    else:
        say(f"The gradient agrees with central differences of the loss to {off:.0e} ({precision}).")


def _computed(kit: Kit, found: Own, product: Product, v: object) -> Leaves | None:
    """The product, or None if the framework refuses it, which ``product`` then records."""
    arguments = found.params, v, found.batch
    try:
        program = kit.program(kit.product(product, found), *arguments)
        return kit.device.to_numpy(program(*arguments))
    except Exception as error:  # whatever a framework raises where it has no derivative
        product.verdict, product.reason = "refused", first_line(error)
        return None


def _reference(differences: Differences, results: list[Leaves], say: Say) -> Leaves:
    """Central differences or, if they are not good enough, what most methods near them agree on."""
    error = differences.product_error
    if error <= TOO_LARGE_ERROR:
        say(f"Central differences of the gradient are good to {error:.0e}.")
        return differences.product
    said = f"Central differences of the gradient are only good to {percent(error)}"
    near = [
        each
        for each in results
        if not comparing.relative_difference(each, differences.product) > ALLOWED_ERRORS * error
    ]
    if not near:
        say(f"{said}, and no method is near them.")
        return differences.product
    say(f"{said}; the methods are compared with each other instead.")
    agreeing = [sum(comparing.relative_difference(a, b) < 1e-3 for a in near) for b in near]
    return near[int(np.argmax(agreeing))]


def _judge(product: Product, leaves: Leaves, reference: Leaves, error: float, limit: float) -> None:
    product.difference = comparing.relative_difference(leaves, reference)
    if not product.difference <= limit:  # nor if it is not a number
        product.verdict, product.reason = "wrong", f"off by {percent(product.difference)}"
    elif off := _off_in_one(leaves, reference, error):
        product.verdict, product.reason = "wrong", f"off by {percent(off)} in one of the tensors"


def _off_in_one(leaves: Leaves, reference: Leaves, error: float) -> float:
    """How far one of ``leaves`` is off, however small it is beside the others; 0 if none is."""
    noise = ALLOWED_ERRORS * max(error, LEAST_ERROR) * comparing.norm(reference)
    return max(
        (
            comparing.relative_difference([a], [b])
            for a, b in zip(leaves, reference, strict=True)
            if comparing.norm([a - b]) > noise + ROUNDING * comparing.norm([b])
        ),
        default=0.0,
    )


def _needed(products: list[Product]) -> list[Product]:
    """``products`` without repaired ones whose method is right anyway, or refused all the same."""
    as_is = {each.method: each for each in products if not each.is_repaired}

    def is_needed(product: Product) -> bool:
        other = as_is[product.method]
        is_alike = (product.verdict, product.reason) == (other.verdict, other.reason)
        return not product.is_repaired or not (other.verdict == "right" or is_alike)

    return list(filter(is_needed, products))


def _verdicts(products: list[Product]) -> list[str]:
    """A sentence a verdict, with the methods that share it."""
    of_verdict: dict[str, list[Product]] = {}
    for each in products:
        reason = "Right" if each.verdict == "right" else f"{each.verdict.upper()} ({each.reason})"
        of_verdict.setdefault(reason, []).append(each)
    if "Right" in of_verdict:
        largest = max(each.difference or 0 for each in of_verdict["Right"])
        of_verdict[f"Right (to {largest:.0e})"] = of_verdict.pop("Right")
    return [
        f"{verdict}: {'; '.join(each.label for each in own)}."
        for verdict, own in of_verdict.items()
    ]


def percent(share: float) -> str:
    """``share`` in percent with two digits, or that it is infinite or not a number."""
    return f"{100 * share:.2g} %" if math.isfinite(share) else f"{share}"


def first_line(error: BaseException) -> str:
    """The first line of the text of ``error``, or the name of its type if it has none."""
    text = str(error).strip().splitlines()
    return shorten(text[0] if text else type(error).__name__, 160, placeholder=" …")
