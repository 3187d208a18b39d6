"""The page ``mine.html``: one file, with everything on it inside."""

import base64
from pathlib import Path

import numpy as np

from reproduce.measuring import cost
from reproduce.mine.found import STEPS, Found, Product
from reproduce.mine.measure import seconds
from reproduce.report.templates import templates

COLUMNS = ("method", "is", "gradients", "time", "at the point", "compiling", "memory")
NONE = "–"


def html(found: Found, folder: Path) -> str:
    """The page of ``found``, with the figure that is in ``folder``."""
    pages = templates(Path(__file__).parent, Path(__file__).parents[1])
    png = (folder / "figures" / "mine.png").read_bytes()
    columns, *rows = table(found)
    return pages.get_template("page.html.jinja").render(
        found=found,
        columns=columns,
        rows=rows,
        steps=[(step, found.said.get(step, [])) for step in STEPS[:-1]],
        answer=found.said.get(STEPS[-1], []),
        image=f"data:image/png;base64,{base64.b64encode(png).decode()}",
        checked=checked(found),
    )


def checked(found: Found) -> str:
    """The sentence that the pasted code was run, and how far its HVP is off."""
    if found.code_failure:
        return f"it was run, and does NOT WORK for your model: {found.code_failure}"
    return f"it was run, and is off by {found.code_difference:.0e}"


def table(found: Found) -> list[tuple[str, ...]]:
    """The columns, then one line per method: timed ones, the fastest first, then the others."""
    on_target = [f"on {found.target}"] if found.target else []
    gradient = (
        "gradient", "", "1", seconds(float(np.median(found.gradient_seconds))), NONE, NONE,
        _bytes(found.gradient_bytes), *[NONE for _ in on_target], NONE,
    )  # fmt: skip
    lines = [_line(found, each) for each in (*found.timed, *found.without_use)]
    return [(*COLUMNS, *on_target, "error"), gradient, *lines]


def _line(found: Found, product: Product) -> tuple[str, ...]:
    on_target = [_on_target(found, product)] if found.target else []
    if not product.seconds:
        return (product.label, product.verdict, *[NONE] * 5, *on_target, product.reason)
    return (
        product.label,
        product.verdict,
        f"{np.median(product.in_gradients):.2f}",
        seconds(product.seconds_of_one),
        seconds(product.point_seconds) if product.point_seconds else NONE,
        cost.readable_seconds(product.compile_seconds) if product.compile_seconds else NONE,
        _bytes(product.memory_bytes),
        *on_target,
        NONE if product.error is None else f"{product.error:.0e}",
    )


def _on_target(found: Found, product: Product) -> str:
    too_large = (product.target_bytes or 0) > found.target_memory_bytes
    return _bytes(product.target_bytes) + " (too large)" * too_large


def _bytes(count: int | None) -> str:
    return cost.readable_bytes(count) if count else NONE
