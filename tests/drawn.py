"""A figure as its reader sees it."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def texts(figure):
    """The texts of the figure, each on one line."""
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text)]


def out_of_view(figure):
    """The labels of ticks beyond the end of an axis, which are not drawn."""
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    ticks = [(tick, *sorted(axis.get_view_interval())) for axis in axes for tick in axis.majorTicks]
    return {tick.label1 for tick, low, high in ticks if not low <= tick.get_loc() <= high}


def assert_nothing_is_cut_off(figure):
    """Every text that is shown is within the figure's rim."""
    FigureCanvasAgg(figure).draw()
    width, height = figure.bbox.size
    for text in set(figure.findobj(Text)) - out_of_view(figure):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            assert inside, f"{text.get_text()!r} at {box}"
