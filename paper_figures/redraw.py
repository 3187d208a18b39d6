"""Make figures and tables again from the rows, and compare them with the files that exist.

``python -m paper_figures.redraw RESULTS`` reads the rows from standard input, one per line, and
prints as JSON how each file differs.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import msgspec

from paper_figures import figures, tables
from reproduce.drawing import BENCHES, BEYOND_FROM_ROWS, DIAGRAMS, TABLES
from reproduce.results.rows import Row
from reproduce.results.summary import last_of_each_case


def maker_and_folder(name: str) -> tuple[ModuleType, str]:
    """The module with the ``select`` and ``write`` of the figure or table ``name``; its folder."""
    return (tables, "tables") if name in TABLES else (figures, "figures")


def redrawn(results: Path, rows: Iterable[Row]) -> dict[str, str]:
    """Return how each figure's and table's file in ``results`` differs from one made from ``rows``.

    The keys are paths below ``results``; the text is empty if the bytes are the same. If one of a
    figure's two files exists, both are compared. Files that are not figures or tables of the
    article are ignored.
    """
    rows = last_of_each_case(rows)
    with TemporaryDirectory() as anew:
        return dict(
            difference
            for name in (*sorted((*BENCHES, *DIAGRAMS, *BEYOND_FROM_ROWS)), *TABLES)
            for difference in _differences(name, rows, results, Path(anew))
        )


def _differences(
    name: str, rows: list[Row], results: Path, anew: Path
) -> Iterator[tuple[str, str]]:
    maker, folder = maker_and_folder(name)
    there = results / folder
    if not any(there.glob(f"{name}.*")):
        return
    own, _ = maker.select(name, rows)
    try:
        files = maker.write(name, own, anew)
    except Exception as reason:  # damaged rows can make drawing fail in any way
        yield f"{folder}/{name}", f"is there, but cannot be made from the rows: {reason}"
        return
    for file in files:
        yield f"{folder}/{file.name}", _difference(there / file.name, file)


def _difference(there: Path, anew: Path) -> str:
    if not there.exists():
        return "is missing, although its other format is there"
    a, b = there.read_bytes(), anew.read_bytes()
    if a == b:
        return ""
    first = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    return f"differs from what the rows give, from byte {first} of {len(a)} on"


if __name__ == "__main__":
    given = [msgspec.json.decode(line, type=Row) for line in sys.stdin.buffer]
    sys.stdout.buffer.write(msgspec.json.encode(redrawn(Path(sys.argv[1]), given)))
