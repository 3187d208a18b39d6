"""The figure of a loss of the user's own: ``python -m paper_figures.mine RESULTS``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures import beyond, figures, layout, style
from reproduce import printing
from reproduce.methods import kind
from reproduce.mine.found import FILE, Found, Product
from reproduce.results.published import QUANTILES

NOTE = (
    "Medians; error bars: 20 % to 80 % quantiles. A method without a bar is wrong, refused or too "
    "large, as its text says."
)
LETTER_INCHES = 0.092
AT_ONCE = "One of several HVPs at once"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def draw(found: Found) -> Figure:
    """Return the figure of every product's time, in gradients, and memory, one line each."""
    shown = [*found.timed, *found.without_use]
    figure = layout.empty()
    time, memory = figure.subplots(1, 2, sharey=True)
    _times(time, shown)
    _memory(memory, shown)
    for axes in (time, memory):
        beyond.label_lines(axes, [each.label for each in shown])
    legend = {_kind(each)[0]: (Patch(**_bar(each)),) for each in shown if each.seconds}
    layout.lay_out(
        figure,
        legend,
        {"values": f"{NOTE} {found.versions}, {found.device}."},
        left_inches=0.2 + LETTER_INCHES * max(len(each.label) for each in shown),
        axes_height_inches=beyond.METHOD_LINE_INCHES * len(shown),
    )
    return figure


def _times(axes: Axes, shown: Sequence[Product]) -> None:
    largest = 1.0
    for place, each in enumerate(shown):
        if not each.seconds:
            axes.annotate(each.verdict, (0, place), **beyond.GAP_IN_LINE)
            continue
        low, median, high = np.quantile(each.in_gradients, QUANTILES)
        axes.barh(place, median, beyond.METHOD_BAR, **_bar(each))
        axes.errorbar(median, place, xerr=[[median - low], [high - median]], **style.ERROR_BAR)
        axes.annotate(f"{median:.2f}", (high, place), **beyond.VALUE_AT_BAR)
        largest = max(largest, high)
    axes.axvline(1, color=style.MUTED, linewidth=1, linestyle=":")
    axes.set(xlabel=beyond.RATIO_LABEL, xlim=(0, 1.2 * largest))


def _memory(axes: Axes, shown: Sequence[Product]) -> None:
    largest = max((each.memory_bytes or 0 for each in shown), default=0) or 1
    size, name = style.unit("memory", largest)
    for place, each in enumerate(shown):
        if each.memory_bytes:
            axes.barh(place, each.memory_bytes / size, beyond.METHOD_BAR, **_bar(each))
    axes.set(xlabel=style.axis_label("memory", name), xlim=(0, 1.05 * largest / size))


def _kind(product: Product) -> tuple[str, str]:
    """Return the legend's text for ``product``, and the number of its colour."""
    if product.vectors > 1:
        return AT_ONCE, "peer"
    of_method = kind(product.method)
    name = "direct" if of_method == "peer" else of_method
    return beyond.KINDS[name][0], name


def _bar(product: Product) -> dict[str, Any]:
    return beyond.KINDS[_kind(product)[1]][1]


@app.command()
def main(results: Annotated[Path, typer.Argument(help=f"The folder that holds {FILE}.")]) -> None:
    """Draw figures/mine.png and mine.pdf from the results of ``reproduce mine``."""
    found = msgspec.json.decode((results / FILE).read_bytes(), type=Found)
    figures.save(lambda: draw(found), "mine", results / "figures")


if __name__ == "__main__":
    printing.run(app, "python -m paper_figures.mine")
