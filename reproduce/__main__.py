"""The command line: ``python -m reproduce VERB``; a thin shell over the modules."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from reproduce import conditions, cost, doctor, environment, printing, runner, schedule
from reproduce.plan import (
    NEEDING_A_GPU,
    PLANS,
    Normalisation,
    PlanError,
    Setting,
    Vector,
    accounted_cases,
    by_setting,
    cases,
)
from reproduce.rows import Row, results_folder
from reproduce.target import load

# The module of each verb that needs pandas, SciPy or matplotlib, imported when the verb is
# called: whoever measures need not have them (requirements-carry.in), nor wait for them.
IMPORTED_WHEN_CALLED = {
    "claims": "judge_commands",
    "compare": "judge_commands",
    "advise": "judge_commands",
    "prove": "judge_commands",
    "report": "judge_commands",
    "verify": "evidence_commands",
    "bundle": "evidence_commands",
    "check": "evidence_commands",
    "beyond": "beyond.parts",
}
SETTINGS = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class Verbs(TyperGroup):
    """The verbs registered below, and those that are imported when they are called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands |= dict.fromkeys(IMPORTED_WHEN_CALLED)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:
        """The verb ``cmd_name``, or None if there is no such verb."""
        if cmd_name in self.commands and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _imported(cmd_name)
        return super().get_command(ctx, cmd_name)


def _imported(name: str) -> TyperCommand:
    """The verb ``name``; where a package is missing, one that says so and no more."""
    alone = typer.Typer(**SETTINGS)
    try:
        verb = getattr(import_module(f"reproduce.{IMPORTED_WHEN_CALLED[name]}"), name)
        alone.command(name)(verb)
    except ModuleNotFoundError as missing:
        sentence = f"{name!r} needs {missing.name!r}, which is not installed here"
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}

        @alone.command(name, help=f"{sentence}.", context_settings=anything)
        def lacking() -> None:
            raise PlanError(f"{sentence}; run it in the environment that 'make setup' makes")

    return typer.main.get_command(alone)


app = typer.Typer(cls=Verbs, no_args_is_help=True, **SETTINGS)
app.command()(doctor.doctor)

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
Nvml = Annotated[
    bool, typer.Option("--nvml", help="Count the used memory of the whole GPU, too, as NVML does.")
]
ResultsFolder = Annotated[
    Path, typer.Argument(parser=results_folder, help="The folder for rows.jsonl.")
]


@app.command("default-plan")
def default_plan() -> None:
    """Print the plan that fits this machine; why goes to standard error."""
    found, sentence = environment.gpu()
    name = "article" if found else "cpu"
    hint = "; 'make quick' draws the same figures in minutes" if found else ""
    print(f"PLAN={name}, because there is {sentence}{hint}.", file=sys.stderr)
    print(name)


@app.command()
def plan(
    name: PlanName,
    more_model: MoreModels = None,
    every_case: Annotated[bool, typer.Option("--cases", help="List every case.")] = False,
    nvml: Nvml = False,
) -> None:
    """Print what a plan measures and what it is expected to cost, before it runs."""
    found = cases(name, more_models=tuple(more_model or ()), nvml=nvml)
    conditions.check_models(found)
    on_gpu = name in NEEDING_A_GPU or _takes_gpu(name)
    settings = by_setting(found)
    machine = schedule.planned(on_gpu)
    at_once = schedule.at_once(settings, machine)
    columns = ("quantity", "framework", "mode", "model", "batch sizes", "cases", "time", "memory")
    table = Table(*columns)
    for group in _groups(settings, every_case):
        first = group[0][0]
        table.add_row(
            first.quantity,
            first.framework,
            first.mode,
            first.model,
            ", ".join(map(str, sorted({setting[0].batch_size for setting in group}))),
            ", ".join(case.computed for case in group[0])
            if every_case
            else str(sum(map(len, group))),
            cost.readable_seconds(
                sum(sum(cost.parts_seconds(setting, at_once)) for setting in group)
            ),
            cost.readable_bytes(max(map(cost.memory_bytes, group))),
        )
    console = printing.console_of_tables()
    console.print(table)
    total = cost.readable_seconds(schedule.expected_seconds(settings, machine))
    console.print(
        f"{len(found)} cases in {len(settings)} settings, about {total}{_where(on_gpu)}; at most "
        f"{cost.readable_bytes(max(map(cost.memory_bytes, settings)))} of memory for a setting, "
        f"settings prepared side by side: {at_once}; "
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
    nvml: Nvml = False,
    timeout_seconds: Annotated[float, typer.Option(help="Time limit of one case.")] = 600,
) -> None:
    """Measure the cases of a plan that a results folder does not hold yet.

    Raises:
        Exit: with code 1 if a case failed, 130 if interrupted.
        PlanError: if the plan, or what was asked for, needs a GPU and there is none.
    """
    on_gpu = _takes_gpu(name)
    found = cases(
        name,
        more_models=tuple(more_model or ()),
        vector=vector,
        normalisation=normalisation,
        seed=seed,
        nvml=nvml,
    )
    if nvml and not on_gpu:
        raise PlanError(
            "--nvml was asked for, which needs a GPU, and this plan runs on the CPU; leave it out"
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
    if name in NEEDING_A_GPU and found is None:
        raise PlanError(f"plan {name!r} needs a GPU, and there is {sentence}; or take PLAN=cpu")
    return found is not None and name != "cpu"


def _where(on_gpu: bool) -> str:
    if not on_gpu or environment.gpu()[0] is not None:
        return ""
    return f" on an A100 with {schedule.MACHINE_WITH_A100.cores} cores beside it (counted, not run)"


def _groups(settings: list[Setting], every_setting: bool) -> list[list[Setting]]:
    """``settings`` by quantity, framework, mode and model, or each alone."""
    groups: dict[tuple, list[Setting]] = {}
    for setting in sorted(settings, key=lambda setting: str(setting[0])):
        case = setting[0]
        key = (case.quantity, case.framework, case.mode, case.model)
        groups.setdefault((*key, case.setting) if every_setting else key, []).append(setting)
    return list(groups.values())


def main() -> None:
    """Runs a verb; what the user can mend ends it with one sentence and code 2."""
    printing.run(app, "python -m reproduce")


if __name__ == "__main__":
    main()
