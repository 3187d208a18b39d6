"""The command line: ``python -m paper_figures RESULTS [NAME ...]``."""

from pathlib import Path
from typing import Annotated

import typer

from paper_figures.figures import DIAGRAMS, NAMES, CannotDraw, select, write
from paper_figures.summary import MACHINE, last_of_each_case, newest
from reproduce.rows import Row, RowsError, read_rows

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    results: Annotated[Path, typer.Argument(help="The folder that holds rows.jsonl.")],
    names: Annotated[
        list[str] | None, typer.Argument(help=f"All of them, or any of {', '.join(NAMES)}.")
    ] = None,
) -> None:
    """Draw the article's figures into RESULTS/figures, as PNG and PDF.

    The exit code is 2 for wrong input, and 1 if a figure that was named cannot be drawn.

    Raises:
        Exit: with that code.
    """
    _refuse_unknown(names or [])
    wanted = names or NAMES
    rows = _rows(results / "rows.jsonl") if set(wanted) - set(DIAGRAMS) else []
    folder = results / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    missing = False
    for name in wanted:
        try:
            own, left_out = select(name, rows)
            png, pdf = write(name, own, folder)
            typer.echo(f"{png} and {pdf.name}")
            _say(f"{name}: {left_out}" if left_out else "")
        except CannotDraw as reason:
            missing = True
            typer.echo(f"{name} is not drawn: {reason}.")
    raise typer.Exit(1 if missing and names else 0)


def _refuse_unknown(names: list[str]) -> None:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        _refuse(
            f"There is no figure {', '.join(map(repr, unknown))}: choose from {', '.join(NAMES)}."
        )


def _rows(path: Path) -> list[Row]:
    """Return the rows to draw, and print what is left out of ``path``."""
    try:
        recorded = read_rows(path)
    except RowsError as error:
        _refuse(str(error))
    rows, left_out = newest(last_of_each_case(recorded), MACHINE)
    _say(left_out)
    return rows


def _say(sentence: str) -> None:
    if sentence:
        typer.echo(sentence)


def _refuse(sentence: str) -> None:
    typer.echo(sentence, err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m paper_figures")
