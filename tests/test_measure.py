"""Seconds come from the given clock, and bytes from what was really allocated."""

import gc
import math
import mmap
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cases import module

from reproduce.machine import memory
from reproduce.measuring import comparing, timing

MIB = 1 << 20


class Clock:
    """A clock that a call moves forward by as much as it says."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def call(self, *durations):
        remaining = iter(durations)

        def call():
            self.now += next(remaining)

        return call


def test_each_round_times_all_calls_one_after_the_other():
    clock, order = Clock(), []
    call, gradient = clock.call(3, 5), clock.call(1, 2)

    def noted(name, function):
        return lambda: (order.append(name), function())[1]

    times = timing.in_turn([noted("hvp", call), noted("gradient", gradient)], 2, clock)
    assert times == [[3, 5], [1, 2]]
    assert order == ["hvp", "gradient", "hvp", "gradient"]


def test_the_order_within_a_round_can_be_shuffled_by_a_seed():
    def orders(seed):
        order = []
        calls = [lambda name=name: order.append(name) for name in "abcd"]
        timing.in_turn(calls, 20, Clock(), random.Random(seed))
        return order

    order = orders(0)
    rounds = ["".join(order[start : start + 4]) for start in range(0, 80, 4)]
    assert {"".join(sorted(each)) for each in rounds} == {"abcd"}
    assert len(set(rounds)) > 4
    assert orders(0) == order != orders(1)


@pytest.mark.parametrize(("digits", "error"), [(23, 1e-7), (10, 3e-4)])
def test_the_error_of_a_product_tells_the_precision_of_its_factors(digits, error):
    def product(a, b):
        # As a TF32 unit does it: the factors have fewer digits, the sum has all.
        unit = 2.0 ** (np.frexp(np.stack([a, b]))[1] - digits - 1)
        a, b = np.round(np.stack([a, b]).astype(np.float64) / unit) * unit
        return (a @ b).astype(np.float32)

    assert error / 5 < comparing.product_error(product) < 5 * error


def test_a_result_is_freed_after_the_clock_stopped():
    clock = Clock()

    class Result:
        def __del__(self):
            clock.now += 50

    assert timing.in_turn([Result], 3, clock) == [[0, 0, 0]]


def test_steady_times_are_not_suspicious():
    assert timing.suspicions([1.0, 1.01, 0.99, 1.0, 1.02]) == []


def test_scattered_times_are_suspicious_and_the_sentence_says_by_how_much():
    (sentence,) = timing.suspicions([1.0, 1.1, 0.9, 1.2, 0.8])
    assert "span 24% of the median" in sentence
    assert "measure again" in sentence


def test_a_slow_first_value_is_suspicious():
    (sentence,) = timing.suspicions([3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert "first value is 3.0 medians" in sentence


def test_hvps_that_disagree_beyond_rounding_are_suspicious():
    assert comparing.disagreement(None) == comparing.disagreement(1e-4) == []
    (sentence,) = comparing.disagreement(0.36)
    assert "differs from forward-over-reverse's by 36%" in sentence


def test_the_relative_difference_is_that_of_the_whole_vectors():
    a, b = [np.array([3.0, 0.0]), np.array([[4.5]])], [np.array([3.0, 0.0]), np.array([[4.0]])]
    assert comparing.relative_difference(a, b) == pytest.approx(0.5 / 5)


def test_a_difference_from_zero_is_none_or_infinite():
    zero, one = [np.zeros(2), np.zeros(1)], [np.zeros(2), np.ones(1)]
    assert comparing.relative_difference(zero, zero) == 0
    assert comparing.relative_difference(one, zero) == math.inf


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("float64", size) for size in (1e-320, 1e-200, 1.0, 1e200, 1e306)),
        *(("float32", size) for size in (1e-44, 1e-25, 1.0, 1e25, 1e38)),
        *(("float16", size) for size in (1e-7, 1e-3, 1.0, 6e4)),
    ],
)
def test_a_norm_is_right_over_the_whole_range_of_its_type(dtype, size):
    leaves = [np.full((50, 60), size, dtype), np.zeros(3, dtype), np.zeros((0, 2), dtype)]
    assert comparing.norm(leaves) == pytest.approx(
        math.sqrt(3000) * float(leaves[0][0, 0]), rel=1e-6
    )
    half = [leaf / 2 for leaf in leaves]
    if size > 1e-6:
        assert comparing.relative_difference(half, leaves) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    assert comparing.finite(1.5, "the norm") == 1.5
    for value in (comparing.norm([np.array([1.0, bad])]), bad):
        with pytest.raises(
            FloatingPointError, match=r"the norm was to be finite, and it is .*look"
        ):
            comparing.finite(value, "the norm")


@pytest.fixture
def freed_memory_returned():
    memory.return_freed_memory_at_once()


@pytest.mark.usefixtures("freed_memory_returned")
def test_the_resident_peak_counts_what_a_call_allocates_and_frees_again():
    counters = {}
    with memory.resident_peak(counters):
        np.ones(64 * MIB, dtype="uint8")
        np.ones(32 * MIB, dtype="uint8")
    rise = counters["resident_peak_bytes"] - counters["resident_before_bytes"]
    assert rise == pytest.approx(64 * MIB, abs=4 * MIB)


@pytest.mark.usefixtures("freed_memory_returned")
def test_what_only_a_collection_frees_is_freed_before_the_resident_peak_is_taken():
    dropped = [np.ones(64 * MIB, dtype="uint8")]
    dropped.append(dropped)
    del dropped
    counters = {}
    with memory.resident_peak(counters):
        gc.collect()
        np.ones(64 * MIB, dtype="uint8")
    rise = counters["resident_peak_bytes"] - counters["resident_before_bytes"]
    assert rise == pytest.approx(64 * MIB, abs=4 * MIB)


PAGES = 3 * 48 * MIB // mmap.PAGESIZE
PAGE_FAULTS_OF_SECOND_USE = """
import resource
from threading import Event, Thread
from reproduce.machine import memory
{set_up}
faults = []
def use():
    for _ in range(2):
        blocks = [bytearray({size}) for _ in range(3)]
        del blocks
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
{run}
print(faults[1] - faults[0])
"""
IN_A_THREAD = "thread = Thread(target=use); thread.start(); thread.join()"
IN_A_THREAD_OF_BEFORE = """
def use_in_turn():
    del [bytearray(100) for _ in range(3)][:]
    turn.wait()
    use()
