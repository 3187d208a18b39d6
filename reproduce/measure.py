"""Measures calls: seconds under a given clock, and the peak memory of a call."""

import ctypes
import gc
import hashlib
import math
import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
Clock = Callable[[], float]

SPREAD_LIMIT = 0.1
FIRST_VALUE_LIMIT = 0.5
DIFFERENCE_LIMIT = 1e-2
NVML_POLL_SECONDS = 0.001
# How the frameworks, CUDA and its libraries say that memory did not suffice: of a CPU, a GPU,
# cuBLAS by its code and in words, cuDNN before and since its version 9; and oneDNN, which has no
# memory for a primitive that it has described (what it does not know, it could not describe).
OUT_OF_MEMORY = re.compile(
    "out of memory|out_of_memory|allocate memory|failed to allocate|alloc_failed|"
    "resource allocation failed|allocation_failed|could not create a primitive$",
    re.IGNORECASE,
)
# Parameters of mallopt(3) by their number: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD,
# M_MMAP_MAX and M_ARENA_MAX.
RETURN_AT_ONCE = {-1: 1 << 16, -2: 0, -3: 1 << 16, -4: 1 << 16}
# With one arena for all threads: others would give empty heaps back all the same.
NEVER_RETURN = {-1: -1, -4: 0, -8: 1}


def in_turn(
    calls: Sequence[Call], rounds: int, clock: Clock, order: random.Random | None = None
) -> list[list[float]]:
    """Seconds of each of ``calls``, which are made one after the other in every round.

    They are in the given order, or in one that ``order`` shuffles anew for each round. A call
    returns only once its result is computed. An HVP and the gradient in turn are what
    the article times. Source: its "Time complexity".
    """
    seconds = [[] for _ in calls]
    places = list(range(len(calls)))
    for _ in range(rounds):
        if order is not None:
            order.shuffle(places)
        for place in places:
            seconds[place].append(timed(calls[place], clock)[0])
    return seconds


def timed(call: Call, clock: Clock) -> tuple[float, Any]:
    """Seconds of one ``call``, and its result, which is not freed while the clock runs."""
    start = clock()
    result = call()
    return clock() - start, result


def suspicions(seconds: list[float]) -> list[str]:
    """A sentence with a remedy for each thing that makes ``seconds`` doubtful."""
    if len(seconds) < 3:
        return []
    low, median, high = np.quantile(seconds, [0.2, 0.5, 0.8])
    found = []
    if high - low > SPREAD_LIMIT * median:
        spread = f"{(high - low) / median:.0%}"
        found.append(
            f"the 20 to 80 % quantiles span {spread} of the median: "
            "close other programs or fix the clocks, then measure again"
        )
    if abs(seconds[0] - median) > FIRST_VALUE_LIMIT * median:
        found.append(
            f"the first value is {seconds[0] / median:.1f} medians: raise the plan's warm-ups"
        )
    return found


def disagreement(difference: float | None, by_layer_norm: bool = False) -> list[str]:
    """A sentence if an HVP's relative ``difference`` from the reference is beyond rounding.

    That is known of PyTorch's own layer normalisation.
    """
    if difference is None or difference < DIFFERENCE_LIMIT:
        return []
    if by_layer_norm:
        return [
            f"the HVP is wrong by {difference:.0%}, as the article's was: PyTorch's own layer "
            "normalisation is the cause; --layer-norm repaired gives the right one"
        ]
    return [
        f"the HVP differs from forward-over-reverse's by {difference:.0%}: "
        "one of the two is wrong; do not use this row, and look for an operation without "
        "a second derivative"
    ]


def product_error(product: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The relative error of one product of two 1024² matrices in float32.

    It tells the precision in force: about 2e-7 in float32, 3e-4 in TF32.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1024, 1024), dtype=np.float32)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return relative_difference([product(a, b)], [exact])


def is_out_of_memory(error: Exception) -> bool:
    """Whether the text of ``error`` says that memory did not suffice."""
    return OUT_OF_MEMORY.search(str(error)) is not None


def relative_difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """‖a − b‖ / ‖b‖ over all leaves, without a unit; of two zeros 0, of another and zero inf."""
    difference, reference = norm([x - y for x, y in zip(a, b, strict=True)]), norm(b)
    if difference == 0:
        return 0.0
    return difference / reference if reference else math.inf


def norm(leaves: Iterable[np.ndarray]) -> float:
    """The Euclidean norm of all ``leaves`` as one vector, in float64 whatever they are in."""
    return math.hypot(*map(_norm, leaves))


def finite(value: float, what: str) -> float:
    """``value``, which is ``what``: a value that is not finite is never one of a row that is done.

    Raises:
        FloatingPointError: if it is not finite.
    """
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{what} was to be finite, and it is {value}; "
            "look for an overflow or a division by zero in the loss or its derivatives"
        )
    return value


def digest(leaves: Iterable[np.ndarray]) -> str:
    """SHA-256 of ``leaves``: of the type, shape and bytes of each, in their order."""
    found = hashlib.sha256()
    for leaf in leaves:
        found.update(f"{leaf.dtype.str} {leaf.shape} ".encode())
        found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()


def return_freed_memory_at_once() -> None:
    """Makes the C library give freed memory back to the system instead of keeping it.

    To be called before anything large is allocated: what the library has kept by then it
    hands out again, and never gives back. Source: mallopt(3).
    """
    _set_up_malloc(RETURN_AT_ONCE)


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory, as both frameworks' allocators do on a GPU.

    By default it gives large blocks back, and each call has them handed out anew, page by page,
    which for PyTorch's HVPs took up to as long as their arithmetic. To be called before other
    threads start: each stays with the memory that it began with. Source: mallopt(3).
    """
    _set_up_malloc(NEVER_RETURN)


def _set_up_malloc(parameters: dict[int, int]) -> None:
    libc = ctypes.CDLL(None)
    for parameter, value in parameters.items():
        libc.mallopt(parameter, value)


@contextmanager
def resident_peak(counters: dict[str, int]) -> Iterator[None]:
    """Adds the process's resident set before the block, and its peak inside it, in bytes.

    It counts what is in use, and not what the C library keeps, only in a process that
    returns freed memory at once. Linux counts pages for its peak in batches, so what was there
    before can be some pages more: the largest counts. Source: proc(5),
    ``clear_refs``, ``VmRSS`` and ``VmHWM``, which it calls inaccurate.
    """
    gc.collect()  # only then does JAX free the results that were dropped
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    counters["resident_before_bytes"] = before = _process_status_bytes("VmRSS")
    yield
    counters["resident_peak_bytes"] = max(_process_status_bytes("VmHWM"), before)


@contextmanager
def nvml_peak(counters: dict[str, int], used_bytes: Callable[[], int]) -> Iterator[None]:
    """Adds the GPU's used memory before the block, and its peak inside it, in bytes.

    The peak is polled in a thread and counts every process on the GPU, as the
    article's memory figures do.
    """
    before = peak = used_bytes()
    ended = threading.Event()

    def poll() -> None:
        nonlocal peak
        while not ended.wait(NVML_POLL_SECONDS):
            peak = max(peak, used_bytes())

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    counters["nvml_used_before_bytes"] = before
    counters["nvml_used_peak_bytes"] = max(peak, used_bytes())


def _norm(x: np.ndarray) -> float:
    largest = float(np.abs(x).max(initial=0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    scaled = np.divide(x, largest, dtype="float64").ravel()
    return largest * math.sqrt(scaled @ scaled)


def _process_status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024
