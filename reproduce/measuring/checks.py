"""What the doctor looks at: one function a check.

A check returns what it found, or raises: PlanError where the plan cannot run, Doubt where
it can, but not well. Either sentence ends with the remedy, after its last semicolon.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import msgspec

from reproduce.machine import environment, limits
from reproduce.measuring import conditions, cost, schedule
from reproduce.measuring.cost import readable_bytes
from reproduce.plan import Case, Framework, PlanError, by_setting

LOCK_IS_FOR_PYTHON = "3.11"
ENVIRONMENT_BYTES = 9 * cost.GIB
WITHOUT_GPU = "PLAN=cpu and 'make a100' need none"


class Doubt(Exception):
    """What does not stop a plan but harms it; the message is one sentence for the user."""


class Look(msgspec.Struct, frozen=True):
    """What is looked at: the cases of a plan, on their device, into a results folder."""

    plan: str
    cases: list[Case]
    folder: Path
    on_gpu: bool


def _device(look: Look) -> str:
    found, sentence = environment.gpu()
    if look.on_gpu and found is None:
        raise PlanError(f"plan {look.plan!r} needs a GPU, and there is {sentence} ({WITHOUT_GPU})")
    return environment.device(look.on_gpu)


def _time(look: Look) -> str:
    machine = schedule.planned(look.on_gpu)
    seconds = schedule.expected_seconds(by_setting(look.cases), machine)
    how = "a guess: no plan was run on a GPU yet" if look.on_gpu else "as on two cores"
    return f"{len(look.cases)} cases in about {cost.readable_seconds(seconds)} ({how})"


def _memory(look: Look) -> str:
    conditions.check_memory(look.cases, look.on_gpu)
    of_host = cost.host_bytes if look.on_gpu else cost.memory_bytes
    settings = by_setting(look.cases)
    needed, free = max(map(of_host, settings)), limits.free_memory()
    found = f"a setting needs about {readable_bytes(needed)}, {readable_bytes(free.bytes)} are free"
    if needed > free.bytes:
        raise Doubt(f"{found}; {free.remedy}")
    return found


def _results_folder(look: Look) -> str:
    conditions.check_writable(_nearest(look.folder))
    return f"{look.folder} can be written"


def _disk_of_results(look: Look) -> str:
    folder = _nearest(look.folder)
    conditions.check_disk(folder)
    needed, free = conditions.NEEDED_DISK_BYTES, shutil.disk_usage(folder).free
    return f"{readable_bytes(needed)} must be free, {readable_bytes(free)} are"


def _nearest(folder: Path) -> Path:
    """``folder``, or where it is not there the nearest of its parents that is."""
    # Path.exists would raise where a parent may not be searched.
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))


def _temporary_folder(look: Look) -> str:
    conditions.check_temporary_folder()
    return tempfile.gettempdir()


def _frameworks(look: Look) -> str:
    conditions.check_frameworks(look.cases)
    return " and ".join(sorted({case.framework for case in look.cases}))


def _settings(look: Look) -> str:
    conditions.check_settings()
    return ", ".join(f"{name}={value}" for name, value in environment.settings().items()) or "none"


def _locked_packages(look: Look) -> str:
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
    """Every package that is not installed as pinned, and how it is."""
    installed = {_normal(name): version for name, version in environment.installed().items()}
    return [
        f"{name} {installed.get(name, 'missing')} for {version}"
        for name, version in _pins().items()
        if installed.get(name) != version
    ]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _disk_of_environment(look: Look) -> str:
    free = shutil.disk_usage(sys.prefix).free
    if _differences() and free < ENVIRONMENT_BYTES:
        raise Doubt(
            f"made anew, it takes {readable_bytes(ENVIRONMENT_BYTES)}, and "
            f"{readable_bytes(free)} are free at {sys.prefix}; make room or give another VENV"
        )
    return f"{readable_bytes(free)} are free at {sys.prefix}"


def _python(look: Look) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if not version.startswith(f"{LOCK_IS_FOR_PYTHON}."):
        raise Doubt(f"the lock is for {LOCK_IS_FOR_PYTHON}, and this is {version}; {_make_anew()}")
    return version


def _make(look: Look) -> str:
    if (found := shutil.which("make")) is None:
        raise Doubt("it is not on PATH, so that no target can run; install make")
    return found


def _compiler(look: Look) -> str:
    names = (os.environ.get("CC", "gcc"), "gcc", "clang")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise Doubt("torch.compile needs gcc or clang, and neither is on PATH; install gcc")
    return found


def _gpu_memory(look: Look) -> str:
    needed, free = conditions.needed_bytes(look.cases), environment.free_bytes(on_gpu=True)
    found = f"a guess of {readable_bytes(needed)} is needed, {readable_bytes(free)} are free"
    if needed > free:
        raise Doubt(
            f"{found}: cases that do not fit become rows with the status out_of_memory; "
            "end what else uses the GPU, or take a larger one"
        )
    return found


def _gpu_processes(look: Look) -> str:
    if count := environment.chosen_gpu().processes():
        raise Doubt(f"{count} compute on it and would be in the timings; end them")
    return "this GPU does not tell" if count is None else "none"


def _gpu_clocks(look: Look) -> str:
    # NVML does not tell whether clocks are locked: one that rests far below its maximum is not.
    now, most = environment.chosen_gpu().sm_clocks_mhz()
    if now is None or most is None:
        return "this GPU does not tell"
    found = f"the multiprocessors' is at {now} of {most} MHz"
    if now < most / 2:
        raise Doubt(
            f"{found}, so that it is not locked and moves while cases are timed; "
            f"lock it with 'nvidia-smi --lock-gpu-clocks'"
        )
    return found


def _computing_on_gpu(look: Look, framework: Framework) -> str:
    return conditions.check_gpu_computes([framework])[framework]


CHECKS: dict[str, Callable[[Look], str]] = {
    "device": _device,
    "time": _time,
    "memory": _memory,
    "results folder": _results_folder,
    "disk for results": _disk_of_results,
    "temporary folder": _temporary_folder,
    "frameworks": _frameworks,
    "settings in the environment": _settings,
    "requirements.lock": _locked_packages,
    "disk for the environment": _disk_of_environment,
    "Python": _python,
    "make": _make,
    "compiler": _compiler,
}
GPU_CHECKS: dict[str, Callable[[Look], str]] = {
    "memory of the GPU": _gpu_memory,
    "other processes on the GPU": _gpu_processes,
    "clocks of the GPU": _gpu_clocks,
    "JAX on the GPU": partial(_computing_on_gpu, framework="jax"),
    "PyTorch on the GPU": partial(_computing_on_gpu, framework="torch"),
}
