"""The memory counters: what each means, and how it is computed from the bytes in a row."""

from collections.abc import Sequence
from typing import NamedTuple

from reproduce.results.rows import Row


class Counter(NamedTuple):
    """A memory counter: the sum of a row's bytes named in ``plus``, less those in ``minus``."""

    name: str
    meaning: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    def is_in(self, row: Row) -> bool:
        """Whether ``row`` has all bytes that this counter is computed from."""
        return row.memory_bytes.keys() >= {*self.plus, *self.minus}

    def bytes_of(self, row: Row) -> int:
        """The counter's value in ``row``, in bytes."""
        found = row.memory_bytes
        return sum(found[key] for key in self.plus) - sum(found[key] for key in self.minus)


_PROGRAM = "temporary + output bytes of the compiled program, from XLA's memory analysis"
XLA_PROGRAM = Counter("xla_program", _PROGRAM, ("xla_temp_bytes", "xla_output_bytes"))
# For a program that gets what was computed at the point as an argument. The vector is an argument,
# too; it has the size of the output and counts in its place.
XLA_PROGRAM_AND_POINT = Counter("xla_program", _PROGRAM, ("xla_temp_bytes", "xla_argument_bytes"))
JAX_ALLOCATOR = Counter(
    "jax_allocator",
    "peak of XLA's allocator during one call, over what was in use before it",
    ("jax_peak_bytes_in_use",),
    ("jax_bytes_in_use_before",),
)
TORCH_ALLOCATOR = Counter(
    "torch_allocator",
    "peak of PyTorch's allocator during one call, over what was allocated before it",
    ("torch_peak_allocated_bytes",),
    ("torch_allocated_before_bytes",),
)
RESIDENT_SET = Counter(
    "resident_set",
    "rise of the process's resident set during one call",
    ("resident_peak_bytes",),
    ("resident_before_bytes",),
)
LIVE_ARRAYS = Counter(
    "live_arrays",
    "peak of the arrays alive during one call, beyond its arguments",
    ("live_peak_bytes",),
)
LIVE_TENSORS = LIVE_ARRAYS._replace(
    name="live_tensors", meaning="peak of the tensors alive during one call, beyond its arguments"
)
UNRECORDED_TENSORS = Counter(
    "unrecorded_tensors",
    "the same, if parameters require no gradients",
    ("unrecorded_live_peak_bytes",),
)
SIMULATED_RESERVE = Counter(
    "simulated_reserve",
    "rise of what PyTorch's caching allocator reserves during one call, simulated",
    ("simulated_reserved_bytes",),
)
WHOLE_GPU = Counter(
    "whole_gpu",
    "rise of the whole GPU's used memory during the first call, from NVML",
    ("nvml_used_peak_bytes",),
    ("nvml_used_before_bytes",),
)

# The counters that figures show, by framework and mode; the first one that all rows have is used.
SHOWN = {
    ("jax", "jit"): (XLA_PROGRAM,),
    ("jax", "eager"): (JAX_ALLOCATOR, RESIDENT_SET, LIVE_ARRAYS),
    ("torch", "eager"): (TORCH_ALLOCATOR, RESIDENT_SET, SIMULATED_RESERVE),
    ("torch", "compile"): (TORCH_ALLOCATOR, RESIDENT_SET),
}


def shared(rows: Sequence[Row]) -> Counter | None:
    """The first counter that all ``done`` rows have; None if there is none, or no memory in rows.

    All rows must have the same quantity, framework and mode, so that an axis never mixes
    definitions.
    """
    first, done = rows[0], [row for row in rows if row.status == "done"]
    choices = {"memory": SHOWN[first.framework, first.mode], "nvml": (WHOLE_GPU,)}
    of_quantity = choices.get(first.quantity, ())
    return next((counter for counter in of_quantity if all(map(counter.is_in, done))), None)
