"""A figure as its reader sees it."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text


def texts(figure):
    """The texts of the figure, each on one line."""
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text)]


def assert_nothing_is_cut_off(figure):
    """Every text that is shown is within the figure's rim."""
    FigureCanvasAgg(figure).draw()
    width, height = figure.bbox.size
    for text in figure.findobj(Text):
        if text.get_text() and text.get_visible():
            box = text.get_window_extent()
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            assert inside, f"{text.get_text()!r} at {box}"
