"""The child: prepares the cases of one setting, times them when told to, hands back what it found.

For a GPU that is not there it accounts for them instead, with the same functions.
"""

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reproduce import problems
from reproduce.machine import limits, memory
from reproduce.machine.target import Target
from reproduce.measuring import comparing
from reproduce.measuring.experiment import Experiment, Finding, Instance, time_in_turn
from reproduce.measuring.framework import Accounting, Device, Tools
from reproduce.plan import SMOKE, Case, Framework
from reproduce.results.rows import Status, encodable

# As the article's runs of memory set it.
NVML_SETTINGS = {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}


class Site(msgspec.Struct, frozen=True):
    """A worker's surroundings: log, cores to prepare on, GPU by its UUID, folder of programs.

    ``gpu`` is None on a CPU. Of ``preparing_cores`` there are fewer than of all while others
    prepare beside it; all cores time.
    With a ``target``, nothing is measured, and the cases are accounted for on that GPU. In
    check mode (``checks``), what is measured is computed deterministically, and digested.
    """

    log: Path
    preparing_cores: int
    gpu: str | None
    programs: Path
    target: Target | None = None
    checks: bool = False


def modules(framework: Framework) -> list[str]:
    """The modules that a worker of ``framework`` needs, to be loaded once before forking."""
    names = ("hvp", "many_vectors", "peers", "products", "models", "device")
    return [f"reproduce.in_{framework}.{name}" for name in names]


def accounting_module(framework: Framework) -> str:
    """The further module of a worker that accounts for a case instead of measuring it."""
    return f"reproduce.in_{framework}.accounting"


