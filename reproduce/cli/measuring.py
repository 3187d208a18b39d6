"""The commands that print and measure a plan: ``plan``, ``measure`` and ``account``."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from reproduce import printing
from reproduce.drawing import OF_ACCOUNTED_BEYOND, OF_ACCOUNTING, draw
from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.machine.target import load
from reproduce.measuring import cost, preflight, runner, schedule
from reproduce.measuring.share import Share, parsed
from reproduce.measuring.ways import Accounted, Measured
from reproduce.plan import (
    BEYOND,
    NEEDING_A_GPU,
    PLANS,
    Framework,
    LayerNorm,
    Normalisation,
    Setting,
    Vector,
    accounted_cases,
    by_setting,
    cases,
)
from reproduce.results.rows import Row, results_folder

PlanName = Annotated[str, typer.Argument(metavar="|".join(PLANS), help="Which plan.")]
MoreModels = Annotated[
    list[str] | None, typer.Option("--more-model", help="A further model, e.g. resnet50.")
]
Nvml = Annotated[
    bool, typer.Option("--nvml", help="Also measure the used memory of the whole GPU, by NVML.")
]
TimeLimit = Annotated[float, typer.Option(help="Time limit of one case.")]
ResultsFolder = Annotated[
    Path, typer.Argument(parser=results_folder, help="The folder for rows.jsonl.")
]


def plan(
    name: PlanName,
    more_model: MoreModels = None,
    every_case: Annotated[bool, typer.Option("--cases", help="List every case.")] = False,
    nvml: Nvml = False,
) -> None:
    """Print what a plan measures and the time and memory that it is expected to take."""
    found = cases(name, more_models=tuple(more_model or ()), nvml=nvml)
    preflight.check_models(found)
    on_gpu = name in NEEDING_A_GPU or _takes_gpu(name)
    settings = by_setting(found)
    machine = schedule.planned(on_gpu)
    at_once = schedule.at_once(settings, machine)
    columns = ("quantity", "framework", "mode", "model", "batch sizes", "cases", "time", "memory")
    table = Table(*columns)
    for group in _groups(settings, every_case):
        case = group[0][0]
        sizes = ", ".join(map(str, sorted({setting[0].batch_size for setting in group})))
        methods = ", ".join(each.computed for each in group[0])
        counted = methods if every_case else str(sum(map(len, group)))
        seconds = sum(sum(cost.parts_seconds(setting, at_once)) for setting in group)
        memory = cost.readable_bytes(max(map(cost.memory_bytes, group)))
        of_group = (case.quantity, case.framework, case.mode, case.model, sizes, counted)
        table.add_row(*of_group, cost.readable_seconds(seconds), memory)
    console = printing.console_of_tables()
    console.print(table)
    total = cost.readable_seconds(schedule.expected_seconds(settings, machine))
    console.print(
        f"{len(found)} cases in {len(settings)} settings, about {total}{_where(on_gpu)}; at most "
        f"{cost.readable_bytes(max(map(cost.memory_bytes, settings)))} of memory for a setting, "
        f"settings prepared side by side: {at_once}; "
        f"{cost.readable_bytes(preflight.NEEDED_DISK_BYTES)} of disk must be free."
    )


def measure(
    name: PlanName,
    results: ResultsFolder,
    more_model: MoreModels = None,
    vector: Annotated[Vector | None, typer.Option(help="The vector to multiply by.")] = None,
    normalisation: Annotated[
        Normalisation,
        typer.Option(help="Batch normalisation as in the article, or the same in both frameworks."),
    ] = "article",
    recorded: Annotated[
        Literal["yes", "no"] | None,
        typer.Option(
            help="Whether PyTorch's parameters require gradients, as the authors' do, so that "
            "autograd also records every call; by default as the plan has it."
        ),
    ] = None,
    layer_norm: Annotated[
        LayerNorm | None,
        typer.Option(
            help="PyTorch's own layer normalisation, through which reverse-over-forward is wrong, "
            "or an equal function through which it is right; by default as the plan has it."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights, inputs and vector.")
    ] = 0,
    nvml: Nvml = False,
    framework: Annotated[
        Framework | None,
        typer.Option(help="Measure only this framework, if only one is installed."),
    ] = None,
    share: Annotated[
        Share | None,
        typer.Option(
            parser=parsed, metavar="i/N", help="Measure only the i-th of N shares of the plan."
        ),
    ] = None,
    timeout_seconds: TimeLimit = 600,
) -> None:
    """Measure the cases of a plan that a results folder does not have yet.

    Raises:
        Exit: with code 1 if a case failed, 130 if interrupted.
        UserError: if the plan or an option needs a GPU and there is none.
    """
    on_gpu = _takes_gpu(name)
    found = cases(
        name,
        more_models=tuple(more_model or ()),
        vector=vector,
        normalisation=normalisation,
        recorded=None if recorded is None else recorded == "yes",
        layer_norm=layer_norm,
        seed=seed,
        nvml=nvml,
    )
    if nvml and not on_gpu:
        raise UserError(
            "--nvml was asked for, which needs a GPU, and this plan runs on the CPU; leave it out"
        )
    try:
        wanted = [case for case in found if framework in {None, case.framework}]
        rows = runner.measure(wanted, results, Measured(on_gpu), timeout_seconds, share)
    except KeyboardInterrupt:
        stopped()
    _report_failures(rows)


def account(
    name: PlanName,
    results: ResultsFolder,
    target: Annotated[
        str, typer.Option(help="a100, h100, or a file that describes a GPU.")
    ] = "a100",
    timeout_seconds: TimeLimit = 600,
) -> None:
    """Find a plan's memory and operations on a GPU that is not there, and draw them.

    Raises:
        Exit: with code 1 if a case failed or would not fit into the GPU, 130 if interrupted,
            and with the code of drawing if drawing was refused.
        UserError: if there is no such plan or target.
    """
    found = accounted_cases(name)
    try:
        rows = runner.measure(found, results, Accounted(load(target)), timeout_seconds)
    except KeyboardInterrupt:
        stopped()
    drawn = draw(results, *(OF_ACCOUNTED_BEYOND if name == BEYOND else OF_ACCOUNTING))
    if drawn > 1:
        raise typer.Exit(drawn)
    _report_failures(rows)


def stopped() -> None:
    """Ends a command that was interrupted.

    Raises:
        Exit: always, with code 130.
    """
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
    if name in NEEDING_A_GPU and found is None:
        raise UserError(f"plan {name!r} needs a GPU, and there is {sentence}; or take PLAN=cpu")
    return found is not None and name != "cpu"


def _where(on_gpu: bool) -> str:
    if not on_gpu or environment.gpu()[0] is not None:
        return ""
    return f" on an A100 with {schedule.MACHINE_WITH_A100.cores} CPU cores (an estimate, not run)"


def _groups(settings: list[Setting], every_setting: bool) -> list[list[Setting]]:
    """``settings`` by quantity, framework, mode and model, or each alone."""
    groups: dict[tuple[str, ...], list[Setting]] = {}
    for setting in sorted(settings, key=lambda setting: str(setting[0])):
        case = setting[0]
        key = (case.quantity, case.framework, case.mode, case.model)
        groups.setdefault((*key, case.setting_name) if every_setting else key, []).append(setting)
    return list(groups.values())
