"""The layout of a figure with panels: its size, a legend above, notes below."""

import math
import textwrap
from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple

from paper_figures import style


class CannotDraw(Exception):
    """A figure cannot be drawn from its rows; the message is one sentence that says why."""


def empty(inches: tuple[float, float] | None = None) -> Figure:
    """Return an empty figure without automatic layout."""
    # matplotlib accepts "none", but its types do not say so.
    return Figure(figsize=inches, layout="none")  # type: ignore[arg-type]


def lay_out(
    figure: Figure,
    legend: Mapping[str, tuple[Artist, ...]],
    notes: Mapping[str, str],
    left_inches: float = style.LEFT_INCHES,
    axes_height_inches: float = style.AXES_HEIGHT_INCHES,
    rows: int = 1,
) -> None:
    """Give ``figure`` its size, a ``legend`` by label above its panels, and its notes below.

    ``notes`` maps the kind of a note to its text, from the bottom up. The panels are in ``rows``
    of as many, but for the last.
    """
    panel_count = math.ceil(len(figure.axes) / rows)
    width = style.FIGURE_WIDTH_INCHES[panel_count]
    columns = {kind: round(width * count) for kind, count in style.NOTE_COLUMNS_PER_INCH.items()}
    texts = {
        kind: "\n".join(textwrap.wrap(text, columns[kind], break_on_hyphens=False))
        for kind, text in notes.items()
        if text
    }
    foot = style.FOOT_INCHES
    lines = sum(text.count("\n") + 1 for text in texts.values())
    bottom = foot + lines * style.LINE_INCHES + style.AXIS_LABEL_INCHES[panel_count]
    title_lines = 1 + max(axes.get_title().count("\n") for axes in figure.axes)
    legend_style = style.legend(panel_count)
    top = style.top_inches(math.ceil(len(legend) / legend_style["ncols"]), title_lines)
    height = bottom + rows * axes_height_inches + (rows - 1) * style.BETWEEN_ROWS_INCHES + top
    figure.set_size_inches(width, height)
    figure.subplots_adjust(
        left=left_inches / width,
        right=1 - style.RIGHT_INCHES / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=style.BETWEEN_PANELS,
        hspace=style.BETWEEN_ROWS_INCHES / axes_height_inches,
    )
    for kind, text in texts.items():
        figure.text(style.NOTE_INCHES / width, foot / height, text, **style.note(kind))
        foot += style.LINE_INCHES * (text.count("\n") + 1)
    figure.legend(
        list(legend.values()),  # type: ignore[arg-type]  # the handler takes tuples
        list(legend),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        **legend_style,
    )
