"""The command ``doctor``: can this machine run a plan, and if not, what to do?

The checks are in ``measuring/preflight.py``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from reproduce import printing
from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.measuring.preflight import CHECKS, GPU_CHECKS, Doubt, PlannedRun
from reproduce.plan import NEEDING_A_GPU, PLANS, cases

Level = Literal["good", "warning", "missing"]


class Finding(msgspec.Struct, frozen=True):
    """The finding of a check. A ``warning`` harms the plan; something ``missing`` stops it."""

    check: str
    level: Level
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (f"{self.level:<8}{self.check}: {self.found}", self.remedy)))


class Diagnosis(msgspec.Struct, frozen=True):
    """All findings for a plan, and whether it can run."""

    plan: str
    can_run: bool
    findings: list[Finding]


def doctor(
    name: Annotated[
        str | None, typer.Argument(metavar="|".join(PLANS), help="By default the plan that fits.")
    ] = None,
    results: Annotated[Path | None, typer.Argument(help="By default results/<plan>.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """Check whether this machine can run a plan, and say what it costs and what is missing.

    The article's plan is checked as well.

    Raises:
        Exit: with code 1 if the plan cannot run here.
    """
    name = name or ("article" if environment.gpu()[0] else "cpu")
    found = [
        diagnosis(plan, results or Path("results", plan))
        for plan in dict.fromkeys((name, "article"))
    ]
    if as_json:
        printing.print_json(found)
    else:
        print(_text(found))
    if not found[0].can_run:
        raise typer.Exit(1)


def diagnosis(plan: str, folder: Path) -> Diagnosis:
    """The findings of every check for ``plan`` into ``folder``, which is not created.

    Raises:
        UserError: if there is no such plan.
    """
    has_gpu = environment.gpu()[0] is not None
    on_gpu = plan in NEEDING_A_GPU or (has_gpu and plan != "cpu")
    run = PlannedRun(plan, cases(plan), folder, on_gpu)
    checks = CHECKS | (GPU_CHECKS if on_gpu and has_gpu else {})
    findings = [_finding(name, check, run) for name, check in checks.items()]
    return Diagnosis(plan, all(each.level != "missing" for each in findings), findings)


def _finding(name: str, check: Callable[[PlannedRun], str], run: PlannedRun) -> Finding:
    try:
        return Finding(name, "good", check(run))
    except (UserError, Doubt) as sentence:
        level: Level = "missing" if isinstance(sentence, UserError) else "warning"
        found, _, remedy = str(sentence).rpartition("; ")
        return Finding(name, level, found, remedy)
    except OSError as error:
        found = f"{error.filename or 'what it is about'} cannot be looked at ({error.strerror})"
        return Finding(name, "warning", found, "let this user read it")


def _text(diagnoses: list[Diagnosis]) -> str:
    """One line per finding; a finding of one plan is not repeated for the next."""
    lines: dict[str, None] = {}
    for each in diagnoses:
        verdict = f"Plan {each.plan} {'can' if each.can_run else 'cannot'} run here."
        lines |= dict.fromkeys((verdict, *map(str, each.findings)))
    return "\n".join(lines)
