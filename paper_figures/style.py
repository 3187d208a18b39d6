"""How the figures look and what they say, as plain data.

All text that a reader of the benchmark's figures sees is here; other modules have their own.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from reproduce.methods import LABELS, RUNS
from reproduce.plan import HVPS
from reproduce.plan import METHODS as ARTICLE_METHODS
from reproduce.results.counters import Counter
from reproduce.results.origin import ARTICLE_PLAN, is_articles, not_run
from reproduce.results.rows import Row

# Keyword arguments of matplotlib's.
Style = dict[str, Any]

INK = "#222222"
MUTED = "#555555"
WARNING = "#8a1c1c"
# Similar to the article's, but also different in lightness (CIELAB 50, 66, 86, 37), so that they
# can be told apart in greyscale and with colour blindness.
BLUE, ORANGE, YELLOW, RED = "#4e79b4", "#e98b2c", "#efc53d", "#a3262e"
# By method: colour, marker, hatch.
METHODS = {
    "gradient": (BLUE, "o", ""),
    "forward_over_reverse": (ORANGE, "s", "///"),
    "reverse_over_forward": (YELLOW, "D", ""),
    "reverse_over_reverse": (RED, "^", "\\\\\\"),
}
# What operations are counted of.
COUNTED = ("evaluation", "jvp", *ARTICLE_METHODS)
PUBLISHED_LABEL = "Published (NVML, first call)"
QUANTITIES = {"time": "Time", "memory": "Memory"}
GAPS = {
    "out_of_memory": "out of memory",
    "timeout": "timed out",
    "unsupported": "unsupported",
    "error": "error",
    "not_measured": "not measured",
}
SMALL_POINTS = 9.5
TEXT_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
GAP_TEXT: Style = {"fontsize": SMALL_POINTS, "color": INK, "bbox": TEXT_BOX, "zorder": 4}
GAP_OVER_BAR: Style = GAP_TEXT | {"xytext": (0, 7), "rotation": 90, "ha": "center", "va": "bottom"}
GAP_BESIDE_CURVE: Style = GAP_TEXT | {"xytext": (-8, 0), "ha": "right", "va": "center"}
ERROR_BAR: Style = {"fmt": "none", "ecolor": INK, "elinewidth": 1.6, "capsize": 3, "capthick": 1.2}
PUBLISHED: Style = {"markerfacecolor": "white", "markeredgecolor": INK, "markeredgewidth": 1.1}
PUBLISHED_BAR: Style = PUBLISHED | {"marker": "D", "markersize": 6, "linestyle": "", "zorder": 3}
# In heights of the panel: the height of the lowest cross, and the step to the next method's.
GAP_FOOT = 0.035
GAP_LINE = 0.06
DEVIATIONS = {
    ("jax", "jit"): (
        "Published values are what NVML saw of the whole GPU during the first call: at small batch "
        "sizes nearly the same for every method, probably a workspace."
    ),
    ("jax", "eager"): (
        "Published values also contain the code and workspaces of the libraries, which NVML sees. "
        "Why ResNet34's reverse-over-reverse grew by more per sample is not known."
    ),
    ("torch", "eager"): (
        "Published values also contain what NVML sees: probably code and workspaces of the CUDA "
        "libraries, large ones for ResNet34's convolutions."
    ),
}
# (size of the unit, its name), smallest first; a larger unit starts at a tenth of itself.
UNITS = {
    "time": ((1e-3, "ms"), (1.0, "s")),
    "memory": ((2.0**20, "MiB"), (2.0**30, "GiB")),
}

VECTORS = {
    "gradient": "the gradient",
    "params": "the parameters",
    "seeded": "a seeded normal vector",
}
# The vector of its own runs first. Memory does not depend on the vector.
ARTICLE_VECTORS = {"time": ("gradient",), "memory": ("params", "gradient")}

# To be laid over matplotlib's defaults.
RC: Style = {
    "font.size": 12.5,
    "axes.titlesize": 12.5,
    "axes.labelsize": 12.5,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "mathtext.fontset": "cm",
    "pdf.fonttype": 3,
    "savefig.dpi": 160,
}


def method_label(method: str) -> str:
    """Return the name of ``method`` as in the article's legends."""
    label = LABELS[method]
    return f"HVP {label}" if method in HVPS else label


def filled(color: str, hatch: str) -> Style:
    """Return the keyword arguments of a bar of this colour and hatch."""
    return {"facecolor": color, "hatch": hatch, "edgecolor": INK, "linewidth": 0.7}


def bar(method: str) -> Style:
    """Return the keyword arguments of a bar of ``method``."""
    color, _, hatch = METHODS[method]
    return filled(color, hatch)


def line(method: str) -> Style:
    """Return the keyword arguments of a curve of ``method``."""
    color, marker, _ = METHODS[method]
    return {
        "color": color,
        "marker": marker,
        "markersize": 7,
        "markeredgecolor": INK,
        "markeredgewidth": 0.7,
        "linewidth": 2.2,
    }


