"""Checks before a plan is measured, one function each.

A check returns what it found. It raises UserError if the plan cannot run, and Doubt if it can run,
but not well. Either sentence ends with the remedy, after its last semicolon. A run is refused by
`check`, which needs some of them; ``doctor`` makes all of them.
"""

import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec

from reproduce.errors import UserError
from reproduce.machine import computing, environment, limits
from reproduce.machine.target import Target
from reproduce.measuring import cost, schedule
from reproduce.measuring.cost import readable_bytes
from reproduce.plan import Case, by_setting
from reproduce.problems import PROBLEMS

NEEDED_DISK_BYTES = 1 << 30
LONGEST_SECONDS = 7 * 24 * 3600
LOCK_IS_FOR_PYTHON = "3.11"
ENVIRONMENT_BYTES = 9 * cost.GIB
WITHOUT_GPU = "PLAN=cpu and 'make a100' need none"


class Doubt(Exception):
    """Something that harms a plan but does not stop it; the message is one sentence."""


class PlannedRun(msgspec.Struct, frozen=True):
    """A run to be checked: the cases of a plan, on their device, into a results folder.

    With a ``target``, the cases are accounted for.
    """

    plan: str
    cases: list[Case]
    folder: Path
    on_gpu: bool
    target: Target | None = None


def check(run: PlannedRun) -> None:
    """Refuse ``run`` if it cannot work; create its results folder.

    Raises:
        UserError: for the first obstacle.
    """
    check_models(run.cases)
    check_variables()
    _frameworks(run)
    _temporary_folder(run)
    make_folder(run.folder)
    _disk_of_results(run)
    with suppress(Doubt):
        _memory(run)
    if run.on_gpu and run.target is None:
        computing.on_gpu({case.framework for case in run.cases})


def check_models(cases: Iterable[Case]) -> None:
    """Refuse ``cases`` of unknown models.

    Raises:
        UserError: for the first unknown model.
    """
    for name in sorted({case.model for case in cases} - set(PROBLEMS)):
        raise UserError(f"model {name!r} was asked for; there are {', '.join(PROBLEMS)}")


def check_variables() -> None:
    """Refuse environment variables that make a case something other than its name says.

    Raises:
        UserError: for the first such variable.
    """
    for name, value, why in environment.refused_variables():
        raise UserError(
            f"the environment has {name}={value}, with which {why}; "
            f"run 'unset {name}', and the same command again"
        )


def check_time_limit(timeout_seconds: float) -> None:
    """Refuse an impossible time limit.

    Raises:
        UserError: if ``timeout_seconds`` is not more than 0 and at most a week.
    """
    if not 0 < timeout_seconds <= LONGEST_SECONDS:
        raise UserError(
            f"a time limit of {timeout_seconds} s was asked for; "
            f"give more than 0 and at most {LONGEST_SECONDS} seconds (a week)"
        )


def _variables(run: PlannedRun) -> str:
    check_variables()
    found = environment.variables().items()
    return ", ".join(f"{name}={value}" for name, value in found) or "none"


def _frameworks(run: PlannedRun) -> str:
    names = sorted({case.framework for case in run.cases})
    peers = {case.method for case in run.cases} & {"curvlinops"}
    for name in (*names, *peers):
        if find_spec(name) is None:
            raise UserError(
                f"the plan needs {name!r}, which is not installed here; "
                "run 'make setup', or give its environment as VENV"
            )
    return " and ".join(names)


def _temporary_folder(run: PlannedRun) -> str:
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pymp-") as folder,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            listener.bind(f"{folder}/listener-12345678")  # as long as multiprocessing's names
    except OSError as error:
        raise UserError(
            "workers are started through a socket in a temporary folder, which fails "
            f"({error.strerror or error}); set TMPDIR to a folder that can be written and has a "
            "short name"
        ) from None
    return tempfile.gettempdir()


def make_folder(folder: Path) -> None:
    """Create the results folder ``folder``, unless it exists.

    Raises:
        UserError: if it cannot be created or written to.
    """
    with _unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _results_folder(run: PlannedRun) -> str:
    there = _nearest(run.folder)
    with _unwritable(there):
        tempfile.TemporaryFile(dir=there).close()
    return f"{run.folder} can be written"


@contextmanager
def _unwritable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"results go to {folder}, which cannot be written ({error.strerror}); "
            "give another RESULTS"
        ) from None


def _nearest(folder: Path) -> Path:
    """``folder`` if it exists, else the nearest of its parents that does."""
    # Path.exists would raise if a parent may not be searched.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))


def _disk_of_results(run: PlannedRun) -> str:
    free = shutil.disk_usage(_nearest(run.folder)).free
    if free < NEEDED_DISK_BYTES:
        raise UserError(
            f"the plan needs {readable_bytes(NEEDED_DISK_BYTES)} of disk for {run.folder}, "
            f"{readable_bytes(free)} are free; make room or give another RESULTS"
        )
    return f"{readable_bytes(NEEDED_DISK_BYTES)} must be free, {readable_bytes(free)} are"


def _memory(run: PlannedRun) -> str:
    mapped = limits.left_by_ulimit("-v")
    if mapped is not None and mapped < cost.MAPPED_BYTES:
        raise UserError(
            f"the frameworks need {readable_bytes(cost.MAPPED_BYTES)} of address space, most "
            f"of it never touched, and 'ulimit -v' leaves {readable_bytes(mapped)}; "
            "raise it, or run 'ulimit -v unlimited' first"
        )
    needed, free = _needed_bytes(run), limits.free_memory()
    found = f"a setting needs about {readable_bytes(needed)}, {readable_bytes(free.bytes)} are free"
    if needed <= free.bytes:
        return found
    if run.on_gpu:  # there, a case that does not fit gets a row that says so
        raise Doubt(f"{found}; {free.remedy}")
    raise UserError(
        f"the plan needs about {readable_bytes(needed)} of memory, "
        f"{readable_bytes(free.bytes)} are free; {free.remedy} or take a smaller plan"
    )


