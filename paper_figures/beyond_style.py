"""How the figures of HVPs at work look and what they say, as plain data."""

from typing import Any

from matplotlib.axes import Axes

from paper_figures.style import INK, MUTED

BLUE, ORANGE, RED, GREY = "#4e79b4", "#e98b2c", "#a3262e", "#c4c4c4"
FIGURE_INCHES = (9.0, 4.8)
FOOT: dict[str, Any] = {"x": 0.01, "ha": "left", "fontsize": 9.5, "color": MUTED}
FEET = {
    "inverse_hvp_errors": (
        "Hessian of a network with 2410 parameters, trained on scikit-learn's digits, + 0.001 I; "
        "float64,\nJAX with jit. Error: against a dense solve. Neumann iterations are gradient "
        "descent of fixed steps."
    ),
    "spectra": (
        "Each eigenvalue, and each Ritz value by its weight, is drawn as a bell 1 % of the range "
        "wide.\nLeft: scikit-learn's digits, trained, float64. Right: the benchmark's weights, "
        "batch size 2, float32. JAX."
    ),
    "hyperparameter_descent": (
        "Logistic regression of 150 digits, strength of its regularisation by the loss of 600 "
        "others.\nHVPs: all of them, for the inner problem by Newton's method and for the "
        "hypergradient."
    ),
}

COSTS = {"hvps": "HVPs", "seconds": "Time [s]"}
ERROR = "Relative error of the inverse-HVP"
SOLVERS: dict[str, dict[str, Any]] = {
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
EIGENVALUE = "Eigenvalue of the Hessian"
DENSITY = "Density"
BELL_WIDTH = 0.01  # by the range of the eigenvalues
FLOOR = 0.02  # of the axis, by the height of a bell
EXACT: dict[str, Any] = {"color": GREY, "label": "Exact, from the dense Hessian"}
QUADRATURE: dict[str, Any] = {"color": BLUE, "linewidth": 2, "label": "Lanczos quadrature"}
EXTREME_HEIGHT = 0.03  # by that of the panel

STRENGTH = "Regularisation strength"
VALIDATION_LOSS = "Validation loss"
SLOPE = "Size of the hypergradient"
GRID: dict[str, Any] = {"color": GREY, "linewidth": 6, "label": "Loss on a grid"}
_STEPS: dict[str, Any] = {"markersize": 5, "markeredgecolor": INK, "markeredgewidth": 0.6}
RUNS: dict[str, dict[str, Any]] = {
    "from strong": {"label": "Descent from a strong start", "color": BLUE, "marker": "o", **_STEPS},
    "from weak": {"label": "Descent from a weak start", "color": ORANGE, "marker": "s", **_STEPS},
}


def foot(name: str, device: str) -> str:
    """Return the note under the figure ``name``: what it is of, and the device."""
    return f"{FEET[name]}\nDevice: {device}"


def spectrum_title(network: str, parameters: int, starts: int, steps: int) -> str:
    """Return the title of a spectrum's panel: the network, and what the quadrature took."""
    size = f"{parameters / 1e6:.1f} million" if parameters > 1e6 else f"{parameters}"
    return f"{NETWORKS[network]}, d = {size}\n{starts} start{'s' * (starts > 1)} of {steps} steps"


def number(value: float) -> str:
    """Return ``value`` to three digits, as a power of ten if it is large or small."""
    mantissa, exponent = f"{value:.2e}".split("e")
    if -3 < int(exponent) < 3:
        return f"{value:.3g}".replace("-", "−")
    return rf"${mantissa}\times10^{{{int(exponent)}}}$"


def extremes(axes: Axes) -> dict[str, Any]:
    """Return the keyword arguments of the marks at the outermost Ritz values of ``axes``."""
    look = {"color": RED, "marker": "v", "markersize": 9, "linestyle": ""}
    place = {"transform": axes.get_xaxis_transform(), "zorder": 4}
    return {"label": "Outermost Ritz values", **look, **place}


def extreme_label(side: str) -> dict[str, Any]:
    """Return the keyword arguments of the value at an outermost Ritz value."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    place = {"xytext": (0, 9), "textcoords": "offset points", "ha": side}
    return {**place, "fontsize": 11, "bbox": box, "zorder": 4}
