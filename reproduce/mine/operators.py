"""The command ``operators``: a table of the operators through which HVPs are right."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Annotated, Any, cast

import typer

from reproduce.machine import environment
from reproduce.measuring.runner import set_worker_environment
from reproduce.methods import LABELS
from reproduce.plan import Framework

NAMES: dict[Framework, tuple[str, str]] = {
    "torch": ("PyTorch", "torch"),
    "jax": ("JAX and Flax", "jax"),
}
HEAD = """\
# Operators through which an HVP is right

`python -m reproduce operators` makes this page, for the locked versions: each operator in float64
on a CPU, its HVPs against central differences of the gradient. *Refused* is an error that PyTorch
or JAX raises; **wrong** comes without an error or a warning. *Repaired* is the same inside
`repaired()` of `reproduce/in_torch/repair.py`, which puts equal functions in the place of
PyTorch's, and plain attention in that of the fused kernels. The tests hold this page: what is
mended or newly wrong in another version fails there (`tests/test_operators.py`).
"""


def operators(
    framework: Annotated[
        Framework | None, typer.Option(help="One framework; by default both.")
    ] = None,
) -> None:
    """Print, as Markdown, through which operators of PyTorch and JAX which HVPs are right."""
    set_worker_environment(on_gpu=False)
    print(page([framework] if framework else list(NAMES)), end="")


def page(frameworks: Iterable[Framework]) -> str:
    """The tables of ``frameworks``, after an explanation."""
    return "\n".join([HEAD, *map(_section, frameworks)])


def _section(framework: Framework) -> str:
    module = cast(Any, import_module(f"reproduce.in_{framework}.operators"))
    found = {name: module.verdicts(each) for name, each in module.OPERATORS.items()}
    right = [name for name, verdicts in found.items() if set(verdicts.values()) == {"right"}]
    label, package = NAMES[framework]
    title = f"## {label} {environment.installed()[package]}: {len(right)} of {len(found)} right"
    columns = ["operator", *(LABELS[method] for method in module.METHODS)]
    rows = [[name, *map(_bold, found[name].values())] for name in found if name not in right]
    if framework == "torch":
        columns.append("repaired")
        for row in rows:
            row.append(_in_short(module.repaired_verdicts(module.OPERATORS[row[0]])))
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title} by all methods\n\n{table}\n\nRight by all: {'; '.join(right)}.\n"


def _bold(verdict: str) -> str:
    return f"**{verdict}**" if verdict == "wrong" else verdict


def _in_short(verdicts: Mapping[str, str]) -> str:
    """``right`` if all verdicts are, else the methods with other verdicts."""
    kinds = set(verdicts.values())
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(
        f"{LABELS[method]} {_bold(verdict)}"
        for method, verdict in verdicts.items()
        if verdict != "right"
    )
