"""Sentences on which HVP to use: for one, for many, compiled, and in little memory."""

import math
from collections.abc import Sequence

import numpy as np

from reproduce.measuring import cost
from reproduce.mine.found import Found, Product
from reproduce.mine.measure import seconds

NOTICEABLE = 0.05


def advice(found: Found) -> list[str]:
    """The answer, one sentence per need.

    Raises:
        UserError: if no method gave a right HVP.
    """
    best, hvps = found.best, [each for each in found.timed if each.is_hvp]
    return [
        f"For one HVP, or each at a new point: {best.label}, {_cost(best)}.",
        *_at_one_point(best, hvps),
        *_compiled(best, hvps),
        *_little_memory(hvps),
        *_no_hvps(found.timed),
        *_unusable(found.products),
    ]


def break_even(once_seconds: float, saved_seconds: float) -> int | None:
    """The number of HVPs, at least 2, that repay ``once_seconds``; None if nothing is saved."""
    return max(2, math.floor(once_seconds / saved_seconds) + 1) if saved_seconds > 0 else None


def _at_one_point(best: Product, timed: Sequence[Product]) -> list[str]:
    """The fastest for many vectors at one point, if it is clearly faster than the best."""
    for each in timed:
        saved = best.seconds_of_one - each.seconds_of_one
        if each.is_compiled or each.is_direct or saved <= NOTICEABLE * best.seconds_of_one:
            continue
        count = break_even(each.point_seconds, saved) if each.vectors == 1 else each.vectors
        return [f"For {count} HVPs or more at one point: {each.label}, {_cost(each)} each."]
    return ["For many HVPs at one point: the same; nothing is clearly faster."]


def _compiled(best: Product, timed: Sequence[Product]) -> list[str]:
    said = []
    for each in filter(lambda each: each.is_compiled, timed):
        # Compared in gradients, since the two were timed in different rounds.
        gradients = np.median(best.in_gradients) - np.median(each.in_gradients)
        saved = float(gradients * np.median(each.gradient_seconds))
        paid = break_even(each.compile_seconds, saved)
        took = f"{each.label}: {_cost(each)}, after {cost.readable_seconds(each.compile_seconds)}"
        if paid is None or gradients <= NOTICEABLE * np.median(best.in_gradients):
            said.append(f"Compiling does not pay ({took}).")
        else:
            said.append(f"Compiling pays from {paid} HVPs on ({took}).")
    return said


def _little_memory(timed: Sequence[Product]) -> list[str]:
    counted = [(each.memory_bytes, each.label) for each in timed if each.vectors == 1]
    known = [(count, label) for count, label in counted if count]
    if not known:
        return []
    (least, smallest), (most, largest) = min(known), max(known)
    return [
        f"For little memory: {smallest}, {cost.readable_bytes(least)} "
        f"(most: {largest}, {cost.readable_bytes(most)})."
    ]


def _no_hvps(timed: Sequence[Product]) -> list[str]:
    others = [each for each in timed if not each.is_hvp]
    return [
        f"Where a product that is no HVP will do: {each.label}, {_cost(each)}."
        for each in others[:1]
    ]


def _unusable(products: Sequence[Product]) -> list[str]:
    wrong = [f"{each.label} ({each.reason})" for each in products if each.verdict == "wrong"]
    return [f"Do not use: {', '.join(wrong)}."] if wrong else []


def _cost(product: Product) -> str:
    return f"{seconds(product.seconds_of_one)}, {np.median(product.in_gradients):.1f} gradients"
