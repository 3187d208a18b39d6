"""What the article did not measure: compiled PyTorch, many vectors at a point, other libraries.

All are drawn from the rows of plan ``beyond``. A ratio is the time of an HVP over that of
the gradient in the same round, framework and mode.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures import faster_style as look
from paper_figures import layout, style
from reproduce import methods, problems
from reproduce.measuring import cost
from reproduce.plan import BEYOND, Framework, Method, Mode, Run
from reproduce.results import summary
from reproduce.results.rows import Row

POINTS = np.arange(1, 17)
# An HVP here: framework, mode and method.
Name = tuple[Framework, Mode, Method]


def ratios(rows: Sequence[Row]) -> Figure:
    """Return the ratio of every method to the gradient, beside its operation count."""
    hvps = [row for row in rows if row.method != "gradient"]
    names = sorted({_name(row) for row in hvps}, key=_order)
    largest = max((summary.ratio(row)[2] for row in hvps if row.status == "done"), default=1)
    figure, of_models = _panels(hvps, _model, problems.order)
    for axes, model, own in of_models:
        by_name = {_name(row): row for row in own}
        for place, name in enumerate(names):
            _ratio_bar(axes, place, name, by_name.get(name))
        axes.set(title=problems.label(model), xlabel=look.RATIO_LABEL, xlim=(0, 1.5 * largest))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    figure.axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.axes[0].set_yticks(range(len(names)), [methods.name(*name) for name in names])
    kinds = dict.fromkeys(methods.kind(method) for _, _, method in names)
    legend: dict[str, tuple[Artist, ...]] = {
        look.KINDS[kind][0]: (Patch(**look.kind_bar(kind)),) for kind in kinds
    }
    legend[look.OPERATION_COUNT] = (Line2D([], [], **look.operation_count()),)
    layout.lay_out(
        figure,
        legend,
        _notes(rows, look.RATIO_NOTE, "error bars"),
        left_inches=look.METHOD_LABEL_INCHES,
        axes_height_inches=look.METHOD_LINE_INCHES * len(names),
    )
    return figure


def _ratio_bar(axes: Axes, place: int, name: Name, row: Row | None) -> None:
    framework, mode, method = name
    operations = methods.OPERATIONS[framework, mode][method]
    if row is None or row.status != "done":
        status = "not_measured" if row is None else row.status
        axes.annotate(xy=(0, place), textcoords="offset points", **look.gap_in_line(status))
        return
    low, median, high = summary.ratio(row)
    axes.barh(place, median, look.METHOD_BAR, **look.kind_bar(methods.kind(method)))
    axes.errorbar(median, place, xerr=[[median - low], [high - median]], **style.error_bar())
    axes.plot([operations], [place], **look.operation_count())
    text = look.beyond_value(median, np.median(row.seconds), summary.is_wrong(row))
    end = max(high, operations)
    axes.annotate(text, (end, place), textcoords="offset points", **look.value_at_bar())


def amortised(rows: Sequence[Row]) -> Figure:
    """Return the total time of k HVPs at one point, for every k up to 16."""
    wanted = [row for row in rows if _name(row) in look.AMORTISED_LINES]
    figure, of_models = _panels(wanted, _model, problems.order)
    for axes, model, own in of_models:
        for row in own:
            if row.status == "done":
                total = summary.point_seconds(row) + POINTS * np.median(row.seconds)
                axes.plot(POINTS, total, **look.amortised_line(_name(row)))
        axes.set(title=problems.label(model), xlabel="HVPs at one point", xlim=(0, POINTS[-1]))
        axes.grid(axis="y")
    figure.axes[0].set(ylabel=look.TOTAL_LABEL, ylim=(0, None))
    drawn = [name for name in look.AMORTISED_LINES if name in map(_name, wanted)]
    legend = {methods.name(*name): (Line2D([], [], **look.amortised_line(name)),) for name in drawn}
    layout.lay_out(figure, legend, _notes(rows, look.AMORTISED_NOTE, ""))
    return figure


def vectors(rows: Sequence[Row]) -> Figure:
    """Return the time per vector over the gradient's, by the number of vectors at once.

    Beside each stands the memory of the call, where it was counted.
    """
    figure, of_runs = _panels(rows, lambda row: (row.framework, row.mode), list(methods.RUNS).index)
    for axes, run, of_run in of_runs:
        for model in sorted({row.model for row in of_run}, key=problems.order):
            done = {r.vectors: r for r in of_run if r.model == model and r.status == "done"}
            counts = np.array(sorted(done))
            low, median, high = np.transpose([summary.ratio(done[count]) for count in counts])
            axes.plot(counts, median / counts, **look.model_line(model))
            axes.fill_between(counts, low / counts, high / counts, **look.model_band(model))
            for count, height in zip(counts, median / counts, strict=True):
                if size := summary.bytes_of_call(done[count]):
                    text = cost.readable_bytes(size)
                    axes.annotate(text, (count, height), **look.memory_at_point())
        operations = [methods.operations_per_vector(run[0], run[1], count) for count in counts]
        axes.plot(counts, operations, **look.theory_line())
        axes.set(title=_run(run), xlabel="Vectors at once")
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.7 * counts.min(), 1.4 * counts.max())
        axes.set_xticks(counts, counts, minor=False)
        axes.grid(axis="y")
    figure.axes[0].set(ylabel=look.PER_VECTOR_LABEL, ylim=(0, None))
    legend = {
        problems.label(model): (Line2D([], [], **look.model_line(model)),)
        for model in sorted({row.model for row in rows}, key=problems.order)
    }
    legend[look.OPERATION_COUNT] = (Line2D([], [], **look.theory_line()),)
    layout.lay_out(figure, legend, _notes(rows, look.VECTORS_NOTE, "bands"))
    return figure


def _panels(
    rows: Sequence[Row], of: Callable[[Row], Hashable], order: Callable[[Any], Any]
) -> tuple[Figure, list[tuple[Axes, Any, list[Row]]]]:
    """Return an empty figure, and its panels: for each value of ``of``, with its rows.

    Raises:
        CannotDraw: there are no rows.
    """
    if not rows:
        raise layout.CannotDraw(f"there are no such rows of plan {BEYOND!r}; measure it first")
    values = sorted({of(row) for row in rows}, key=order)
    figure = layout.empty()
    all_axes = figure.subplots(1, len(values), squeeze=False, sharey=True)[0]
    own = [[row for row in rows if of(row) == value] for value in values]
    return figure, list(zip(all_axes, values, own, strict=True))


def _model(row: Row) -> str:
    return row.model


def _name(row: Row) -> Name:
    return row.framework, row.mode, row.method


def _order(name: Name) -> tuple[int, int]:
    framework, mode, method = name
    return list(methods.RUNS).index((framework, mode)), list(methods.LABELS).index(method)


def _run(run: Run) -> str:
    return "JAX" if run == ("jax", "jit") else methods.RUNS[run]


def _notes(rows: Sequence[Row], values: str, spread: str) -> dict[str, str]:
    counts = sorted({len(row.seconds) for row in rows if row.status == "done"})
    row = rows[0]
    return {
        "values": f"{values} {look.repetitions_note(counts, spread)}",
        "machine": look.beyond_machine_note(row.device, row.plan, row.batch_size),
    }


FIGURES: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "beyond_ratios": ratios,
    "beyond_amortised": amortised,
    "beyond_vectors": vectors,
}
