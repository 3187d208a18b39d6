"""Figures of HVPs beyond the article: compiled PyTorch, many vectors at a point, other libraries.

All are drawn from the rows of plan ``beyond``. A ratio is the time of an HVP over the time of
the gradient in the same round, framework and mode.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures import layout, style
from paper_figures.style import BLUE, INK, MUTED, ORANGE, RED, SMALL_POINTS, Style
from reproduce import methods, problems
from reproduce.measuring import cost
from reproduce.plan import BEYOND, LOW_PRECISION, Framework, Method, Mode
from reproduce.results import summary
from reproduce.results.rows import Row

POINTS = np.arange(1, 17)
# An HVP here: framework, mode and method.
Name = tuple[Framework, Mode, Method]

# Label and bar, apart in lightness as the methods' are.
KINDS = {
    "direct": ("One HVP", style.filled(ORANGE, "")),
    "amortised": ("A further HVP at the same point", style.filled("#2f7f79", "///")),
    "peer": ("One HVP by another library", style.filled("#c9c9c9", "")),
    "gauss_newton": ("One Gauss-Newton product, which is no HVP", style.filled("white", "...")),
    "bfloat16": ("One HVP with activations in bfloat16", style.filled("white", "xxx")),
}
AMORTISED_LINES: dict[Name, tuple[str, str]] = {
    ("jax", "jit", "forward_over_reverse"): (ORANGE, "--"),
    ("jax", "jit", "linearized"): (ORANGE, "-"),
    ("torch", "eager", "forward_over_reverse"): (BLUE, "--"),
    ("torch", "eager", "graph_kept"): (BLUE, "-"),
    ("torch", "compile", "forward_over_reverse"): (RED, "--"),
    ("torch", "compile", "linearized"): (RED, "-"),
}
MODEL_LINES = {"resnet34": (ORANGE, "s"), "vit": (BLUE, "o"), "bert": (RED, "^")}
OPERATION_COUNT = "Operation count"
RATIO_LABEL = "Time over the gradient's"
OPERATION_MARK: Style = {
    "marker": "|",
    "markersize": 15,
    "markeredgewidth": 2.6,
    "color": INK,
    "linestyle": "",
    "zorder": 5,
}
OPERATION_LINE: Style = {"color": INK, "linestyle": ":", "linewidth": 1.6}
AT_OFFSET: Style = {"textcoords": "offset points", "fontsize": SMALL_POINTS, "color": INK}
VALUE_AT_BAR: Style = AT_OFFSET | {"xytext": (9, 0), "ha": "left", "va": "center"}
GAP_IN_LINE: Style = style.GAP_TEXT | AT_OFFSET | {"xytext": (4, 0), "ha": "left", "va": "center"}
MEMORY_AT_POINT: Style = AT_OFFSET | {
    "xytext": (0, -9),
    "ha": "center",
    "va": "top",
    "bbox": style.TEXT_BOX | {"pad": 1},
}
METHOD_LABEL_INCHES = 3.75
METHOD_LINE_INCHES = 0.3
METHOD_BAR = 0.72
RATIO_NOTE = (
    "In gradients of the same round, and in seconds. ≠: the HVP differs from "
    "forward-over-reverse's by more than rounding."
)
AMORTISED_NOTE = "Dashed: every HVP anew. Solid: the part without the vector is computed once."
VECTORS_NOTE = (
    "Forward-over-reverse, one call for all vectors. At the points, the memory of the call: in JAX "
    "the program's, from XLA's memory analysis; in PyTorch the peak of its allocator."
)


def select(name: str, rows: Iterable[Row]) -> tuple[list[Row], str]:
    """Return the rows that the figure ``name`` is drawn from, and a sentence on those left out.

    They have the same batch size, the largest that was measured.
    """
    own, left_out = summary.of_beyond(rows, several_vectors=name == "beyond_vectors")
    largest = max((row.batch_size for row in own), default=0)
    others = sorted({row.model for row in own if row.batch_size != largest}, key=problems.order)
    if others:
        names = " and ".join(map(problems.label, others))
        left_out = f"{left_out} Left out {names}, of another batch size.".strip()
    return [row for row in own if row.batch_size == largest], left_out


def beyond_ratios(rows: Sequence[Row]) -> Figure:
    """Return the figure of every method's ratio to the gradient, with its operation count."""
    hvps = [row for row in rows if row.method != "gradient"]
    names = sorted({_name(row) for row in hvps}, key=_order)
    largest = max((summary.ratio(row)[2] for row in hvps if row.status == "done"), default=1)
    figure, of_models = _panels(hvps, attrgetter("model"), problems.order)
    for axes, model, own in of_models:
        by_name = {_name(row): row for row in own}
        for place, name in enumerate(names):
            _ratio_bar(axes, place, name, by_name.get(name))
        label_lines(axes, [methods.name(*name) for name in names])
        axes.set(title=problems.label(model), xlabel=RATIO_LABEL, xlim=(0, 1.5 * largest))
    kinds = dict.fromkeys(methods.kind(method) for _, _, method in names)
    legend: dict[str, tuple[Artist, ...]] = {
        label: (Patch(**bar),) for label, bar in (KINDS[kind] for kind in kinds)
    }
    legend[OPERATION_COUNT] = (Line2D([], [], **OPERATION_MARK),)
    layout.lay_out(
        figure,
        legend,
        _notes(rows, RATIO_NOTE, "error bars"),
        left_inches=METHOD_LABEL_INCHES,
        axes_height_inches=METHOD_LINE_INCHES * len(names),
    )
    return figure


