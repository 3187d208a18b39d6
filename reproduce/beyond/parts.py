"""The verb ``beyond``: HVPs at work, in parts, each a table that is measured once."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pandas import DataFrame

from paper_figures.figures import whole_file
from reproduce import cost, environment
from reproduce.plan import PlanError


class Part(NamedTuple):
    """The module here with a function of the part's name, which returns its table; and seconds."""

    module: str
    seconds: float


PARTS = {
    "inverse_hvp_errors": Part("algorithms", 50),
    "spectra": Part("algorithms", 600),
    "hyperparameter_descent": Part("algorithms", 20),
}


def beyond(
    results: Annotated[Path, typer.Argument(help="The folder for beyond/<part>.csv.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART]...", help=f"All, or any of {', '.join(PARTS)}."),
    ] = None,
) -> None:
    """Measure what HVPs are for, part by part; a part that is there already is left alone."""
    wanted = names or list(PARTS)
    paths = {name: results / "beyond" / f"{name}.csv" for name in wanted}
    _check(wanted, results / "beyond")
    missing = [name for name in wanted if not paths[name].exists()]
    expected = cost.readable_seconds(sum(PARTS[name].seconds for name in missing))
    print(f"{len(missing)} of {len(wanted)} parts to measure, about {expected}.")
    on_gpu = environment.gpu()[0] is not None
    if not on_gpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    for name in missing:
        _measure(name, paths[name], environment.device(on_gpu))


def _check(names: list[str], folder: Path) -> None:
    """Nothing, if all of ``names`` can be measured into ``folder``.

    Raises:
        PlanError: if there is no such part, or no such folder can be made.
    """
    for name in names:
        if name not in PARTS:
            raise PlanError(f"part {name!r} was asked for; there are {', '.join(PARTS)}")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PlanError(f"results go to {folder}, which cannot be written; give another RESULTS")


def _measure(name: str, path: Path, device: str) -> None:
    print(f"{name}: about {cost.readable_seconds(PARTS[name].seconds)} …", flush=True)
    start = time.perf_counter()
    table = _function(name)().assign(device=device)
    with whole_file(path) as unfinished:
        table.to_csv(unfinished, index=False, float_format="%.8g", lineterminator="\n")
    print(f"{path}: {len(table)} lines in {cost.readable_seconds(time.perf_counter() - start)}")


def _function(name: str) -> Callable[[], DataFrame]:
    try:
        return getattr(import_module(f"reproduce.beyond.{PARTS[name].module}"), name)
    except ModuleNotFoundError as error:
        raise PlanError(
            f"part {name!r} needs {error.name!r}, which is not installed here; "
            "run 'make setup', or give its environment as VENV"
        ) from None
