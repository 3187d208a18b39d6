"""The two kinds of panels: bars by model, and curves by batch size.

Each draws a summary, already in the unit of the axis, on the Axes it is given.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from paper_figures import style
from reproduce import problems

BAR_WIDTH = 0.2
RANGE = ("low", "median", "high")


def bars(axes: Axes, summary: pd.DataFrame) -> None:
    """Draw the medians of one batch size as bars grouped by model, with 20-80 % error bars.

    ``summary`` is indexed by (model, method) in drawing order. A ``published`` value is a marker
    on its bar.
    """
    models = summary.index.unique("model")
    for place, method in enumerate(style.METHODS):
        values = summary.xs(method, level="method").loc[models]
        at = np.arange(len(models)) + (place - (len(style.METHODS) - 1) / 2) * BAR_WIDTH
        done = (values["status"] == "done").to_numpy()
        drawn = values[done]
        axes.bar(at[done], drawn["median"], BAR_WIDTH, **style.bar(method))
        spread = (drawn["high"] > drawn["low"]).to_numpy()
        bars = drawn[spread]
        ends = bars["median"] - bars["low"], bars["high"] - bars["median"]
        axes.errorbar(at[done][spread], bars["median"], ends, **style.ERROR_BAR)
        if "published" in summary:
            axes.plot(at, values["published"], **style.PUBLISHED_BAR)
        for x, status in zip(at[~done], values["status"][~done], strict=True):
            _mark_gap(axes, (x, style.GAP_FOOT), method, status, style.GAP_OVER_BAR)
    axes.set_xticks(range(len(models)), [problems.label(model) for model in models])
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.tick_params(axis="x", length=0)
    _from_zero(axes, summary.filter([*RANGE, "published"]))


def curve(axes: Axes, summary: pd.DataFrame) -> None:
    """Draw the medians of one model against the batch size, with 20-80 % bands.

    ``summary`` is indexed by (batch size, method). The ``published`` values are a dotted curve.
    """
    for place, method in enumerate(style.METHODS):
        values = summary.xs(method, level="method").sort_index()
        line = style.line(method)
        axes.plot(values.index, values["median"], **line)
        axes.fill_between(values.index, values["low"], values["high"], **style.band(line["color"]))
        if "published" in summary:
            axes.plot(values.index, values["published"], **style.published_line(method))
        for batch_size, status in values["status"][values["status"] != "done"].items():
            foot = style.GAP_FOOT + place * style.GAP_LINE
            _mark_gap(axes, (batch_size, foot), method, status, style.GAP_BESIDE_CURVE)
    largest = summary.index.get_level_values("batch_size").max()
    axes.set_xticks(range(0, largest + 1, max(1, largest // 4)))
    axes.set_xlim(0, 1.04 * largest)
    axes.set_xlabel("Batch size")
    _from_zero(axes, summary.filter([*RANGE, "published"]))


def _from_zero(axes: Axes, drawn: pd.DataFrame) -> None:
    # An overhead within the noise can be negative; then a line marks zero within the panel.
    lowest, highest = drawn.min(axis=None), drawn.max(axis=None)
    axes.set_ylim(min(0, 1.07 * lowest) if lowest < 0 else 0, 1.07 * highest if highest > 0 else 1)
    if lowest < 0:
        axes.axhline(0, color=style.INK, linewidth=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")


def _mark_gap(
    axes: Axes, foot: tuple[float, float], method: str, status: str, look: style.Style
) -> None:
    """Draw a cross in the method's colour at ``foot``, and the reason beside it.

    ``foot`` is x in data units and y in heights of the panel.
    """
    to_foot = axes.get_xaxis_transform()
    for cross in style.gap_cross(method):
        axes.plot(*([value] for value in foot), transform=to_foot, clip_on=False, **cross)
    axes.annotate(style.GAPS[status], foot, xycoords=to_foot, textcoords="offset points", **look)
