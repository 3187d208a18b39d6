"""Bytes and operations that a computation in JAX needs on a GPU that is not there.

With jit, XLA compiles for the GPU's description and reports its buffer assignment. Without
jit, the computation runs operation by operation without arithmetic: every result is
allocated, but neither computed nor touched, and the live bytes are counted.
"""

import hashlib
import mmap
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np

# No public interface shows single operations as they are executed.
from jax._src import core
from jax._src.array import ArrayImpl
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from reproduce.in_jax.device import program_bytes
from reproduce.in_jax.hvp import Tree
from reproduce.machine.target import Target
from reproduce.plan import Mode
from reproduce.results.files import whole_file

# Autotuning would run the program; without autotuning, XLA's Triton products fail to compile.
WITHOUT_GPU: dict[str, Any] = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}

# JAX calls the plugins for both versions of CUDA "cuda", and uses the one that is installed.
PLUGINS = ("jax-cuda12-pjrt", "jax-cuda13-pjrt")
PROMISED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def compiler() -> str:
    """The compiler and its flags, on which a program depends besides its text and the target.

    Raises:
        ModuleNotFoundError: if no plugin of JAX that compiles for a GPU is installed.
    """
    for name in PLUGINS:
        with suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)} {os.environ.get('XLA_FLAGS')} {WITHOUT_GPU}"
    raise ModuleNotFoundError(f"one of {' and '.join(PLUGINS)} compiles, and neither is installed")


COMPILER = compiler()


def memory(
    function: Callable[..., Tree], mode: Mode, target: Target, cache: Path, *arguments: Tree
) -> tuple[int, dict[str, int], float]:
    """All bytes that ``function`` needs on ``target``, the same by counter, and compile seconds.

    In mode ``jit`` they are XLA's buffer assignment: ``xla_argument_bytes``,
    ``xla_output_bytes``, ``xla_temp_bytes``, and their sum. The folder ``cache`` keeps them by
    program and target; the seconds are those of the first compilation. In mode ``eager``,
    ``live_peak_bytes`` is the peak of the live bytes beyond the arguments'
    ``live_argument_bytes``. The code and the workspaces of CUDA's libraries come on top.
    """
    if mode == "jit":
        program = _compiled(function, target, cache, *arguments)
        return program.bytes["xla_total_bytes"], program.bytes, program.compile_seconds
    trace = LiveArrays()
    with jax.disable_jit(), core.set_current_trace(trace):
        result = function(*arguments)
    del result
    argument_bytes = sum(leaf.nbytes for leaf in _distinct(arguments))
    found = {"live_argument_bytes": argument_bytes, "live_peak_bytes": trace.peak_bytes}
    return sum(found.values()), found, 0.0


def flops(function: Callable[..., Tree], *arguments: Tree) -> float:
    """The floating-point operations of ``function``, counted by XLA before it optimises."""
    analysis: Any = jax.jit(function).lower(*_shapes(arguments, None)).cost_analysis()
    return analysis["flops"]


class Program(msgspec.Struct):
    """The numbers of a compiled program that the cache keeps."""

    bytes: dict[str, int]
    compile_seconds: float


class LiveArrays(core.Trace):
    """Replaces JAX's evaluation: results are allocated and counted, but not computed.

    JAX's Python code is unchanged, so that arrays live as long as they do in a run. Their values
    are 0: the computation must not branch on them.
    """

    __slots__ = ("live_bytes", "peak_bytes")

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0

    def result(
        self, primitive: core.Primitive, arguments: Sequence[Any], parameters: dict[str, Any]
    ) -> Any:
        """The result of ``primitive``: an array, or a list of them."""
        avals, _ = primitive.abstract_eval(*map(core.typeof, arguments), **parameters)
        return list(map(_untouched, avals)) if primitive.multiple_results else _untouched(avals)

    def process_primitive(  # noqa: D102, as its base
        self, primitive: core.Primitive, arguments: Sequence[Any], parameters: dict[str, Any], /
    ) -> Any:
        with core.set_current_trace(core.eval_trace):
            result = self.result(primitive, arguments, parameters)
        return list(map(self._alive, result)) if primitive.multiple_results else self._alive(result)

    def stage_value(self, value: Any) -> Any:  # noqa: D102
        is_array = isinstance(value, jax.Array)
        return value if is_array else self._alive(core.eval_trace.stage_value(value))

    def process_call(  # noqa: D102
        self, primitive: Any, function: Any, arguments: Any, parameters: Any, /
    ) -> Any:
        with core.set_current_trace(self):
            return function.call_wrapped(*arguments)

    def process_custom_jvp_call(  # noqa: D102
        self, primitive: Any, function: Any, jvp: Any, arguments: Any, /, **_: Any
    ) -> Any:
        return self.process_call(primitive, function, arguments, {})

    def process_custom_vjp_call(  # noqa: D102
        self, primitive: Any, function: Any, fwd: Any, bwd: Any, arguments: Any, /, **_: Any
    ) -> Any:
        return self.process_call(primitive, function, arguments, {})

    def _alive(self, array: jax.Array) -> jax.Array:
        self.live_bytes += array.nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(array, self._dead, array.nbytes)
        return array

    def _dead(self, count: int) -> None:
        self.live_bytes -= count


def _untouched(aval: core.ShapedArray) -> jax.Array:
    """An array of zeros that is never touched, so that the system provides no pages for it."""
    count = aval.size * aval.dtype.itemsize
    pages = np.frombuffer(mmap.mmap(-1, max(1, count), PROMISED), np.uint8)[:count]
    array = jax.dlpack.from_dlpack(pages.view(aval.dtype).reshape(aval.shape))
    return ArrayImpl(aval, array.sharding, [array], committed=False)


def _compiled(
    function: Callable[..., Tree], target: Target, cache: Path, *arguments: Tree
) -> Program:
    device = topologies.get_topology_desc(
        platform="cuda", target_config=target.description, topology="1x1x1"
    ).devices[0]
    lowered = jax.jit(function).lower(*_shapes(arguments, SingleDeviceSharding(device)))
    program = f"{lowered.as_text()}{target.description}{COMPILER}"
    kept = cache / f"{hashlib.sha256(program.encode()).hexdigest()}.json"
    if not kept.exists():
        start = time.perf_counter()
        analysis: Any = lowered.compile(compiler_options=WITHOUT_GPU).memory_analysis()
        seconds, parts = time.perf_counter() - start, program_bytes(analysis)
        total = sum(parts.values()) - analysis.alias_size_in_bytes
        found = Program(parts | {"xla_total_bytes": total}, seconds)
        with whole_file(kept) as unfinished:
            unfinished.write_bytes(msgspec.json.encode(found))
    return msgspec.json.decode(kept.read_bytes(), type=Program)


def _shapes(arguments: Tree, sharding: SingleDeviceSharding | None) -> Tree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments
    )


def _distinct(arguments: Tree) -> list[jax.Array]:
    return list({id(leaf): leaf for leaf in jax.tree.leaves(arguments)}.values())
