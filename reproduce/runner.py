"""The parent: a worker process for each case or turn of cases, rows appended as they are found."""

import getpass
import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, closing, suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue

import msgspec
from filelock import FileLock, Timeout

from reproduce import conditions, cost, endings, environment, worker
from reproduce.experiment import REFERENCE
from reproduce.plan import AMORTISED, Case, Framework, PlanError
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
        site = Measuring(folder, on_gpu, timeout_seconds, at_once, target, checks)
        missing = pending(cases, rows.rows, site.identity, is_accounted=target is not None)
        to_compile = [case for case in compilations(missing, on_gpu) if not site.has_program(case)]
        steps = [*to_compile, *missing]
        expected = {case: expected_seconds(case, at_once, target) for case in steps}
        with Progress(len(cases) - len(missing), expected, folder) as progress:
            progress.report_aside(rows.set_aside)
            if missing:
                site.load(missing, progress)
            # Closed however the loop ends: that is what ends the workers.
            with closing(site.rows(steps, progress)) as found:
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


def compilations(cases: Iterable[Case], on_gpu: bool) -> list[Case]:
    """What is compiled by ``torch.compile`` before ``cases``, so that it is done side by side.

    No row comes of these. On a GPU, where one case runs at a time, each compiles its own.
    """
    only_compiled = {"quantity": "compilation", "warmup": 0, "repetitions": 1, "in_turn": False}
    programs = (
        msgspec.structs.replace(case, vector="params", **only_compiled)
        for case in cases
        if case.mode == "compile" and not on_gpu
    )
    return list(dict.fromkeys(programs))


def expected_seconds(case: Case, at_once: int, target: Target | None = None) -> float:
    """The seconds by which ``case`` is expected to prolong a run, with ``at_once`` side by side."""
    if target is not None:
        return cost.accounting_seconds(case) / at_once
    return cost.seconds(case) / (1 if case.quantity == "time" else at_once)


def cases_at_once(cases: Iterable[Case], on_gpu: bool, target: Target | None = None) -> int:
    """How many cases that are not timed run side by side: as cores and memory allow; 1 on a GPU."""
    if on_gpu:
        return 1
    steps = [*compilations(cases, on_gpu), *cases]
    side_by_side = [case for case in steps if case.quantity != "time"] or cases
    that_fit = environment.free_bytes(on_gpu) // conditions.needed_bytes(side_by_side, target)
    return max(1, min(len(os.sched_getaffinity(0)), that_fit))


def by_process(cases: Iterable[Case]) -> list[list[Case]]:
    """``cases``, by the process that measures them: those that are timed in turn share one.

    The one that others are compared with comes first.
    """
    found: dict[Case, list[Case]] = {}
    for case in cases:
        shared = {"method": REFERENCE, "vectors": 1} if case.in_turn else {}
        found.setdefault(msgspec.structs.replace(case, **shared), []).append(case)
    return [sorted(each, key=lambda case: case.method != REFERENCE) for each in found.values()]


def newest(rows: list[Row]) -> dict[Case, Row]:
    """The last row of each case."""
    return {row.case: row for row in rows}


def _set_worker_environment(on_gpu: bool) -> None:
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
    if not on_gpu:
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


