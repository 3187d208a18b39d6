"""The command line: ``python -m paper_figures RESULTS [NAME ...]``."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from paper_figures import at_work, figures, freshness, tables
from paper_figures.layout import CannotDraw
from reproduce import printing
from reproduce.drawing import (
    BEYOND_FROM_TABLES,
    DIAGRAMS,
    OF_ACCOUNTED_BEYOND,
    OF_ARTICLE,
    OF_BEYOND,
)
from reproduce.errors import UserError
from reproduce.results.rows import Row, results_folder, rows_in
from reproduce.results.summary import last_of_each_case

NAMES = tuple(dict.fromkeys((*OF_ARTICLE, *OF_BEYOND, *OF_ACCOUNTED_BEYOND)))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def draw(
    results: Annotated[
        Path, typer.Argument(parser=results_folder, help="The folder that holds rows.jsonl.")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"All of the article's, or any of {', '.join(NAMES)}."),
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only what would not be the same again.")
    ] = False,
) -> None:
    """Draw the article's figures and write the tables into RESULTS/figures and RESULTS/tables.

    A figure is written as PNG and PDF, a table as CSV and Markdown. The exit code is 2 for
    wrong input, and 1 if what was named cannot be made.

    Raises:
        Exit: with that code.
    """
    _refuse_unknown(names or [])
    wanted = names or OF_ARTICLE
    without_rows = DIAGRAMS | BEYOND_FROM_TABLES
    rows = _rows(results) if set(wanted) - set(without_rows) else []
    current = freshness.current(results, wanted) if changed else set()
    made = [
        bool(freshness.files(results, name)) if name in current else _make(name, rows, results)
        for name in wanted
    ]
    if current == {*wanted}:
        typer.echo(f"The figures in {results / 'figures'} are up to date.")
    elif changed and any(made):
        freshness.record(results, wanted)
    raise typer.Exit(1 if names and not all(made) else 0)


def _make(name: str, rows: list[Row], results: Path) -> bool:
    """Return whether ``name`` could be made, and print its files or the reason."""
    try:
        (first, second), left_out = _written(name, rows, results)
    except CannotDraw as reason:
        typer.echo(f"{name} is not {'written' if name in tables.TABLES else 'drawn'}: {reason}.")
        return False
    typer.echo(f"{first} and {second.name}")
    if left_out:
        typer.echo(f"{name}: {left_out}")
    return True


def _written(name: str, rows: list[Row], results: Path) -> tuple[list[Path], str]:
    """Return the two files of ``name``, and a sentence on rows that were left out."""
    if name in BEYOND_FROM_TABLES:
        return at_work.write(name, results), ""
    maker, folder = (tables, "tables") if name in tables.TABLES else (figures, "figures")
    own, left_out = maker.select(name, rows)
    return maker.write(name, own, results / folder), left_out


def _refuse_unknown(names: list[str]) -> None:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        _refuse(
            f"There is no figure or table {', '.join(map(repr, unknown))}: "
            f"choose from {', '.join(NAMES)}."
        )


def _rows(results: Path) -> list[Row]:
    try:
        return last_of_each_case(rows_in(results))
    except UserError as error:
        _refuse(str(error))


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(2)


def main() -> None:
    """Draws; what the user can mend ends it with one sentence and code 2."""
    printing.run(app, "python -m paper_figures")


if __name__ == "__main__":
    main()
