"""The layout of a figure with panels: its size, a legend above, notes below."""

import math
import textwrap
from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple

from paper_figures import style

# All in inches. The width of a single panel; of several, what is beside them and of each.
SINGLE_WIDTH, BESIDE_PANELS, PANEL_WIDTH = 6.6, 2.2, 3.4
LEFT, RIGHT, AXES_HEIGHT = 1.05, 0.2, 3.3
# Above the panels: a title of one line and a legend of two rows; then, each further line and row.
TOP, TITLE_LINE, LEGEND_ROW = 1.12, 0.2, 0.25
# Below the panels: the numbers at their axes, and the labels of the axes, if there are any.
TICKS, TICKS_AND_LABEL = 0.42, 0.64
FOOT, NOTE_LEFT, NOTE_LINE = 0.1, 0.15, 0.2
BETWEEN_ROWS = 1.0
# A fraction of a panel's width.
BETWEEN_PANELS = 0.28
# Warnings are bold, and wider.
NOTE_COLUMNS_PER_INCH = {"deviation": 12.5, "values": 12.5, "settings": 12, "machine": 12}
LEGEND_COLUMNS = 2


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
    left_inches: float = LEFT,
    axes_height_inches: float = AXES_HEIGHT,
    rows: int = 1,
) -> None:
    """Give ``figure`` its size, a ``legend`` by label above its panels, and its notes below.

    ``notes`` maps the kind of a note to its text, from the bottom up. The panels are in ``rows``
    of as many, but for the last.
    """
    panels = math.ceil(len(figure.axes) / rows)
    of_one, of_many = SINGLE_WIDTH + left_inches - LEFT, BESIDE_PANELS + panels * PANEL_WIDTH
    width = round(of_one if panels == 1 else of_many, 1)
    texts = {kind: _wrapped(text, kind, width) for kind, text in notes.items() if text}
    has_labels = any(axes.get_xlabel() for axes in figure.axes)
    foot, lines = FOOT, sum(map(_lines, texts.values()))
    bottom = foot + lines * NOTE_LINE + (TICKS_AND_LABEL if has_labels else TICKS)
    more_rows = math.ceil(len(legend) / LEGEND_COLUMNS) - 2
    more_lines = max(_lines(axes.get_title()) for axes in figure.axes) - 1
    top = TOP + more_rows * LEGEND_ROW + more_lines * TITLE_LINE
    height = bottom + rows * axes_height_inches + (rows - 1) * BETWEEN_ROWS + top
    figure.set_size_inches(width, height)
    figure.subplots_adjust(
        left=left_inches / width,
        right=1 - RIGHT / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=BETWEEN_PANELS,
        hspace=BETWEEN_ROWS / axes_height_inches,
    )
    for kind, text in texts.items():
        figure.text(NOTE_LEFT / width, foot / height, text, **style.note(kind))
        foot += NOTE_LINE * _lines(text)
    figure.legend(  # type: ignore[call-overload]  # the handler takes tuples
        list(legend.values()),
        list(legend),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
        loc="upper center",
        bbox_to_anchor=(0.5, 0.995),
        ncols=LEGEND_COLUMNS,
        handlelength={1: 1.8, 2: 3.2}.get(panels, 2.4),
    )


def _wrapped(note: str, kind: str, width: float) -> str:
    columns = round(width * NOTE_COLUMNS_PER_INCH[kind])
    return "\n".join(textwrap.wrap(note, columns, break_on_hyphens=False))


def _lines(text: str) -> int:
    return text.count("\n") + 1
