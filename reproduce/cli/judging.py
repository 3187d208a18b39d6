"""The commands that judge: ``claims``, ``compare``, ``advise``, ``prove`` and ``report``."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from reproduce import printing
from reproduce.article import judge
from reproduce.beyond.advice import advice
from reproduce.errors import UserError
from reproduce.evidence.bundle import rows_of
from reproduce.report import comparison, proofs
from reproduce.report import page as report_page
from reproduce.report.evidence import Evidence, evidence
from reproduce.results import compare as comparing
from reproduce.results import per_case
from reproduce.results.files import whole_file
from reproduce.results.rows import results_folder, some_rows_in

FolderOfRows = Annotated[
    Path, typer.Argument(parser=results_folder, help="A results folder, with rows.jsonl.")
]
RunToCompare = Annotated[
    Path, typer.Argument(parser=results_folder, help="A results folder, or a bundle of one.")
]
CompiledFolder = Annotated[
    Path | None,
    typer.Option(
        parser=results_folder,
        help="The folder compiled for the A100; by default a100 in or beside RESULTS.",
    ),
]


def claims(
    results: FolderOfRows,
    compiled: CompiledFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Judge the article's claims; write claims.md and summary.csv into the results folder."""
    found = _judged(evidence(results, compiled))
    if as_json:
        printing.print_json(found)
    else:
        print(judge.claims_table(found))


def report(results: FolderOfRows, compiled: CompiledFolder = None) -> None:
    """Write report.html with everything on one page, and claims.md and summary.csv."""
    everything = evidence(results, compiled)
    found = _judged(everything)
    path = results / "report.html"
    with whole_file(path) as unfinished:
        text = report_page.html(everything, found)
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
    for source in dict.fromkeys(each.source for each in found):
        print(f"{source}: {_counted(each for each in found if each.source == source)}")
    print(path)


def _counted(found: Iterable[judge.Judgement]) -> str:
    """Count the verdicts of each kind, and separately those that hold for a CPU."""
    counts = Counter(each.holds_for or each.verdict for each in found)
    return ", ".join(
        f"{count} hold {said}" if said == judge.ON_CPU else f"{count} {said}"
        for said, count in counts.items()
    )


def _judged(everything: Evidence) -> list[judge.Judgement]:
    """The verdicts; writes claims.md and summary.csv first."""
    found = judge.judgements(everything.sources)
    measured = everything.measured
    with whole_file(measured.path / "claims.md") as unfinished:
        unfinished.write_text(judge.claims_markdown(found), encoding="utf-8")
    with whole_file(measured.path / "summary.csv") as unfinished:
        per_case.table(measured.rows).to_csv(unfinished, index=False)
    return found


def prove(results: FolderOfRows) -> None:
    """Run the tests of the errata, and write their outcomes into the results folder.

    Raises:
        Exit: with code 1 if a test fails.
    """
    if not proofs.run(results):
        raise typer.Exit(1)


def advise(results: FolderOfRows) -> None:
    """Say which HVP to use, from the rows of plan 'beyond', and write advice.md."""
    text = advice(some_rows_in(results))
    with whole_file(results / "advice.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(text, end="")


def compare(
    first: RunToCompare,
    second: RunToCompare,
    others: Annotated[
        list[Path] | None, typer.Argument(parser=results_folder, help="Further ones, for a page.")
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Write a page instead, with a column for each device and versions."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=1, help="Times count as the same up to this relative difference."),
    ] = 0.05,
    force: Annotated[bool, typer.Option("--force", help="Even if the devices differ.")] = False,
) -> None:
    """Compare two runs case by case, as ratios of the second to the first; or several on a page.

    Raises:
        UserError: if more than two are to be compared without a page, or no number could be.
    """
    runs = {str(path): rows_of(path) for path in (first, second, *(others or ()))}
    if page is not None:
        text = comparison.html(runs)
        with whole_file(page) as unfinished:
            unfinished.write_text(text, "utf-8", "backslashreplace")
        print(page)
        return
    if others:
        raise UserError(
            f"{len(runs)} runs were given, and a ratio compares two; "
            "add --page FILE for a page with a column for each"
        )
    found = comparing.compare(
        runs[str(first)], runs[str(second)], tolerance=tolerance, forced=force
    )
    table = Table("case", "verdict", "second / first", "95 % interval")
    for each in found:
        numbers = (f"{each.ratio:.3f}", f"{each.low:.3f} to {each.high:.3f}")
        table.add_row(each.case, each.verdict, *((each.reason, "") if each.reason else numbers))
    console = printing.console_of_tables()
    console.print(table)
    counts = Counter(each.verdict for each in found)
    console.print(", ".join(f"{verdict}: {count}" for verdict, count in counts.items()))
    if counts.keys() == {"not compared"}:
        raise UserError(
            f"two runs were to be compared, and none of their cases ({len(found)}) could be, for "
            "the reasons above; compare runs in which the same cases are done"
        )
