"""The sources of numbers that claims are judged on: published numbers and rows, in one format.

The value of a case is the median of its seconds (for an HVP: beyond the gradient's), its
bytes by the counter that the figures show, or its operations. With each value come ``DRAWS``
random variants of it, called draws. A number computed from several cases is computed for every
draw; its interval is the middle 95 % of the results.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
import numpy as np
import pandas as pd
from scipy import stats

from reproduce.results import counters, origin, published, summary
from reproduce.results.rows import Row
from reproduce.results.summary import GIB

CASE = ["quantity", *summary.LINE]
# What an HVP costs, in one number: the median over rounds of its time divided by the gradient's in
# the same round.
IN_GRADIENTS: Final = "time in gradients"
DRAWS = 1000
CONFIDENCE = 0.95
SEED = 0
# The relative difference of a counter between two runs of plan cpu; the others repeat to the byte.
UNCERTAINTY = {"resident_set": 0.17}

# A line of a table: values by column.
Record = dict[str, Any]


class Source(msgspec.Struct, frozen=True):
    """Cases from one place, and where they come from.

    ``cases`` is indexed by ``CASE`` and has ``status``, ``value``, ``low`` and ``high`` (in
    seconds, gradients, bytes or operations; for a ``difference`` from forward-over-reverse, a
    ratio of norms), ``repetitions`` and ``origin``. ``draws`` is indexed by ``CASE``, with done
    cases only: its first column is the value, the others are the draws. ``absent`` says why a
    case may be missing. ``of_article`` is True for the article's own numbers.
    """

    name: str
    absent: str
    cases: pd.DataFrame
    draws: pd.DataFrame
    of_article: bool = False
    on_cpu: bool = False


def of_article() -> Source:
    """The published numbers.

    The draws of times are bootstrapped from the released repetitions; for an HVP these are
    overheads. Memory was read off the images; its draws are uniform within the uncertainty of each
    reading. It is NVML's number for the whole GPU, and has the quantity ``nvml``, too.
    """
    rng = np.random.default_rng(SEED)
    times = [
        _record(row, "time", row.median_s, _bootstrap(row.seconds, rng), _ARTICLE_TIME)
        for row in published.time().itertuples()
    ]
    memory = [
        _record(row, "memory", row.memory_gib * GIB, _drawn_readings(row, rng), _ARTICLE_MEMORY)
        for row in published.memory().itertuples()
    ]
    of_whole_gpu = [each | {"quantity": "nvml"} for each in memory]
    absent = "the article published no number of this kind"
    records = [*times, *_in_gradients(times), *memory, *of_whole_gpu]
    return _source("published", absent, records, of_article=True)


def _in_gradients(times: list[Record]) -> list[Record]:
    """The cost of each HVP in gradients, from the overheads and gradients that were released."""
    by_line = {tuple(each[name] for name in summary.LINE): each for each in times}
    return [
        each
        | {"quantity": IN_GRADIENTS}
        | {of: 1 + each[of] / by_line[*cell, "gradient"][of] for of in ("value", "draws")}
        for (*cell, method), each in by_line.items()
        if method != "gradient"
    ]


_ARTICLE_TIME = "time: A100; the authors' raw timings"
_ARTICLE_MEMORY = "memory: A100; the rise of all used memory (NVML), read off the images"


def _drawn_readings(row: Any, rng: np.random.Generator) -> np.ndarray:
    return (row.memory_gib + row.uncertainty_gib * rng.uniform(-1, 1, DRAWS)) * GIB


def of_rows(name: str, rows: Iterable[Row], absent: str) -> Source:
    """The newest rows of each quantity, framework and mode, of the article's plans.

    The draws of times are bootstrapped from the repetitions, each HVP with the gradient of the
    same rounds. Memory is exact, except for the counters in ``UNCERTAINTY``.
    """
    rng = np.random.default_rng(SEED)
    rows = sorted(summary.of_article(summary.last_of_each_case(rows)), key=summary.kind)
    records = [
        record
        for _, group in groupby(rows, summary.kind)
        for record in _records_of_group(*summary.newest(list(group)), rng)
    ]
    on_cpu = bool(rows) and all(row.device.startswith("CPU") for row in rows)
    return _source(name, absent, records, on_cpu=on_cpu)


def _records_of_group(rows: Sequence[Row], left_out: str, rng: np.random.Generator) -> list[Record]:
    counter = counters.shared(rows)
    origin = "; ".join(filter(None, (_origin(rows[0], counter), left_out)))
    records = []
    # In a fixed order, since each case takes the next random numbers.
    for row in sorted(rows, key=lambda row: str(row.case)):
        records.append(_record(row, row.quantity, *_value_and_draws(row, counter, rng), origin))
        if row.quantity == "time" and row.method != "gradient":
            costs = _median_and_draws(np.divide(row.seconds, row.gradient_seconds), rng)
            records.append(_record(row, IN_GRADIENTS, *costs, origin))
        if row.quantity == "time" and row.relative_difference is not None:
            exactly = row.relative_difference, np.full(DRAWS, row.relative_difference)
            records.append(_record(row, "difference", *exactly, origin))
    return records


def _origin(row: Row, counter: counters.Counter | None) -> str:
    text = f"{' '.join(summary.kind(row))}: {row.place}, plan {row.plan!r}"
    if row.quantity != "operations" and not origin.is_as_in_the_article(row):
        text += f" (the article: {origin.ARTICLE_DEVICE}, plan {origin.ARTICLE_PLAN!r})"
    if counter:
        text += f"; memory is {counter.name} (the article: the rise of all used memory, NVML)"
    return text


def _value_and_draws(
    row: Row, counter: counters.Counter | None, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    if row.status == "done" and row.quantity == "time":
        return _median_and_draws(summary.overhead_seconds(row), rng)
    if row.status == "done" and row.quantity == "operations" and row.flops:
        return row.flops, np.full(DRAWS, row.flops)
    if row.status == "done" and counter:
        value, spread = counter.bytes_of(row), UNCERTAINTY.get(counter.name, 0.0)
        return value, value * (1 + spread * rng.uniform(-1, 1, DRAWS))
    return np.nan, np.full(DRAWS, np.nan)


def _median_and_draws(
    values: Sequence[float] | np.ndarray, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The median of ``values``, and draws of it; NaN if there are too few for an interval."""
    if len(values) < 2:
        return np.nan, np.full(DRAWS, np.nan)
    return np.median(values), _bootstrap(values, rng)


