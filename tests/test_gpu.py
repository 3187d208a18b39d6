"""Which GPU is measured on, and what it tells: NVML's answers are those of tests/nvml.c."""

import json
import os
import subprocess
import sys

import msgspec
import pytest
from conftest import ROOT

from reproduce.machine import environment, gpu

FIRST, SECOND = (f"GPU-8932f93{n}-d72c-4106-c12f-20bd9faed9f6" for n in (0, 1))
INSTANCES = [f"MIG-c7384736-a75d-5afc-978f-d2f1294409d{n}" for n in (1, 2)]
A100 = "NVIDIA A100-SXM4-40GB"


@pytest.fixture
def told(driver):
    """The value of an expression in a process of its own, under settings of the driver."""

    def told(expression, before="", **settings):
        program = f"""
import json
import os
import time
from reproduce.machine import environment, gpu
found, sentence = environment.gpu()
{before}
print(json.dumps({expression}))
"""
        own = {"DRIVER": "570.86.15"} | driver | settings
        command = [sys.executable, "-c", program]
        return json.loads(subprocess.check_output(command, env=os.environ | own, cwd=ROOT))

    return told


@pytest.mark.parametrize(
    ("settings", "uuid"),
    [
        ({}, FIRST),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, SECOND),
        ({"CUDA_VISIBLE_DEVICES": "1", "GPU": "0"}, FIRST),
        ({"CUDA_VISIBLE_DEVICES": "", "GPU": "1"}, SECOND),
        ({"CUDA_VISIBLE_DEVICES": SECOND}, SECOND),
        ({"GPU": "GPU-8932f931"}, SECOND),
        ({"GPU": "1", "LOST": "0"}, SECOND),
        ({"GPU": "1", "MIG": "1"}, f"{INSTANCES[0][:-1]}9"),
        ({"MIG": "2"}, INSTANCES[0]),
        ({"GPU": FIRST, "MIG": "2"}, INSTANCES[0]),
        ({"CUDA_VISIBLE_DEVICES": INSTANCES[1], "MIG": "2"}, INSTANCES[1]),
        ({"GPU": "MIG-", "MIG": "1", "NVML_GPUS": "1"}, INSTANCES[0]),
    ],
)
def test_one_of_several_gpus_is_chosen_by_index_or_the_beginning_of_its_uuid(told, settings, uuid):
    assert told("found.uuid", **{"NVML_GPUS": "2"} | settings) == uuid


def test_all_gpus_that_may_be_used_are_listed_of_a_divided_one_its_instances(told):
    listed = "gpu.uuids()"
    assert told(listed, NVML_GPUS="2", CUDA_VISIBLE_DEVICES="1,0") == [SECOND, FIRST]
    assert told(listed, NVML_GPUS="2", CUDA_VISIBLE_DEVICES="1") == [SECOND]
    unset = "del os.environ['CUDA_VISIBLE_DEVICES']"
    assert told(listed, unset, NVML_GPUS="2") == [FIRST, SECOND]
    assert told(listed, unset, MIG="2") == INSTANCES


def test_without_a_choice_it_is_the_first(told):
    unset = "del os.environ['CUDA_VISIBLE_DEVICES']; environment.gpu.cache_clear()"
    assert (
        told("environment.gpu()[0].uuid", unset, NVML_GPUS="2", CUDA_VISIBLE_DEVICES="1") == FIRST
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"GPU": "2", "NVML_GPUS": "2"},
            f"GPU=2 names none of 0: {A100} {FIRST}, 1: {A100} {SECOND}; ",
        ),
        ({"GPU": "GPU-8932", "NVML_GPUS": "2"}, "GPU=GPU-8932 names 2 of 0: "),
        ({"CUDA_VISIBLE_DEVICES": "MIG-0", "MIG": "1"}, f"in it: {A100} MIG 1g.5gb {INSTANCES[0]}"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "; set CUDA_VISIBLE_DEVICES to the index or the UUID"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES hides every GPU; unset"),
        ({"GPU": "-1"}, "GPU hides every GPU; unset GPU"),
        ({"NVML_GPUS": "0"}, "NVML knows none; "),
        ({"LOST": "0"}, "NVML found no GPU (GPU is lost); "),
        ({"MIG": "0"}, f"{A100} is in MIG mode and has no instance; make one with 'nvidia-smi mig"),
        ({"REFUSED": "Name"}, "NVML found no GPU (Insufficient Permissions); "),
        ({"REFUSED": "SystemGetDriverVersion"}, "NVML found no GPU (Insufficient Permissions); "),
        ({"DRIVER": "470.57.02"}, "driver 470.57.02 is older than 525, which CUDA 12 needs; "),
    ],
)
def test_without_a_usable_gpu_a_sentence_says_why_and_what_to_do(told, settings, reason):
    found, sentence = told("(found, sentence)", **settings)
    assert found is None
    assert sentence.startswith("no usable NVIDIA GPU: ")
    assert reason in sentence
    assert "\n" not in sentence


