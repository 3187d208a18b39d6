"""One page of several runs: a column for each device of each, and no number across columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import msgspec
import numpy as np

from reproduce.measuring.cost import readable_bytes
from reproduce.plan import Case
from reproduce.results import counters, summary
from reproduce.results.rows import Row

MISSING = "–"
SHOWN_PACKAGES = ("jax", "torch", "transformers")


class Column(msgspec.Struct, frozen=True):
    """The rows of one device in one run, by case, and the versions that they were made with."""

    run: str
    place: str
    versions: str
    rows: dict[Case, Row]


def html(runs: Mapping[str, Sequence[Row]]) -> str:
    """The page of ``runs``, rows by the name of their run; what most of them share comes first."""
    columns = [column for name, rows in runs.items() for column in _columns(name, rows)]
    columns_with = Counter(case for column in columns for case in column.rows)
    cases = sorted(columns_with, key=lambda case: (-columns_with[case], case.plan, str(case)))
    lines = [(case, _cells([column.rows.get(case) for column in columns])) for case in cases]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return templates.get_template("comparison.html.jinja").render(columns=columns, lines=lines)


def _columns(run: str, rows: Sequence[Row]) -> list[Column]:
    by_place: dict[str, dict[Case, Row]] = {}
    for row in summary.measurements(rows):
        by_place.setdefault(row.place, {})[row.case.key] = row
    return [Column(run, place, _versions(own), own) for place, own in by_place.items()]


def _versions(rows: Mapping[Case, Row]) -> str:
    found: dict[str, str] = {}
    for row in rows.values():
        found |= row.facts.get("packages", {})
    return ", ".join(f"{name} {found[name]}" for name in SHOWN_PACKAGES if name in found)


def _cells(rows: Sequence[Row | None]) -> list[str]:
    """What a line shows of its ``rows``: bytes by the counter that all of them have."""
    done = [row for row in rows if row is not None and row.status == "done"]
    counts_memory = bool(done) and done[0].quantity in {"memory", "nvml"}
    counter = counters.shared(done) if counts_memory else None
    return [MISSING if row is None else _cell(row, counter) for row in rows]


def _cell(row: Row, counter: counters.Counter | None) -> str:
    if row.status != "done":
        return row.status.replace("_", " ")
    if row.quantity == "operations":
        return f"{(row.flops or np.nan) / 1e9:.1f} · 10⁹"
    if row.quantity != "time":
        return readable_bytes(counter.bytes_of(row)) if counter else "another counter"
    milliseconds = f"{1e3 * np.median(row.seconds):.3g} ms"
    if not row.gradient_seconds:
        return milliseconds
    wrong = ", wrong HVP" if summary.is_wrong(row) else ""
    return f"{summary.ratio(row)[1]:.2f} gradients, {milliseconds}{wrong}"
