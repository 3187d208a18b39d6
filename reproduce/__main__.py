"""The command line: ``python -m reproduce VERB``; a thin shell over the modules."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from reproduce import (
    conditions,
    cost,
    doctor,
    environment,
    evidence_commands,
    judge_commands,
    runner,
)
from reproduce.beyond import parts
from reproduce.bundle import BundleError
from reproduce.plan import PLANS, Case, Normalisation, PlanError, Vector, accounted_cases, cases
from reproduce.rows import Row, RowsError, results_folder, unusable
from reproduce.target import load

HOW_TO_PASS_A_GPU = "'docker run --gpus all' passes one into the container"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(doctor.doctor)
app.command()(judge_commands.claims)
app.command()(judge_commands.compare)
app.command()(judge_commands.advise)
app.command()(judge_commands.prove)
app.command()(judge_commands.report)
app.command()(evidence_commands.verify)
app.command()(evidence_commands.bundle)
app.command()(evidence_commands.check)
app.command()(parts.beyond)

PlanName = Annotated[str, typer.Argument(metavar="|".join(PLANS), help="Which plan.")]
MoreModels = Annotated[
    list[str] | None, typer.Option("--more-model", help="A further model, e.g. resnet50.")
]
GivenVector = Annotated[Vector | None, typer.Option(help="What the Hessian is multiplied with.")]
GivenNormalisation = Annotated[
    Normalisation, typer.Option(help="Batch normalisation as in the article, or equal in both.")
]
Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, inputs and vector.")
]
ResultsFolder = Annotated[
    Path, typer.Argument(parser=results_folder, help="The folder for rows.jsonl.")
]


@app.command("default-plan")
def default_plan() -> None:
    """Print the plan that fits this machine; why goes to standard error."""
    found, sentence = environment.gpu()
    name = "article" if found else "cpu"
    hint = "" if found or not environment.in_container() else f"; {HOW_TO_PASS_A_GPU}"
    print(f"PLAN={name}, because there is {sentence}{hint}.", file=sys.stderr)
    print(name)


@app.command()
def plan(
    name: PlanName,
    more_model: MoreModels = None,
    every_case: Annotated[bool, typer.Option("--cases", help="List every case.")] = False,
) -> None:
    """Print what a plan measures and what it is expected to cost, before it runs."""
    found = cases(name, more_models=tuple(more_model or ()))
    conditions.check_models(found)
    on_gpu = name == "article" or _takes_gpu(name)
    at_once = runner.cases_at_once(found, on_gpu=on_gpu)
    expected = partial(runner.expected_seconds, at_once=at_once)
    steps = runner.from_nothing(found)
    counted = "method" if every_case else "cases"
    table = Table(
        "quantity", "framework", "mode", "model", "batch sizes", counted, "time", "memory"
    )
    for group in _groups(steps, every_case):
        first = group[0]
        table.add_row(
            first.quantity,
            first.framework,
            first.mode,
            first.model,
            ", ".join(map(str, sorted({case.batch_size for case in group}))),
            first.method if every_case else str(len(group)),
            cost.readable_seconds(sum(map(expected, group))),
            cost.readable_bytes(max(map(cost.memory_bytes, group))),
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    total = cost.readable_seconds(sum(map(expected, steps)))
    compilations = len(steps) - len(found)
    before = f" and {compilations} compilations" if compilations else ""
    console.print(
        f"{len(found)} cases{before}, about {total}; at most "
        f"{cost.readable_bytes(max(map(cost.memory_bytes, found)))} of memory for a case, "
        f"cases side by side, but for timings: {at_once}; "
        f"{cost.readable_bytes(conditions.NEEDED_DISK_BYTES)} of disk must be free."
    )


@app.command()
def measure(
    name: PlanName,
    results: ResultsFolder,
    more_model: MoreModels = None,
    vector: GivenVector = None,
    normalisation: GivenNormalisation = "article",
    seed: Seed = 0,
    timeout_seconds: Annotated[float, typer.Option(help="Time limit of one case.")] = 600,
) -> None:
    """Measure the cases of a plan that a results folder does not hold yet.

    Raises:
        Exit: with code 1 if a case failed, 130 if interrupted.
    """
    on_gpu = _takes_gpu(name)
    found = cases(
        name,
        more_models=tuple(more_model or ()),
        vector=vector,
        normalisation=normalisation,
        seed=seed,
    )
    try:
        rows = runner.measure(found, results, on_gpu, timeout_seconds)
    except KeyboardInterrupt:
        _stopped()
    _report_failures(rows)


@app.command()
def account(
    name: PlanName,
    results: ResultsFolder,
    target: Annotated[str, typer.Option(help="a100, h100, or a description's file.")] = "a100",
    timeout_seconds: Annotated[float, typer.Option(help="Time limit of one case.")] = 600,
) -> None:
    """Account for a plan's memory and operations on a GPU that is not there.

    Raises:
        Exit: with code 1 if a case failed or would not fit into the GPU, 130 if interrupted.
        PlanError: if the plan has no memory cases.
    """
    found = accounted_cases(name)
    if not found:
        others = ", ".join(filter(accounted_cases, PLANS))
        raise PlanError(f"plan {name!r} was asked for, which has no memory cases; take {others}")
    try:
        rows = runner.measure(found, results, False, timeout_seconds, load(target))
    except KeyboardInterrupt:
        _stopped()
    _report_failures(rows)


def _stopped() -> None:
    print("\nStopped. Every finished case is kept; run the same command to go on.")
    raise typer.Exit(130) from None


def _report_failures(rows: list[Row]) -> None:
    failed = [row for row in rows if row.status != "done"]
    for row in failed:
        print(f"{row.status}: {row.case}: {row.reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(rows)} cases are not done.", file=sys.stderr)
        raise typer.Exit(1)


def _takes_gpu(name: str) -> bool:
    found, sentence = environment.gpu()
    if name == "article" and found is None:
        raise PlanError(f"plan 'article' needs a GPU, and there is {sentence}; take PLAN=cpu")
    return found is not None and name != "cpu"


def _groups(found: list[Case], every_case: bool) -> list[list[Case]]:
    groups: dict[tuple, list[Case]] = {}
    for case in sorted(found, key=str):
        key = (case.quantity, case.framework, case.mode, case.model)
        groups.setdefault((*key, str(case)) if every_case else key, []).append(case)
    return list(groups.values())


def main() -> None:
    """Runs a verb; what the user can mend ends it with one sentence and code 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        app(prog_name="python -m reproduce")
    except (PlanError, RowsError, BundleError, OSError) as error:
        sentence = unusable(error) if isinstance(error, OSError) else error
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
