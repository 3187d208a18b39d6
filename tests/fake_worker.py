"""Workers without frameworks: what they do is said by the batch size, or they give numbers."""

import ctypes
import os
import signal
import time

import numpy as np

from reproduce.worker import Finding

DONE, CRASH, KILLED, HANG, OUT_OF_MEMORY, SEGFAULT, STOPPED, DEAF, HALF_SENT = range(1, 10)


def run(connection, case, site):
    """Ends as ``case.batch_size`` says."""
    with site.log.open("a") as log:
        log.write(f"{case}\n")
    ends = {
        CRASH: lambda: os._exit(7),
        KILLED: lambda: os.kill(os.getpid(), signal.SIGKILL),
        HANG: lambda: time.sleep(60),
        SEGFAULT: lambda: ctypes.string_at(0),
        STOPPED: lambda: os.kill(os.getpid(), signal.SIGSTOP),
        DEAF: lambda: ctypes.PyDLL(None).sleep(60),  # holds the interpreter's lock
        HALF_SENT: lambda: os.write(connection.fileno(), b"\0\0\1\0half") and os._exit(0),
    }
    ends.get(case.batch_size, lambda: None)()
    finding = Finding(
        seconds=[0.5], memory_bytes={"resident_peak_bytes": os.getpid(), "resident_before_bytes": 0}
    )
    if case.batch_size == OUT_OF_MEMORY:
        finding = Finding(status="out_of_memory", reason="asked for too much")
    connection.send(finding)


def run_by_case(connection, case, site):
    """Gives numbers that depend on nothing but ``case``, after a moment."""
    rng = np.random.default_rng(list(str(case).encode()))
    time.sleep(0.1 * rng.random())
    gradient = rng.uniform(1, 2, case.repetitions)
    if case.quantity == "memory":
        counters = {"resident_peak_bytes": 2, "xla_temp_bytes": 1, "xla_output_bytes": 1}
        megabytes = {
            name: int(most * 2**20 * (1 + rng.random())) for name, most in counters.items()
        }
        found = Finding(memory_bytes=megabytes | {"resident_before_bytes": 2**20})
    elif case.method == "gradient":
        found = Finding(seconds=gradient.tolist())
    else:
        hvp = gradient + rng.uniform(1, 2, case.repetitions)
        found = Finding(seconds=hvp.tolist(), gradient_seconds=gradient.tolist())
    connection.send(found)