def run(connection: Connection, cases: list[Case], site: Site) -> None:
    """Measures ``cases``, sends their Findings through ``connection`` and ends the process.

    What is to be timed is prepared first: then None is sent, and timing begins with an answer.
    Whatever the frameworks print goes to the site's log. Interrupts are the parent's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    site.log.parent.mkdir(exist_ok=True)
    with site.log.open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    gc.freeze()  # what was loaded before the fork need not be searched for garbage

    def wait_for_turn() -> None:
        connection.send(None)
        connection.recv()

    connection.send(find(cases, site, wait_for_turn))
    connection.close()
    sys.stderr.flush()
    os._exit(0)  # tearing the frameworks down takes longer than the whole start


def find(
    cases: list[Case], site: Site, wait_for_turn: Callable[[], None] = lambda: None
) -> list[Finding]:
    """Measure ``cases`` in this process and return a finding of each; a failure is one, too.

    They differ in method and number of vectors alone. Before any is timed, ``wait_for_turn``
    is called.
    """
    case = cases[0]
    if case.quantity == "nvml":
        os.environ |= NVML_SETTINGS
    findings = [Finding() for _ in cases]
    device: Device = _module(f"reproduce.in_{case.framework}.device")
    with _failure_noted(findings, device):
        # First, since a thread stays with the memory that it began with: XLA's start soon.
        if site.gpu is None and case.quantity == "memory":
            memory.return_freed_memory_at_once()
        elif site.gpu is None and case.quantity == "time":
            memory.keep_freed_memory()
        instance = _instance(case, site)
        for finding in findings:
            finding.precision = _precision(case, site, device)
        start = time.perf_counter()
        waited = 0.0
        if case.quantity == "time" and site.target is None:
            waited = _time(cases, findings, instance, site, wait_for_turn)
        else:
            for each, finding in zip(cases, findings, strict=True):
                with _failure_noted([finding], device):
                    _measure(Experiment(each, finding, instance), site)
        for finding in findings:
            finding.measuring_seconds = (time.perf_counter() - start - waited) / len(cases)
    return findings


def _instance(case: Case, site: Site) -> Instance:
    hvp, many_vectors, peers, products, models, device = map(_module, modules(case.framework))
    if site.checks:
        device.use_deterministic_algorithms()
    if case.plan == SMOKE:
        device.compile_unoptimised()
    # A framework that cannot load CUDA falls back to the CPU: never under a GPU's name.
    wanted = "cpu" if site.gpu is None else "gpu"
    if device.platform() != wanted:
        raise RuntimeError(
            f"a {wanted} was asked for, the framework uses the {device.platform()}: "
            "it could not load the other"
        )
    # With another number of threads than it was compiled for, torch.compile would compile anew.
    device.use_cores(limits.cores() if case.mode == "compile" else site.preparing_cores)
    if site.target is None and case.quantity != "nvml":  # the article's count has compilation
        device.share_programs(site.programs)
    methods = hvp.METHODS | peers.METHODS | products.METHODS
    tools = Tools(methods, many_vectors, models, device)
    return Instance(case, tools, _weights(case, site.target), site.checks)


def _module(name: str) -> Any:
    """A module of a framework, which is as the Protocol of its name has it."""
    return import_module(name)


def _precision(case: Case, site: Site, device: Device) -> dict[str, Any]:
    """The settings of precision, and what they come to, where that leaves no trace in memory."""
    if case.quantity != "time" or site.target is not None:
        return device.precision()
    error = comparing.product_error(device.product)
    return device.precision() | {f"{case.framework}_product_error": error}


def _time(
    cases: list[Case],
    findings: list[Finding],
    instance: Instance,
    site: Site,
    wait_for_turn: Callable[[], None],
) -> float:
    """Prepare ``cases`` and the gradient, wait, time them; return the seconds waited."""
    device = instance.tools.device
    experiments = []
    if cases[0].mode == "jit" and site.preparing_cores > 1:
        instance.compile_side_by_side({case.method for case in cases}, site.preparing_cores)
    if cases[0].method != "gradient":
        of_gradient = msgspec.structs.replace(cases[0], method="gradient", vectors=1)
        experiments.append(Experiment(of_gradient, Finding(), instance))
        experiments[0].prepare_timing()
    for case, finding in zip(cases, findings, strict=True):
        with _failure_noted([finding] if experiments else findings, device):
            # Made here, since its vector may be what the gradient has just found.
            experiment = Experiment(case, finding, instance)
            experiment.prepare_timing()
            experiments.append(experiment)
        if not experiments:
            return 0.0  # the gradient failed, which all rounds have
    start = time.perf_counter()
    wait_for_turn()
    waited = time.perf_counter() - start
    device.use_cores(limits.cores())
    time_in_turn(experiments)
    return waited


def _measure(experiment: Experiment, site: Site) -> None:
    """Account for the case, or measure its memory."""
    if site.target is not None:
        accounting: Accounting = _module(accounting_module(experiment.case.framework))
        experiment.account(accounting, site.target, site.programs)
    elif experiment.case.quantity == "nvml":
        assert site.gpu is not None  # without a GPU, --nvml is refused
        experiment.measure_nvml(site.gpu)
    else:
        experiment.measure_memory(site.gpu)


@contextmanager
def _failure_noted(findings: list[Finding], device: Device) -> Iterator[None]:
    """Make a failure inside the block one of all ``findings`` that are without."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        text = "".join(traceback.format_exception_only(error)).replace(":\n", ": ")
        for finding in findings:
            if finding.status == "done":
                finding.status = _status(error, device)
                finding.reason = encodable(text.splitlines()[0][:300])


def _weights(case: Case, target: Target | None) -> dict[str, np.ndarray]:
    """The weights of ``case``; zeros where only their shapes are looked at."""
    problem = problems.PROBLEMS[case.model]
    if target is None:
        return problems.weights(problem, case.seed)
    shapes = problems.weight_shapes(problem)
    return {name: np.zeros(shape, "float32") for name, shape in shapes.items()}


def _status(error: Exception, device: Device) -> Status:
    if isinstance(error, MemoryError) or device.is_out_of_memory(error):
        return "out_of_memory"
    return "unsupported" if device.is_unsupported(error) else "error"
