"""Memory while a call runs: how the C library keeps it, its peak, and running out of it."""

import ctypes
import gc
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NVML_POLL_SECONDS = 0.001
# How the frameworks, CUDA and its libraries say that memory ran out: on a CPU, on a GPU,
# cuBLAS by its code and in words, cuDNN before and since version 9; and oneDNN, which fails to
# create a primitive that it has described (an unsupported one could not have been described).
OUT_OF_MEMORY = re.compile(
    "out of memory|out_of_memory|allocate memory|failed to allocate|alloc_failed|"
    "resource allocation failed|allocation_failed|could not create a primitive$",
    re.IGNORECASE,
)
# Parameters of mallopt(3) by their number: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD,
# M_MMAP_MAX and M_ARENA_MAX.
RETURN_AT_ONCE = {-1: 1 << 16, -2: 0, -3: 1 << 16, -4: 1 << 16}
ONE_ARENA = {-8: 1}
# With one arena for all threads, since further arenas would still give empty heaps back.
NEVER_RETURN = {-1: -1, -4: 0} | ONE_ARENA


def is_out_of_memory(error: Exception) -> bool:
    """Whether the text of ``error`` says that memory ran out."""
    return OUT_OF_MEMORY.search(str(error)) is not None


def return_freed_memory_at_once() -> None:
    """Makes the C library give freed memory back to the system instead of keeping it.

    To be called before anything large is allocated, since the library never gives back memory
    that it kept before. Source: mallopt(3).
    """
    _set_up_malloc(RETURN_AT_ONCE)


def use_one_arena() -> None:
    """Makes all threads allocate from one arena of the C library.

    To be called before other threads start, since each keeps the arena that it started with.
    Source: mallopt(3).
    """
    _set_up_malloc(ONE_ARENA)


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory, as both frameworks' allocators do on a GPU.

    By default it gives large blocks back, and each call gets them again page by page. For
    PyTorch's HVPs this took up to as long as their arithmetic. Other threads must not have started
    yet, unless ``use_one_arena`` was called before they did. Source: mallopt(3).
    """
    _set_up_malloc(NEVER_RETURN)


def _set_up_malloc(parameters: dict[int, int]) -> None:
    libc = ctypes.CDLL(None)
    for parameter, value in parameters.items():
        libc.mallopt(parameter, value)


@contextmanager
def resident_peak(counters: dict[str, int]) -> Iterator[None]:
    """Adds the process's resident set before the block, and its peak inside it, in bytes.

    Only in a process that returns freed memory at once is this the memory in use, without what the
    C library keeps. Linux updates the peak in batches of pages, so the value before the block
    can exceed it by a few pages; the larger one counts. Source: proc(5), ``clear_refs``, ``VmRSS``
    and ``VmHWM``, which it calls inaccurate.
    """
    gc.collect()  # makes JAX free results that are no longer used
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

    def look() -> None:
        nonlocal peak
        peak = max(peak, used_bytes())

    with polled(look, NVML_POLL_SECONDS):
        yield
    look()
    counters["nvml_used_before_bytes"] = before
    counters["nvml_used_peak_bytes"] = peak


@contextmanager
def polled(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call ``look`` in a thread while the block runs: at once, then every ``seconds``."""
    ended = threading.Event()

    def poll() -> None:
        look()
        while not ended.wait(seconds):
            look()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _process_status_bytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) * 1024
