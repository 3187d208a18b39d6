"""The article's figures: what each is drawn from, and how its panels are put together."""

import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures import diagrams, panels, style, summary
from reproduce.plan import PLANS
from reproduce.rows import Row


class Bench(NamedTuple):
    """A measured figure: the rows it needs, and the batch size of its bars.

    Where the plan has not got ``batch_size`` for all models, the bars show the largest
    that all have; with ``only_this_size`` the figure is not drawn instead.
    """

    quantity: str
    framework: str
    mode: str
    batch_size: int
    only_this_size: bool = False
    has_curve: bool = True


BENCHES = {
    # The article's text says 128, its time figures show 64: both are drawn.
    "bench_hvp_time_jax": Bench("time", "jax", "jit", 128),
    "bench_hvp_time_jax_b64": Bench("time", "jax", "jit", 64, only_this_size=True),
    "bench_hvp_time_torch": Bench("time", "torch", "eager", 128),
    "bench_hvp_time_torch_b64": Bench("time", "torch", "eager", 64, only_this_size=True),
    "bench_hvp_time_jax_without_jit": Bench("time", "jax", "eager", 64, has_curve=False),
    "bench_hvp_memory_jax": Bench("memory", "jax", "jit", 64),
    "bench_hvp_memory_jax_without_jit": Bench("memory", "jax", "eager", 64),
    "bench_hvp_memory_torch": Bench("memory", "torch", "eager", 64),
}
DIAGRAMS: dict[str, Callable[[], Figure]] = {
    "hess_eig": diagrams.hess_eig,
    "computational_graph": diagrams.computational_graph,
    "forward_diff": diagrams.forward_diff,
    "reverse_diff": diagrams.reverse_diff,
}
NAMES = (*BENCHES, *DIAGRAMS)


UNDATED = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
}


class CannotDraw(Exception):
    """The rows do not hold what a figure shows; the message is one sentence that says why."""


def write(name: str, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Return the two files of the figure ``name``, written as PNG and PDF into ``folder``.

    ``rows`` are those that `select` returns for it.

    The same rows give the same bytes: neither date nor version is written, and the
    user's matplotlib settings are set aside.

    Raises:
        CannotDraw: as `draw`.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style.rc())
        figure = draw(name, rows)
        paths = [_save(figure, folder / f"{name}.{suffix}") for suffix in UNDATED]
        figure.clear()
    return paths


def _save(figure: Figure, path: Path) -> Path:
    # Renamed when complete, so that no reader ever sees half a file.
    suffix = path.suffix[1:]
    unfinished = path.with_name(f".{path.name}.unfinished")
    figure.savefig(unfinished, format=suffix, metadata=UNDATED[suffix])
    os.replace(unfinished, path)
    return path


def select(name: str, rows: Iterable[Row]) -> tuple[list[Row], str]:
    """Return the rows that the figure ``name`` is drawn from, and a sentence on those left out.

    Those are rows of its own kind, but with another vector or normalisation than the
    newest. A diagram needs no rows.
    """
    if name in DIAGRAMS:
        return [], ""
    kind = BENCHES[name][:3]
    own = [row for row in rows if (row.quantity, row.framework, row.mode) == kind]
    return summary.newest(own, summary.SETTINGS)


def draw(name: str, rows: Sequence[Row]) -> Figure:
    """Return the figure ``name``, drawn from ``rows``: those that `select` returns.

    Raises:
        CannotDraw: there are no rows, no batch size that all models have, or no memory
            counter that all rows have.
    """
    if name in DIAGRAMS:
        return DIAGRAMS[name]()
    bench = BENCHES[name]
    if not rows:
        raise CannotDraw(
            f"there are no rows of {bench.quantity}, {bench.framework}, {bench.mode}; "
            "measure a plan that has them first"
        )
    sizes = _batch_sizes(bench, rows)
    batch_size = _bar_batch_size(bench, sizes)
    curve_model = next((model for model in sizes if len(sizes[model]) > 1), None)
    values, note = _values(bench, rows)
    cells = [(m, b, method) for m in sizes for b in sizes[m] for method in style.METHODS]
    table = summary.with_gaps(summary.summarise(rows, values), cells)
    shown = [table.xs(batch_size, level="batch_size")]
    if bench.has_curve and curve_model:
        shown.append(table.xs(curve_model, level="model"))
    row = rows[0]
    notes = {
        "values": note,
        "settings": style.settings_note(row.quantity, row.vector, row.normalisation),
        "machine": style.machine_note(row.device, row.plan),
    }
    return _assemble(bench, shown, batch_size, curve_model, notes)


