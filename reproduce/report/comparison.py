"""One page for several runs: a column per device and versions; no number combines two columns."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from reproduce.errors import UserError
from reproduce.measuring.cost import readable_bytes
from reproduce.methods import FRAMEWORKS, LABELS
from reproduce.plan import Case, Quantity
from reproduce.report.templates import templates
from reproduce.results import counters, summary
from reproduce.results.rows import Row

MISSING = "–"
PACKAGES = FRAMEWORKS | {"transformers": "transformers"}
METHODS = list(LABELS)


class Kind(NamedTuple):
    """A table of the page: its rows, the numbers that a column shows, and their explanation."""

    title: str
    quantities: tuple[Quantity, ...]
    fields: tuple[str, ...]
    meaning: str


KINDS = (
    Kind(
        "Time",
        ("time",),
        ("gradients", "ms", "difference"),
        "Medians: of the HVP's time over that of the gradient in the same round, and of the time "
        "in milliseconds. The difference is the HVP's from forward-over-reverse's, over the norm "
        "of that: by rounding, or because the HVP is wrong.",
    ),
    Kind(
        "Memory",
        ("memory", "nvml"),
        ("bytes",),
        "What one call needs, by the counter that all columns of a line have.",
    ),
    Kind(
        "Operations",
        ("operations",),
        ("10⁹",),
        "Floating-point operations of one call.",
    ),
)


class Column(msgspec.Struct, frozen=True):
    """The rows of one run, device and versions of packages, by case."""

    run: str
    place: str
    packages: dict[str, str]
    rows: dict[Case, Row]

    @property
    def versions(self) -> str:
        """The packages by which columns are told apart, with their versions."""
        named = [f"{PACKAGES[name]} {found}" for name, found in sorted(self.packages.items())]
        return ", ".join(named) or "versions not recorded"

    def takes(self, row: Row) -> bool:
        """Whether ``row`` has the same device, and no package in another version."""
        agree = (self.packages.get(name, found) == found for name, found in _packages(row).items())
        return self.place == row.place and all(agree)


class Line(msgspec.Struct, frozen=True):
    """A case, and its row in each column, or None if a column has no row."""

    case: Case
    rows: list[Row | None]

    @property
    def done(self) -> list[Row]:
        """The rows that are done."""
        return [row for row in self.rows if row is not None and row.status == "done"]

    @property
    def counter(self) -> counters.Counter | None:
        """The counter of bytes that all done rows have."""
        return counters.shared(self.done) if self.done else None

    def cells(self, kind: Kind) -> list[tuple[str, ...]]:
        """The texts of each column, one for each field of ``kind``."""
        found = [_cell(row, self.counter) for row in self.rows]
        return [texts + (MISSING,) * (len(kind.fields) - len(texts)) for texts in found]


def html(runs: Mapping[str, Sequence[Row]]) -> str:
    """The page of ``runs``, rows by name of run; cases that most columns have come first.

    Raises:
        UserError: if no case is done in two columns.
    """
    columns = [column for name, rows in runs.items() for column in _columns(name, rows)]
    columns_with = Counter(case for column in columns for case in column.rows)
    cases = sorted(columns_with, key=lambda case: (-columns_with[case], *_place(case)))
    lines = [Line(case, [column.rows.get(case) for column in columns]) for case in cases]
    if not any(len(line.done) > 1 for line in lines):
        raise UserError(
            f"cases that are done in two columns were expected, and of {len(columns)} columns no "
            "two have one; compare runs of one plan, vector, normalisation and seed"
        )
    tables = {kind: [line for line in lines if line.case.quantity in kind[1]] for kind in KINDS}
    template = templates(Path(__file__).parent).get_template("comparison.html.jinja")
    return template.render(
        columns=columns,
        tables={
            kind: [(setting, list(own)) for setting, own in groupby(of_kind, _setting)]
            for kind, of_kind in tables.items()
            if of_kind
        },
    )


def _columns(run: str, rows: Iterable[Row]) -> list[Column]:
    found: list[Column] = []
    for row in summary.measurements(rows):
        column = next((each for each in found if each.takes(row)), None)
        if column is None:
            column = Column(run, row.place, {}, {})
            found.append(column)
        column.packages.update(_packages(row))
        column.rows[row.case.key] = row
    return found


def _packages(row: Row) -> dict[str, str]:
    return {name: v for name, v in row.facts.get("packages", {}).items() if name in PACKAGES}


def _place(case: Case) -> tuple[str, str, str, int, str]:
    return case.plan, case.setting_name, case.unusual, METHODS.index(case.method), case.computed


def _setting(line: Line) -> str:
    case = line.case
    return ", ".join(filter(None, [f"{case.plan}: {case.setting_name}", case.unusual]))


def _cell(row: Row | None, counter: counters.Counter | None) -> tuple[str, ...]:
    if row is None:
        return ()
    if row.status != "done":
        return (row.status.replace("_", " "),)
    if row.quantity == "operations":
        return (f"{(row.flops or np.nan) / 1e9:.1f}",)
    if row.quantity != "time":
        return (readable_bytes(counter.bytes_of(row)) if counter else "another counter",)
    in_gradients = f"{summary.ratio(row)[1]:.2f}" if row.gradient_seconds else "1"
    return in_gradients, _three_digits(1e3 * np.median(row.seconds)), _difference(row)


def _three_digits(value: Any) -> str:
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def _difference(row: Row) -> str:
    if row.relative_difference is None:
        return MISSING
    if summary.is_wrong(row):
        return f"wrong by {_three_digits(100 * row.relative_difference)} %"
    return f"{row.relative_difference:.1e}"
