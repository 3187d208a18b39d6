"""The shares of a plan on several GPUs of this machine, side by side."""

import os
import sys
from pathlib import Path
from subprocess import Popen

import numpy as np
import pynvml

from reproduce.errors import UserError
from reproduce.machine import gpu


def measure(plan: str, folder: Path, gpus: int) -> int:
    """The highest exit code of ``gpus`` processes that measure ``plan`` into ``folder``.

    Each process has a share of the plan, its own GPU, and its part of the cores.

    Raises:
        UserError: if there are not that many GPUs of one kind.
    """
    uuids, cores = _uuids(gpus), sorted(os.sched_getaffinity(0))
    runs: list[Popen[bytes]] = []
    try:
        for number, own_cores in enumerate(np.array_split(cores, gpus), 1):
            os.sched_setaffinity(0, own_cores.tolist() or cores)  # inherited by the process
            print(f"Share {number} of {gpus} on {uuids[number - 1]}.", flush=True)
            runs.append(_started(plan, folder, f"{number}/{gpus}", uuids[number - 1]))
        return max(run.wait() for run in runs)
    finally:
        os.sched_setaffinity(0, cores)
        for run in runs:
            run.terminate()
            run.wait()


def _uuids(wanted: int) -> list[str]:
    try:
        found = gpu.uuids()
    except (LookupError, pynvml.NVMLError) as error:
        raise UserError(
            f"{wanted} GPUs were asked for, and none can be listed ({error}); leave out GPUS"
        ) from None
    if len(found) < wanted:
        raise UserError(
            f"{wanted} GPUs were asked for, and there are {len(found)}; give GPUS={len(found)}"
        )
    kinds = sorted({gpu.name_of(uuid) for uuid in found[:wanted]})
    if len(kinds) > 1:
        raise UserError(
            f"{wanted} GPUs were asked for, and the first {wanted} are of different kinds "
            f"({', '.join(kinds)}), whose rows do not go together; name GPUs of one kind in "
            "CUDA_VISIBLE_DEVICES"
        )
    return found[:wanted]


def _started(plan: str, folder: Path, share: str, uuid: str) -> Popen[bytes]:
    # Lines in place of progress bars, which several processes cannot share.
    own = {"CUDA_VISIBLE_DEVICES": uuid, "GPU": "", "TTY_COMPATIBLE": "0"}
    command = [sys.executable, "-m", "reproduce", "measure", plan, str(folder), "--share", share]
    return Popen(command, env=os.environ | own)
