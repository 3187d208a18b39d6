"""The parent process: it measures the missing cases of a plan and appends their rows at once."""

import getpass
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.measuring import preflight, schedule
from reproduce.measuring.processes import Processes
from reproduce.measuring.progress import Progress
from reproduce.measuring.share import Share
from reproduce.measuring.ways import Measured
from reproduce.plan import Case, by_setting
from reproduce.results.rows import Row, RowsFile, rows_in, rows_path

SETTLED = {"done", "out_of_memory", "timeout", "unsupported"}


def measure(
    cases: list[Case],
    folder: Path,
    way: Measured,
    timeout_seconds: float,
    share: Share | None = None,
) -> list[Row]:
    """One row for each of ``cases``, including those that ``folder`` had already.

    Only cases that are missing, whose code or environment has changed, or that ended by a crash
    are measured, in the given ``way``. With a ``share``, only its cases are considered. A failed
    case becomes a row, and the run goes on. An interrupt ends the workers and is passed on to the
    caller.

    Raises:
        UserError: before anything is measured, if the plan cannot be measured here.
    """
    set_worker_environment(way.on_gpu)
    preflight.check_time_limit(timeout_seconds)
    run = preflight.PlannedRun(cases[0].plan, cases, folder, way.on_gpu, way.target)
    preflight.check(run)
    cases = share.of(cases) if share else cases
    path = rows_path(folder, share and share.number)
    path.parent.mkdir(exist_ok=True)
    with _locked(path), closing(RowsFile(path)) as rows:
        processes = Processes(folder, way, timeout_seconds)
        missing = pending(cases, rows_in(folder), way, processes.identity)
        settings, done = by_setting(missing), len(cases) - len(missing)
        at_once = schedule.at_once(settings, schedule.here(way.on_gpu), way.target)
        with Progress(done, settings, at_once, folder, way.target) as progress:
            progress.report_aside(rows.set_aside)
            if missing:
                processes.load(settings, progress)
            # Closed however the loop ends, because closing it ends the workers.
            with closing(processes.rows(settings, progress)) as found:
                for of_setting in found:
                    rows.append(of_setting)
                    progress.end(of_setting)
        last = {row.case: row for row in rows_in(folder)}
        _remove_logs(folder, map(processes.log, settings), but={row.log for row in last.values()})
    return [last[case] for case in cases if case in last]


def pending(
    cases: list[Case], rows: list[Row], way: Measured, identity: dict[str, Any] | None = None
) -> list[Case]:
    """The ``cases`` without a settled row of the same code and environment.

    Without an ``identity``, any environment counts as the same.
    """
    settled = {
        row.case
        for row in rows
        if row.status in SETTLED
        and row.code_hash == way.code_hash(row.case)
        and (identity is None or row.environment.get("identity") == identity)
    }
    return [case for case in cases if case not in settled]


def _remove_logs(folder: Path, logs: Iterable[Path], but: set[str]) -> None:
    for log in logs:
        if str(log.relative_to(folder)) not in but:
            log.unlink(missing_ok=True)


def set_worker_environment(on_gpu: bool, jax_may_fall_back: bool = False) -> None:
    """Set the environment variables for measuring, in this process and those that it starts.

    Where JAX cannot use the GPU, it says why, unless it may fall back to the CPU.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ |= {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    try:
        getpass.getuser()
    except KeyError:  # torch asks for it to name a folder
        os.environ["USER"] = f"user-{os.getuid()}"
    if on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = environment.chosen_gpu().uuid
        if not jax_may_fall_back:
            os.environ["JAX_PLATFORMS"] = "cuda,cpu"
        if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; JAX refuses both
            # XLA's default limit is 75 % of the GPU's memory, even without preallocation.
            os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    else:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "KINETO_LOG_LEVEL": "5",  # above errors: PyTorch's profiler asks for a GPU's driver
        }


def _locked(path: Path) -> AbstractContextManager[object]:
    try:
        return FileLock(path.with_suffix(".lock")).acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another run is measuring into {path.parent}; wait for it, or give another RESULTS"
        ) from None
