"""What HVPs are for: inverse-HVPs, spectra and a bilevel problem, drawn from their tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures import beyond_style as style
from paper_figures import figures
from paper_figures.layout import CannotDraw
from reproduce.algorithms.spectrum import density


def write(name: str, results: Path) -> list[Path]:
    """Return the two files of the figure ``name``, drawn from its table in ``results``.

    Raises:
        CannotDraw: if there is no such table, or it lacks what is drawn.
    """
    path = results / f"{name}.csv"
    if not path.exists():
        raise CannotDraw(f"there is no {path}; run 'python -m reproduce beyond {results}'")
    try:
        return figures.save(lambda: FIGURES[name](pd.read_csv(path)), name, results / "figures")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise CannotDraw(
            f"{path} is not as it was measured ({error!r}); remove it, "
            f"and run 'python -m reproduce beyond {results}'"
        ) from None


def inverse_hvp_errors(table: pd.DataFrame) -> Figure:
    """Return the error of the inverse-HVP against HVPs and against seconds, a curve a method."""
    figure, panels = _panels(table, "inverse_hvp_errors")
    for axes, (cost, label) in zip(panels, style.COSTS.items(), strict=True):
        for method, values in table.groupby("method"):
            axes.plot(values[cost], values["error"], **style.SOLVERS[method])
        axes.set(xscale="log", yscale="log", xlabel=label)
    panels[0].set_ylabel(style.ERROR)
    return _with_legend(figure)


def spectra(table: pd.DataFrame) -> Figure:
    """Return the density of the eigenvalues, a panel a network, with the outermost marked."""
    figure, panels = _panels(table, "spectra")
    for axes, model in zip(panels, style.NETWORKS, strict=True):
        values = table[table["model"] == model]
        _spectrum(axes, values)
        ritz = values[values["kind"] == "ritz"]
        sizes = ritz["parameters"].iloc[0], ritz["start"].nunique(), ritz["start"].value_counts()[0]
        axes.set(title=style.spectrum_title(model, *sizes), xlabel=style.EIGENVALUE)
    panels[0].set_ylabel(style.DENSITY)
    return _with_legend(figure)


def _spectrum(axes: Axes, table: pd.DataFrame) -> None:
    ritz, exact = (table[table["kind"] == kind] for kind in ("ritz", "exact"))
    low, high = ritz["value"].min(), ritz["value"].max()
    width = style.BELL_WIDTH * (high - low)
    at = np.linspace(low - 6 * width, high + 6 * width, 1000)
    of_ritz, of_exact = (
        density(at, each["value"].to_numpy(), each["weight"].to_numpy(), width)
        for each in (ritz, exact)
    )
    if len(exact):
        axes.fill_between(at, of_exact, **style.EXACT)
    axes.plot(at, of_ritz, **style.QUADRATURE)
    single = 1 / table["parameters"].iloc[0]
    floor = style.FLOOR * density(np.zeros(1), np.zeros(1), np.array([single]), width)[0]
    axes.set(yscale="log", ylim=(floor, 3 * of_ritz.max()))
    axes.ticklabel_format(axis="x", scilimits=(-3, 3), useMathText=True)
    axes.plot([low, high], [style.EXTREME_HEIGHT] * 2, **style.extremes(axes))
    for value, side in ((low, "left"), (high, "right")):
        axes.annotate(
            style.number(value),
            (value, style.EXTREME_HEIGHT),
            xycoords=axes.get_xaxis_transform(),
            **style.extreme_label(side),
        )


def hyperparameter_descent(table: pd.DataFrame) -> Figure:
    """Return the validation loss by strength with the descents on it, and their slopes by step."""
    figure, (along, by_step) = _panels(table, "hyperparameter_descent")
    grid = table[table["run"] == "grid"]
    along.plot(grid["strength"], grid["validation_loss"], **style.GRID)
    for run, look in style.RUNS.items():
        steps = table[table["run"] == run]
        along.plot(steps["strength"], steps["validation_loss"], **look)
        by_step.plot(steps["hvps"], steps["hypergradient"].abs(), **look | {"label": None})
    along.set(xscale="log", xlabel=style.STRENGTH, ylabel=style.VALIDATION_LOSS)
    by_step.set(yscale="log", xlabel=style.COSTS["hvps"], ylabel=style.SLOPE)
    return _with_legend(figure)


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "inverse_hvp_errors": inverse_hvp_errors,
    "spectra": spectra,
    "hyperparameter_descent": hyperparameter_descent,
}


def _panels(table: pd.DataFrame, name: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of two panels whose foot names what and where it was measured."""
    figure = Figure(figsize=style.FIGURE_INCHES, layout="constrained")
    panels = list(figure.subplots(1, 2))
    for axes in panels:
        axes.grid()
    (device,) = table["device"].unique()
    figure.supxlabel(style.foot(name, device), **style.FOOT)
    return figure, panels


def _with_legend(figure: Figure) -> Figure:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
