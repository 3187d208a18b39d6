"""A worker without frameworks: what it does is said by the model and the batch size."""

import os
import signal
import time

from reproduce.worker import Finding

DONE, CRASH, KILLED, HANG, OUT_OF_MEMORY = 1, 2, 3, 4, 5


def run(connection, case, site):
    """Ends as ``case.batch_size`` says."""
    with site.log.open("a") as log:
        log.write(f"{case}\n")
    if case.batch_size == CRASH:
        os._exit(7)
    if case.batch_size == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if case.batch_size == HANG:
        time.sleep(60)
    finding = Finding(
        seconds=[0.5], memory_bytes={"resident_peak_bytes": os.getpid(), "resident_before_bytes": 0}
    )
    if case.batch_size == OUT_OF_MEMORY:
        finding = Finding(status="out_of_memory", reason="asked for too much")
    connection.send(finding)
