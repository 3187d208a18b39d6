"""The evidence of a report: the published numbers and the rows of two results folders."""

import os
from pathlib import Path

import msgspec

from reproduce.article import sources
from reproduce.article.sources import Source
from reproduce.errors import UserError
from reproduce.plan import BEYOND
from reproduce.results.rows import Row, rows_in, some_rows_in

MEASURED, COMPILED = "this run", "compiled for the A100"


class Folder(msgspec.Struct, frozen=True):
    """A results folder with its rows, and the same rows as a source for claims."""

    path: Path
    rows: list[Row]
    source: Source


class Evidence(msgspec.Struct, frozen=True):
    """The published numbers, the measured rows, and the rows compiled for the A100.

    ``beyond`` is the folder of measurements beyond the article; it need not exist.
    """

    article: Source
    measured: Folder
    compiled: Folder
    beyond: Path

    @property
    def folders(self) -> tuple[Folder, Folder]:
        """The folder that was measured, then the compiled one."""
        return self.measured, self.compiled

    @property
    def sources(self) -> tuple[Source, Source, Source]:
        """The sources that claims are judged on."""
        return self.article, self.measured.source, self.compiled.source


def evidence(results: Path, compiled: Path | None = None) -> Evidence:
    """The evidence for ``results``, with the rows in ``compiled`` or where `make` puts them.

    If nothing was compiled, the evidence has no such rows.

    Raises:
        UserError: if ``results`` or ``compiled`` has no rows, or one cannot be read; or if
            ``results`` has none of the article's plans.
    """
    rows = some_rows_in(results)
    measured = sources.of_rows(MEASURED, rows, "this plan has no such case")
    if measured.cases.empty:
        raise UserError(
            f"rows of the article's plans were expected in {results}, and all {len(rows)} are of "
            f"plan {BEYOND!r}; give a folder that 'make all' has measured into"
        )
    return Evidence(
        sources.of_article(),
        Folder(results, rows, measured),
        _compiled(results, compiled),
        beside(results, "beyond"),
    )


def _compiled(results: Path, given: Path | None) -> Folder:
    path = given or beside(results, "a100")
    rows = some_rows_in(path) if given else rows_in(path)
    absent = "without the chip, nothing runs that could be timed or measured"
    return Folder(path, rows, sources.of_rows(COMPILED, rows, absent))


def beside(results: Path, name: str) -> Path:
    """The folder where ``make`` puts ``name``: in RESULTS if that was given, else beside it.

    If the path is a symbolic link, this means beside the link, not beside its target.
    """
    within = results / name
    return within if within.is_dir() else Path(os.path.abspath(results)).parent / name
