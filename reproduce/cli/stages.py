"""The command ``all``: the stages of a plan one after the other, from measuring to the report."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from reproduce.beyond.parts import beyond
from reproduce.cli.cluster import status
from reproduce.cli.default_plan import fitting_plan
from reproduce.cli.judging import advise, report
from reproduce.cli.measuring import account, measure, stopped
from reproduce.drawing import OF_BEYOND, draw
from reproduce.errors import UserError
from reproduce.measuring import side_by_side
from reproduce.measuring.versions import measure_with


def every_stage(
    plan: Annotated[str, typer.Option(help="The plan; by default the one that fits.")] = "",
    results: Annotated[str, typer.Option(help="The folder; by default results/<plan>.")] = "",
    versions: Annotated[
        str,
        typer.Option(
            help="Versions instead of the locked ones: 2023 (the article's year) or latest."
        ),
    ] = "",
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs to use, side by side.")] = 1,
    measuring: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure, or only draw and judge.")
    ] = True,
) -> None:
    """Measure the missing cases of a plan, draw what has changed, and write the report.

    With several GPUs, each first measures a share; then the cases that failed are tried again.

    After plan cpu, the article's memory on an A100 is computed, too. Plan beyond goes on
    with its parts, and ends with advice instead of a report.

    Raises:
        Exit: with code 1 if a case failed, 130 if interrupted, 2 if a stage was refused.
    """
    name = plan or fitting_plan()
    folder = Path(results) if results else Path("results", versions, name)
    try:
        if gpus > 1 and (code := side_by_side.measure(name, folder, gpus)) > 1:
            raise typer.Exit(code)
        if versions:
            code = measure_with(versions, name, folder)
        else:
            code = _code(measure, name, folder) if measuring else _code(status, folder)
        if name == "beyond":
            beyond(folder)
            _draw(folder, *OF_BEYOND)
            advise(folder)
        else:
            _draw(folder)
            if name == "cpu" and not versions:
                code = max(code, _accounted(Path(results or "results", "a100")))
            report(folder)
    except KeyboardInterrupt:
        stopped()
    raise typer.Exit(code)


def _code(verb: Callable[..., None], *arguments: Any) -> int:
    """The code that ``verb`` ends with: 0, or 1 if a case failed.

    Raises:
        Exit: with any other code, after which no stage follows.
    """
    try:
        verb(*arguments)
    except typer.Exit as ended:
        if ended.exit_code > 1:
            raise
        return ended.exit_code
    return 0


def _draw(folder: Path, *names: str) -> None:
    if code := draw(folder, *names):
        raise typer.Exit(code)


def _accounted(folder: Path) -> int:
    """The code that accounting ends with; if it is refused, the report is written all the same."""
    try:
        return _code(account, "article", folder)
    except UserError as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return 2
