"""The verbs that judge recorded rows: ``claims`` and ``compare``."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from reproduce import compare as comparing
from reproduce import judge, sources
from reproduce.rows import Row, read_rows

FolderOfRows = Annotated[Path, typer.Argument(help="A results folder, with rows.jsonl.")]


def claims(
    results: FolderOfRows,
    compiled: Annotated[
        Path | None,
        typer.Option(help="What was compiled for the A100; by default a100 beside RESULTS."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Judge the article's claims; write claims.md and summary.csv into the results folder."""
    rows = comparing.rows_of(results)
    found = judge.judgements(
        [
            sources.of_article(),
            sources.of_rows("this run", rows, "this plan has no such case"),
            sources.of_rows(
                "compiled for the A100",
                _compiled_rows(results, compiled),
                "without the chip, nothing runs that could be timed or measured",
            ),
        ]
    )
    (results / "claims.md").write_text(judge.claims_markdown(found))
    sources.summary_table(rows).to_csv(results / "summary.csv", index=False)
    print(msgspec.json.encode(found).decode() if as_json else judge.claims_table(found))


def _compiled_rows(results: Path, compiled: Path | None) -> list[Row]:
    if compiled:
        return comparing.rows_of(compiled)
    return read_rows(results.resolve().parent / "a100" / "rows.jsonl")


def compare(
    first: FolderOfRows,
    second: FolderOfRows,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="What counts as the same time, relative.")
    ] = 0.05,
    force: Annotated[bool, typer.Option("--force", help="Also where devices differ.")] = False,
) -> None:
    """Compare two results folders case by case: the second's numbers over the first's."""
    found = comparing.compare(
        comparing.rows_of(first), comparing.rows_of(second), tolerance=tolerance, forced=force
    )
    table = Table("case", "verdict", "second / first", "95 % interval")
    for each in found:
        numbers = (f"{each.ratio:.3f}", f"{each.low:.3f} to {each.high:.3f}")
        table.add_row(each.case, each.verdict, *((each.reason, "") if each.reason else numbers))
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    counts = Counter(each.verdict for each in found)
    console.print(", ".join(f"{verdict}: {count}" for verdict, count in counts.items()))
