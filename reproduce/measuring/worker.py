"""The child process: it prepares the cases of one setting, times them when told to, and reports.

For a GPU that is not there, it accounts for the cases instead, with the same functions.
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
from reproduce.measuring.framework import Accounting, Device, Tools
from reproduce.measuring.measurement import Measurement, Outcome, time_in_turn
from reproduce.measuring.network import Network
from reproduce.plan import SMOKE, Case, Framework
from reproduce.results.rows import Status, encodable

# As in the article's memory runs.
NVML_VARIABLES = {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}


class Site(msgspec.Struct, frozen=True):
    """A worker's surroundings: log, cores to prepare on, GPU by its UUID, folder of programs.

    ``gpu`` is None on a CPU. ``preparing_cores`` is the worker's part of the cores while other
    workers prepare; timing uses all cores. With a ``target``, nothing is measured, and the cases
    are accounted for on that GPU. In check mode (``checks``), results are computed
    deterministically and digested.
    """

    log: Path
    preparing_cores: int
    gpu: str | None
    programs: Path
    target: Target | None = None
    checks: bool = False


def modules(framework: Framework) -> list[str]:
    """The modules that a worker of ``framework`` needs; they are loaded once before forking."""
    names = ("hvp", "many_vectors", "peers", "products", "models", "device")
    return [f"reproduce.in_{framework}.{name}" for name in names]


def accounting_module(framework: Framework) -> str:
    """The additional module for accounting for a case instead of measuring it."""
    return f"reproduce.in_{framework}.accounting"


def run(connection: Connection, cases: list[Case], site: Site) -> None:
    """Measures ``cases``, sends their Outcomes through ``connection`` and ends the process.

    Cases to be timed are prepared first. The worker then sends None, and starts timing when it
    gets an answer. All output of the frameworks goes to the site's log. Interrupts are left to the
    parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    site.log.parent.mkdir(exist_ok=True)
    with site.log.open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    gc.freeze()  # garbage collection need not search what was loaded before the fork

    def wait_for_turn() -> None:
        connection.send(None)
        connection.recv()
        gc.collect()
        gc.freeze()  # nor, while it is timed, what was loaded since: on a GPU, the frameworks

    connection.send(measure(cases, site, wait_for_turn))
    connection.close()
    sys.stderr.flush()
    os._exit(0)  # tearing the frameworks down takes longer than the whole start


def measure(
    cases: list[Case], site: Site, wait_for_turn: Callable[[], None] = lambda: None
) -> list[Outcome]:
    """Measure ``cases`` in this process and return an outcome for each, also if it fails.

    The cases differ only in method and number of vectors. ``wait_for_turn`` is called before any
    of them is timed.
    """
    case = cases[0]
    if case.quantity == "nvml":
        os.environ |= NVML_VARIABLES
    outcomes = [Outcome() for _ in cases]
    device: Device = _module(f"reproduce.in_{case.framework}.device")
    with _failure_noted(outcomes, device):
        # First, because a thread keeps the memory arena that it starts with, and XLA's start soon.
        if site.gpu is None and case.quantity == "memory":
            memory.return_freed_memory_at_once()
        elif site.gpu is None and case.quantity == "time":
            memory.keep_freed_memory()
        network = _network(case, site)
        precision = _precision(case, device)
        for outcome in outcomes:
            outcome.precision = precision
        start = time.perf_counter()
        waited = 0.0
        if case.quantity == "time":
            waited = _time(cases, outcomes, network, site, wait_for_turn)
        else:
            for each, outcome in zip(cases, outcomes, strict=True):
                with _failure_noted([outcome], device):
                    _count(Measurement(each, outcome, network), site)
        for outcome in outcomes:
            outcome.measuring_seconds = (time.perf_counter() - start - waited) / len(cases)
    return outcomes


