"""How a worker process ends: never after its parent, and if too early, for which reason."""

import fcntl
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from reproduce.measuring.measurement import Outcome


def run_while_parent_lives(run: Callable[..., None], *arguments: Any) -> None:
    """Calls ``run`` in a process that the kernel kills as soon as its parent has ended.

    It works however the parent ends and whatever this process is doing, because the kernel sends
    the signal when the pipe between them closes. Source: fcntl(2), ``F_SETSIG``.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # a worker always has a parent
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, os.O_ASYNC)
    if parent.is_alive():  # it may have ended before the signal was set up
        run(*arguments)


def kills_for_memory() -> int:
    """How many processes the kernel has killed for lack of memory since it was booted."""
    with suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def early_end(process: BaseProcess, kills_before: int) -> Outcome:
    """The outcome for a worker whose ``process`` ends without sending one.

    ``kills_before`` is what `kills_for_memory` returned before.
    """
    process.join()
    code = process.exitcode
    assert code is not None  # it has just been waited for
    if code == -signal.SIGKILL and kills_for_memory() > kills_before:
        reason = "the system killed the worker because memory ran out"
        return Outcome(status="out_of_memory", reason=reason)
    how = f"exit code {code}"
    with suppress(ValueError):
        how = signal.Signals(-code).name
    return Outcome(status="error", reason=f"the worker ended by {how}")