turn, thread = Event(), Thread(target=use_in_turn)
thread.start()
memory.keep_freed_memory()
turn.set()
thread.join()
"""


def page_faults(set_up, run):
    script = PAGE_FAULTS_OF_SECOND_USE.format(set_up=set_up, size=48 * MIB, run=run)
    return int(subprocess.check_output([sys.executable, "-c", script], text=True))


def test_with_one_arena_freed_memory_can_be_kept_from_a_threads_turn_on():
    assert page_faults("memory.use_one_arena()", IN_A_THREAD_OF_BEFORE) < 0.01 * PAGES


@pytest.mark.parametrize("run", ["use()", IN_A_THREAD], ids=["alone", "in a thread"])
@pytest.mark.parametrize(
    ("set_up", "is_kept"),
    [("memory.keep_freed_memory()", True), ("memory.return_freed_memory_at_once()", False)],
)
def test_freed_memory_is_kept_or_returned_as_asked(set_up, is_kept, run):
    faults = page_faults(set_up, run)
    assert (faults < 0.01 * PAGES) if is_kept else (faults > 0.9 * PAGES)


def test_the_resident_peak_is_no_less_than_what_was_there_before():
    block = mmap.mmap(-1, 64 * MIB)
    block.write(bytes(64 * MIB))
    counters = {}
    with memory.resident_peak(counters):
        block.close()
        Path("/proc/self/clear_refs").write_text("5")  # Linux knows only of what is there now
    assert counters["resident_peak_bytes"] == counters["resident_before_bytes"]


def test_the_gpu_peak_is_the_most_that_polling_saw():
    readings = [100, 300, 700, 200]
    polled = []

    def used_bytes():
        polled.append(readings[min(len(polled), 3)])
        return polled[-1]

    counters = {}
    with memory.nvml_peak(counters, used_bytes):
        while len(polled) < 4:
            time.sleep(0.001)
    assert counters == {"nvml_used_before_bytes": 100, "nvml_used_peak_bytes": 700}


@pytest.mark.parametrize("text", [
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "INTERNAL: failed to create cublas handle: the resource allocation failed",
    "INTERNAL: Failed to allocate 1024 bytes for new constant",
    "INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "could not create a primitive",
])  # fmt: skip
def test_libraries_that_cannot_allocate_are_out_of_memory(text):
    torch, jax = module("torch", "device"), module("jax", "device")
    assert torch.is_out_of_memory(torch.torch.AcceleratorError(text))
    assert torch.is_out_of_memory(RuntimeError(text))
    assert jax.is_out_of_memory(jax.jax.errors.JaxRuntimeError(text))
    assert not torch.is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"))
    unknown = "could not create a primitive descriptor for a convolution"
    assert not torch.is_out_of_memory(RuntimeError(unknown))
    assert not jax.is_out_of_memory(jax.jax.errors.JaxRuntimeError("INTERNAL: no kernel"))
    assert not jax.is_out_of_memory(ValueError(text))
