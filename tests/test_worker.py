"""A worker's outcome says what happened, whatever happened."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from cases import FRAMEWORKS, module
from conftest import ROOT

from reproduce.measuring import timing, worker
from reproduce.plan import REFERENCE, Case

TESTS = Path(__file__).parent
CASE = Case(
    plan="smoke",
    framework="torch",
    mode="eager",
    model="tiny_bert",
    batch_size=2,
    method="reverse_over_reverse",
    quantity="time",
    warmup=2,
    repetitions=3,
)


def without_forward_mode(loss, params, v):
    raise NotImplementedError("Trying to use forward AD with an op that does not support it")


def site(folder, gpu=None):
    cores = len(os.sched_getaffinity(0))
    return worker.Site(folder / "log", preparing_cores=cores, gpu=gpu, programs=folder)


@pytest.fixture
def find(tmp_path):
    def find(gpu=None, **changes):
        return worker.measure([msgspec.structs.replace(CASE, **changes)], site(tmp_path, gpu))[0]

    return find


@pytest.fixture
def find_all(tmp_path):
    def find_all(*methods):
        wanted = [msgspec.structs.replace(CASE, method=method) for method in methods]
        return worker.measure(wanted, site(tmp_path))

    return find_all


def test_an_hvp_is_timed_with_the_gradient_beside_it(find):
    outcome = find()
    assert outcome.status == "done"
    assert len(outcome.seconds) == len(outcome.gradient_seconds) == 3
    assert len(outcome.warmup_seconds) == 2
    assert outcome.relative_difference < 1e-5


def test_a_setting_is_timed_in_turn_with_one_gradient_for_a_round(find_all, monkeypatch):
    methods = module("torch", "hvp").METHODS
    monkeypatch.setitem(methods, "reverse_over_forward", without_forward_mode)
    gradient, first, failed, hvp = find_all(
        "gradient", "forward_over_reverse", "reverse_over_forward", "reverse_over_reverse"
    )
    assert failed.status == "unsupported"
    assert failed.seconds == []
    assert [each.status for each in (gradient, first, hvp)] == ["done"] * 3
    assert hvp.gradient_seconds == first.gradient_seconds == gradient.seconds
    assert gradient.gradient_seconds == []
    assert (first.relative_difference, gradient.relative_difference) == (None, None)
    assert hvp.relative_difference < 1e-5


def test_all_of_a_setting_is_prepared_before_its_turn_and_timed_after_it(tmp_path, monkeypatch):
    calls = []
    timed = timing.timed
    monkeypatch.setattr(timing, "timed", lambda *a: (calls.append("call"), timed(*a))[1])
    cases = [msgspec.structs.replace(CASE, method=m) for m in ("gradient", CASE.method)]
    worker.measure(cases, site(tmp_path), lambda: calls.append("turn"))
    first_calls, rounds = 2, CASE.warmup - 1 + CASE.repetitions
    assert calls == ["call"] * first_calls + ["turn"] + ["call"] * 2 * rounds


@pytest.mark.parametrize("gpu", [None, "GPU-0"])
def test_for_a_gpu_programs_are_compiled_one_after_the_other(tmp_path, monkeypatch, gpu):
    device, threads = module("jax", "device"), set()
    compile_ = device.compile

    def compile_here(*arguments):
        threads.add(threading.current_thread())
        return compile_(*arguments)

    monkeypatch.setattr(device, "platform", lambda: "cpu" if gpu is None else "gpu")
    monkeypatch.setattr(device, "compile", compile_here)
    jit = msgspec.structs.replace(CASE, framework="jax", mode="jit", model="tiny_resnet")
    cases = [msgspec.structs.replace(jit, method=m) for m in ("gradient", REFERENCE)]
    here = msgspec.structs.replace(site(tmp_path, gpu), preparing_cores=2)
    assert {found.status for found in worker.measure(cases, here)} == {"done"}
    assert (threads == {threading.main_thread()}) == (gpu is not None)


def test_what_was_loaded_before_its_turn_is_not_searched_for_garbage_in_it(tmp_path):
    program = """
import gc
import sys
from multiprocessing import Pipe
from pathlib import Path
from reproduce.measuring import worker

def measure(cases, site, wait_for_turn):
    loaded = [[] for _ in range(100_000)]
    wait_for_turn()
    print(gc.get_freeze_count() > len(loaded), flush=True)