def _batch_sizes(bench: Bench, rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the batch sizes of each model: those planned, measured or not, and those in rows."""
    sizes: dict[str, set[int]] = {}
    for grid in PLANS.get(rows[0].plan, ()):
        if (grid.quantity, grid.framework, grid.mode) == bench[:3]:
            for model, planned in grid.batch_sizes.items():
                sizes.setdefault(model, set()).update(planned)
    for row in rows:
        sizes.setdefault(row.model, set()).add(row.batch_size)
    return {model: sorted(sizes[model]) for model in sorted(sizes, key=style.model_order)}


def _bar_batch_size(bench: Bench, sizes: dict[str, list[int]]) -> int:
    common = set.intersection(*map(set, sizes.values()))
    if bench.batch_size in common:
        return bench.batch_size
    if bench.only_this_size or not common:
        wanted = bench.batch_size if bench.only_this_size else "that all models share"
        raise CannotDraw(f"the plan has no batch size {wanted} for {', '.join(sizes)}")
    return max(common)


def _values(bench: Bench, rows: Sequence[Row]) -> tuple[Callable[[Row], Sequence[float]], str]:
    """Return what to take from a row, and the note that says what it is.

    Raises:
        CannotDraw: the rows have no memory counter in common.
    """
    if bench.quantity == "time":
        counts = sorted({len(row.seconds) for row in rows if row.status == "done"})
        return summary.overhead_seconds, style.time_note(counts, bench.has_curve)
    counter = summary.shared_counter(rows)
    if counter is None:
        raise CannotDraw("its rows have no memory counter in common; measure them again")
    return (lambda row: [counter.bytes_of(row)]), style.memory_note(counter.name)


def _assemble(
    bench: Bench,
    shown: Sequence[pd.DataFrame],
    batch_size: int,
    curve_model: str | None,
    notes: dict[str, str],
) -> Figure:
    numbers = ["low", "median", "high"]
    scale, unit = style.unit(bench.quantity, max(table["median"].max() for table in shown))
    scaled = [table.assign(**(table[numbers] / scale)) for table in shown]
    run = (bench.framework, bench.mode)
    figure = Figure(layout="none")
    all_axes = figure.subplots(1, len(shown), squeeze=False)[0]
    panels.bars(all_axes[0], scaled[0])
    all_axes[0].set_title(style.batch_title(run, batch_size))
    all_axes[0].set_ylabel(style.overhead_label(bench.quantity, unit))
    for axes, table in zip(all_axes[1:], scaled[1:], strict=True):
        panels.curve(axes, table)
        axes.set_title(style.curve_title(run, curve_model))
        axes.set_ylabel(style.axis_label(bench.quantity, unit))
    _lay_out(figure, notes)
    return figure


def _lay_out(figure: Figure, notes: dict[str, str]) -> None:
    """Give ``figure`` its size, its legend above and its notes below.

    ``notes`` maps the kind of a note to its text, from the bottom up.
    """
    panel_count = len(figure.axes)
    width = style.FIGURE_WIDTH_INCHES[panel_count]
    texts = {
        kind: "\n".join(textwrap.wrap(text, round(style.NOTE_COLUMNS_PER_INCH * width)))
        for kind, text in notes.items()
        if text
    }
    foot = style.FOOT_INCHES
    lines = sum(text.count("\n") + 1 for text in texts.values())
    bottom = foot + lines * style.LINE_INCHES + style.AXIS_LABEL_INCHES[panel_count]
    height = bottom + style.AXES_HEIGHT_INCHES + style.TOP_INCHES
    figure.set_size_inches(width, height)
    figure.subplots_adjust(
        left=style.LEFT_INCHES / width,
        right=1 - style.RIGHT_INCHES / width,
        bottom=bottom / height,
        top=1 - style.TOP_INCHES / height,
        wspace=style.BETWEEN_PANELS,
    )
    for kind, text in texts.items():
        figure.text(style.NOTE_INCHES / width, foot / height, text, **style.note(kind))
        foot += style.LINE_INCHES * (text.count("\n") + 1)
    figure.legend(
        [_legend_key(method, with_line=panel_count > 1) for method in style.METHODS],
        [style.method_label(method) for method in style.METHODS],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        **style.legend(panel_count),
    )


def _legend_key(method: str, with_line: bool) -> tuple[Artist, ...]:
    bar = Patch(**style.bar(method))
    return (bar, Line2D([], [], **style.line(method))) if with_line else (bar,)
