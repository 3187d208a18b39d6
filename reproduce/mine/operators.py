"""The command ``operators``: a table of the operators through which HVPs are right."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, cast

import msgspec
import typer

from reproduce import printing
from reproduce.machine import environment
from reproduce.measuring import versions
from reproduce.measuring.runner import set_worker_environment
from reproduce.methods import LABELS
from reproduce.plan import Framework

NAMES: dict[Framework, tuple[str, str]] = {
    "torch": ("PyTorch", "torch"),
    "jax": ("JAX and Flax", "jax"),
}
HEAD = """\
# Operators through which an HVP is right

`python -m reproduce operators --other-versions` makes this page: each operator in float64 on a
CPU, in the locked versions, its HVPs against central differences of the gradient. *Refused* is an
error that PyTorch or JAX raises; **wrong** comes without an error or a warning. *Repaired* is the
same inside `repaired()` of `reproduce/in_torch/repair.py`, which puts equal functions in the place
of PyTorch's, and plain attention in that of the fused kernels. The tests hold this page: what is
mended or newly wrong in another version fails there (`tests/test_operators.py`).
"""
IN_OTHERS = """\
## In other versions of PyTorch

What is not the same in 2.1.1, which the article used, in the locked version, and in the newest,
each in an environment of its own. *Absent* is what a version does not have under this name.
"""


class Verdicts(msgspec.Struct, frozen=True):
    """A version of a framework, and by operator and method whether the HVP is right in it."""

    version: str
    of: dict[str, dict[str, str]]


def operators(
    framework: Annotated[
        Framework | None, typer.Option(help="One framework; by default both.")
    ] = None,
    other_versions: Annotated[
        bool, typer.Option("--other-versions", help="Also what differs in other PyTorchs.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one framework's verdicts, for machines.")
    ] = False,
) -> None:
    """Print, as Markdown, through which operators of PyTorch and JAX which HVPs are right."""
    set_worker_environment(on_gpu=False)
    if as_json:
        printing.print_json(verdicts(framework or "torch"))
        return
    print(page([framework] if framework else list(NAMES)), end="")
    if other_versions:
        print(f"\n{differences(verdicts('torch'), in_other_versions())}", end="")


def page(frameworks: Iterable[Framework]) -> str:
    """The tables of ``frameworks``, after an explanation."""
    return "\n".join([HEAD, *map(_section, frameworks)])


@cache
def verdicts(framework: Framework) -> Verdicts:
    """The verdicts of all operators of ``framework``, in the version that is installed."""
    module = cast(Any, import_module(f"reproduce.in_{framework}.operators"))
    found = {name: module.verdicts(each) for name, each in module.OPERATORS.items()}
    return Verdicts(environment.installed()[NAMES[framework][1]], found)


def in_other_versions() -> list[Verdicts]:
    """The verdicts of PyTorch in each of its other locked versions, the oldest first.

    Raises:
        UserError: if one of their environments cannot be made.
    """
    arguments = ("operators", "--framework", "torch", "--json")
    return [
        msgspec.json.decode(versions.printed_with(lock, *arguments), type=Verdicts)
        for lock in versions.WITH_TORCH
    ]


def differences(here: Verdicts, others: Iterable[Verdicts]) -> str:
    """The section with the verdicts that are not the same in all versions of PyTorch."""
    columns = [here, *others]
    lines = [
        (name, LABELS[method], *(each.of[name][method] for each in columns))
        for name, by_method in here.of.items()
        for method in by_method
    ]
    unlike = [[*line[:2], *map(_bold, line[2:])] for line in lines if len({*line[2:]}) > 1]
    title = f"{IN_OTHERS}\n{len(lines) - len(unlike)} of {len(lines)} verdicts are the same in all."
    heads = ["operator", "HVP", *(each.version for each in columns)]
    return f"{title}\n\n{_table(heads, unlike)}\n"


def _section(framework: Framework) -> str:
    module = cast(Any, import_module(f"reproduce.in_{framework}.operators"))
    found = verdicts(framework).of
    right = [name for name, by_method in found.items() if {*by_method.values()} == {"right"}]
    label, package = NAMES[framework]
    title = f"## {label} {environment.installed()[package]}: {len(right)} of {len(found)} right"
    columns = ["operator", *(LABELS[method] for method in module.METHODS)]
    rows = [[name, *map(_bold, found[name].values())] for name in found if name not in right]
    if framework == "torch":
        columns.append("repaired")
        for row in rows:
            row.append(_in_short(module.repaired_verdicts(module.OPERATORS[row[0]])))
    table = _table(columns, rows)
    return f"{title} by all methods\n\n{table}\n\nRight by all: {'; '.join(right)}.\n"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bold(verdict: str) -> str:
    return f"**{verdict}**" if verdict == "wrong" else verdict


def _in_short(by_method: Mapping[str, str]) -> str:
    """``right`` if all verdicts are, else the methods with other verdicts."""
    kinds = set(by_method.values())
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(
        f"{LABELS[method]} {_bold(verdict)}"
        for method, verdict in by_method.items()
        if verdict != "right"
    )
