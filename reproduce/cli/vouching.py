"""The commands that vouch for results: ``verify``, ``bundle`` and ``check``."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from reproduce import printing
from reproduce.evidence import bundle as bundling
from reproduce.evidence import check as checking
from reproduce.evidence import verify as verifying
from reproduce.evidence.check import Checked, Objection
from reproduce.measuring import cost


def verify(
    folder: Annotated[Path, typer.Argument(help="The folder for the two runs.")] = Path(
        "results/verify"
    ),
) -> None:
    """Measure plan smoke twice, deterministically, and compare what must be the same.

    Raises:
        Exit: with code 1 if something differs.
    """
    found = verifying.verify(folder)
    table = Table("what", "guaranteed", "compared", "differ", "largest difference")
    for each in found:
        largest = "" if each.largest_difference is None else f"{each.largest_difference:.2g}"
        counts = map(str, (each.compared, len(each.broken)))
        table.add_row(each.what, each.degree, *counts, largest)
    printing.console_of_tables().print(table)
    broken = [each for each in found if not each.holds]
    for each in broken:
        for difference in each.broken or ("nothing could be compared",):
            print(f"{each.what}: {difference}")
    if broken:
        print(f"{len(broken)} of {len(found)} guarantees are broken; see {folder}.")
        raise typer.Exit(1)
    print(f"All {len(found)} guarantees hold.")


def bundle(
    results: Annotated[Path, typer.Argument(help="A results folder, with rows.jsonl.")],
    output: Annotated[
        Path | None, typer.Option(help="The archive; by default bundle.zip in RESULTS.")
    ] = None,
) -> None:
    """Write rows, figures and verdicts into one archive, with a checksum of each file."""
    path = output or results / "bundle.zip"
    sha256 = bundling.write(results, path)
    print(f"{path}: {cost.readable_bytes(path.stat().st_size)}, SHA-256 {sha256}")


def check(
    path: Annotated[
        Path, typer.Argument(metavar="BUNDLE|RESULTS", help="A bundle, or a results folder.")
    ],
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Also object to missing cases, failed cases and warnings."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Check checksums, rows and coverage, and that the rows give the same figures again.

    Raises:
        Exit: with code 1 if a check fails.
    """
    found = checking.check(path)
    broken = found.broken(strict)
    if as_json:
        summary = {"holds": not broken, "is_strict": strict} | msgspec.structs.asdict(found)
        printing.print_json(summary)
    else:
        _print(found, broken)
    if broken:
        raise typer.Exit(1)


def _print(found: Checked, broken: list[Objection]) -> None:
    for line in (*broken, *found.coverage, *found.notes):
        print(line)
    print(
        f"{found.checksums} checksums, {found.rows} rows and {found.drawn_files} drawn files "
        f"were checked: {len(broken) or 'no'} objections, "
        f"{len(found.objections) - len(broken)} more with --strict."
    )
