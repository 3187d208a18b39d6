"""The commands for a cluster: ``slurm`` submits a plan, ``status`` reports its progress."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from reproduce.measuring import slurm as jobs_of
from reproduce.results.coverage import coverage
from reproduce.results.rows import results_folder, some_rows_in


def slurm(
    plan: Annotated[str, typer.Argument(help="Which plan.")],
    results: Annotated[Path, typer.Argument(parser=results_folder, help="The results folder.")],
    jobs: Annotated[int, typer.Option(min=1, help="How many shares, one task each.")] = 8,
    cap: Annotated[int | None, typer.Option(min=1, help="The most tasks at once.")] = None,
    sbatch: Annotated[str, typer.Option(help="Options for sbatch, as one text.")] = "",
    container: Annotated[str, typer.Option(help="An image of Apptainer to run in.")] = "",
    dry: Annotated[bool, typer.Option("--dry", help="Only print the scripts.")] = False,
) -> None:
    """Submit the missing shares of a plan to SLURM, then a job that draws and judges."""
    cluster = jobs_of.Cluster(plan, results, jobs, cap or jobs, sbatch, container)
    missing = cluster.missing()
    scripts = {"slurm-measure.sh": cluster.measuring(missing)} if missing else {}
    scripts["slurm-collect.sh"] = cluster.collecting()
    after: list[str] = []
    for name, script in scripts.items():
        print(f"{results / name}:\n{script}")
        if not dry:
            job = jobs_of.submit(results / name, script, *after)
            after = [f"--dependency=afterany:{job}"]
            print(f"Submitted as job {job}.\n")
    print(f"{len(missing)} of {jobs} shares have cases to measure.")


def status(
    results: Annotated[Path, typer.Argument(parser=results_folder, help="A results folder.")],
) -> None:
    """List the failed and missing cases of a results folder, and count those that are done.

    Raises:
        Exit: with code 1 if a case failed or is missing.
    """
    rows = some_rows_in(results)
    begun = [of_plan for of_plan in coverage(rows) if of_plan.is_begun]
    for of_plan in begun:
        for failure in of_plan.failed:
            print(f"failed: {failure}")
        for case in of_plan.missing:
            print(f"missing: {case}")
        print(of_plan)
    for place, count in Counter(row.place for row in rows).items():
        print(f"{count} rows of {place}")
    if any(of_plan.done < of_plan.planned for of_plan in begun):
        raise typer.Exit(1)