worker.measure, log = measure, Path(sys.argv[1])
here, there = Pipe()
here.send("it is your turn")
worker.run(there, [], worker.Site(log, 1, None, log.parent))
"""
    log = tmp_path / "logs" / "log"
    subprocess.run([sys.executable, "-c", program, log], cwd=ROOT, check=True)
    assert log.read_text() == "True\n"


def test_a_gradient_that_fails_fails_all_of_its_setting(find_all, monkeypatch):
    def without_memory(loss, params, v):
        raise MemoryError

    monkeypatch.setitem(module("torch", "hvp").METHODS, "gradient", without_memory)
    for wanted in (("gradient", "forward_over_reverse"), ("forward_over_reverse",)):
        assert {found.status for found in find_all(*wanted)} == {"out_of_memory"}


def test_forward_over_reverse_is_the_reference_and_is_not_compared(find):
    assert find(method="forward_over_reverse").relative_difference is None


@pytest.mark.parametrize("vector", ["params", "seeded"])
def test_another_vector_can_be_asked_for(find, vector):
    outcome = find(vector=vector)
    assert outcome.status == "done"
    assert outcome.relative_difference < 1e-5


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_without_its_gpu_is_an_error_and_not_a_cpu_measurement(find, framework):
    outcome = find(gpu="GPU-0", framework=framework)
    assert outcome.status == "error"
    assert "a gpu was asked for, and the framework uses the cpu" in outcome.reason
    assert outcome.seconds == []


def test_a_mode_that_a_framework_has_not_got_is_unsupported(find):
    outcome = find(mode="jit")
    assert outcome.status == "unsupported"
    assert "measures it in modes 'eager' and 'compile' only" in outcome.reason


def test_an_operation_without_a_forward_mode_is_unsupported(find, monkeypatch):
    methods = module("torch", "hvp").METHODS
    monkeypatch.setitem(methods, "forward_over_reverse", without_forward_mode)
    assert find(method="forward_over_reverse").status == "unsupported"


def test_an_error_that_names_a_file_whose_name_is_no_text_can_be_written(find, monkeypatch):
    def without_file(loss, params, v):
        raise FileNotFoundError(2, "No such file", os.fsdecode(b"/x/\xff"))

    monkeypatch.setitem(module("torch", "hvp").METHODS, "forward_over_reverse", without_file)
    reason = find(method="forward_over_reverse").reason
    assert "'/x/\\udcff'" in msgspec.json.decode(msgspec.json.encode(reason))


def test_an_error_without_a_message_is_named_by_its_type(find, monkeypatch):
    def without_memory(loss, params, v):
        raise MemoryError

    monkeypatch.setitem(module("torch", "hvp").METHODS, "forward_over_reverse", without_memory)
    outcome = find(method="forward_over_reverse")
    assert (outcome.status, outcome.reason) == ("out_of_memory", "MemoryError")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_batch_beyond_all_memory_is_out_of_memory(find, framework):
    outcome = find(framework=framework, quantity="memory", batch_size=10**12)
    assert outcome.status == "out_of_memory"
    assert outcome.reason


def test_a_hvp_that_is_wrong_is_measured_with_a_warning(find, monkeypatch):
    hvp = module("torch", "hvp")
    wrong = lambda *arguments: {  # noqa: E731
        name: 1.5 * value for name, value in hvp.reverse_over_reverse(*arguments).items()
    }
    monkeypatch.setitem(hvp.METHODS, "reverse_over_reverse", wrong)
    outcome = find()
    assert outcome.relative_difference == pytest.approx(0.5, rel=1e-3)
    assert "differs from forward-over-reverse's by 50%" in outcome.warnings[0]


def with_number(value):
    """Reverse-over-reverse with one number replaced."""

    def hvp(loss, params, v):
        found = module("torch", "hvp").reverse_over_reverse(loss, params, v)
        last = next(reversed(found.values()))
        last.view(-1)[-1] = value
        return found

    return hvp


@pytest.mark.parametrize("quantity", ["time", "memory"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["forward_over_reverse", "reverse_over_forward"])
def test_an_hvp_that_is_not_finite_is_an_error(find, monkeypatch, method, value, quantity):
    monkeypatch.setitem(module("torch", "hvp").METHODS, method, with_number(value))
    outcome = find(method=method, quantity=quantity)
    assert outcome.status == "error"
    assert f"the norm of the {method}'s result was to be finite, and it is" in outcome.reason
    assert (outcome.seconds, outcome.result_norm, outcome.relative_difference) == ([], None, None)


def test_a_reference_that_is_not_finite_makes_what_is_compared_with_it_an_error(find, monkeypatch):
    methods = module("torch", "hvp").METHODS
    monkeypatch.setitem(methods, "forward_over_reverse", with_number(float("nan")))
    outcome = find()
    assert outcome.status == "error"
    assert "the relative difference from forward_over_reverse in mode eager" in outcome.reason


def zero(loss, params, v):
    return {name: 0 * value for name, value in params.items()}


def test_an_hvp_and_its_reference_can_both_be_zero_but_not_the_reference_alone(find, monkeypatch):
    methods = module("torch", "hvp").METHODS
    monkeypatch.setitem(methods, "forward_over_reverse", zero)
    alone = find()
    assert alone.status == "error"
    assert "and it is inf" in alone.reason
    monkeypatch.setitem(methods, "reverse_over_reverse", zero)
    both = find()
    assert (both.status, both.relative_difference) == ("done", 0)


@pytest.mark.parametrize(
    "wanted", [("gradient", "forward_over_reverse"), ("reverse_over_forward",)]
)
def test_a_gradient_that_is_not_finite_is_an_error_of_its_setting(find_all, monkeypatch, wanted):
    monkeypatch.setitem(module("torch", "hvp").METHODS, "gradient", with_number(float("nan")))
    assert {found.status for found in find_all(*wanted)} == {"error"}


# What the C library says of itself: malloc_info(3).
ARENAS_AFTER_A_TIMING = """
import ctypes, sys
from pathlib import Path
from runs import case
from reproduce.measuring import worker
wanted = case(2, framework="jax", mode="jit")
here = Path(sys.argv[1])
(outcome,) = worker.measure([wanted], worker.Site(here / "log", 2, None, here))
assert outcome.status == "done", outcome.reason
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
told = here / "told"
file = ctypes.c_void_p(libc.fopen(bytes(told), b"w"))
assert libc.malloc_info(0, file) == 0
libc.fclose(file)
print(told.read_text().count("<heap nr="))
"""


def test_the_threads_of_xla_share_the_memory_that_is_kept(tmp_path):
    command = [sys.executable, "-c", ARENAS_AFTER_A_TIMING, tmp_path]
    here = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(map(str, (ROOT, TESTS)))}
    arenas = subprocess.check_output(command, env=os.environ | here, cwd=tmp_path, text=True)
    assert int(arenas) == 1
