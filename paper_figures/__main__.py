"""The command line: ``python -m paper_figures RESULTS [NAME ...]``."""

from pathlib import Path
from typing import Annotated

import typer

from paper_figures import at_work, freshness
from paper_figures.layout import CannotDraw
from paper_figures.redraw import maker_and_folder
from reproduce import printing
from reproduce.drawing import (
    BEYOND_FROM_TABLES,
    DIAGRAMS,
    OF_ACCOUNTED_BEYOND,
    OF_ARTICLE,
    OF_BEYOND,
    TABLES,
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
        bool, typer.Option("--changed", help="Only those that would change.")
    ] = False,
) -> None:
    """Draw the article's figures and write the tables into RESULTS/figures and RESULTS/tables.

    A figure is written as PNG and PDF, a table as CSV and Markdown.

    Raises:
        Exit: with code 1 if a figure or table that was named cannot be made.
        UserError: if there is no such figure or table, or the rows cannot be read.
    """
    wanted = names or OF_ARTICLE
    for name in wanted:
        if name not in NAMES:
            raise UserError(f"figure or table {name!r} was asked for; there are {', '.join(NAMES)}")
    needs_rows = set(wanted) - {*DIAGRAMS, *BEYOND_FROM_TABLES}
    rows = last_of_each_case(rows_in(results)) if needs_rows else []
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
        typer.echo(f"{name} is not {'written' if name in TABLES else 'drawn'}: {reason}.")
        return False
    typer.echo(f"{first} and {second.name}")
    if left_out:
        typer.echo(f"{name}: {left_out}")
    return True


def _written(name: str, rows: list[Row], results: Path) -> tuple[list[Path], str]:
    """Return the two files of ``name``, and a sentence on rows that were left out."""
    if name in BEYOND_FROM_TABLES:
        return at_work.write(name, results), ""
    maker, folder = maker_and_folder(name)
    own, left_out = maker.select(name, rows)
    return maker.write(name, own, results / folder), left_out


def main() -> None:
    """Draws. A mistake that the user can mend ends it with one sentence and code 2."""
    printing.run(app, "python -m paper_figures")


if __name__ == "__main__":
    main()
