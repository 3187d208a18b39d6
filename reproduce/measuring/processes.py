"""The processes that measure, one per setting: prepared side by side, timed one after another."""

import multiprocessing
import os
import re
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.machine.gpu import throttling
from reproduce.measuring import cost, endings, schedule, worker
from reproduce.measuring.measurement import Outcome
from reproduce.measuring.progress import Progress
from reproduce.measuring.ways import Measured
from reproduce.plan import Case, Setting
from reproduce.results.rows import Row

# The statuses of cases that are not tried again, although other settings ran beside them.
FINAL = {"done", "unsupported"}


class Worker:
    """A process for a setting; its outcomes are None until they have arrived.

    ``seconds`` is its time without waiting for its turn. ``seen`` is what was observed of the GPU
    during timing; it is empty on a CPU.
    """

    def __init__(self, setting: Setting, process: BaseProcess, connection: Connection) -> None:
        self.setting, self.process, self.connection = setting, process, connection
        self.outcomes: list[Outcome] | None = None
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.seconds = 0.0
        self.seen: dict[str, Any] = {}

    def all_outcomes(self) -> list[Outcome]:
        """Its outcomes, once they have arrived."""
        assert self.outcomes is not None, f"{self.setting[0].setting_name} has not ended"
        return self.outcomes

    def fail(self, outcome: Outcome) -> None:
        """Ends each of its cases with ``outcome``."""
        self.outcomes = [outcome] * len(self.setting)


