"""The command ``default-plan``: the plan that fits this machine."""

import sys

from reproduce.machine import environment


def default_plan() -> None:
    """Print the plan that fits this machine, and the reason to standard error."""
    print(fitting_plan())


def fitting_plan() -> str:
    """The name of the plan that fits this machine; prints the reason to standard error."""
    found, sentence = environment.gpu()
    name = "article" if found else "cpu"
    hint = "; 'make quick' draws the same figures in minutes" if found else ""
    print(f"PLAN={name}, because there is {sentence}{hint}.", file=sys.stderr)
    return name
