"""The article's drawn figures: Hessian surfaces and computational graphs."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from paper_figures import layout
from paper_figures.style import MUTED, Style

NODE_RADIUS = 0.42
EIGENVALUES = {
    (1, 1): "minimum",
    (1, 0): "flat direction",
    (1, -1): "saddle point",
    (-1, -1): "maximum",
}
FACTORS = {"operation": "one operation", "path": "along paths, by recursion"}
FACTOR_RED, FACTOR_BLUE = "#c1272d", "#2456a6"
FACTOR_COLORS = {"operation": FACTOR_RED, "path": FACTOR_BLUE, "plain": MUTED}
SURFACES_INCHES = (12.8, 3.5)
SURFACE_TICK_POINTS = 10
INCHES_PER_UNIT = 0.78


# As an image inside the PDF: its 1600 facets would be most of the file.
SURFACE: Style = {
    "cmap": "viridis",
    "rstride": 1,
    "cstride": 1,
    "linewidth": 0.15,
    "rasterized": True,
}
SURFACE_AXES: Style = {
    "xlabel": "$x$",
    "ylabel": "$y$",
    "zlabel": "$f(x, y)$",
    "xticks": (-1, 0, 1),
    "yticks": (-1, 0, 1),
}
# As fractions.
SURFACES_LAYOUT = {"left": 0.0, "right": 0.955, "bottom": 0.07, "top": 0.84, "wspace": 0.16}
CENTERED: Style = {"ha": "center", "va": "center"}
VERTEX: Style = {"facecolor": "#ececec", "edgecolor": "black", "linewidth": 3.2}
VERTEX_TEXT: Style = CENTERED | {"fontsize": 26}
OPERATION: Style = VERTEX_TEXT | {"color": MUTED}
# On an arrow, and under a graph.
FACTOR: Style = VERTEX_TEXT | {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5}}
CAPTION: Style = CENTERED | {"fontsize": 16}
DOTTED: Style = {"color": MUTED, "linestyle": ":", "linewidth": 1.2}


class Node(NamedTuple):
    """A vertex of a computational graph: its place, in units of the axes, and its name."""

    x: float
    y: float
    text: str


def hess_eig() -> Figure:
    """Return the surfaces of f(x, y) = (a x² + b y²) / 2 for four pairs of eigenvalues a, b.

    The Hessian of f is diagonal with a and b: the signs give a minimum, a valley, a
    saddle and a maximum.
    """
    figure = layout.empty(SURFACES_INCHES)
    side = np.linspace(-1, 1, 41)
    x, y = np.meshgrid(side, side)
    for place, (first, second) in enumerate(EIGENVALUES):
        axes = figure.add_subplot(1, 4, place + 1, projection="3d")
        z = (first * x**2 + second * y**2) / 2
        axes.plot_surface(x, y, z, **SURFACE)
        axes.set(zticks=np.linspace(z.min(), z.max(), 3), **SURFACE_AXES)
        axes.tick_params(labelsize=SURFACE_TICK_POINTS, pad=1)
        axes.zaxis.set_tick_params(pad=4)
        # Axes overlap, and a background would cover the label of the axis to the left.
        axes.patch.set_visible(False)
        eigenvalues = f"{first}, {second}".replace("-", "−")
        axes.set_title(f"Hessian's eigenvalues {eigenvalues}\n{EIGENVALUES[first, second]}")
    figure.subplots_adjust(**SURFACES_LAYOUT)
    return figure


def computational_graph() -> Figure:
    """Return the computational graph of f_x(U, W) = (U W x)² / 2, with an operation per vertex."""
    figure, axes = _canvas((0, 10.6), (0, 6))
    x, w, u = Node(0.6, 5.3, "$x$"), Node(0.6, 3, "$W$"), Node(0.6, 0.7, "$U$")
    z1, z2, z3 = Node(3, 3, "$z_1$"), Node(5.4, 3, "$z_2$"), Node(7.8, 3, "$z_3$")
    for start, end in ((x, z1), (w, z1), (z1, z2), (u, z2), (z2, z3)):
        _edge(axes, start, end)
    operations = {z1: "$Wx$", z2: "$Uz_1$", z3: r"$\frac{1}{2}\,z_2^2$"}
    for node, operation in operations.items():
        axes.plot([node.x] * 2, [node.y + NODE_RADIUS, node.y + 1.05], **DOTTED)
        axes.text(node.x, node.y + 1.45, operation, **OPERATION)
    axes.plot([z3.x + NODE_RADIUS, z3.x + 0.95], [z3.y] * 2, **DOTTED)
    axes.text(z3.x + 1.9, z3.y, "$f_x(U, W)$", **OPERATION)
    for node in (x, w, u, z1, z2, z3):
        _vertex(axes, node)
    return figure


def forward_diff() -> Figure:
    """Return the graph fragment of the forward chain rule.

    ∂z_i/∂z_j is the sum over the parents z_k of z_i of ∂z_i/∂z_k (red, one operation)
    times ∂z_k/∂z_j (blue, along paths, by recursion).
    """
    return _fragment("parents of $z_i$", middle=6.0, factors=("path", "operation"))


def reverse_diff() -> Figure:
    """Return the graph fragment of the reverse chain rule.

    ∂z_i/∂z_j is the sum over the children z_k of z_j of ∂z_i/∂z_k (blue, along paths,
    by recursion) times ∂z_k/∂z_j (red, one operation).
    """
    return _fragment("children of $z_j$", middle=4.4, factors=("operation", "path"))


def _fragment(between: str, middle: float, factors: tuple[str, str]) -> Figure:
    """Return z_j and z_i with three vertices ``between`` them, and what the edges stand for."""
    figure, axes = _canvas((0, 10.4), (-0.65, 5.55))
    start, end = Node(0.6, 2.9, "$z_j$"), Node(9.8, 2.9, "$z_i$")
    for place, y in enumerate((4.9, 2.9, 0.9), start=1):
        z_k = f"z_{{k_{place}}}"
        node = Node(middle, y, f"${z_k}$")
        _edge(axes, start, node, factors[0], _derivative(z_k, "z_j"))
        _edge(axes, node, end, factors[1], _derivative("z_i", z_k))
        _vertex(axes, node)
    for node in (start, end):
        _vertex(axes, node)
    axes.text(middle, 0.12, between, color=MUTED, **CAPTION)
    for factor, x in zip(factors, ((start.x + middle) / 2, (middle + end.x) / 2), strict=True):
        axes.text(x, -0.45, FACTORS[factor], color=FACTOR_COLORS[factor], **CAPTION)
    return figure


def _derivative(of: str, by: str) -> str:
    return rf"$\frac{{\partial {of}}}{{\partial {by}}}$"


def _canvas(x_limits: tuple[float, float], y_limits: tuple[float, float]) -> tuple[Figure, Axes]:
    width, height = x_limits[1] - x_limits[0], y_limits[1] - y_limits[0]
    scale = INCHES_PER_UNIT
    figure = layout.empty((width * scale, height * scale))
    axes = figure.add_axes((0, 0, 1, 1), xlim=x_limits, ylim=y_limits, aspect="equal")
    axes.set_axis_off()
    return figure, axes


def _vertex(axes: Axes, node: Node) -> None:
    axes.add_patch(Circle((node.x, node.y), NODE_RADIUS, **VERTEX))
    axes.text(node.x, node.y, node.text, **VERTEX_TEXT)


def _edge(axes: Axes, start: Node, end: Node, factor: str = "plain", text: str = "") -> None:
    """Draw an arrow from rim to rim, with its factor of the chain rule on it."""
    way = np.array([end.x - start.x, end.y - start.y])
    rim = way / np.hypot(*way) * (NODE_RADIUS + 0.06)
    tail, head = np.array(start[:2]) + rim, np.array(end[:2]) - rim
    axes.annotate("", head, tail, arrowprops=_arrow(factor))
    if text:
        x, y = (tail + head) / 2
        axes.text(x, y, text, color=FACTOR_COLORS[factor], **FACTOR)


def _arrow(factor: str) -> Style:
    """Return the properties of an arrow: dashed where it stands for a path of many edges."""
    return {
        "arrowstyle": "-|>,head_width=0.28,head_length=0.6",
        "color": FACTOR_COLORS[factor],
        "linewidth": 1.4,
        "linestyle": (0, (5, 3)) if factor == "path" else "-",
        "shrinkA": 0,
        "shrinkB": 0,
    }
