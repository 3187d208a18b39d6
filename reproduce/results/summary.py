"""From rows to the numbers that are drawn: which rows count, medians, quantiles, overheads."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from reproduce.plan import AMORTISED, BEYOND, LOW_PRECISION, Case
from reproduce.results import counters, published
from reproduce.results.published import QUANTILES
from reproduce.results.rows import Row

# Where a panel has a number, and where a table of several frameworks and modes has it.
CELL = ["model", "batch_size", "method"]
LINE = ["framework", "mode", *CELL]
GIB = 2**30
SMALLEST_LIMIT = 1e-4
LIMIT_IN_PRODUCT_ERRORS = 10
# The frameworks and modes whose timed rows also have the memory of the call.
COUNTED_WHILE_TIMED = (("jax", "jit"), ("torch", "eager"))


def last_of_each_case(rows: Iterable[Row]) -> list[Row]:
    """Return the rows without those that a later row of the same case and device replaces.

    The order of rows decides what is later, not their dates: a clock can be set back.
    """
    last: dict[tuple[str, Case], Row] = {}
    for row in rows:
        case = row.place, row.case.key
        last.pop(case, None)  # keeps the rows in the order of the newest
        last[case] = row
    return list(last.values())


def measurements(rows: Iterable[Row]) -> list[Row]:
    """Return ``rows``, and for each timed row that counted memory also a row of ``memory``.

    A timed case that failed also counts as failed for memory. If a device, plan, framework and
    mode has memory rows of its own, those count instead.
    """
    rows = list(rows)
    timed = [
        row
        for row in rows
        if row.quantity == "time" and (row.framework, row.mode) in COUNTED_WHILE_TIMED
    ]
    counting = {_place_and_run(row) for row in timed if row.memory_bytes}
    counting -= {_place_and_run(row) for row in rows if row.quantity == "memory"}
    return rows + [
        msgspec.structs.replace(row, quantity="memory", seconds=(), gradient_seconds=())
        for row in timed
        if _place_and_run(row) in counting and (row.memory_bytes or row.status != "done")
    ]


def _place_and_run(row: Row) -> tuple[str, str, str, str]:
    return row.place, row.plan, row.framework, row.mode


def of_article(rows: Iterable[Row]) -> list[Row]:
    """Return the `measurements` of the article: those of all plans except ``beyond``."""
    return measurements(row for row in rows if row.plan != BEYOND)


def of_beyond(rows: Iterable[Row], several_vectors: bool = False) -> tuple[list[Row], str]:
    """Return the newest timed rows of plan ``beyond``, and a sentence on those left out.

    Rows of several vectors at once have another batch size, so only one of the two is returned.
    """
    times = [row for row in rows if row.plan == BEYOND and row.quantity == "time"]
    several = {line(row)[:-1] for row in times if row.vectors > 1}
    return newest([row for row in times if (line(row)[:-1] in several) == several_vectors])


def accounted_of_beyond(rows: Iterable[Row]) -> tuple[list[Row], str]:
    """Return plan ``beyond``'s newest accounted memory and operations, and what is left out."""
    of_kinds: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.plan == BEYOND and row.quantity in ("memory", "operations"):
            of_kinds.setdefault((row.quantity, row.framework), []).append(row)
    return newest_of_each(of_kinds.values())


def line(row: Row) -> tuple[str, str, str, int, str]:
    """Return where a table has ``row``: its values of ``LINE``."""
    return row.framework, row.mode, row.model, row.batch_size, row.method


def in_gradients(rows: Iterable[Row]) -> dict[tuple[str, str, str, int, str], float]:
    """Return operations over the gradient's, by `line`."""
    flops = {line(row): row.flops for row in rows if row.flops is not None}
    gradients = {each[:-1]: count for each, count in flops.items() if each[-1] == "gradient"}
    return {
        each: count / gradients[each[:-1]]
        for each, count in flops.items()
        if each[:-1] in gradients
    }


def needed_bytes(row: Row) -> int | None:
    """Return the bytes that a call needs beyond its arguments, with its result; None if unknown.

    What an HVP keeps at a point counts, too. In JAX they come from XLA's memory analysis; in
    PyTorch they are those of the tensors, accounted for, or else its allocator's.
    """
    program = counters.XLA_PROGRAM_AND_POINT if row.method in AMORTISED else counters.XLA_PROGRAM
    choices = {
        "jax": (program,),
        "torch": (counters.LIVE_TENSORS, counters.TORCH_ALLOCATOR),
    }[row.framework]
    return next((counter.bytes_of(row) for counter in choices if counter.is_in(row)), None)


