"""JAX's device: compiling, waiting, counting bytes, classifying failures."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reproduce.in_jax.hvp import Tree
from reproduce.machine import memory
from reproduce.plan import Mode

DETERMINISTIC = "--xla_gpu_deterministic_ops --xla_gpu_exclude_nondeterministic_ops"
UNOPTIMISED = "--xla_backend_optimization_level=0"


def compile(
    function: Callable[..., Tree], mode: Mode, *arguments: Tree
) -> tuple[Callable[..., Tree], dict[str, int], float]:
    """``function``, ready to be called; its program's bytes; the seconds that compiling took.

    It can be called on ``arguments`` and others like them. In mode ``jit`` it is compiled
    ahead of time; the bytes are those of XLA's buffer assignment: ``xla_argument_bytes``,
    ``xla_output_bytes``, ``xla_temp_bytes``. In mode ``eager`` it runs operation by operation
    under ``jax.disable_jit`` and has no program.
    """
    if mode == "eager":
        return _without_jit(function), {}, 0.0
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    found = program_bytes(compiled.memory_analysis())
    # XLA of 2023 reports zeros for a program for a CPU, although every program has an output.
    known = found if found["xla_output_bytes"] else {}
    return compiled, known, time.perf_counter() - start


def program_bytes(analysis: Any) -> dict[str, int]:
    """The bytes of a program's arguments, results and temporaries in XLA's buffer assignment."""
    return {
        "xla_argument_bytes": analysis.argument_size_in_bytes,
        "xla_output_bytes": analysis.output_size_in_bytes,
        "xla_temp_bytes": analysis.temp_size_in_bytes,
    }


def wait(tree: Tree) -> Tree:
    """``tree``, once it is computed."""
    return jax.block_until_ready(tree)


def to_numpy(tree: Tree) -> list[np.ndarray]:
    """The leaves of ``tree`` in NumPy."""
    return [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(tree)]


def platform() -> str:
    """``gpu`` or ``cpu``: where JAX computes in this process."""
    return jax.default_backend()


def use_cores(count: int) -> None:
    """Do nothing: XLA takes the cores that the process may use."""


def use_deterministic_algorithms() -> None:
    """Refuse operations that a GPU does not repeat to the bit, in this process.

    To be called before anything is computed. It turns autotuning off, and computes scatters
    (such as max-pooling's gradient) in another way, so it is for checks only. A CPU repeats
    everything. Source: XLA's documentation, "Determinism (GPU)".
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}"


def compile_unoptimised() -> None:
    """Keep XLA from optimising machine code in this process, which halves the time of compiling.

    To be called before anything is computed.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if UNOPTIMISED not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {UNOPTIMISED}"


def share_programs(folder: Path) -> None:
    """Keep compiled programs in ``folder``, and reuse those that are there."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def count_call(call: Callable[[], Tree], counters: dict[str, int]) -> None:
    """Do nothing: XLA's peak cannot be reset, and its programs report their bytes."""


@contextmanager
def allocator_peak(counters: dict[str, int]) -> Iterator[None]:
    """Adds the bytes of XLA's allocator before the block, and its peaks before and after it.

    The peaks are over the process's life and cannot be reset. A CPU's allocator reports nothing.
    """
    device = jax.devices()[0]
    before = device.memory_stats()
    yield
    if before is not None:
        counters["jax_bytes_in_use_before"] = before["bytes_in_use"]
        counters["jax_peak_bytes_before"] = before["peak_bytes_in_use"]
        counters["jax_peak_bytes_in_use"] = device.memory_stats()["peak_bytes_in_use"]


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product of ``a`` and ``b``, computed on this device."""
    return np.asarray(jnp.matmul(a, b))


def precision() -> dict[str, str | bool | None]:
    """The options that decide how matrix products are rounded."""
    config: Any = jax.config  # its options are not declared as fields of its class
    return {
        "jax_default_matmul_precision": config.jax_default_matmul_precision,
        "jax_enable_x64": config.jax_enable_x64,
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that the device ran out of memory."""
    is_exhausted = "RESOURCE_EXHAUSTED" in str(error) or memory.is_out_of_memory(error)
    return isinstance(error, RuntimeError) and is_exhausted


def is_unsupported(error: Exception) -> bool:
    """Whether ``error`` says that an operation has no implementation or derivative."""
    return isinstance(error, NotImplementedError) or "UNIMPLEMENTED" in str(error)


def _without_jit(function: Callable[..., Tree]) -> Callable[..., Tree]:
    def call(*arguments: Tree) -> Tree:
        with jax.disable_jit():
            return function(*arguments)

    return call
