"""Timing calls with a given clock, and warnings about doubtful times."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Call = Callable[[], Any]
Clock = Callable[[], float]

SPREAD_LIMIT = 0.1
FIRST_VALUE_LIMIT = 0.5


def in_turn(
    calls: Sequence[Call], rounds: int, clock: Clock, order: random.Random | None = None
) -> list[list[float]]:
    """Seconds of each of ``calls``, which are called one after the other in every round.

    The order is the given one, or ``order`` shuffles it anew for each round. A call
    returns only once its result is computed. The article times an HVP and the gradient in turn.
    Source: its section "Time complexity".
    """
    seconds: list[list[float]] = [[] for _ in calls]
    places = list(range(len(calls)))
    for _ in range(rounds):
        if order is not None:
            order.shuffle(places)
        for place in places:
            seconds[place].append(timed(calls[place], clock)[0])
    return seconds


def timed(call: Call, clock: Clock) -> tuple[float, Any]:
    """Seconds of one ``call``, and its result, so that no memory is freed while the clock runs."""
    start = clock()
    result = call()
    return clock() - start, result


def suspicions(seconds: list[float]) -> list[str]:
    """A warning with a remedy for each sign that ``seconds`` are doubtful."""
    if len(seconds) < 3:
        return []
    low, median, high = np.quantile(seconds, [0.2, 0.5, 0.8])
    found = []
    if high - low > SPREAD_LIMIT * median:
        spread = f"{(high - low) / median:.0%}"
        found.append(
            f"the 20 to 80 % quantiles span {spread} of the median: "
            "close other programs or fix the clocks, then measure again"
        )
    if abs(seconds[0] - median) > FIRST_VALUE_LIMIT * median:
        found.append(
            f"the first value is {seconds[0] / median:.1f} medians: raise the plan's warm-ups"
        )
    return found