def kind(row: Row) -> tuple[str, str, str]:
    """Return the quantity, framework and mode of ``row``: what one figure shows."""
    return row.quantity, row.framework, row.mode


def of_kind(rows: Iterable[Row], wanted: tuple[str, str, str]) -> list[Row]:
    """Return the article's rows of the `kind` that is ``wanted``."""
    return [row for row in of_article(rows) if kind(row) == wanted]


def settings(row: Row) -> dict[str, Any]:
    """Return what rows must have in common to be drawn together, by name."""
    names = ("plan", "vector", "normalisation", "recorded", "layer_norm", "seed")
    return {"device": row.place} | {name: getattr(row, name) for name in names}


def newest(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """Return the rows with the `settings` of the last, and a sentence on the others.

    The sentence names the settings that differ, and is empty if none does.
    """
    of_rows = [settings(row) for row in rows]
    kept = [row for row, own in zip(rows, of_rows, strict=True) if own == of_rows[-1]]
    if len(kept) == len(rows):
        return kept, ""
    differing = [name for name in of_rows[-1] if len({own[name] for own in of_rows}) > 1]
    *others, wanted = (", ".join(f"{name} {own[name]!r}" for name in differing) for own in of_rows)
    return kept, (
        f"Left out {len(rows) - len(kept)} rows of {' and '.join(sorted({*others} - {wanted}))}: "
        f"drawn are the newest, {wanted}."
    )


def newest_of_each(groups: Iterable[Sequence[Row]]) -> tuple[list[Row], str]:
    """Return the `newest` rows of each of ``groups``, and the sentences on the others."""
    found = [newest(group) for group in groups]
    sentences = filter(None, (sentence for _, sentence in found))
    return [row for rows, _ in found for row in rows], " ".join(sentences)


def overhead_seconds(row: Row) -> list[float]:
    """Return one time per repetition: the gradient's own, or an HVP's overhead.

    An HVP's overhead is its time less the gradient's in the same round, as in
    the article's section "Time complexity".

    Raises:
        ValueError: an HVP has another number of times than of gradient times.
    """
    if row.method == "gradient":
        return list(row.seconds)
    pairs = zip(row.seconds, row.gradient_seconds, strict=True)
    return [hvp - gradient for hvp, gradient in pairs]


def ratio(row: Row) -> np.ndarray:
    """Return the quantiles of an HVP's time over the gradient's in the same round."""
    return np.quantile(np.divide(row.seconds, row.gradient_seconds), QUANTILES)


def is_wrong(row: Row) -> bool:
    """Return whether the row's HVP differs from forward-over-reverse's by more than rounding.

    Right methods differ by at most 2e-5 in float32, and 6e-4 in TF32. The row's error of a product
    shows which one was used; without it, float32 is assumed. That an HVP in low precision differs
    is its nature.
    """
    if row.relative_difference is None or row.method in LOW_PRECISION:
        return False
    precision = row.environment.get("precision", {})
    error = precision.get(f"{row.framework}_product_error", 0.0)
    return not row.relative_difference <= max(SMALLEST_LIMIT, LIMIT_IN_PRODUCT_ERRORS * error)


def point_seconds(row: Row) -> float:
    """Return the median time of what is computed once at a point; 0 if there is nothing."""
    return float(np.median(row.point_seconds)) if row.point_seconds else 0.0


def summarise(rows: Iterable[Row], values: Callable[[Row], Sequence[float]]) -> pd.DataFrame:
    """Return status, low, median, high by (model, batch size, method), in the unit of ``values``.

    ``low`` and ``high`` are the 20 % and 80 % quantiles over a row's repetitions. All
    three numbers are missing unless the row's status is ``done``.
    """
    records = []
    for row in rows:
        drawn = values(row) if row.status == "done" else [np.nan]
        quantiles = np.quantile(drawn, QUANTILES)
        records.append((row.model, row.batch_size, row.method, row.status, *quantiles))
    frame = pd.DataFrame(records, columns=[*CELL, "status", "low", "median", "high"])
    return frame.set_index(CELL)


def with_gaps(frame: pd.DataFrame, cells: Iterable[tuple[str, int, str]]) -> pd.DataFrame:
    """Return the frame at ``cells``; missing cells get the status ``not_measured``."""
    full = frame.reindex(pd.MultiIndex.from_tuples(cells, names=CELL))
    return full.fillna({"status": "not_measured"})


def published_bytes(framework: str, mode: str) -> dict[tuple[str, int, str], float]:
    """Return the bytes that the article's figure shows, by (model, batch size, method)."""
    table = published.memory()
    of_run = table[(table["framework"] == framework) & (table["mode"] == mode)]
    return (GIB * of_run.set_index(CELL)["memory_gib"]).to_dict()
