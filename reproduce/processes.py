"""The processes that measure, a case or a turn of cases each, and what becomes of them."""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue

import msgspec

from reproduce import endings, environment, worker
from reproduce.experiment import REFERENCE
from reproduce.plan import AMORTISED, Case, Framework, PlanError
from reproduce.progress import Progress
from reproduce.rows import Row
from reproduce.target import Target


class Processes:
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
        self.running: set[multiprocessing.process.BaseProcess] = set()
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
            if self.on_gpu or all(case.quantity != "compilation" for case in cases):
                # Which of the CPU's instructions can be compiled is asked for 9 s and more; a
                # GPU's programs have none of them, and what is kept was compiled by the answer.
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
                for process in list(self.running):
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
        self.running.add(process)
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
            self.running.discard(process)
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
            shared_programs=None if case.quantity == "memory" and self.on_gpu else programs,
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


def by_process(cases: Iterable[Case]) -> list[list[Case]]:
    """``cases``, by the process that measures them: those that are timed in turn share one.

    The one that others are compared with comes first.
    """
    found: dict[Case, list[Case]] = {}
    for case in cases:
        shared = {"method": REFERENCE, "vectors": 1} if case.in_turn else {}
        found.setdefault(msgspec.structs.replace(case, **shared), []).append(case)
    return [sorted(each, key=lambda case: case.method != REFERENCE) for each in found.values()]


def _import_all(names: list[str]) -> None:
    for name in names:
        import_module(name)
