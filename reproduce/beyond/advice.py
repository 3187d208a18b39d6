"""Which HVP to use: the answer that the rows of plan ``beyond`` give, as Markdown."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from reproduce import methods, problems
from reproduce.errors import UserError
from reproduce.measuring import cost
from reproduce.plan import BEYOND, GAUSS_NEWTON, LOW_PRECISION
from reproduce.results import summary
from reproduce.results.rows import Row

MANY = 10
# Products that an HVP's place may take, in a row of their own.
OTHERS = {
    "no HVP, but Gauss-Newton's product": GAUSS_NEWTON,
    "an HVP with bfloat16's error": LOW_PRECISION,
}
# A function from a row to its seconds in every round.
Seconds = Callable[[Row], np.ndarray]
# A smaller saving is within the variation of times between two runs.
NOTICEABLE = 0.05


def advice(rows: Iterable[Row]) -> str:
    """The answer as Markdown: one table per framework, what was left out, and the machine.

    Raises:
        UserError: if no HVP of plan ``beyond`` is among ``rows``.
    """
    rows = list(rows)
    if not _timed(rows):
        raise UserError(
            f"HVPs of plan {BEYOND!r} that are done were expected, and there are none among "
            f"{len(rows)} rows; measure them with 'make beyond'"
        )
    tables = [_markdown(table) for table in tables_of(rows).values()]
    return "\n\n".join(filter(None, [*tables, left_out(rows), machine(rows)])) + "\n"


def tables_of(rows: Iterable[Row]) -> dict[str, pd.DataFrame]:
    """The fastest and the smallest HVP of each model, by framework: one row per need.

    The needs are few HVPs, some at one point, so many that compiling pays, and little memory.
    Only HVPs that agree with forward-over-reverse take part. Methods whose times overlap share a
    place. A Gauss-Newton product, which is no HVP, and an HVP in bfloat16 have rows of their own.
    """
    times = [row for row in _timed(rows) if not summary.is_wrong(row)]
    found = {name: _of_framework(name, times) for name in methods.FRAMEWORKS}
    return {name: table for name, table in found.items() if len(table)}


def left_out(rows: Iterable[Row]) -> str:
    """A sentence on HVPs that are wrong or failed; empty if there are none."""
    wrong = [
        f"{methods.name(row.framework, row.mode, row.method)} for "
        f"{problems.label(row.model)} (by {100 * difference:.1g} %)"
        for row in sorted(filter(summary.is_wrong, _timed(rows)), key=lambda row: str(row.case))
        if (difference := row.relative_difference) is not None
    ]
    if not wrong:
        return ""
    return f"Left out, since their HVPs differ from forward-over-reverse's: {', '.join(wrong)}."


def machine(rows: Iterable[Row]) -> str:
    """The device, plan and batch size of the answer; empty if nothing was measured."""
    times = _timed(rows)
    if not times:
        return ""
    sizes: dict[int, dict[str, None]] = {}
    for row in sorted(times, key=lambda row: problems.order(row.model)):
        sizes.setdefault(row.batch_size, {})[problems.label(row.model)] = None
    batches = " and ".join(
        f"{size} ({', '.join(names)})" if len(sizes) > 1 else str(size)
        for size, names in sizes.items()
    )
    return f"Measured on {times[0].device}, plan {BEYOND}, batch size {batches}."


def _timed(rows: Iterable[Row]) -> list[Row]:
    times, _ = summary.of_beyond(summary.last_of_each_case(rows))
    return [row for row in times if row.status == "done" and row.method != "gradient"]


def _of_framework(framework: str, times: Sequence[Row]) -> pd.DataFrame:
    own = [row for row in times if row.framework == framework]
    needs: dict[str, Callable[[Sequence[Row]], str]] = {
        "few HVPs": lambda rows: _fastest(_without_compiling(rows), _of_first),
        f"{MANY} HVPs at one point": lambda rows: _fastest(_without_compiling(rows), _of_many),
        "many HVPs, each at a new point": lambda rows: _compiled(rows, _of_first),
        "many HVPs at one point": lambda rows: _compiled(rows, _of_many),
        "little memory": _little_memory,
    }
    models = sorted({row.model for row in own}, key=problems.order)
    hvps = [row for row in own if row.method not in (*GAUSS_NEWTON, *LOW_PRECISION)]
    records = [
        [need, *(best([row for row in hvps if row.model == model]) for model in models)]
        for need, best in needs.items()
    ]
    for need, kind in OTHERS.items():
        others = [[r for r in own if r.model == model and r.method in kind] for model in models]
        records.append([need, *map(_with_error, others)])
    columns = [methods.FRAMEWORKS[framework], *map(problems.label, models)]
    return pd.DataFrame([record for record in records if any(record[1:])], columns=columns)


def _markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.replace("", "–").to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _without_compiling(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.mode != "compile"]


def _compiled(rows: Sequence[Row], seconds: Seconds) -> str:
    """The least time with ``torch.compile``, and the number of HVPs from which compiling pays."""
    compiled, others = [row for row in rows if row.mode == "compile"], _without_compiling(rows)
    if not compiled or not others:
        return ""
    best = min(compiled, key=_median(seconds))
    saved = min(map(_median(seconds), others)) - _median(seconds)(best)
    if saved <= NOTICEABLE * _median(seconds)(best):
        return _fastest(others, seconds)
    compiling = sum(took for name, took in best.compile_seconds.items() if name != "gradient")
    paid = f"compiling takes {cost.readable_seconds(compiling)}, {compiling / saved:.0f} HVPs' gain"
    return f"{_fastest(compiled, seconds)}; {paid}"


def _fastest(rows: Sequence[Row], seconds: Seconds) -> str:
    """The least median time, and its method together with those whose times overlap."""
    if not rows:
        return ""
    by_time = sorted(rows, key=_median(seconds))
    best = by_time[0]
    tied = [row for row in by_time if min(seconds(row)) <= max(seconds(best))]
    gradients = np.median(seconds(best) / np.array(best.gradient_seconds))
    took = f"{_median(seconds)(best):.2f} s, {gradients:.1f} gradients"
    return f"{' or '.join(map(_label, tied))}: {took}"


def _with_error(rows: Sequence[Row]) -> str:
    errors = [
        f", error {100 * row.relative_difference:.1f} %"
        for row in rows
        if row.method in LOW_PRECISION and row.relative_difference is not None
    ]
    return "".join([_fastest(rows, _of_first), *errors])


def _little_memory(rows: Sequence[Row]) -> str:
    told = [(row, needed) for row in rows if (needed := summary.needed_bytes(row)) is not None]
    if not told:
        return ""
    best, most = (choose(told, key=lambda each: each[1]) for choose in (min, max))
    size, largest = (cost.readable_bytes(each[1]) for each in (best, most))
    return f"{_label(best[0])}: {size} (most: {_label(most[0])}, {largest})"


def _of_first(row: Row) -> np.ndarray:
    """The seconds of one HVP at a new point, in every round."""
    return summary.point_seconds(row) + np.array(row.seconds)


def _of_many(row: Row) -> np.ndarray:
    """The mean seconds of ``MANY`` HVPs at one point, in every round."""
    return summary.point_seconds(row) / MANY + np.array(row.seconds)


def _median(seconds: Seconds) -> Callable[[Row], float]:
    return lambda row: float(np.median(seconds(row)))


def _label(row: Row) -> str:
    name = methods.LABELS[row.method]
    return f"compiled, {name}" if row.mode == "compile" else name