def _needed_bytes(run: PlannedRun) -> int:
    """The expected peak of the largest setting in the host's memory, in bytes."""
    if run.target is not None:
        return cost.ACCOUNTING_BYTES
    of_host = cost.host_bytes if run.on_gpu else cost.memory_bytes
    return max(map(of_host, by_setting(run.cases)))


def _device(run: PlannedRun) -> str:
    found, sentence = environment.gpu()
    if run.on_gpu and found is None:
        raise UserError(f"plan {run.plan!r} needs a GPU, and there is {sentence} ({WITHOUT_GPU})")
    return environment.device(run.on_gpu)


def _time(run: PlannedRun) -> str:
    machine = schedule.planned(run.on_gpu)
    seconds = schedule.expected_seconds(by_setting(run.cases), machine)
    how = "a guess: no plan was run on a GPU yet" if run.on_gpu else "as on two cores"
    return f"{len(run.cases)} cases in about {cost.readable_seconds(seconds)} ({how})"


def _locked_packages(run: PlannedRun) -> str:
    pins, differences = _pins(), _differences()
    if differences:
        raise Doubt(
            f"of its {len(pins)} packages {len(differences)} are not installed as pinned: "
            f"{', '.join(differences)}; {_make_anew()}"
        )
    return f"all of its {len(pins)} packages are installed as pinned"


def _make_anew() -> str:
    return f"remove {sys.prefix} and run 'make setup', or give another environment as VENV"


@cache
def _pins() -> dict[str, str]:
    lock = (environment.ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))


@cache
def _differences() -> list[str]:
    """Every package that is not installed as pinned, with the version that is installed."""
    installed = {_normal(name): version for name, version in environment.installed().items()}
    return [
        f"{name} {installed.get(name, 'missing')} for {version}"
        for name, version in _pins().items()
        if installed.get(name) != version
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _disk_of_environment(run: PlannedRun) -> str:
    free = shutil.disk_usage(sys.prefix).free
    if _differences() and free < ENVIRONMENT_BYTES:
        raise Doubt(
            f"made anew, it takes {readable_bytes(ENVIRONMENT_BYTES)}, and "
            f"{readable_bytes(free)} are free at {sys.prefix}; make room or give another VENV"
        )
    return f"{readable_bytes(free)} are free at {sys.prefix}"


def _python(run: PlannedRun) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if not version.startswith(f"{LOCK_IS_FOR_PYTHON}."):
        raise Doubt(f"the lock is for {LOCK_IS_FOR_PYTHON}, and this is {version}; {_make_anew()}")
    return version


def _make(run: PlannedRun) -> str:
    if (found := shutil.which("make")) is None:
        raise Doubt("it is not on PATH, so that no target can run; install make")
    return found


def _compiler(run: PlannedRun) -> str:
    names = (os.environ.get("CC", "gcc"), "gcc", "clang")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise Doubt("torch.compile needs gcc or clang, and neither is on PATH; install gcc")
    return found


def _gpu_memory(run: PlannedRun) -> str:
    needed = max(map(cost.memory_bytes, by_setting(run.cases)))
    free = environment.free_bytes(on_gpu=True)
    found = f"a guess of {readable_bytes(needed)} is needed, {readable_bytes(free)} are free"
    if needed > free:
        raise Doubt(
            f"{found}: cases that do not fit become rows with the status out_of_memory; "
            "end other programs on the GPU, or take a larger one"
        )
    return found


def _gpu_processes(run: PlannedRun) -> str:
    if count := environment.chosen_gpu().processes():
        raise Doubt(f"{count} compute on it and would disturb the timings; end them")
    return "this GPU does not report them" if count is None else "none"


def _gpu_mode(run: PlannedRun) -> str:
    if environment.chosen_gpu().is_for_one_process():
        raise Doubt(
            "only one process at a time may compute on it, so that settings are prepared one after "
            "the other, which takes longer; 'nvidia-smi --compute-mode=DEFAULT' lets them share it"
        )
    return "processes may share it"


def _gpu_clocks(run: PlannedRun) -> str:
    # NVML does not say whether clocks are locked. A clock that idles far below its maximum is not.
    now, most = environment.chosen_gpu().sm_clocks_mhz()
    if now is None or most is None:
        return "this GPU does not report them"
    found = f"the multiprocessors' is at {now} of {most} MHz"
    if now < most / 2:
        raise Doubt(
            f"{found}, so that it is not locked and moves while cases are timed; "
            f"lock it with 'nvidia-smi --lock-gpu-clocks'"
        )
    return found


CHECKS: dict[str, Callable[[PlannedRun], str]] = {
    "device": _device,
    "time": _time,
    "memory": _memory,
    "results folder": _results_folder,
    "disk for results": _disk_of_results,
    "temporary folder": _temporary_folder,
    "frameworks": _frameworks,
    "settings in the environment": _variables,
    "requirements.lock": _locked_packages,
    "disk for the environment": _disk_of_environment,
    "Python": _python,
    "make": _make,
    "compiler": _compiler,
}
GPU_CHECKS: dict[str, Callable[[PlannedRun], str]] = {
    "memory of the GPU": _gpu_memory,
    "other processes on the GPU": _gpu_processes,
    "compute mode of the GPU": _gpu_mode,
    "clocks of the GPU": _gpu_clocks,
    "JAX on the GPU": lambda run: computing.on_gpu(["jax"])["jax"],
    "PyTorch on the GPU": lambda run: computing.on_gpu(["torch"])["torch"],
}
