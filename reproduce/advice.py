"""Which HVP to use: the answer that the rows of plan ``beyond`` give, as Markdown."""

from collections.abc import Iterable, Sequence

import numpy as np

from paper_figures import faster, style, summary
from paper_figures import faster_style as look
from reproduce import cost
from reproduce.plan import BEYOND
from reproduce.rows import Row

FRAMEWORKS = {"jax": "JAX", "torch": "PyTorch"}
MANY = 10


def advice(rows: Iterable[Row]) -> str:
    """The fastest and the smallest HVP of each framework and model, as Markdown tables.

    Of HVPs that agree with forward-over-reverse: for few of them, for many at new points,
    for many at one point, and for little memory. Those that disagree are named at the end.
    """
    rows = list(rows)
    times, _ = faster.select("beyond_ratios", rows)
    hvps = [row for row in times if row.status == "done" and row.method != "gradient"]
    right = [row for row in hvps if not is_wrong(row)]
    memory = [
        row
        for row in rows
        if (row.plan, row.quantity, row.status) == (BEYOND, "memory", "done")
        and row.method != "gradient"
    ]
    parts = [_of_framework(name, right, memory) for name in FRAMEWORKS]
    return "\n\n".join(filter(None, [*parts, _wrong(list(filter(is_wrong, hvps)))])) + "\n"


def is_wrong(row: Row) -> bool:
    """Whether the row's HVP differs from forward-over-reverse's by more than rounding."""
    return row.relative_difference is not None and row.relative_difference > faster.LIMIT


def _of_framework(framework: str, times: Sequence[Row], memory: Sequence[Row]) -> str:
    own = [row for row in times if row.framework == framework]
    held = [row for row in memory if row.framework == framework]
    if not own:
        return ""
    models = sorted({row.model for row in own}, key=style.model_order)
    needs = {
        "few HVPs": (_few, own),
        "many HVPs, each at a new point": (_new_points, own),
        f"{MANY} HVPs and more at one point": (_one_point, own),
        "little memory": (_little_memory, held),
    }
    header = [FRAMEWORKS[framework], *map(style.model_label, models)]
    lines = [header, ["---"] * len(header)]
    for need, (best, found) in needs.items():
        cells = [best([row for row in found if row.model == model]) for model in models]
        if any(cells):
            lines.append([need, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _few(rows: Sequence[Row]) -> str:
    """Without waiting for ``torch.compile``, the least time of one HVP at a new point."""
    found = [row for row in rows if row.mode != "compile"]
    return _named(min(found, key=_first_seconds), _first_seconds) if found else ""


def _new_points(rows: Sequence[Row]) -> str:
    """With ``torch.compile``, the least time of one HVP at a new point, and when it has paid."""
    compiled = [row for row in rows if row.mode == "compile"]
    others = [row for row in rows if row.mode != "compile"]
    if not compiled or not others:
        return ""
    best = min(compiled, key=_first_seconds)
    saved = min(map(_first_seconds, others)) - _first_seconds(best)
    if saved <= 0:
        return _few(rows)
    compiling = sum(seconds for name, seconds in best.compile_seconds.items() if name != "gradient")
    paid = f"compiling takes {cost.readable_seconds(compiling)}, {compiling / saved:.0f} HVPs' gain"
    return f"{_named(best, _first_seconds)}; {paid}"


def _one_point(rows: Sequence[Row]) -> str:
    return _named(min(rows, key=_mean_of_many), _mean_of_many)


def _little_memory(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    counters = [_counter(row) for row in rows]
    best = min(rows, key=lambda row: _counter(row).bytes_of(row))
    most = max(rows, key=lambda row: _counter(row).bytes_of(row))
    if len({counter.name for counter in counters}) > 1:
        return ""
    size, largest = (cost.readable_bytes(_counter(row).bytes_of(row)) for row in (best, most))
    return f"{_label(best)}: {size} (most: {_label(most)}, {largest})"


def _counter(row: Row) -> summary.Counter:
    """The first counter that says what a whole process or device held, in ``row``."""
    choices = (summary.JAX_ALLOCATOR, summary.TORCH_ALLOCATOR, summary.RESIDENT_SET)
    return next(counter for counter in choices if counter.is_in(row))


def _first_seconds(row: Row) -> float:
    return summary.point_seconds(row) + float(np.median(row.seconds))


def _mean_of_many(row: Row) -> float:
    return summary.point_seconds(row) / MANY + float(np.median(row.seconds))


def _named(row: Row, seconds) -> str:
    gradients = seconds(row) / np.median(row.gradient_seconds)
    return f"{_label(row)}: {seconds(row):.2f} s, {gradients:.1f} gradients"


def _label(row: Row) -> str:
    name = look.BEYOND_METHODS[row.method]
    return f"compiled, {name}" if row.mode == "compile" else name


def _wrong(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    named = [
        f"{look.beyond_label((row.framework, row.mode, row.method))} for "
        f"{style.model_label(row.model)} (by {row.relative_difference:.1%})"
        for row in rows
    ]
    return f"Left out, since their HVPs differ from forward-over-reverse's: {', '.join(named)}."