def band(color: str) -> Style:
    """Return the keyword arguments of a quantile band beside a curve of this colour."""
    return {"color": color, "alpha": 0.3, "linewidth": 0}


def published_line(method: str) -> Style:
    """Return the keyword arguments of the published values of ``method`` beside its curve."""
    color, marker, _ = METHODS[method]
    line = {"color": color, "linestyle": ":", "linewidth": 1.3}
    return {**line, "marker": marker, "markersize": 5, **PUBLISHED}


# In the legend, for all curves that were published.
PUBLISHED_KEY = published_line("gradient") | {"color": MUTED, "marker": "o"}


def gap_cross(method: str) -> tuple[Style, ...]:
    """Return the keyword arguments of the cross for a missing value: its rim, then itself."""
    cross = {"marker": "x", "markersize": 6, "linestyle": "", "zorder": 4}
    return (
        {"color": INK, "markeredgewidth": 3.2, **cross},
        {"color": METHODS[method][0], "markeredgewidth": 1.8, **cross},
    )


def note(kind: str) -> Style:
    """Return the keyword arguments of a note under a figure.

    Notes on ``values`` and ``deviation`` explain; those on ``settings`` and ``machine`` warn.
    """
    look = {"ha": "left", "va": "bottom", "fontsize": SMALL_POINTS, "linespacing": 1.25}
    warning = {"color": WARNING, "fontweight": "bold"}
    return look | ({"color": MUTED} if kind in {"values", "deviation"} else warning)


def unit(quantity: str, largest: float) -> tuple[float, str]:
    """Return the unit of a figure whose largest value is ``largest``: its size and name.

    ``largest`` is in seconds or bytes. Below 0.1 s and 0.1 GiB the units are ms and MiB.
    """
    small, large = UNITS[quantity]
    return small if largest < 0.1 * large[0] else large


def axis_label(quantity: str, unit_name: str) -> str:
    """Return the label of a value axis, such as ``Memory [GiB]``; HVPs' times are overheads."""
    overhead = "\n(HVP: on top of the gradient)" if quantity == "time" else ""
    return f"{QUANTITIES[quantity]} [{unit_name}]{overhead}"


def title(row: Row, what: str) -> str:
    """Return the title of a panel of ``what``: with the framework, and whether it was not run."""
    of_run = f"{RUNS[row.framework, row.mode]}, {what}"
    return "\n".join(filter(None, [of_run, not_run(row)]))


def repetitions_note(rows: Iterable[Row], spread: str) -> str:
    """Return the note on the repetitions of ``rows``; ``spread`` names how it is drawn."""
    counts = sorted({len(row.seconds) for row in rows if row.status == "done"})
    if counts == [1]:
        return "One repetition per value."
    quantiles = f"; {spread}: 20 % to 80 % quantiles" if spread else ""
    return f"Median of {' or '.join(map(str, counts)) or 'no'} repetitions{quantiles}."


def memory_note(counter: Counter) -> str:
    """Return the note that says what a figure's memory is."""
    return f"Memory: {counter.meaning}."


def deviation_note(row: Row) -> str:
    """Return the note on why values that were not run differ from the published ones.

    It is empty if there are no published values, or if ``row`` was run.
    """
    return DEVIATIONS[row.framework, row.mode] if is_articles(row) and not row.was_run else ""


def compared_note(ratios: pd.Series) -> str:
    """Return the note on how far HVPs are from the published values, given the ``ratios``."""
    low, high = (100 * (ratios.agg(each) - 1) for each in ("min", "max"))
    ends = [f"{abs(end):.0f} % {'below' if end < 0 else 'above'}" for end in (low, high)]
    return f"HVPs here are from {' to '.join(ends)} the published values."


def settings_note(row: Row) -> str:
    """Return the line on the settings of ``row``; empty if all are the article's."""
    is_torch = row.framework == "torch"
    differ = {
        f"vector: {VECTORS[row.vector]}": row.vector not in ARTICLE_VECTORS[row.quantity],
        "batch normalisation: inference mode in both": row.normalisation != "article",
        "parameters require no gradients": is_torch and not row.recorded,
        "layer normalisation repaired": is_torch and row.layer_norm != "native",
    }
    listed = " · ".join(text for text, does_differ in differ.items() if does_differ)
    return f"{listed[0].upper()}{listed[1:]} — not the article's settings" if listed else ""


def machine_note(row: Row) -> str:
    """Return the line on device and plan; empty on the article's device with its plan.

    If the device was not run, the titles of the panels say so.
    """
    differs = ["A100"] * (not is_articles(row))
    differs += ["plan"] * (row.plan != ARTICLE_PLAN)
    if not differs:
        return ""
    return f"Device: {row.place} · plan: {row.plan} — not the article's {' or '.join(differs)}"
