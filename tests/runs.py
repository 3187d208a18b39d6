"""Runs of a few cases: a case, what measures it in a folder, and what its worker noted there."""

import time

from fake_worker import DONE

from reproduce.measuring import runner
from reproduce.measuring.ways import Measured
from reproduce.plan import Case


def case(batch_size=DONE, **changes):
    """A case of the plan `smoke`; what a fake worker does with it, its batch size says."""
    fields = {
        "plan": "smoke",
        "framework": "torch",
        "mode": "eager",
        "model": "tiny_bert",
        "batch_size": batch_size,
        "method": "gradient",
        "quantity": "time",
        "warmup": 1,
        "repetitions": 1,
    }
    return Case(**(fields | changes))


def measure(folder, *wanted, timeout_seconds=20):
    return runner.measure(list(wanted), folder, Measured(on_gpu=False), timeout_seconds)


def noted(folder):
    path = folder / "noted"
    return path.read_text().splitlines() if path.exists() else []


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
