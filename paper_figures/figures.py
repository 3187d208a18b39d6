"""The article's figures: the rows that each needs, and the panels that it has."""

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures import beyond, diagrams, fronts, layout, panels, style
from paper_figures.layout import CannotDraw
from reproduce import problems
from reproduce.drawing import BENCHES, BEYOND_FROM_ROWS, DIAGRAMS, Bench
from reproduce.plan import PLANS
from reproduce.results import counters, origin, summary
from reproduce.results.files import whole_file
from reproduce.results.rows import Row

UNDATED = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


def write(name: str, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the figure ``name`` as PNG and PDF into ``folder``; return the two paths.

    ``rows`` are those that `select` returns for it.

    The same rows give the same bytes: no date or version is written, and the
    user's matplotlib settings are ignored.

    Raises:
        CannotDraw: for the same reasons as `draw`.
    """
    return save(lambda: draw(name, rows), name, folder)


def save(draw: Callable[[], Figure], name: str, folder: Path) -> list[Path]:
    """Write the figure that ``draw`` returns as PNG and PDF into ``folder``; return both paths."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.RC)  # type: ignore[arg-type]  # it lists all keys
        figure = draw()
        paths = [_save(figure, folder / f"{name}.{suffix}") for suffix in UNDATED]
        figure.clear()
    return paths


def _save(figure: Figure, path: Path) -> Path:
    suffix = path.suffix[1:]
    # Into memory first, because on a full disk matplotlib's PDF raises an error of its own.
    drawn = io.BytesIO()
    figure.savefig(drawn, format=suffix, metadata=UNDATED[suffix])
    with whole_file(path) as unfinished:
        unfinished.write_bytes(drawn.getvalue())
    return path


def select(name: str, rows: Iterable[Row]) -> tuple[list[Row], str]:
    """Return the rows that the figure ``name`` is drawn from, and a sentence on those left out.

    Rows are left out if their device, plan, vector or normalisation differs from the newest
    row's. A diagram needs no rows.
    """
    if name in DIAGRAMS:
        return [], ""
    if name == "beyond_front":
        return fronts.select(rows)
    if name in BEYOND_FROM_ROWS:
        return beyond.select(name, rows)
    return summary.newest(summary.of_kind(rows, BENCHES[name][:3]))


def draw(name: str, rows: Sequence[Row]) -> Figure:
    """Return the figure ``name``, drawn from ``rows``: those that `select` returns.

    Raises:
        CannotDraw: there are no rows, no batch size that all models have, or no memory
            counter that all rows have.
    """
    if name in DIAGRAMS:
        return getattr(diagrams, name)()
    if name == "beyond_front":
        return fronts.beyond_front(rows)
    if name in BEYOND_FROM_ROWS:
        return getattr(beyond, name)(rows)
    return _bench(BENCHES[name], rows)


def _bench(bench: Bench, rows: Sequence[Row]) -> Figure:
    if not rows:
        raise CannotDraw(
            f"there are no rows of {bench.quantity}, {bench.framework}, {bench.mode}; "
            "measure a plan that has them first"
        )
    row, sizes = rows[0], _batch_sizes(bench, rows)
    batch_size = _bar_batch_size(bench, sizes)
    with_curve = [model for model in sizes if bench.has_curve and len(sizes[model]) > 1]
    values, note = _values(rows, "error bars and bands" if with_curve else "error bars")
    cells = [(m, b, method) for m in sizes for b in sizes[m] for method in style.METHODS]
    table = summary.with_gaps(summary.summarise(rows, values), cells)
    table = table.assign(**_published(bench, row, table.index))
    of_bars = style.title(row, f"batch size {batch_size}")
    shown = {of_bars: table.xs(batch_size, level="batch_size")}
    for model in with_curve[:1]:
        shown[style.title(row, problems.label(model))] = table.xs(model, level="model")
    notes = {
        "deviation": _deviation(row, table) if "published" in table else "",
        "values": note,
        "settings": style.settings_note(row),
        "machine": style.machine_note(row),
    }
    return _assemble(bench.quantity, shown, notes)


def _deviation(row: Row, table: pd.DataFrame) -> str:
    """Return how far ``table`` is from the published values, and why; empty if it was run."""
    why = style.deviation_note(row)
    hvps = table.drop(index="gradient", level="method")
    return f"{style.compared_note(hvps['median'] / hvps['published'])} {why}" if why else ""


def _published(bench: Bench, row: Row, cells: pd.Index) -> dict[str, list[float]]:
    """Return the column of published values for ``cells``, in bytes; none if nothing is known."""
    if bench.quantity != "memory" or not origin.is_articles(row):
        return {}
    known = summary.published_bytes(bench.framework, bench.mode)
    found = [known.get(cell, np.nan) for cell in cells]
    return {} if np.isnan(found).all() else {"published": found}


def _batch_sizes(bench: Bench, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the batch sizes of each model, in the plan or in rows."""
    sizes: dict[str, set[int]] = {}
    run = bench.framework, bench.mode
    for grid in PLANS.get(rows[0].plan, ()):
        is_memory = bench.quantity == "memory"  # the same sizes in all frameworks and modes
        if grid.quantity == bench.quantity and (is_memory or (grid.framework, grid.mode) == run):
            for model, planned in grid.batch_sizes.items():
                sizes.setdefault(model, set()).update(planned)
    for row in rows:
        sizes.setdefault(row.model, set()).add(row.batch_size)
    return {model: sorted(sizes[model]) for model in sorted(sizes, key=problems.order)}


def _bar_batch_size(bench: Bench, sizes: dict[str, list[int]]) -> int:
    common = set.intersection(*map(set, sizes.values()))
    if bench.batch_size in common:
        return bench.batch_size
    if bench.only_this_size or not common:
        wanted = bench.batch_size if bench.only_this_size else "that all models share"
        raise CannotDraw(f"the plan has no batch size {wanted} for {', '.join(sizes)}")
    return max(common)


def _values(rows: Sequence[Row], spread: str) -> tuple[Callable[[Row], Sequence[float]], str]:
    """Return the function that takes the drawn values from a row, and the note about them.

    Raises:
        CannotDraw: the rows have no memory counter in common.
    """
    if rows[0].quantity == "time":
        return summary.overhead_seconds, style.repetitions_note(rows, spread)
    counter = counters.shared(rows)
    if counter is None:
        raise CannotDraw("its rows have no memory counter in common; measure them again")
    return (lambda row: [counter.bytes_of(row)]), style.memory_note(counter)


def _assemble(quantity: str, shown: dict[str, pd.DataFrame], notes: dict[str, str]) -> Figure:
    """Return the figure with the panels ``shown``, by title: the bars, then the curve."""
    scale, unit = style.unit(quantity, max(table["median"].max() for table in shown.values()))
    scaled = [table.assign(**(table.select_dtypes("number") / scale)) for table in shown.values()]
    figure = layout.empty()
    all_axes = figure.subplots(1, len(shown), squeeze=False)[0]
    panels.bars(all_axes[0], scaled[0])
    for axes, table in zip(all_axes[1:], scaled[1:], strict=True):
        panels.curve(axes, table)
    for axes, title in zip(all_axes, shown, strict=True):
        axes.set_ylabel(style.axis_label(quantity, unit))
        axes.set_title(title)
    layout.lay_out(figure, _legend("published" in scaled[0], len(shown) > 1), notes)
    return figure


def _legend(has_published: bool, has_curve: bool) -> dict[str, tuple[Artist, ...]]:
    """Return the entries of the legend, down its two columns: methods and published values."""
    entries: list[tuple[str, tuple[Artist, ...]]] = []
    for method in style.METHODS:
        bar, line = Patch(**style.bar(method)), Line2D([], [], **style.line(method))
        entries.append((style.method_label(method), (bar, line) if has_curve else (bar,)))
    if has_published:
        marks = (Line2D([], [], **look) for look in (style.PUBLISHED_BAR, style.PUBLISHED_KEY))
        entries.insert(2, (style.PUBLISHED_LABEL, tuple(marks)))
    return dict(entries)