def _network(case: Case, site: Site) -> Network:
    hvp, many_vectors, peers, products, models, device = map(_module, modules(case.framework))
    if site.checks:
        device.use_deterministic_algorithms()
    if case.plan == SMOKE:
        device.compile_unoptimised()
    # A framework that cannot load CUDA falls back to the CPU, which must not pass for a GPU.
    wanted = "cpu" if site.gpu is None else "gpu"
    if device.platform() != wanted:
        raise RuntimeError(
            f"a {wanted} was asked for, and the framework uses the {device.platform()}: "
            f"it could not load what the {wanted} needs"
        )
    # torch.compile would compile again if the number of threads changed.
    device.use_cores(limits.cores() if case.mode == "compile" else site.preparing_cores)
    if site.target is None and case.quantity != "nvml":  # the article's count includes compiling
        device.share_programs(site.programs)
    methods = hvp.METHODS | peers.METHODS | products.METHODS
    tools = Tools(methods, many_vectors, models, device)
    return Network(case, tools, _weights(case, site.target), site.checks)


def _module(name: str) -> Any:
    """The module ``name`` of a framework, which follows the Protocol in ``framework.py``."""
    return import_module(name)


def _precision(case: Case, device: Device) -> dict[str, Any]:
    """The options of precision; for timed cases also the error of a product (it takes memory)."""
    if case.quantity != "time":
        return device.precision()
    error = comparing.product_error(device.product)
    return device.precision() | {f"{case.framework}_product_error": error}


def _time(
    cases: list[Case],
    outcomes: list[Outcome],
    network: Network,
    site: Site,
    wait_for_turn: Callable[[], None],
) -> float:
    """Prepare ``cases`` and the gradient, wait, time them; return the seconds waited."""
    device = network.tools.device
    # On a GPU, XLA tries algorithms out when it compiles. Programs that one process compiles at the
    # same time spoil and repeat each other's trials (openxla/xla, pull requests 41399 and 41620).
    if site.gpu is None and cases[0].mode == "jit" and site.preparing_cores > 1:
        network.compile_side_by_side({case.method for case in cases}, site.preparing_cores)
    wanted = list(zip(cases, outcomes, strict=True))
    if cases[0].method != "gradient":
        gradient = msgspec.structs.replace(cases[0], method="gradient", vectors=1)
        wanted.insert(0, (gradient, Outcome()))
    measurements: list[Measurement] = []
    for case, outcome in wanted:
        with _failure_noted([outcome] if measurements else outcomes, device):
            # Created only now, since its vector may be the gradient that was just computed.
            measurement = Measurement(case, outcome, network)
            measurement.prepare_timing()
            measurements.append(measurement)
        if not measurements:
            return 0.0  # the gradient failed, and every round needs it
    start = time.perf_counter()
    wait_for_turn()
    waited = time.perf_counter() - start
    device.use_cores(limits.cores())
    time_in_turn(measurements)
    return waited


def _count(measurement: Measurement, site: Site) -> None:
    """Account for the case, or count the memory that it takes here."""
    if site.target is not None:
        accounting: Accounting = _module(accounting_module(measurement.case.framework))
        measurement.account(accounting, site.target, site.programs)
    elif measurement.case.quantity == "nvml":
        assert site.gpu is not None  # without a GPU, --nvml is refused
        measurement.measure_nvml(site.gpu)
    else:
        measurement.measure_memory(site.gpu)


@contextmanager
def _failure_noted(outcomes: list[Outcome], device: Device) -> Iterator[None]:
    """Record a failure inside the block in all ``outcomes`` that have none yet."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        text = "".join(traceback.format_exception_only(error)).replace(":\n", ": ")
        for outcome in outcomes:
            if outcome.status == "done":
                outcome.status = _status(error, device)
                outcome.reason = encodable(text.splitlines()[0][:300])


def _weights(case: Case, target: Target | None) -> dict[str, np.ndarray]:
    """The weights of ``case``; zeros if only their shapes matter."""
    problem = problems.PROBLEMS[case.model]
    if target is None:
        return problems.weights(problem, case.seed)
    shapes = problems.weight_shapes(problem)
    return {name: np.zeros(shape, "float32") for name, shape in shapes.items()}


def _status(error: Exception, device: Device) -> Status:
    if isinstance(error, MemoryError) or device.is_out_of_memory(error):
        return "out_of_memory"
    return "unsupported" if device.is_unsupported(error) else "error"
