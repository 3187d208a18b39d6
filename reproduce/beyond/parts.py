"""The command ``beyond``: HVPs at work, in parts; each part is a table that is measured once."""

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
import typer

from reproduce.errors import UserError
from reproduce.machine import environment, limits
from reproduce.measuring import cost, preflight
from reproduce.measuring.runner import set_worker_environment
from reproduce.measuring.ways import PACKAGE, hash_of_code
from reproduce.results.files import whole_file

MEASURED_BY = (
    "beyond/algorithms.py",
    "beyond/digits.py",
    "algorithms/*.py",
    "in_jax/hvp.py",
    "in_jax/many_vectors.py",
    "in_jax/models.py",
    "problems/*.py",
)


class Part(NamedTuple):
    """The cost of a part; a function of its name in `algorithms` returns its table."""

    seconds: float
    memory_bytes: int


PARTS = {
    "inverse_hvp_errors": Part(25, 2 << 30),
    "spectra": Part(60, 5 << 30),
    "hyperparameter_descent": Part(20, 2 << 30),
}


def beyond(
    results: Annotated[Path, typer.Argument(help="The folder for <part>.csv.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help=f"All, or any of {', '.join(PARTS)}."),
    ] = None,
) -> None:
    """Measure HVPs at work, part by part, where a table is missing or its code has changed.

    Raises:
        UserError: if there is no such part, a setting would change the numbers, or the folder
            cannot be created.
    """
    wanted = names or list(PARTS)
    on_gpu = environment.gpu()[0] is not None
    set_worker_environment(on_gpu)
    for name in wanted:
        if name not in PARTS:
            raise UserError(f"part {name!r} was asked for; there are {', '.join(PARTS)}")
    preflight.check_variables()
    preflight.make_folder(results)
    missing = [name for name in wanted if not _is_current(results / f"{name}.csv")]
    _check_memory(missing, on_gpu)
    expected = cost.readable_seconds(sum(PARTS[name].seconds for name in missing))
    print(f"{len(missing)} of {len(wanted)} parts to measure, about {expected}.")
    for name in missing:
        _measure(name, results / f"{name}.csv", environment.device(on_gpu))


def _check_memory(names: list[str], on_gpu: bool) -> None:
    needed = max((PARTS[name].memory_bytes for name in names), default=0)
    free = environment.free_bytes(on_gpu)
    if needed > free:
        remedy = "end other programs on the GPU" if on_gpu else limits.free_memory().remedy
        raise UserError(
            f"the parts need about {cost.readable_bytes(needed)} of memory, "
            f"{cost.readable_bytes(free)} are free; {remedy} or name other parts"
        )


def _is_current(path: Path) -> bool:
    """Whether ``path`` is a table that the present code has measured."""
    with suppress(FileNotFoundError, KeyError, ValueError):
        return set(pd.read_csv(path, usecols=["code"], dtype=str)["code"]) == {_code()}
    return False


@cache
def _code() -> str:
    """A digest of the measuring code, the lock and the settings."""
    sources = sorted(path for pattern in MEASURED_BY for path in PACKAGE.glob(pattern))
    lock = (environment.ROOT / "requirements.lock").read_text()
    parts = (hash_of_code(tuple(sources)), lock, repr(environment.variables()))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]


def _measure(name: str, path: Path, device: str) -> None:
    print(f"{name}: about {cost.readable_seconds(PARTS[name].seconds)} …", flush=True)
    start = time.perf_counter()
    table = _function(name, path.parent / "programs")().assign(device=device, code=_code())
    with whole_file(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.8g", lineterminator="\n")
    print(f"{path}: {len(table)} lines in {cost.readable_seconds(time.perf_counter() - start)}")


def _function(name: str, programs: Path) -> Callable[[], pd.DataFrame]:
    try:
        import_module("reproduce.in_jax.device").share_programs(programs)
        return getattr(import_module("reproduce.beyond.algorithms"), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"part {name!r} needs {error.name!r}, which is not installed here; "
            "run 'make setup', or give its environment as VENV"
        ) from None
