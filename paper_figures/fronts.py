"""The figure of every product's memory against its operations or time."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures import layout
from paper_figures.style import BLUE, INK, MUTED, ORANGE, Style
from reproduce import methods, problems
from reproduce.plan import BEYOND, GAUSS_NEWTON, LOW_PRECISION, REFERENCE, Framework, Method
from reproduce.results import summary
from reproduce.results.rows import Row

COLORS: dict[Framework, str] = {"jax": ORANGE, "torch": BLUE}
FRAMEWORKS: dict[Framework, str] = {"jax": "JAX with jit", "torch": "PyTorch"}
# With their sizes, so that at one place the first is seen above the others.
MARKERS: dict[Method, tuple[str, int]] = {
    "gradient": ("x", 8),
    "forward_over_reverse": ("o", 8),
    "reverse_over_forward": ("s", 11),
    "reverse_over_reverse": ("D", 10),
    "autograd_grad": ("P", 11),
    "checkpointed": ("v", 10),
    "checkpointed_layers": ("^", 10),
    "gauss_newton": ("*", 13),
    "bfloat16": ("h", 11),
}
NOT_ON_FRONT = ("gradient", *GAUSS_NEWTON, *LOW_PRECISION)
IN_A_ROW = 3
FRONT: Style = {"color": MUTED, "linestyle": ":", "linewidth": 1.6, "zorder": 1}
NOTE = (
    "Dotted: the HVPs for which no other in the same framework is both smaller and cheaper. Open "
    "marks are no HVPs, or have bfloat16's error. Memory is what a call needs beyond its "
    "arguments: in JAX the program's, by XLA; in PyTorch the peak of its tensors or of its "
    "allocator."
)


class Point(NamedTuple):
    """A product: its cost in gradients, and its memory in GiB."""

    row: Row
    gradients: float
    gib: float


def select(rows: Iterable[Row]) -> tuple[list[Row], str]:
    """Return plan beyond's accounted rows, or else its timed ones, and what is left out.

    Products without a marker are left out, too, and so is what was compiled by PyTorch.
    """
    rows = list(rows)
    found, left_out = summary.accounted_of_beyond(rows)
    if not found:
        found, left_out = summary.of_beyond(rows)
    others = {_without_marker(row) for row in found} - {""}
    if others:
        left_out = f"{left_out} Left out, without a marker: {'; '.join(sorted(others))}.".strip()
    return [row for row in found if not _without_marker(row)], left_out


def _without_marker(row: Row) -> str:
    """Return the name of what the figure does not show; empty if it does."""
    if row.mode == "compile":
        return methods.RUNS[row.framework, row.mode]
    is_shown = row.method in MARKERS
    return "" if is_shown else methods.name(row.framework, row.mode, row.method)


def beyond_front(rows: Sequence[Row]) -> Figure:
    """Return the figure of each product's memory over its operations, or over its time if known.

    Raises:
        CannotDraw: there are no rows with both.
    """
    points = _points(rows)
    if not points:
        raise layout.CannotDraw(f"there are no such rows of plan {BEYOND!r}; measure it first")
    models = sorted({point.row.model for point in points}, key=problems.order)
    drawn = {each for point in points for each in (point.row.method, point.row.framework)}
    row = points[0].row
    is_timed = row.quantity == "time"
    cost, not_run = ("Time", "") if is_timed else ("Operations", ", compiled or accounted, not run")
    figure = layout.empty()
    rows_of_panels = math.ceil(len(models) / IN_A_ROW)
    panels = _grid(figure, len(models), rows_of_panels)
    for axes, model in zip(panels, models, strict=True):
        own = [point for point in points if point.row.model == model]
        _panel(axes, own)
        axes.set_title(f"{problems.label(model)}, batch size {own[0].row.batch_size}")
        axes.set_xlabel(f"{cost} over the gradient's")
    keys = [(methods.LABELS[each], each, INK) for each in MARKERS if each in drawn]
    keys += [(FRAMEWORKS[each], REFERENCE, COLORS[each]) for each in COLORS if each in drawn]
    legend = {label: (Line2D([], [], **_mark(method, color)),) for label, method, color in keys}
    machine = f"Device: {row.device}{not_run} · plan: {row.plan}"
    layout.lay_out(figure, legend, {"values": NOTE, "machine": machine}, rows=rows_of_panels)
    return figure


def _grid(figure: Figure, count: int, rows: int) -> list[Axes]:
    grid = figure.subplots(rows, math.ceil(count / rows), squeeze=False)
    for axes in grid[:, 0]:
        axes.set_ylabel("Memory [GiB]")
    for axes in grid.flat[count:]:
        axes.remove()
    return list(grid.flat[:count])


def _panel(axes: Axes, points: list[Point]) -> None:
    for framework, color in COLORS.items():
        own = [point for point in points if point.row.framework == framework]
        front = _front([point for point in own if point.row.method not in NOT_ON_FRONT])
        axes.plot([p.gradients for p in front], [p.gib for p in front], **FRONT)
        order = list(MARKERS).index
        for point in sorted(own, key=lambda point: order(point.row.method), reverse=True):
            axes.plot([point.gradients], [point.gib], **_mark(point.row.method, color))
    axes.set_xlim(0, 1.1 * max(point.gradients for point in points))
    axes.set_ylim(0, 1.1 * max(point.gib for point in points))
    axes.grid(visible=True)


def _front(points: Iterable[Point]) -> list[Point]:
    """Return the points for which no other is both smaller and cheaper, the cheapest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (point.gradients, point.gib)):
        if not found or point.gib < found[-1].gib:
            found.append(point)
    return found


def _points(rows: Sequence[Row]) -> list[Point]:
    cost = summary.in_gradients(rows) | {
        summary.line(row): summary.ratio(row)[1]
        for row in rows
        if row.gradient_seconds and row.status == "done"
    }
    return [
        Point(row, cost[summary.line(row)], size / summary.GIB)
        for row in rows
        if row.quantity != "operations" and summary.line(row) in cost
        if (size := summary.needed_bytes(row)) is not None
    ]


def _mark(method: Method, color: str) -> Style:
    open_mark = {"markerfacecolor": "white", "markeredgecolor": color, "markeredgewidth": 1.6}
    with_rim = {"markerfacecolor": color, "markeredgecolor": "white", "markeredgewidth": 0.8}
    marker, size = MARKERS[method]
    look = open_mark if method in NOT_ON_FRONT else with_rim
    return {"marker": marker, "markersize": size, "linestyle": "", **look}
