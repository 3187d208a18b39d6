"""The child: loads one framework, measures a case or several in turn, hands back what it found.

For a GPU that is not there it accounts for the case instead, with the same functions.
"""

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np

from reproduce import measure, problems
from reproduce.experiment import Experiment, Finding, Setting, Tools, time_in_turn
from reproduce.plan import Case, Framework
from reproduce.rows import Status
from reproduce.target import Target

COMPILER_MODULE = "reproduce.in_torch.compiler"


class Site(msgspec.Struct, frozen=True):
    """Where a worker works: log, cores, GPU by its UUID, and folder of shared programs.

    ``gpu`` is None on a CPU, ``shared_programs`` None where each process compiles anew.
    With a ``target``, nothing is measured, and the case is accounted for on that GPU. In
    check mode (``checks``), what is measured is computed deterministically, and digested.
    """

    log: Path
    cores: set[int]
    gpu: str | None
    shared_programs: Path | None
    target: Target | None = None
    checks: bool = False


def modules(framework: Framework) -> list[str]:
    """The modules that a worker of ``framework`` needs, to be loaded once before forking."""
    names = ("hvp", "many_vectors", "peers", "models", "device")
    return [f"reproduce.in_{framework}.{name}" for name in names]


def accounting_module(framework: Framework) -> str:
    """The further module of a worker that accounts for a case instead of measuring it."""
    return f"reproduce.in_{framework}.accounting"


def run(connection: Connection, cases: list[Case], site: Site) -> None:
    """Measures ``cases``, sends their Findings through ``connection`` and ends the process.

    Whatever the frameworks print goes to the site's log. Interrupts are the parent's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with site.log.open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    os.sched_setaffinity(0, site.cores)
    gc.freeze()  # what was loaded before the fork need not be searched for garbage
    connection.send(find(cases, site))
    connection.close()
    sys.stderr.flush()
    os._exit(0)  # tearing the frameworks down takes longer than the whole start


def find(cases: list[Case], site: Site) -> list[Finding]:
    """What measuring ``cases`` in this process gives, each its own; a failure is one, too.

    They differ in method and number of vectors alone. Several are timed in turn.
    """
    case = cases[0]
    hvp, many_vectors, peers, models, device = map(import_module, modules(case.framework))
    if site.checks:
        device.use_deterministic_algorithms()
    findings = [Finding(precision=device.precision()) for _ in cases]
    with _failure_noted(findings, device):
        # First, since a thread stays with the memory that it began with: XLA's start soon.
        if site.gpu is None and case.quantity == "memory":
            measure.return_freed_memory_at_once()
        elif site.gpu is None and case.quantity == "time":
            measure.keep_freed_memory()
        _check_platform(device, "cpu" if site.gpu is None else "gpu")
        device.use_cores(len(site.cores))
        if site.shared_programs is not None and site.target is None:
            device.share_programs(site.shared_programs)
        tools = Tools(hvp.METHODS | peers.METHODS, many_vectors, models, device)
        weights = _weights(case, site.target)
        setting = Setting(case, tools, weights, site.checks, site.shared_programs)
        experiments = list(map(partial(Experiment, setting=setting), cases, findings))
        start = time.perf_counter()
        for experiment in experiments:
            with _failure_noted([experiment.finding], device):
                _prepare_or_measure(experiment, site)
        ready = [each for each in experiments if each.finding.status == "done"]
        if case.quantity == "time" and site.target is None and ready:
            time_in_turn(ready)
        for finding in findings:
            finding.measuring_seconds = (time.perf_counter() - start) / len(cases)
    return findings


def _prepare_or_measure(experiment: Experiment, site: Site) -> None:
    """Prepare what is timed with others, compile, or measure."""
    if site.target is not None:
        accounting = import_module(accounting_module(experiment.case.framework))
        experiment.account(accounting, site.target, site.shared_programs)
    elif experiment.case.quantity == "time":
        experiment.prepare_timing()
    elif experiment.case.quantity == "compilation":
        experiment.prepare_case()
    else:
        experiment.measure_memory(site.gpu)


@contextmanager
def _failure_noted(findings: list[Finding], device: ModuleType) -> Iterator[None]:
    """Make a failure inside the block one of all ``findings`` that are without."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        text = "".join(traceback.format_exception_only(error)).replace(":\n", ": ")
        for finding in findings:
            if finding.status == "done":
                finding.status = _status(error, device)
                finding.reason = text.splitlines()[0][:300]


def _weights(case: Case, target: Target | None) -> dict[str, np.ndarray]:
    """The weights of ``case``; zeros where only their shapes are looked at."""
    problem = problems.PROBLEMS[case.model]
    if target is None:
        return problems.weights(problem, case.seed)
    shapes = problems.weight_shapes(problem)
    return {name: np.zeros(shape, "float32") for name, shape in shapes.items()}


def _check_platform(device: ModuleType, wanted: str) -> None:
    # A framework that cannot load CUDA falls back to the CPU: never under a GPU's name.
    if device.platform() != wanted:
        raise RuntimeError(
            f"a {wanted} was asked for, the framework uses the {device.platform()}; "
            "see workers.log for why it could not load the other"
        )


def _status(error: Exception, device: ModuleType) -> Status:
    if isinstance(error, MemoryError) or device.is_out_of_memory(error):
        return "out_of_memory"
    return "unsupported" if device.is_unsupported(error) else "error"
