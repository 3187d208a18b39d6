"""The table ``summary.csv``: a line for each case of the article's plans."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from reproduce.results import counters, published, summary
from reproduce.results.counters import Counter
from reproduce.results.rows import Row

SECONDS = ("p20_seconds", "median_seconds", "p80_seconds")
# The column of a quantity that is compared with the gradient's.
COMPARED = {
    "time": "median_seconds",
    "memory": "memory_gib",
    "nvml": "memory_gib",
    "operations": "flops",
}


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Every case of the article's plans: one row per case, units in the names of the columns.

    ``p20_seconds``, ``median_seconds`` and ``p80_seconds`` are quantiles over the
    repetitions, for an HVP of its time beyond the gradient's. ``memory_gib`` is by the
    counter that ``memory_counter`` names. ``ratio_to_gradient`` divides by the gradient of the
    same device, plan, model and batch size, and a time by the gradient of the same round.
    """
    found = sorted(summary.of_article(summary.last_of_each_case(rows)), key=_comparable)
    lines = [line for _, own in groupby(found, _comparable) for line in _lines(list(own))]
    return pd.DataFrame(lines).sort_values(list(_case(found[0]))) if found else pd.DataFrame()


def _comparable(row: Row) -> tuple[Any, ...]:
    return (*summary.kind(row), *summary.settings(row).values())


def _case(row: Row) -> dict[str, Any]:
    place = zip(summary.LINE, summary.line(row), strict=True)
    return {"quantity": row.quantity, **dict(place), **summary.settings(row)}


def _lines(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The lines of ``rows`` that can be compared with each other.

    Yields:
        The cells of a line, by column.
    """
    counter = counters.shared(rows)
    numbers = {summary.line(row): _numbers(row, counter) for row in rows}
    for row in rows:
        own, column = numbers[summary.line(row)], COMPARED[row.quantity]
        gradient = numbers.get((*summary.line(row)[:-1], "gradient"), {})
        ratio = own[column] / (gradient.get(column) or np.nan)
        if row.quantity == "time" and row.status == "done" and row.method != "gradient":
            ratio = summary.ratio(row)[1]
        head = {"status": row.status, "repetitions": len(row.seconds)}
        yield _case(row) | head | own | {"ratio_to_gradient": ratio}


def _numbers(row: Row, counter: Counter | None) -> dict[str, Any]:
    """The numbers of ``row`` by column; NaN if it has none."""
    done = row.status == "done"
    seconds = np.full(len(SECONDS), np.nan)
    if done and row.quantity == "time":
        seconds = np.quantile(summary.overhead_seconds(row), published.QUANTILES)
    return {
        **dict(zip(SECONDS, seconds, strict=True)),
        "memory_gib": counter.bytes_of(row) / summary.GIB if done and counter else np.nan,
        "memory_counter": counter.name if counter else "",
        "flops": row.flops if done and row.flops else np.nan,
    }