def _bootstrap(values: Sequence[float] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    result = stats.bootstrap(
        (values,), np.median, n_resamples=DRAWS, method="percentile", rng=rng, vectorized=True
    )
    return result.bootstrap_distribution


def _record(row: Any, quantity: str, value: float, draws: np.ndarray, origin: str) -> Record:
    """The record of a `Row`, or of a row of a published table, which has no status."""
    status = getattr(row, "status", "done")
    if status == "done" and np.isnan(value):
        status = "no value with an interval"
    return {
        "quantity": quantity,
        **{name: getattr(row, name) for name in summary.LINE},
        "status": status,
        "value": value,
        "repetitions": len(getattr(row, "seconds", ())),
        "origin": origin,
        "draws": draws,
    }


def _source(name: str, absent: str, records: list[Record], **kind: bool) -> Source:
    columns = [*CASE, "status", "value", "repetitions", "origin", "draws"]
    cases = pd.DataFrame(records, columns=columns).set_index(CASE).sort_index()
    stacked = np.vstack([*cases.pop("draws"), np.empty((0, DRAWS))])
    draws = pd.DataFrame(np.column_stack([cases["value"], stacked]), cases.index)
    cases["low"], cases["high"] = interval(draws)
    return Source(name, absent, cases, draws[cases["status"] == "done"], **kind)


def interval(draws: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Low and high of each row: the middle 95 % of its draws, all columns but the first."""
    tail = (1 - CONFIDENCE) / 2
    if draws.empty:
        return [], []
    low, high = np.quantile(draws.iloc[:, 1:], (tail, 1 - tail), axis=1)
    return low.tolist(), high.tolist()