class Measuring:
    """Where cases are measured: folder, device, and the processes that workers fork from."""

    def __init__(
        self,
        folder: Path,
        on_gpu: bool,
        timeout_seconds: float,
        at_once: int,
        target: Target | None = None,
        checks: bool = False,
    ) -> None:
        self.folder, self.on_gpu, self.timeout_seconds = folder, on_gpu, timeout_seconds
        self.at_once, self.target = at_once, target
        self.checks = checks
        accounted = target and environment.identity_of_accounting(target)
        identity_of_run = environment.identity_of_checking if checks else environment.identity
        identity = accounted or identity_of_run(on_gpu)
        # As it reads in a row, where JSON has made lists of tuples.
        self.identity = msgspec.json.decode(msgspec.json.encode(identity))
        self.context = multiprocessing.get_context("forkserver")
        self.processes: set[multiprocessing.process.BaseProcess] = set()
        self.stopped = False

    def load(self, cases: list[Case], progress: Progress) -> None:
        """Loads the frameworks once, in the process that all workers fork from.

        Raises:
            PlanError: if one of them cannot be loaded.
        """
        frameworks = sorted({case.framework for case in cases})
        names = [name for framework in frameworks for name in worker.modules(framework)]
        if self.target is not None:
            names += [worker.accounting_module(framework) for framework in frameworks]
        if any(case.mode == "compile" for case in cases):
            names.append(worker.COMPILER_MODULE)
            os.environ |= {
                "TORCHINDUCTOR_CACHE_DIR": str(self._programs_of("torch") / "inductor"),
                "TORCHINDUCTOR_COMPILE_THREADS": "1",  # workers run side by side themselves
            }
            if any(map(self.has_program, compilations(cases, self.on_gpu))):
                # What compiled these need not be asked again which instructions it knows: 9 s.
                os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"
        self.context.set_forkserver_preload([*names, "reproduce.endings"])
        with progress.loading(frameworks):
            first = self.context.Process(target=_import_all, args=(names,))
            with suppress(OSError, EOFError):  # if loading ended the process to fork from
                first.start()
                first.join()
        if first.exitcode != 0:
            raise PlanError(
                f"the plan needs {' and '.join(frameworks)}, which cannot be loaded here, for the "
                "reason above; run 'make setup', or give another environment as VENV"
            )

    def rows(self, cases: list[Case], progress: Progress) -> Iterator[Row]:
        """The rows of ``cases``: first what is compiled and counted, then what is timed.

        Yields:
            A row as soon as it is found. On a CPU, memory is counted by process, so that
            several cases can run side by side, each on cores of its own; what is
            compiled is then there for the timings, which run alone.
        """
        cores = sorted(os.sched_getaffinity(0))
        for is_timed, at_once in ((False, self.at_once), (True, 1)):
            chosen = [case for case in cases if (case.quantity == "time") == is_timed]
            places = [set(cores[first::at_once]) for first in range(at_once)]
            if self.checks and not is_timed:
                # PyTorch's values depend on the number of cores, which free memory must not decide.
                places = [{core} for core in cores[:at_once]]
            yield from self._rows(chosen, places, progress)

    def _rows(self, cases: list[Case], places: list[set[int]], progress: Progress) -> Iterator[Row]:
        """The cases of one process at a time on each of ``places``, which are sets of cores.

        Yields:
            The row of each case, as soon as it is found.
        """
        free = SimpleQueue()
        for place in places:
            free.put(place)

        def rows(together: list[Case]) -> list[Row]:
            progress.begin(together)
            place = free.get()
            try:
                return self._rows_of(together, place)
            finally:
                free.put(place)

        with ThreadPoolExecutor(len(places)) as pool:
            try:
                futures = [pool.submit(rows, together) for together in by_process(cases)]
                for future in as_completed(futures):
                    yield from future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.stopped = True
                for process in list(self.processes):
                    process.kill()
                raise

    def _rows_of(self, cases: list[Case], cores: set[int]) -> list[Row]:
        """The rows of ``cases``, which are measured together; alone, what fails so."""
        started, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        is_accounted = self.target is not None
        state = (
            environment.state_of_accounting() if is_accounted else environment.state(self.on_gpu)
        )
        findings = self._findings(cases, cores)
        if len(cases) > 1:
            for place, case in enumerate(cases):
                if findings[place].status not in {"done", "unsupported"}:
                    findings[place : place + 1] = self._findings([case], cores)
        seconds = (time.perf_counter() - start) / len(cases)
        return [
            self._row(case, finding, case_seconds=seconds, state=state, started=started)
            for case, finding in zip(cases, findings, strict=True)
        ]

    def _row(
        self, case: Case, finding: worker.Finding, case_seconds: float, state: dict, started: str
    ) -> Row:
        found = msgspec.structs.asdict(finding)
        precision = found.pop("precision")
        of_run = {
            "device": self._device(case),
            "case_seconds": case_seconds,
            "environment": {"identity": self.identity, "state": state, "precision": precision},
            "code_hash": environment.code_hash(case.framework, self.target is not None),
            "started": started,
        }
        return msgspec.convert(msgspec.structs.asdict(case) | found | of_run, Row)

    def _device(self, case: Case) -> str:
        if self.target is not None:
            return environment.device_of_accounting(self.target, case)
        return self.identity["device"]

    def _findings(self, cases: list[Case], cores: set[int]) -> list[worker.Finding]:
        """What a process of their own finds of ``cases``, or how that process ended."""
        receiving, sending = self.context.Pipe(duplex=False)
        site = self._site(cases[0], cores)
        arguments = (worker.run, sending, cases, site)
        process = self.context.Process(target=endings.run_while_parent_lives, args=arguments)
        killed_for_memory = endings.kills_for_memory()
        try:
            process.start()
        except (OSError, EOFError) as error:  # the process to fork from has just ended
            reason = f"no worker could be started: {error!r}"
            return [worker.Finding(status="error", reason=reason)] * len(cases)
        self.processes.add(process)
        if self.stopped:  # meanwhile
            process.kill()
        sending.close()
        limit = self.timeout_seconds * len(cases)
        try:
            if not receiving.poll(limit):
                reason = f"no result within {limit:g} s; raise --timeout-seconds"
                return [worker.Finding(status="timeout", reason=reason)] * len(cases)
            return receiving.recv()
        except (OSError, EOFError):
            process.join()
            was_for_memory = endings.kills_for_memory() > killed_for_memory
            ended = endings.early_end(process.exitcode, was_for_memory, site.log)
            return [ended] * len(cases)
        finally:
            process.kill()
            process.join()
            self.processes.discard(process)
            receiving.close()

    def _site(self, case: Case, cores: set[int]) -> worker.Site:
        programs = self._programs_of(case.framework)
        programs.mkdir(parents=True, exist_ok=True)
        return worker.Site(
            log=self.folder / "workers.log",
            cores=cores,
            gpu=environment.gpu()[0].uuid if self.on_gpu else None,
            # On a GPU, a memory case compiles for itself, as the article's did: compiling fills
            # the allocator that it looks at, and none may depend on what another left.
            shared_programs=programs if case.quantity == "time" or not self.on_gpu else None,
            target=self.target,
            checks=self.checks,
        )

    def has_program(self, compilation: Case) -> bool:
        """Whether an earlier run has kept what ``compilation`` would make."""
        # An amortised HVP is two programs, of which the product is made last.
        last = "product" if compilation.method in AMORTISED else compilation.vectors
        kept = f"{compilation.problem}-{compilation.method}-{last}"
        return (self._programs_of("torch") / kept).exists()

    def _programs_of(self, framework: Framework) -> Path:
        """The folder of compiled programs, in PyTorch of this code and environment alone.

        JAX finds its programs by their contents, those of PyTorch are found by name.
        """
        folder = self.folder.resolve() / "programs"
        if framework == "torch":
            code = environment.code_hash(framework, self.target is not None)
            of = msgspec.json.encode((code, self.identity))
            folder /= f"torch-{hashlib.sha256(of).hexdigest()[:12]}"
        return folder


def _import_all(names: list[str]) -> None:
    for name in names:
        import_module(name)