def test_workers_see_the_chosen_gpu_alone_and_may_use_its_memory(told):
    start = "from reproduce.measuring import runner; runner.set_worker_environment(on_gpu=True)"
    program, settings = ("dict(os.environ)", start), {"NVML_GPUS": "2", "GPU": "1"}
    found = told(*program, **settings)
    assert found["CUDA_VISIBLE_DEVICES"] == SECOND
    assert found["XLA_CLIENT_MEM_FRACTION"] == "0.95"
    assert found["JAX_PLATFORMS"] == "cuda,cpu"  # where it was cpu
    found = told(*program, **settings, XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    assert "XLA_CLIENT_MEM_FRACTION" not in found  # JAX refuses both
    found = told(*program, **settings, XLA_CLIENT_MEM_FRACTION="0.5")
    assert found["XLA_CLIENT_MEM_FRACTION"] == "0.5"


def test_an_instance_is_named_as_what_it_is_with_its_own_memory_and_the_clocks_of_the_whole(told):
    assert told("found.name", MIG="1") == f"{A100} MIG 1g.5gb"
    assert told("environment.free_bytes(True)", MIG="1") == 4 << 30
    assert told("gpu.used_bytes_of(found.uuid)()", MIG="1") == 1 << 30
    assert told("found.sm_clocks_mhz()", MIG="1") == [210, 1410]
    assert told("found.facts()['gpu_memory_bytes']", MIG="1") == 5 << 30


def test_where_only_one_process_may_compute_settings_are_prepared_one_after_the_other(told):
    before = """
from reproduce.measuring import schedule
from reproduce.plan import by_setting, cases
waves = schedule.waves(by_setting(cases("smoke")), schedule.here(on_gpu=True))
sizes = set(map(len, waves))
"""
    assert max(told("list(sizes)", before)) > 1
    assert max(told("list(sizes)", before, REFUSED="ComputeMode")) > 1
    assert told("list(sizes)", before, EXCLUSIVE="1") == [1]
    assert told("list(sizes)", before, EXCLUSIVE="1", MIG="2") == [1]


REFUSED = (
    "MemoryInfo,ComputeRunningProcesses,SystemGetCudaDriverVersion,ClockInfo,PowerUsage,Temperature"
)


def test_what_nvml_refuses_to_tell_is_missing(told):
    facts, processes, free, cpu_free = told(
        "(found.facts(), found.processes(), environment.free_bytes(True), "
        "environment.free_bytes(False))",
        REFUSED=REFUSED,
    )
    assert facts["gpu_uuid"] == FIRST
    assert {facts[name] for name in ("driver_cuda", "gpu_memory_bytes", "gpu_ecc")} == {None}
    assert facts["gpu_power_limit_watts"] == 400
    assert processes is None
    assert free == pytest.approx(cpu_free, rel=0.5)


def test_that_its_used_memory_cannot_be_asked_is_a_sentence(driver):
    program = f"from reproduce.machine.gpu import used_bytes_of; used_bytes_of({FIRST!r})"
    settings = driver | {"REFUSED": "MemoryInfo"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr.splitlines()[-1] == (
        f"RuntimeError: NVML was asked for the used memory of {FIRST} and does not report it "
        "(Insufficient Permissions); measure memory on another GPU"
    )


def test_a_row_stands_for_another_machine_of_the_same_kind(told):
    both = "(environment.identity(True), environment.state(True)['machine'])"
    there = {"DRIVER": "580.159.04", "NVML_GPUS": "2", "GPU": "1", "REFUSED": "MemoryInfo"}
    (here, first), (elsewhere, second) = told(both), told(both, **there)
    assert here == elsewhere
    assert here["device"] == A100
    assert set(here) == {"device", "python", "packages", "settings"}
    assert here["python"].count(".") == 1
    assert (first["driver"], second["driver"]) == ("570.86.15", "580.159.04")
    assert (first["gpu_uuid"], second["gpu_uuid"]) == (FIRST, SECOND)
    recorded = {"driver_cuda", "gpu_memory_bytes", "gpu_power_limit_watts", "gpu_ecc"}
    assert recorded | {"cpu", "cores", "python", "lock"} <= set(first)


def test_a_setting_that_changes_the_timings_must_match(monkeypatch):
    before = environment.identity(on_gpu=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert environment.identity(on_gpu=False) == before
    for name in (
        "ATEN_CPU_CAPABILITY",
        "CUBLAS_WORKSPACE_CONFIG",
        "CUDA_LAUNCH_BLOCKING",
        "CUDA_MODULE_LOADING",
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_DEFAULT_MATMUL_PRECISION",
        "JAX_DISABLE_JIT",
        "JAX_ENABLE_X64",
        "JAX_NUMPY_DTYPE_PROMOTION",
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "MKL_NUM_THREADS",
        "NVIDIA_TF32_OVERRIDE",
        "OMP_NUM_THREADS",
        "TORCHINDUCTOR_MAX_AUTOTUNE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "XLA_CLIENT_MEM_FRACTION",
    ):
        monkeypatch.setenv(name, "1")
        identity = environment.identity(on_gpu=False)
        assert identity["settings"] == before["settings"] | {name: "1"}
        monkeypatch.delenv(name)


def test_where_a_run_is_and_what_runs_beside_it_need_not_match(monkeypatch):
    before = environment.identity(on_gpu=False)
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS", "HOME", "GIT_DIR"):
        monkeypatch.setenv(name, "1")
    assert environment.identity(on_gpu=False) == before


def test_a_setting_that_is_no_text_is_written_into_a_row(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.fsdecode(b"/x/\xff"))
    written = msgspec.json.decode(msgspec.json.encode(environment.variables()))
    assert written["JAX_COMPILATION_CACHE_DIR"] == "/x/\\udcff"


def test_the_plugins_of_both_versions_of_cuda_must_match(monkeypatch):
    plugins = {f"jax-cuda{n}-{kind}": "1" for n in (12, 13) for kind in ("pjrt", "plugin")}
    monkeypatch.setattr(environment, "installed", lambda: plugins | {"jax-triton": "1"})
    assert environment.identity(on_gpu=False)["packages"] == plugins


WATCHING = """
with found.watched(seconds=0.01) as seen:
    time.sleep(0.3)
"""


def test_clocks_power_and_heat_are_sampled_while_something_runs(told):
    found = told("seen", WATCHING, CLOCKS="210,1410,1200,1300", REASONS="1,4,32,2")
    assert found["gpu_sm_clock_mhz"] == [1200, 1410]  # idle at the first
    assert found["gpu_memory_clock_mhz"] == [1215, 1215]
    low, high = found["gpu_power_watts"]
    assert 300 < low < high
    assert found["gpu_temperature_celsius"] == pytest.approx(high - 300 + 50)
    assert found["gpu_throttle_reasons"] == [
        "application clocks",
        "power cap",
        "thermal slowdown by the driver",
    ]


def test_of_a_gpu_that_idles_or_does_not_tell_what_there_is_is_recorded(told):
    found = told("seen", WATCHING, CLOCKS="210", REASONS="1", MIG="1")
    assert found["gpu_sm_clock_mhz"] == [210, 210]
    assert found["gpu_throttle_reasons"] == []
    found = told("seen", WATCHING, REFUSED=f"{REFUSED},CurrentClocksThrottleReasons")
    assert set(found.values()) == {None}
    assert len(found) == 5


def test_only_what_spoils_timings_is_warned_about_with_a_remedy():
    assert gpu.throttling(None) == gpu.throttling(["application clocks", "sync boost"]) == []
    (warning,) = gpu.throttling(["application clocks", "power cap", "hardware slowdown"])
    assert warning.startswith(
        "the GPU held its clocks back while it was timed (power cap, hardware slowdown): "
        "lock a lower clock with 'nvidia-smi --lock-gpu-clocks' and look after"
    )
    assert set(gpu.REMEDIES) <= set(gpu.REASONS.values())
