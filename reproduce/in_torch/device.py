"""PyTorch's device: compiling, waiting, counting bytes, classifying failures."""

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from reproduce.in_torch.hvp import Tree
from reproduce.machine import limits, memory
from reproduce.plan import Mode


@cache
def default_device() -> torch.device:
    """The GPU if this process sees one, else the CPU.

    It is found on first use, because a process that has looked for a GPU can no longer fork.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compile(
    function: Callable[..., Tree], mode: Mode, *arguments: Tree
) -> tuple[Callable[..., Tree], dict[str, int], float]:
    """``function``, ready to be called; no bytes; the seconds that compiling took.

    It can be called on ``arguments`` and others like them. In mode ``eager`` it is the function
    itself; in mode ``compile`` it is one program of ``torch.compile``, which a first call compiles.

    Raises:
        NotImplementedError: if ``mode`` is neither of them.
    """
    if mode == "eager":
        return function, {}, 0.0
    if mode != "compile":
        msg = (
            f"PyTorch was asked for mode {mode!r}; "
            "this package measures it in modes 'eager' and 'compile' only"
        )
        raise NotImplementedError(msg)
    start = time.perf_counter()
    # For all cores, although fewer compile it while other settings compile.
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "cpp.threads": limits.cores(),
        "cpp.dynamic_threads": True,
    }
    # torch.fx makes a progress bar, whose own lock would be a semaphore that a worker leaves over.
    tqdm.set_lock(threading.RLock())
    program = torch.compile(function, fullgraph=True, dynamic=False, options=options)
    wait(program(*arguments))
    return program, {}, time.perf_counter() - start


def wait(tree: Tree) -> Tree:
    """``tree``, once it is computed."""
    if default_device().type == "cuda":
        torch.cuda.synchronize()
    return tree


def to_numpy(tree: Tree) -> list[np.ndarray]:
    """The leaves of ``tree`` in NumPy."""
    return [leaf.detach().cpu().numpy() for leaf in tree.values()]


def platform() -> str:
    """``gpu`` or ``cpu``: where PyTorch computes in this process."""
    return "gpu" if default_device().type == "cuda" else "cpu"


def use_cores(count: int) -> None:
    """Compute with ``count`` threads; by default PyTorch would use as many as its parent."""
    torch.set_num_threads(count)


def use_deterministic_algorithms() -> None:
    """Refuse operations that a GPU does not repeat to the bit, in this process.

    To be called before anything is computed. For checks only, since it is slower. Source:
    PyTorch's documentation of the function of this name.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)


def compile_unoptimised() -> None:
    """Do nothing: plan smoke, which asks for it, has no mode ``compile``."""


def share_programs(folder: Path) -> None:
    """Do nothing: an environment variable names the folder where ``torch.compile`` keeps them."""


def count_call(call: Callable[[], Tree], counters: dict[str, int]) -> None:
    """Adds to ``counters`` the allocator's bytes before and during one more ``call``.

    On a GPU, cached memory is given back afterwards, for the other processes that prepare.
    """
    with allocator_peak(counters):
        call()
    if default_device().type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def allocator_peak(counters: dict[str, int]) -> Iterator[None]:
    """Adds the bytes of PyTorch's allocator before the block, and its peak inside it.

    On a GPU that is the caching allocator. On a CPU the allocator reports each block that it hands
    out or takes back, but only to the profiler, and without earlier blocks. The value before the
    block is therefore 0; the rise is exact. Source: PyTorch's documentation of ``profile_memory``.
    """
    gc.collect()  # or it could free earlier memory inside the block
    if default_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        counters["torch_allocated_before_bytes"] = torch.cuda.memory_allocated()
        counters["torch_reserved_before_bytes"] = torch.cuda.memory_reserved()
        yield
        counters["torch_peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
        counters["torch_peak_reserved_bytes"] = torch.cuda.max_memory_reserved()
        return
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        yield
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=_start)]
    counters["torch_allocated_before_bytes"] = 0
    counters["torch_peak_allocated_bytes"] = max(accumulate(changes, initial=0))


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product of ``a`` and ``b``, computed on this device."""
    first, second = (torch.from_numpy(x).to(default_device()) for x in (a, b))
    return (first @ second).cpu().numpy()


def precision() -> dict[str, str | bool | None]:
    """The options that decide how matrix products and convolutions are rounded."""
    return {
        "torch_float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch_matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "torch_cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "torch_cudnn_benchmark": torch.backends.cudnn.benchmark,
        "torch_deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that the device ran out of memory."""
    return isinstance(error, RuntimeError) and memory.is_out_of_memory(error)


def is_unsupported(error: Exception) -> bool:
    """Whether ``error`` says that an operation has no implementation, derivative or compiler."""
    text = str(error)
    # By name: importing the compiler takes seconds.
    is_of_compiler = type(error).__module__ == "torch._dynamo.exc"
    no_forward_mode = "forward AD" in text and "support" in text
    not_deterministic = "deterministic implementation" in text
    is_known = no_forward_mode or not_deterministic or is_of_compiler
    return isinstance(error, NotImplementedError) or is_known


def _start(event: Any) -> int:
    """When a profiler's ``event`` began: in microseconds in PyTorch 2.1, later in nanoseconds."""
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()
