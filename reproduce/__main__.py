"""The command line ``python -m reproduce VERB``: it only finds and runs the verb."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from reproduce import printing
from reproduce.errors import UserError

if TYPE_CHECKING:  # typer has its own click, and does not say so
    from typer._click import Command, Context

# Each verb imports its modules when it is called: no verb waits for the imports of another, and
# measuring works where the drawing packages are missing (requirements-carry.in).
IMPORTED_WHEN_CALLED = {
    "doctor": "cli.doctor.doctor",
    "default-plan": "cli.default_plan.default_plan",
    "plan": "cli.measuring.plan",
    "measure": "cli.measuring.measure",
    "account": "cli.measuring.account",
    "all": "cli.stages.every_stage",
    "claims": "cli.judging.claims",
    "compare": "cli.judging.compare",
    "advise": "cli.judging.advise",
    "prove": "cli.judging.prove",
    "report": "cli.judging.report",
    "slurm": "cli.cluster.slurm",
    "status": "cli.cluster.status",
    "verify": "cli.vouching.verify",
    "bundle": "cli.vouching.bundle",
    "check": "cli.vouching.check",
    "beyond": "beyond.parts.beyond",
    "mine": "mine.verb.mine",
    "operators": "mine.operators.operators",
}
SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class Verbs(TyperGroup):
    """The verbs, which are imported when they are called."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        nothing_yet: dict[str, Any] = dict.fromkeys(IMPORTED_WHEN_CALLED)
        self.commands.update(nothing_yet)

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":
        """The verb ``cmd_name``, or None if there is no such verb."""
        return _imported(cmd_name) if cmd_name in self.commands else None


def _imported(name: str) -> "Command":
    """The verb ``name``, or if a package is missing, one that only says so."""
    alone = typer.Typer(**SETTINGS)
    module, _, function = IMPORTED_WHEN_CALLED[name].rpartition(".")
    try:
        alone.command(name)(getattr(import_module(f"reproduce.{module}"), function))
    except ModuleNotFoundError as missing:
        sentence = f"{name!r} needs {missing.name!r}, which is not installed here"
        anything = {"allow_extra_args": True, "ignore_unknown_options": True}

        @alone.command(name, help=f"{sentence}.", context_settings=anything)
        def lacking() -> None:
            raise UserError(f"{sentence}; run it in the environment that 'make setup' makes")

    return typer.main.get_command(alone)


app = typer.Typer(cls=Verbs, no_args_is_help=True, **SETTINGS)


@app.callback()
def verbs() -> None:
    """Reproduce the article: measure, account, judge, report."""


def main() -> None:
    """Runs a verb. A mistake that the user can mend ends it with one sentence and code 2."""
    printing.run(app, "python -m reproduce")


if __name__ == "__main__":
    main()
