"""Figures of HVPs at work, drawn from tables: inverse-HVPs, spectra and a bilevel problem."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures import figures
from paper_figures.layout import CannotDraw
from paper_figures.style import BLUE, INK, MUTED, ORANGE, RED, SMALL_POINTS, TEXT_BOX, Style
from reproduce.algorithms.spectrum import density

GREY = "#c4c4c4"
COSTS = {"hvps": "HVPs", "seconds": "Time [s]"}
SOLVERS: dict[str, Style] = {
    "conjugate_gradient": {"label": "Conjugate gradient", "color": BLUE, "linestyle": "-"},
    "gradient_descent": {
        "label": "Gradient descent, best steps",
        "color": ORANGE,
        "linestyle": (0, (5, 1.5)),
    },
    "neumann": {
        "label": r"Neumann, step $1\,/\,λ_{\mathrm{max}}$",
        "color": RED,
        "linestyle": (0, (1.5, 1)),
    },
}
NETWORKS = {"digits": "Network on digits", "resnet34": "ResNet34, not trained"}
BELL_WIDTH = 0.01  # in ranges of the eigenvalues
FLOOR = 0.02  # of the axis, in heights of a bell
EXACT: Style = {"color": GREY, "label": "Exact, from the dense Hessian"}
QUADRATURE: Style = {"color": BLUE, "linewidth": 2, "label": "Lanczos quadrature"}
EXTREME_HEIGHT = 0.03  # in heights of the panel
EXTREMES: Style = {
    "label": "Outermost Ritz values",
    "color": RED,
    "marker": "v",
    "markersize": 9,
    "linestyle": "",
    "zorder": 4,
}
GRID: Style = {"color": GREY, "linewidth": 6, "label": "Loss on a grid"}
STEPS: Style = {"markersize": 5, "markeredgecolor": INK, "markeredgewidth": 0.6}
RUNS: dict[str, Style] = {
    "from strong": {"label": "Descent from a strong start", "color": BLUE, "marker": "o", **STEPS},
    "from weak": {"label": "Descent from a weak start", "color": ORANGE, "marker": "s", **STEPS},
}


def write(name: str, results: Path) -> list[Path]:
    """Return the two files of the figure ``name``, drawn from its table in ``results``.

    Raises:
        CannotDraw: if there is no such table, or it lacks a column or value that is drawn.
    """
    path = results / f"{name}.csv"
    if not path.exists():
        raise CannotDraw(f"there is no {path}; run 'python -m reproduce beyond {results}'")
    try:
        return figures.save(lambda: draw(name, pd.read_csv(path)), name, results / "figures")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise CannotDraw(
            f"{path} is not as it was measured ({error!r}); remove it, "
            f"and run 'python -m reproduce beyond {results}'"
        ) from None


def draw(name: str, table: pd.DataFrame) -> Figure:
    """Return the figure ``name`` of ``table``: its panels, a legend, and a note."""
    figure = Figure(figsize=(9.0, 4.8), layout="constrained")
    panels = list(figure.subplots(1, 2))
    for axes in panels:
        axes.grid()
    (device,) = table["device"].unique()
    fill_panels, note = FIGURES[name]
    foot = f"{note}\nDevice: {device}"
    figure.supxlabel(foot, x=0.01, ha="left", fontsize=SMALL_POINTS, color=MUTED)
    fill_panels(table, panels)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def inverse_hvp_errors(table: pd.DataFrame, panels: list[Axes]) -> None:
    """Draw the error of the inverse-HVP against HVPs and against seconds, one curve per method."""
    for axes, (cost, label) in zip(panels, COSTS.items(), strict=True):
        for method, values in table.groupby("method"):
            axes.plot(values[cost], values["error"], **SOLVERS[method])
        axes.set(xscale="log", yscale="log", xlabel=label)
    panels[0].set_ylabel("Relative error of the inverse-HVP")


def spectra(table: pd.DataFrame, panels: list[Axes]) -> None:
    """Draw the density of the eigenvalues, one panel per network, and mark the outermost."""
    for axes, model in zip(panels, NETWORKS, strict=True):
        values = table[table["model"] == model]
        _spectrum(axes, values)
        ritz = values[values["kind"] == "ritz"]
        sizes = ritz["parameters"].iloc[0], ritz["start"].nunique(), ritz["start"].value_counts()[0]
        axes.set(title=_spectrum_title(model, *sizes), xlabel="Eigenvalue of the Hessian")
    panels[0].set_ylabel("Density")


def _spectrum(axes: Axes, table: pd.DataFrame) -> None:
    ritz, exact = (table[table["kind"] == kind] for kind in ("ritz", "exact"))
    low, high = ritz["value"].min(), ritz["value"].max()
    width = BELL_WIDTH * (high - low)
    at = np.linspace(low - 6 * width, high + 6 * width, 1000)
    of_ritz, of_exact = (
        density(at, each["value"].to_numpy(), each["weight"].to_numpy(), width)
        for each in (ritz, exact)
    )
    if len(exact):
        axes.fill_between(at, of_exact, **EXACT)
    axes.plot(at, of_ritz, **QUADRATURE)
    single = 1 / table["parameters"].iloc[0]
    floor = FLOOR * density(np.zeros(1), np.zeros(1), np.array([single]), width)[0]
    axes.set(yscale="log", ylim=(floor, 3 * of_ritz.max()))
    axes.ticklabel_format(axis="x", scilimits=(-3, 3), useMathText=True)
    in_panel = axes.get_xaxis_transform()
    axes.plot([low, high], [EXTREME_HEIGHT] * 2, transform=in_panel, **EXTREMES)
    for value, side in ((low, "left"), (high, "right")):
        axes.annotate(
            _number(value),
            (value, EXTREME_HEIGHT),
            (0, 9),
            xycoords=in_panel,
            textcoords="offset points",
            ha=side,
            fontsize=11,
            bbox=TEXT_BOX,
            zorder=4,
        )


def _spectrum_title(network: str, parameters: int, starts: int, steps: int) -> str:
    size = f"{parameters / 1e6:.1f} million" if parameters > 1e6 else f"{parameters}"
    return f"{NETWORKS[network]}, d = {size}\n{starts} start{'s' * (starts > 1)} of {steps} steps"


def _number(value: float) -> str:
    """Return ``value`` to three digits, as a power of ten if it is large or small."""
    mantissa, exponent = f"{value:.2e}".split("e")
    if -3 < int(exponent) < 3:
        return f"{value:.3g}".replace("-", "−")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def hyperparameter_descent(table: pd.DataFrame, panels: list[Axes]) -> None:
    """Draw the validation loss against the strength, both descents, and their slopes by step."""
    along, by_step = panels
    grid = table[table["run"] == "grid"]
    along.plot(grid["strength"], grid["validation_loss"], **GRID)
    for run, look in RUNS.items():
        steps = table[table["run"] == run]
        along.plot(steps["strength"], steps["validation_loss"], **look)
        by_step.plot(steps["hvps"], steps["hypergradient"].abs(), **look | {"label": None})
    along.set(xscale="log", xlabel="Regularisation strength", ylabel="Validation loss")
    by_step.set(yscale="log", xlabel=COSTS["hvps"], ylabel="Size of the hypergradient")


# How each figure is drawn, and the note below it.
FIGURES = {
    "inverse_hvp_errors": (
        inverse_hvp_errors,
        "Hessian of a network with 2410 parameters, trained on scikit-learn's digits, + 0.001 I; "
        "float64,\nJAX with jit. Error: against a dense solve. Neumann iterations are gradient "
        "descent with a fixed step.",
    ),
    "spectra": (
        spectra,
        "Eigenvalues, and Ritz values with their weights, are drawn as Gaussians, 1 % of the range "
        "wide.\nLeft: scikit-learn's digits, trained, float64. Right: the benchmark's weights, "
        "batch size 2, float32. JAX.",
    ),
    "hyperparameter_descent": (
        hyperparameter_descent,
        "Logistic regression on 150 digits; the strength of its regularisation is chosen by the "
        "loss of 600 others.\nHVPs: all HVPs, for Newton's method on the inner problem and for the "
        "hypergradient.",
    ),
}
