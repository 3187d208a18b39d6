"""What must hold before a plan is measured or accounted for: one function a condition.

Each raises PlanError, with the remedy, where its condition does not hold.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from reproduce.machine import environment, limits
from reproduce.machine.target import Target
from reproduce.measuring import cost
from reproduce.plan import Case, Framework, PlanError, by_setting
from reproduce.problems import PROBLEMS

NEEDED_DISK_BYTES = 1 << 30
LONGEST_SECONDS = 7 * 24 * 3600
# A framework may list a GPU that it has no code or no library for: each multiplies matrices.
COMPUTING_ON_GPU: dict[Framework, str] = {
    "jax": "import jax; x = jax.numpy.ones((8, 8)); print((x @ x).block_until_ready().device)",
    "torch": "import torch; x = torch.ones(8, 8, device='cuda'); (x @ x).cpu(); print(x.device)",
}
COMPUTING_SECONDS = 120


def check(cases: Iterable[Case], folder: Path, on_gpu: bool, target: Target | None = None) -> None:
    """Nothing, if all of ``cases`` can be measured or accounted for here into ``folder``.

    Raises:
        PlanError: the first thing that stands in the way.
    """
    check_models(cases)
    check_settings()
    check_frameworks(cases)
    check_temporary_folder()
    check_writable(folder)
    check_disk(folder)
    check_memory(cases, on_gpu, target)
    if on_gpu and target is None:
        check_gpu_computes({case.framework for case in cases})


def check_models(cases: Iterable[Case]) -> None:
    """Nothing, if the models of all ``cases`` are known.

    Raises:
        PlanError: for the first that is not.
    """
    for name in sorted({case.model for case in cases} - set(PROBLEMS)):
        raise PlanError(f"model {name!r} was asked for; there are {', '.join(PROBLEMS)}")


def check_settings() -> None:
    """Nothing, if no variable of the environment makes of a case another than it is called.

    Raises:
        PlanError: for the first that does.
    """
    for setting, why in environment.refused_settings().items():
        name = setting.partition("=")[0]
        raise PlanError(
            f"the environment has {setting}, with which {why}; "
            f"run 'unset {name}', and the same command again"
        )


def check_frameworks(cases: Iterable[Case]) -> None:
    """Nothing, if the frameworks of ``cases`` are installed, and the library that they need.

    Raises:
        PlanError: for the first that is not.
    """
    for name in sorted({case.framework for case in cases}):
        if find_spec(name) is None:
            raise PlanError(
                f"the plan needs {name!r}, which is not installed here; "
                "run 'make setup', or give its environment as VENV"
            )
    if any(case.method == "curvlinops" for case in cases) and find_spec("curvlinops") is None:
        raise PlanError(
            "the plan times curvlinops beside ours, which is not installed here; "
            "run 'make setup', or give its environment as VENV"
        )


def check_temporary_folder() -> None:
    """Nothing, if workers can be started through a socket in the temporary folder.

    Raises:
        PlanError: if not.
    """
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pymp-") as folder,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            listener.bind(f"{folder}/listener-12345678")  # a name as long as multiprocessing's
    except OSError as error:
        raise PlanError(
            "workers are started through a socket in a temporary folder, which fails "
            f"({error.strerror or error}); set TMPDIR to a folder that can be written and has a "
            "short name"
        ) from None


def check_writable(folder: Path) -> None:
    """Nothing, if ``folder`` can be written; it is made where it is missing.

    Raises:
        PlanError: if not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PlanError(
            f"results go to {folder}, which cannot be written ({error.strerror}); "
            "give another RESULTS"
        ) from None


def check_disk(folder: Path) -> None:
    """Nothing, if ``folder`` lies on a disk with room for results.

    Raises:
        PlanError: if not.
    """
    free_disk = shutil.disk_usage(folder).free
    if free_disk < NEEDED_DISK_BYTES:
        raise PlanError(
            f"the plan needs {cost.readable_bytes(NEEDED_DISK_BYTES)} of disk for {folder}, "
            f"{cost.readable_bytes(free_disk)} are free; make room or give another RESULTS"
        )


def check_memory(cases: Iterable[Case], on_gpu: bool, target: Target | None = None) -> None:
    """Nothing, if the largest of ``cases`` fits into the CPU's free memory, or runs on a GPU.

    On a GPU, a case that does not fit is a row that says so. The frameworks are to fit anywhere.

    Raises:
        PlanError: if it does not fit.
    """
    mapped = limits.left_by_ulimit("-v")
    if mapped is not None and mapped < cost.MAPPED_BYTES:
        raise PlanError(
            f"the frameworks need {cost.readable_bytes(cost.MAPPED_BYTES)} of address space, most "
            f"of it never touched, and 'ulimit -v' leaves {cost.readable_bytes(mapped)}; "
            "raise it, or run 'ulimit -v unlimited' first"
        )
    if on_gpu:
        return
    needed, free = needed_bytes(cases, target), limits.free_memory()
    if needed > free.bytes:
        raise PlanError(
            f"the plan needs about {cost.readable_bytes(needed)} of memory, "
            f"{cost.readable_bytes(free.bytes)} are free; {free.remedy} or take a smaller plan"
        )


def check_gpu_computes(frameworks: Iterable[Framework]) -> dict[Framework, str]:
    """On what each of ``frameworks`` has just computed: the chosen GPU, under the framework's name.

    Raises:
        PlanError: if one of them cannot compute on it.
    """
    names = sorted(frameworks)
    with ThreadPoolExecutor(len(names)) as side_by_side:
        return dict(zip(names, side_by_side.map(_computing_on_gpu, names), strict=True))


def _computing_on_gpu(framework: Framework) -> str:
    settings = {
        "CUDA_VISIBLE_DEVICES": environment.chosen_gpu().uuid,
        "JAX_PLATFORMS": "cuda",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    command = [sys.executable, "-c", COMPUTING_ON_GPU[framework]]
    try:
        done = subprocess.run(
            command,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=COMPUTING_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"no result within {COMPUTING_SECONDS} s"
    else:
        if done.returncode == 0:
            return done.stdout.strip()
        # The first error is the cause: JAX logs it, and ends with one that says nothing.
        errors = re.findall(r"^[\w.]*Error: .+", done.stderr, re.MULTILINE)
        reason = errors[0] if errors else f"exit code {done.returncode}"
    raise PlanError(
        f"NVML finds a GPU and {framework} cannot use it ({reason}); run 'make setup' for packages "
        "as they are pinned, update NVIDIA's driver, or take PLAN=cpu"
    )


def check_time_limit(timeout_seconds: float) -> None:
    """Nothing, if a case may run as long as ``timeout_seconds``.

    Raises:
        PlanError: if that is no time, or longer than a week.
    """
    if not 0 < timeout_seconds <= LONGEST_SECONDS:
        raise PlanError(
            f"a time limit of {timeout_seconds} s was asked for; "
            f"give more than 0 and at most {LONGEST_SECONDS} seconds (a week)"
        )


def needed_bytes(cases: Iterable[Case], target: Target | None = None) -> int:
    """The expected peak of the largest setting of ``cases``, in bytes."""
    if target is not None:
        return cost.ACCOUNTING_BYTES
    return max(map(cost.memory_bytes, by_setting(cases)))