def label_lines(axes: Axes, labels: Sequence[str]) -> None:
    """Give a panel a line for each of ``labels``, from the top down."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _ratio_bar(axes: Axes, place: int, name: Name, row: Row | None) -> None:
    framework, mode, method = name
    if row is None or row.status != "done":
        status = "not_measured" if row is None else row.status
        axes.annotate(style.GAPS[status], (0, place), **GAP_IN_LINE)
        return
    operations = methods.OPERATIONS[framework, mode][method]
    low, median, high = summary.ratio(row)
    axes.barh(place, median, METHOD_BAR, **KINDS[methods.kind(method)][1])
    axes.errorbar(median, place, xerr=[[median - low], [high - median]], **style.ERROR_BAR)
    axes.plot([operations], [place], **OPERATION_MARK)
    text = f"{median:.2f} · {np.median(row.seconds):.2g} s{_error(row)}"
    axes.annotate(text, (max(high, operations), place), **VALUE_AT_BAR)


def _error(row: Row) -> str:
    if row.method in LOW_PRECISION and row.relative_difference is not None:
        return f" · error {100 * row.relative_difference:.1f} %"
    return " ≠" if summary.is_wrong(row) else ""


def beyond_amortised(rows: Sequence[Row]) -> Figure:
    """Return the figure of the total time of k HVPs at one point, for every k up to 16."""
    wanted = [row for row in rows if _name(row) in AMORTISED_LINES]
    figure, of_models = _panels(wanted, attrgetter("model"), problems.order)
    for axes, model, own in of_models:
        for row in own:
            if row.status == "done":
                total = summary.point_seconds(row) + POINTS * np.median(row.seconds)
                axes.plot(POINTS, total, **_amortised_line(_name(row)))
        axes.set(title=problems.label(model), xlabel="HVPs at one point", xlim=(0, POINTS[-1]))
        axes.grid(axis="y")
    figure.axes[0].set(ylabel="Time of all HVPs [s]", ylim=(0, None))
    drawn = [name for name in AMORTISED_LINES if name in map(_name, wanted)]
    legend = {methods.name(*name): (Line2D([], [], **_amortised_line(name)),) for name in drawn}
    layout.lay_out(figure, legend, _notes(rows, AMORTISED_NOTE, ""))
    return figure


def beyond_vectors(rows: Sequence[Row]) -> Figure:
    """Return the figure of the time per vector, in gradients, by the number of vectors at once.

    Each point is labelled with the memory of the call, if it was counted.
    """
    figure, of_runs = _panels(rows, lambda row: (row.framework, row.mode), list(methods.RUNS).index)
    for axes, run, of_run in of_runs:
        for model in sorted({row.model for row in of_run}, key=problems.order):
            _vectors_line(axes, model, [row for row in of_run if row.model == model])
        counts = np.array(sorted({row.vectors for row in of_run}))
        operations = [methods.operations_per_vector(run[0], run[1], count) for count in counts]
        axes.plot(counts, operations, **OPERATION_LINE)
        axes.set(title="JAX" if run == ("jax", "jit") else methods.RUNS[run])
        axes.set_xlabel("Vectors at once")
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.7 * counts.min(), 1.4 * counts.max())
        axes.set_xticks(counts, counts, minor=False)
        axes.grid(axis="y")
    figure.axes[0].set(ylabel="Time per vector over the gradient's", ylim=(0, None))
    legend = {
        problems.label(model): (Line2D([], [], **_model_line(model)),)
        for model in sorted({row.model for row in rows}, key=problems.order)
    }
    legend[OPERATION_COUNT] = (Line2D([], [], **OPERATION_LINE),)
    layout.lay_out(figure, legend, _notes(rows, VECTORS_NOTE, "bands"))
    return figure


def _vectors_line(axes: Axes, model: str, rows: Iterable[Row]) -> None:
    done = sorted((row for row in rows if row.status == "done"), key=attrgetter("vectors"))
    per_vector = [summary.ratio(row) / row.vectors for row in done]
    counts, line = [row.vectors for row in done], _model_line(model)
    low, median, high = np.reshape(per_vector, (-1, 3)).T
    axes.plot(counts, median, **line)
    axes.fill_between(counts, low, high, **style.band(line["color"]))
    for row, height in zip(done, median, strict=True):
        if size := summary.needed_bytes(row):
            axes.annotate(cost.readable_bytes(size), (row.vectors, height), **MEMORY_AT_POINT)


def _panels(
    rows: Sequence[Row], of: Callable[[Row], Hashable], order: Callable[[Any], Any]
) -> tuple[Figure, list[tuple[Axes, Any, list[Row]]]]:
    """Return an empty figure, and one panel with its rows for each value of ``of``.

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


def _name(row: Row) -> Name:
    return row.framework, row.mode, row.method


def _order(name: Name) -> tuple[int, int]:
    framework, mode, method = name
    return list(methods.RUNS).index((framework, mode)), list(methods.LABELS).index(method)


def _amortised_line(name: Name) -> Style:
    color, line_style = AMORTISED_LINES[name]
    return {"color": color, "linestyle": line_style, "linewidth": 2.2}


def _model_line(model: str) -> Style:
    color, marker = MODEL_LINES.get(model, (MUTED, "D"))
    return {"color": color, "marker": marker, "markersize": 7, "linewidth": 2.2}


def _notes(rows: Sequence[Row], values: str, spread: str) -> dict[str, str]:
    row = rows[0]
    return {
        "values": f"{values} {style.repetitions_note(rows, spread)}",
        "machine": f"Device: {row.device} · plan: {row.plan} · batch size: {row.batch_size}",
    }
