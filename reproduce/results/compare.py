"""Comparing two results folders case by case: which cases became faster, slower or larger."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from scipy import stats

from reproduce.errors import UserError
from reproduce.results import counters, summary
from reproduce.results.rows import Row

RESAMPLES = 1000
SEED = 0
Verdict = Literal["faster", "slower", "less", "more", "same", "ambiguous", "not compared"]


class Comparison(msgspec.Struct, frozen=True):
    """A case in two folders: the ratio of the second's number to the first's, with its interval.

    The number is the median of the seconds (for an HVP the whole time, including the gradient's),
    the bytes by the counter that figures show, or the operations. ``reason`` says why nothing
    could be compared, if so. The interval is the 95 % interval.
    """

    case: str
    verdict: Verdict
    ratio: float = np.nan
    low: float = np.nan
    high: float = np.nan
    reason: str = ""


def compare(
    first: Sequence[Row], second: Sequence[Row], *, tolerance: float, forced: bool = False
) -> list[Comparison]:
    """The comparisons of all cases that both folders have, by their newest rows.

    A time is *same* if the interval of the ratio lies within 1 ± ``tolerance``, faster or
    slower if it lies wholly outside, else ambiguous. Bytes and operations are
    compared exactly. ``forced`` lets devices differ.

    Raises:
        UserError: if no case is in both, or a case has different devices in the two.
    """
    pairs = _pairs(first, second)
    differing = [(a.place, b.place) for a, b in pairs if a.place != b.place]
    if differing and not forced:
        a, b = differing[0]
        raise UserError(
            f"rows of one device were expected, and {len(differing)} of {len(pairs)} cases ran on "
            f"another, such as {b!r} instead of {a!r}; add --force to compare them all the same"
        )
    return [_comparison(a, b, tolerance) for a, b in pairs]


def _pairs(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    by_case = [
        {row.case.key: row for row in summary.measurements(rows)} for rows in (first, second)
    ]
    pairs = [(row, by_case[1][key]) for key, row in by_case[0].items() if key in by_case[1]]
    if not pairs:
        raise UserError(
            "cases in both folders were expected, and there are none; "
            "compare two folders of one plan, vector, normalisation and seed"
        )
    return sorted(pairs, key=lambda pair: str(pair[0].case))


def _comparison(a: Row, b: Row, tolerance: float) -> Comparison:
    case = str(a.case)
    unfinished = [row.status for row in (a, b) if row.status != "done"]
    if unfinished:
        return Comparison(case, "not compared", reason=" and ".join(unfinished))
    if a.quantity == "time":
        numbers = _ratio_of_medians(a.seconds, b.seconds)
        return Comparison(case, _time_verdict(*numbers[1:], tolerance), *numbers)
    counter = counters.shared([a, b])
    first, second = (counter.bytes_of(row) if counter else row.flops for row in (a, b))
    if not first or second is None:
        return Comparison(case, "not compared", reason="no counter that both have")
    ratio = second / first
    verdict: Verdict = "same" if first == second else "more" if ratio > 1 else "less"
    return Comparison(case, verdict, ratio, ratio, ratio)


def _ratio_of_medians(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """The median of ``b`` over the median of ``a``, and its interval; NaN for a single value."""

    def statistic(a: Any, b: Any, axis: int = -1) -> Any:
        return np.median(b, axis=axis) / np.median(a, axis=axis)

    ratio = float(statistic(a, b))
    if min(len(a), len(b)) < 2:
        return ratio, np.nan, np.nan
    found = stats.bootstrap(
        (a, b),
        statistic,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return ratio, float(found.low), float(found.high)


def _time_verdict(low: float, high: float, tolerance: float) -> Verdict:
    if high < 1 - tolerance:
        return "faster"
    if low > 1 + tolerance:
        return "slower"
    return "same" if 1 - tolerance <= low and high <= 1 + tolerance else "ambiguous"