class Processes:
    """The workers of a run, with its folder and device.

    On a CPU, workers fork from a process that has loaded the frameworks. On a GPU each worker is a
    new process, so that nothing depends on what a fork inherits from CUDA.
    """

    def __init__(self, folder: Path, way: Measured, timeout_seconds: float) -> None:
        self.folder, self.way, self.timeout_seconds = folder, way, timeout_seconds
        self.on_gpu, self.target = way.on_gpu, way.target
        # In the form that a row has, where JSON has turned tuples into lists.
        self.identity = msgspec.json.decode(msgspec.json.encode(way.identity))
        self.programs = folder.resolve() / "programs"
        self.context: SpawnContext | ForkServerContext = (
            multiprocessing.get_context("spawn")
            if way.on_gpu
            else multiprocessing.get_context("forkserver")
        )
        self.cores = schedule.here(way.on_gpu).cores
        self.running: set[BaseProcess] = set()
        self.stopped = False

    def load(self, settings: list[Setting], progress: Progress) -> None:
        """Loads the frameworks once, in the process that all workers fork from.

        Raises:
            UserError: if one of them cannot be loaded.
        """
        self.programs.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.programs / "inductor")
        if schedule.at_once(settings, schedule.here(self.on_gpu), self.target) > 1:
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # settings compile side by side
        if self.on_gpu:
            return
        frameworks = sorted({setting[0].framework for setting in settings})
        names = [name for framework in frameworks for name in worker.modules(framework)]
        if self.target is not None:
            names += [worker.accounting_module(framework) for framework in frameworks]
        self.context.set_forkserver_preload([*names, "reproduce.measuring.endings"])
        with progress.loading(frameworks):
            first = self.context.Process(target=_import_all, args=(names,))
            with suppress(OSError, EOFError):  # if loading ended the process to fork from
                first.start()
                first.join()
        if first.exitcode != 0:
            raise UserError(
                f"the plan needs {' and '.join(frameworks)}, which cannot be loaded here, for the "
                "reason above; run 'make setup', or give another environment as VENV"
            )

    def rows(self, settings: list[Setting], progress: Progress) -> Generator[list[Row]]:
        """The rows of ``settings``; a case that failed beside others is tried again alone.

        Yields:
            The rows of a setting, as soon as they are final.
        """
        failed: list[Case] = []
        for wave in schedule.waves(settings, schedule.here(self.on_gpu), self.target):
            in_company = sum(map(len, wave)) > 1
            for found in self._found_in_wave(wave, progress):
                rows = self._rows(found)
                if in_company:
                    failed += [row.case for row in rows if row.status not in FINAL]
                    rows = [row for row in rows if row.status in FINAL]
                yield rows
        for case in failed:
            for found in self._found_in_wave([[case]], progress):
                yield self._rows(found)

    def _found_in_wave(self, wave: list[Setting], progress: Progress) -> Iterator[Worker]:
        """Measure ``wave``: its settings are prepared side by side and timed in turn.

        Yields:
            A worker with all its outcomes.
        """
        at_once = min(self.cores, len(wave))
        # In check mode, results must not depend on how many settings run.
        cores = 1 if self.way.checks else self.cores // at_once
        # The longest first, so that no long one runs alone at the end.
        longest_first = sorted(
            wave, key=lambda each: cost.parts_seconds(each, 1, self.target), reverse=True
        )
        prepared = []
        try:
            with ThreadPoolExecutor(at_once) as pool:
                futures = [pool.submit(self._prepare, each, cores) for each in longest_first]
                try:
                    for future in as_completed(futures):
                        found = future.result()
                        if found.outcomes is None:
                            prepared.append(found)
                            progress.prepared(found.setting)
                        else:
                            yield found
                except BaseException:
                    self.stopped = True
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in list(self.running):
                        process.kill()  # its thread notices and cleans up
                    raise
            for found in sorted(prepared, key=lambda found: wave.index(found.setting)):
                progress.timing(found.setting)
                self._time(found)
                yield found
        finally:
            for process in list(self.running):
                self._kill(process)

    def _prepare(self, setting: Setting, cores: int) -> Worker:
        """A worker that has prepared ``setting``, or has all outcomes of it."""
        if self.on_gpu and setting[0].quantity == "memory":
            return self._count_in_processes(setting, cores)
        return self._started(setting, cores)

    def _count_in_processes(self, setting: Setting, cores: int) -> Worker:
        """A worker with the outcomes of one process per case.

        The worker first runs the whole setting itself, so that the programs are compiled and
        cached for the processes that follow.
        """
        whole = self._started(setting, cores)
        alone = [self._started([case], cores) for case in setting]
        whole.outcomes = [each.all_outcomes()[0] for each in alone]
        whole.seconds += sum(each.seconds for each in alone)
        return whole

    def _started(self, setting: Setting, cores: int) -> Worker:
        """A worker that has prepared ``setting``, has ended, or has run out of time."""
        receiving, sending = self.context.Pipe()
        site = self._site(setting, cores)
        arguments = (worker.run, sending, setting, site)
        process = self.context.Process(target=endings.run_while_parent_lives, args=arguments)
        found = Worker(setting, process, receiving)
        try:
            process.start()
        except (OSError, EOFError) as error:  # the process to fork from has just ended
            found.fail(Outcome(status="error", reason=f"no worker could be started: {error!r}"))
            return found
        self.running.add(process)
        if self.stopped:  # meanwhile
            process.kill()
        sending.close()
        self._receive(found)
        return found

    def _time(self, found: Worker) -> None:
        """Lets a prepared worker time its setting, and watches the GPU meanwhile."""
        watched: AbstractContextManager[dict[str, Any]] = (
            environment.chosen_gpu().watched() if self.on_gpu else nullcontext({})
        )
        with watched as seen:
            with suppress(OSError):  # if it has ended meanwhile, receiving notices
                found.connection.send(None)
            self._receive(found)
        found.seen = seen
        for outcome in found.all_outcomes():
            if outcome.status == "done":
                outcome.warnings += throttling(seen.get("gpu_throttle_reasons"))

    def _receive(self, found: Worker) -> None:
        """Waits for the worker's next message: None if it is prepared, else its outcomes."""
        kills_before, start = endings.kills_for_memory(), time.perf_counter()
        limit = self.timeout_seconds * len(found.setting)
        try:
            if found.connection.poll(limit):
                found.outcomes = found.connection.recv()
            else:
                reason = f"no result within {limit:g} s; raise --timeout-seconds"
                found.fail(Outcome(status="timeout", reason=reason))
        except (OSError, EOFError):
            found.fail(endings.early_end(found.process, kills_before))
        found.seconds += time.perf_counter() - start
        if found.outcomes is not None:
            self._kill(found.process)
            found.connection.close()

    def _kill(self, process: BaseProcess) -> None:
        process.kill()
        process.join()
        self.running.discard(process)

    def log(self, setting: Setting) -> Path:
        """The file that all workers of ``setting`` print to."""
        name = re.sub(r"[^\w.]+", "-", setting[0].setting_name)
        return self.folder / "logs" / f"{name}.log"

    def _site(self, setting: Setting, cores: int) -> worker.Site:
        return worker.Site(
            log=self.log(setting),
            preparing_cores=cores,
            gpu=environment.chosen_gpu().uuid if self.on_gpu else None,
            programs=self.programs,
            target=self.target,
            checks=self.way.checks,
        )

    def _rows(self, found: Worker) -> list[Row]:
        state = self.way.state() | found.seen
        log = self.log(found.setting)
        rows = []
        for case, outcome in zip(found.setting, found.all_outcomes(), strict=True):
            fields = msgspec.structs.asdict(outcome)
            precision = fields.pop("precision")
            if outcome.status != "done" and log.exists() and log.stat().st_size:
                fields["reason"] += f"; see logs/{log.name}"
            of_run = {
                "how": self.way.how(case),
                "device": self.way.device(case),
                "case_seconds": found.seconds / len(found.setting),
                "environment": {"identity": self.identity, "state": state, "precision": precision},
                "code_hash": self.way.code_hash(case),
                "started": found.started,
            }
            rows.append(msgspec.convert(msgspec.structs.asdict(case) | fields | of_run, Row))
        return rows


def _import_all(names: list[str]) -> None:
    for name in names:
        import_module(name)
