"""Workers without frameworks: what they do is said by the batch size, or they give numbers."""

import ctypes
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from reproduce.measuring.measurement import Outcome
from reproduce.measuring.worker import Site
from reproduce.plan import Case

DONE, CRASH, KILLED, HANG, OUT_OF_MEMORY, SEGFAULT, STOPPED, DEAF, HALF_SENT = range(1, 10)
SHY = 10  # crashes in company, and is done alone


TIMED_CRASH = 11  # is prepared, and crashes when it is timed


def run(connection: Connection, cases: list[Case], site: Site) -> None:
    """Ends as the batch size of each of ``cases`` says, and notes what it does."""
    outcomes = [_outcome(connection, case, site, len(cases) > 1) for case in cases]
    wait_for_turn(connection, cases)
    if cases[0].quantity == "time":
        note(site, f"timing {cases[0].setting_name}")
        if cases[0].batch_size == TIMED_CRASH:
            os._exit(7)
        time.sleep(0.02)
        note(site, f"timed {cases[0].setting_name}")
    connection.send(outcomes)


def wait_for_turn(connection, cases):
    if cases[0].quantity == "time":
        connection.send(None)
        connection.recv()


def note(site, line):
    with (site.programs.parent / "noted").open("a") as file:
        file.write(f"{line}\n")


def _outcome(connection, case, site, in_company):
    note(site, case)
    ends = {
        CRASH: lambda: os._exit(7),
        KILLED: lambda: os.kill(os.getpid(), signal.SIGKILL),
        HANG: lambda: time.sleep(60),
        SEGFAULT: lambda: ctypes.string_at(0),
        STOPPED: lambda: os.kill(os.getpid(), signal.SIGSTOP),
        DEAF: lambda: ctypes.PyDLL(None).sleep(60),  # holds the interpreter's lock
        HALF_SENT: lambda: os.write(connection.fileno(), b"\0\0\1\0half") and os._exit(0),
    }
    if in_company:
        ends[SHY] = ends[CRASH]
    ends.get(case.batch_size, lambda: None)()
    seconds = [0.5] * case.repetitions
    outcome = Outcome(
        seconds=seconds,
        gradient_seconds=[] if case.method == "gradient" else seconds,
        memory_bytes={"resident_peak_bytes": os.getpid(), "resident_before_bytes": 0},
    )
    if case.batch_size == OUT_OF_MEMORY:
        return Outcome(status="out_of_memory", reason="asked for too much")
    return outcome


def run_by_case(connection: Connection, cases: list[Case], site: Site) -> None:
    """Gives numbers that depend on nothing but ``cases``, after a moment each.

    Of the model that FAKE_FAILING names, it says that it failed. While there is the file that
    FAKE_HELD names, it times nothing.
    """
    outcomes = list(map(_by_case, cases))
    wait_for_turn(connection, cases)
    while cases[0].quantity == "time" and Path(os.environ.get("FAKE_HELD", "")).is_file():
        time.sleep(0.05)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0.1")))
    connection.send(outcomes)


def _by_case(case):
    rng = np.random.default_rng(list(str(case).encode()))
    time.sleep(0.1 * rng.random())
    gradient = rng.uniform(1, 2, case.repetitions)
    if case.model == os.environ.get("FAKE_FAILING"):
        return Outcome(status="error", reason="it was to fail")
    if case.quantity == "memory":
        peak = int(2**21 * (1 + rng.random()))
        return Outcome(memory_bytes={"resident_peak_bytes": peak, "resident_before_bytes": 2**20})
    if case.quantity == "operations":
        return Outcome(flops=1e9 * (1 + rng.random()))
    counters = {"torch_peak_allocated_bytes": 2, "xla_temp_bytes": 1, "xla_output_bytes": 1}
    megabytes = {name: int(most * 2**20 * (1 + rng.random())) for name, most in counters.items()}
    found = Outcome(memory_bytes=megabytes | {"torch_allocated_before_bytes": 2**20})
    found.seconds = gradient.tolist()
    if case.method != "gradient":
        found.gradient_seconds = found.seconds
        found.seconds = (gradient + rng.uniform(1, 2, case.repetitions)).tolist()
    return found
