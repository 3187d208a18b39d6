"""The parent: what of a plan is missing, measured, and its rows appended as they are found."""

import getpass
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, closing
from itertools import filterfalse
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from reproduce import conditions, cost, environment
from reproduce.plan import Case, PlanError
from reproduce.processes import Processes
from reproduce.progress import Progress
from reproduce.rows import Row, RowsFile
from reproduce.target import Target

SETTLED = {"done", "out_of_memory", "unsupported"}


def measure(
    cases: list[Case],
    folder: Path,
    on_gpu: bool,
    timeout_seconds: float,
    target: Target | None = None,
    checks: bool = False,
) -> list[Row]:
    """One row for each of ``cases``, those that ``folder`` held already among them.

    With a ``target``, the cases are accounted for on that GPU instead of measured here. In
    check mode (``checks``) they are measured deterministically, and their results digested.
    Only the missing cases are measured, and those whose code or environment changed or
    that ended by a crash or the time limit. A failed case becomes a row, and the run
    goes on. An interrupt ends the workers and goes on to the caller.

    Raises:
        PlanError: if the plan cannot be measured here, before anything is.
    """
    _set_worker_environment(on_gpu)
    conditions.check_time_limit(timeout_seconds)
    conditions.check(cases, folder, on_gpu, target)
    with _locked(folder), closing(RowsFile(folder / "rows.jsonl")) as rows:
        at_once = cases_at_once(cases, on_gpu, target)
        processes = Processes(folder, on_gpu, timeout_seconds, at_once, target, checks)
        missing = pending(cases, rows.rows, processes.identity, is_accounted=target is not None)
        steps = [*filterfalse(processes.has_program, compilations(missing)), *missing]
        expected = {case: expected_seconds(case, at_once, target) for case in steps}
        with Progress(len(cases) - len(missing), expected, folder) as progress:
            progress.report_aside(rows.set_aside)
            if missing:
                processes.load(steps, progress)
            # Closed however the loop ends: that is what ends the workers.
            with closing(processes.rows(steps, progress)) as found:
                for row in found:
                    if row.quantity != "compilation":
                        rows.append(row)
                    progress.end(row)
    wanted = set(cases)
    return [row for case, row in newest(rows.rows).items() if case in wanted]


def pending(
    cases: list[Case], rows: list[Row], identity: dict, is_accounted: bool = False
) -> list[Case]:
    """Those of ``cases`` that no settled row of the same code and environment answers."""
    frameworks = {case.framework for case in cases}
    hashes = {name: environment.code_hash(name, is_accounted) for name in frameworks}
    settled = {
        row.case
        for row in rows
        if row.status in SETTLED
        and row.code_hash == hashes.get(row.framework)
        and row.environment.get("identity") == identity
    }
    return [case for case in cases if case not in settled]


def compilations(cases: Iterable[Case]) -> list[Case]:
    """What is compiled by ``torch.compile`` before ``cases``, on a CPU side by side.

    The gradient, which is timed beside each, is among it. The longest come first, so that none
    is left to end alone. No row comes of these.
    """
    only_compiled = {"quantity": "compilation", "warmup": 0, "repetitions": 1, "in_turn": False}
    programs = (
        msgspec.structs.replace(case, vector="params", **only_compiled, **changes)
        for case in cases
        for changes in ({}, {"method": "gradient", "vectors": 1})
        if case.mode == "compile"
    )
    return sorted(dict.fromkeys(programs), key=cost.seconds, reverse=True)


def from_nothing(cases: Iterable[Case]) -> list[Case]:
    """All that a run of ``cases`` does where nothing is kept: what it compiles, then these."""
    return [*compilations(cases), *cases]


def expected_seconds(case: Case, at_once: int, target: Target | None = None) -> float:
    """The seconds by which ``case`` is expected to prolong a run, with ``at_once`` side by side."""
    if target is not None:
        return cost.accounting_seconds(case) / at_once
    return cost.seconds(case) / (1 if case.quantity == "time" else at_once)


def cases_at_once(cases: Iterable[Case], on_gpu: bool, target: Target | None = None) -> int:
    """How many cases that are not timed run side by side: as cores and memory allow; 1 on a GPU."""
    if on_gpu:
        return 1
    side_by_side = [case for case in from_nothing(cases) if case.quantity != "time"] or cases
    that_fit = environment.free_bytes(on_gpu) // conditions.needed_bytes(side_by_side, target)
    return max(1, min(len(os.sched_getaffinity(0)), that_fit))


def newest(rows: list[Row]) -> dict[Case, Row]:
    """The last row of each case."""
    return {row.case: row for row in rows}


def _set_worker_environment(on_gpu: bool) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ |= {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # NVML's order
        "HF_HUB_OFFLINE": "1",
        # torch.compile's modules look for a GPU when they are loaded; through CUDA, no process
        # that is forked afterwards could use it.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    try:
        getpass.getuser()
    except KeyError:  # torch asks for it to name a folder
        os.environ["USER"] = f"user-{os.getuid()}"
    if on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = environment.gpu()[0].uuid
        if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its old name; JAX refuses both
            # XLA's own limit is 75 % of the GPU's memory, whether it is allocated ahead or not.
            os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    else:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "KINETO_LOG_LEVEL": "5",  # above errors: PyTorch's profiler asks for a GPU's driver
        }


def _locked(folder: Path) -> AbstractContextManager:
    try:
        return FileLock(folder / "rows.lock").acquire(blocking=False)
    except Timeout:
        raise PlanError(
            f"another run is measuring into {folder}; wait for it, or give another RESULTS"
        ) from None
