"""How the figures of plan ``beyond`` look and what they say, as plain data."""

from typing import Any

from paper_figures.style import GAP_TEXT, GAPS, INK, MUTED
from reproduce.plan import Framework, Method, Mode

# Label, colour and hatch, apart in lightness as the methods' are.
KINDS = {
    "direct": ("One HVP", "#e98b2c", ""),
    "amortised": ("A further HVP at the same point", "#2f7f79", "///"),
    "peer": ("One HVP by another library", "#c9c9c9", ""),
}
AMORTISED_LINES: dict[tuple[Framework, Mode, Method], tuple[str, str]] = {
    ("jax", "jit", "forward_over_reverse"): ("#e98b2c", "--"),
    ("jax", "jit", "linearized"): ("#e98b2c", "-"),
    ("torch", "eager", "forward_over_reverse"): ("#4e79b4", "--"),
    ("torch", "eager", "graph_kept"): ("#4e79b4", "-"),
    ("torch", "compile", "forward_over_reverse"): ("#a3262e", "--"),
    ("torch", "compile", "linearized"): ("#a3262e", "-"),
}
MODEL_LINES = {
    "resnet34": ("#e98b2c", "s"),
    "vit": ("#4e79b4", "o"),
    "bert": ("#a3262e", "^"),
}
OPERATION_COUNT = "Operation count"
RATIO_LABEL = "Time over the gradient's"
TOTAL_LABEL = "Time of all HVPs [s]"
PER_VECTOR_LABEL = "Time per vector over the gradient's"
RATIO_NOTE = (
    "In gradients of the same round, and in seconds. ≠: the HVP differs from "
    "forward-over-reverse's by more than rounding."
)
AMORTISED_NOTE = "Dashed: every HVP anew; solid: what does not depend on the vector once."
VECTORS_NOTE = (
    "Forward-over-reverse, one call for all vectors. At the points, the memory that it takes: in "
    "JAX the program's, from XLA's memory analysis; in PyTorch the peak of its allocator."
)
METHOD_LABEL_INCHES = 3.75
METHOD_LINE_INCHES = 0.3
METHOD_BAR = 0.72


def kind_bar(kind: str) -> dict[str, Any]:
    """Return the keyword arguments of a bar of one of ``KINDS``."""
    _, color, hatch = KINDS[kind]
    return {"facecolor": color, "hatch": hatch, "edgecolor": INK, "linewidth": 0.7}


def operation_count() -> dict[str, Any]:
    """Return the keyword arguments of the mark of an operation count."""
    return {
        "marker": "|",
        "markersize": 15,
        "markeredgewidth": 2.6,
        "color": INK,
        "linestyle": "",
        "zorder": 5,
    }


def beyond_value(ratio: float, seconds: float, is_wrong: bool) -> str:
    """Return the text at a bar: gradients, seconds, and a mark where the HVP is another."""
    return f"{ratio:.2f} · {seconds:.2g} s{' ≠' if is_wrong else ''}"


def value_at_bar() -> dict[str, Any]:
    """Return the keyword arguments of the text at the end of a bar."""
    return {"xytext": (9, 0), "ha": "left", "va": "center", "fontsize": 9.5, "color": INK}


def gap_in_line(status: str) -> dict[str, Any]:
    """Return the keyword arguments of the reason in place of a bar."""
    return {"text": GAPS[status], "xytext": (4, 0), "ha": "left", "va": "center", **GAP_TEXT}


def amortised_line(method: tuple[Framework, Mode, Method]) -> dict[str, Any]:
    """Return the keyword arguments of the total time of a method."""
    color, line_style = AMORTISED_LINES[method]
    return {"color": color, "linestyle": line_style, "linewidth": 2.2}


def model_line(model: str) -> dict[str, Any]:
    """Return the keyword arguments of a curve of ``model``."""
    color, marker = MODEL_LINES.get(model, (MUTED, "D"))
    return {"color": color, "marker": marker, "markersize": 7, "linewidth": 2.2}


def model_band(model: str) -> dict[str, Any]:
    """Return the keyword arguments of a quantile band of ``model``."""
    return {"color": model_line(model)["color"], "alpha": 0.3, "linewidth": 0}


def memory_at_point() -> dict[str, Any]:
    """Return the keyword arguments of the memory that stands at a point of a curve."""
    return {
        "textcoords": "offset points",
        "xytext": (0, -9),
        "ha": "center",
        "va": "top",
        "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        "fontsize": 9.5,
        "color": INK,
    }


def theory_line() -> dict[str, Any]:
    """Return the keyword arguments of a curve of operation counts."""
    return {"color": INK, "linestyle": ":", "linewidth": 1.6}


def repetitions_note(counts: list[int], spread: str) -> str:
    """Return what is drawn of the numbers of repetitions ``counts``, and how their ``spread``."""
    quantiles = f"; {spread}: 20 % to 80 % quantiles" if spread else ""
    return f"Median of {' or '.join(map(str, counts)) or 'no'} repetitions{quantiles}."


def beyond_machine_note(device: str, plan: str, batch_size: int) -> str:
    """Return the line on device, plan and batch size."""
    return f"Device: {device} · plan: {plan} · batch size: {batch_size}"
