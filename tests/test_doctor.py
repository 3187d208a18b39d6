"""The doctor finds what would stop a run, under the real conditions, and names the remedy."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reproduce.cli.doctor import diagnosis
from reproduce.errors import UserError
from reproduce.machine import computing, environment, gpu
from reproduce.measuring import preflight

ROOT = Path(__file__).parent.parent
HAS_GPU = Path("/dev/nvidiactl").exists()


def run(*arguments, root=ROOT, program=("-m", "reproduce"), **settings):
    return subprocess.run(
        [sys.executable, *program, "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | settings,
        timeout=120,
        check=False,
    )


def by_check(answer, plan):
    (chosen,) = (each for each in json.loads(answer.stdout) if each["plan"] == plan)
    return {each["check"]: each for each in chosen["findings"]}


def look(plan, folder):
    found = diagnosis(plan, folder)
    return found.can_run, {each.check: each for each in found.findings}


@pytest.fixture
def temporary_folder_anew(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)  # where Python remembers it


def test_without_a_gpu_smoke_can_run_and_the_article_cannot(tmp_path):
    result = run("smoke", tmp_path / "results")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "Plan smoke can run here."
    article = lines.index("Plan article cannot run here.")
    assert {line.split()[0] for line in lines[1:article]} <= {"good", "warning"}
    assert len({line.split(":")[0] for line in lines[1:article]}) == len(preflight.CHECKS)
    assert any(
        line.startswith("missing device: plan 'article' needs a GPU, and there is no usable")
        and "; unset CUDA_VISIBLE_DEVICES (PLAN=cpu and" in line
        for line in lines[article:]
    )
    assert not (tmp_path / "results").exists()


def test_asked_for_the_article_it_ends_with_an_error_code(tmp_path):
    result = run("article", tmp_path, "--json")
    assert (result.returncode, result.stderr) == (1, "")
    (article,) = json.loads(result.stdout)
    assert not article["can_run"]
    assert {each["check"] for each in article["findings"] if each["level"] == "missing"} == {
        "device"
    }


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_it_says_how_to_get_a_gpu_into_a_container_and_on_a_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    environment.gpu.cache_clear()
    can_run, found = look("article", tmp_path)
    environment.gpu.cache_clear()
    assert not can_run
    in_container = gpu.in_container()
    begins = "start this container with 'docker run --gpus all'" if in_container else "install NVID"
    assert found["device"].remedy.startswith(begins)
    assert "driver 525 or newer" in found["device"].remedy


def test_by_default_it_looks_at_plan_cpu_and_loads_no_framework():
    program = """
import json, sys
from reproduce.__main__ import app
app(standalone_mode=False)
print(json.dumps(sorted({"jax", "torch", "jaxlib"} & sys.modules.keys())))
"""
    result = run("--json", program=("-c", program))
    diagnoses, loaded = map(json.loads, result.stdout.splitlines())
    assert [each["plan"] for each in diagnoses] == ["cpu", "article"]
    assert loaded == []


def test_an_unknown_plan_is_refused(tmp_path):
    with pytest.raises(UserError, match="there are article, quick, cpu, smoke"):
        diagnosis("fast", tmp_path)


def test_a_full_disk_stops_the_plan(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root may mount, and not in every container")
    try:
        (tmp_path / "full").write_bytes(bytes(2**20 - 2**14))
        can_run, found = look("smoke", tmp_path / "deep" / "results")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert not can_run
    assert found["disk for results"].level == "missing"
    assert "the plan needs 1.0 GiB of disk" in found["disk for results"].found
    assert found["disk for results"].remedy == "make room or give another RESULTS"


@pytest.mark.parametrize("results", ["", "results"])
def test_a_results_folder_of_somebody_else_stops_the_plan(results):
    # pytest's own folders are closed to others, who could not even see this one there.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        program = f"""
import os, sys
from pathlib import Path
from reproduce.cli import doctor
results = Path({folder!r}, {results!r})
if os.getuid() == 0:
    doctor.diagnosis("smoke", results)  # imports what others might not be able to read
    os.setuid(65534)
found = doctor.diagnosis("smoke", results)
print(*(each for each in found.findings if each.check == "results folder"))
sys.exit(not found.can_run)
"""
        result = run(program=("-c", program))
    assert result.returncode == 1, result.stderr
    assert result.stdout.startswith(f"missing results folder: results go to {folder}, which cannot")
    assert result.stdout.strip().endswith("; give another RESULTS")


def test_what_may_not_be_looked_at_is_a_warning_and_the_rest_is_looked_at(tmp_path, monkeypatch):
    def closed(look):
        (tmp_path / ("x" * 300)).stat()

    monkeypatch.setitem(preflight.CHECKS, "lock", closed)
    _, found = look("smoke", tmp_path)
    assert found["lock"].level == "warning"
    assert "cannot be looked at (File name too long)" in found["lock"].found
    assert found["results folder"].level == "good"


def test_a_file_in_place_of_the_results_folder_stops_the_plan(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        can_run, found = look("smoke", folder)
        assert not can_run
        assert found["results folder"].level == "missing"


@pytest.mark.usefixtures("temporary_folder_anew")
def test_a_temporary_folder_with_a_long_name_stops_the_plan(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    can_run, found = look("smoke", tmp_path)
    assert not can_run
    assert found["temporary folder"].level == "missing"
    assert found["temporary folder"].remedy.startswith("set TMPDIR to a folder")
    assert not any(long.iterdir())


def test_packages_that_differ_from_the_lock_are_listed(tmp_path):
    for folder in ("reproduce", "paper_figures"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    lock = (ROOT / "requirements.lock").read_text()
    numpy = preflight._pins()["numpy"]
    altered = lock.replace(f"numpy=={numpy} ", "numpy==1.26.4 ") + "an-absent-package==1.0\n"
    (tmp_path / "requirements.lock").write_text(altered)
    result = run("smoke", tmp_path / "results", "--json", root=tmp_path)
    finding = by_check(result, "smoke")["requirements.lock"]
    assert result.returncode == 0
    assert finding["level"] == "warning"
    assert f"numpy {numpy} for 1.26.4, an-absent-package missing for 1.0" in finding["found"]
    assert "run 'make setup'" in finding["remedy"]


def test_this_environment_is_as_the_lock_pins_it(tmp_path):
    import setuptools  # noqa: F401, PLC0415 — it puts copies of other packages on the path

    preflight._differences.cache_clear()
    _, found = look("smoke", tmp_path)
    assert found["requirements.lock"].level == "good"
    assert found["Python"].level == "good"


def test_without_make_and_compiler_it_warns(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    can_run, found = look("smoke", tmp_path)
    assert can_run
    assert found["make"].level == found["compiler"].level == "warning"
    assert found["make"].remedy == "install make"
    assert found["compiler"].remedy == "install gcc"
    (tmp_path / "clang").touch(mode=0o755)
    assert look("smoke", tmp_path)[1]["compiler"].found == str(tmp_path / "clang")


def test_a_driver_that_is_too_old_stops_the_article(driver, tmp_path):
    result = run("article", tmp_path, "--json", **driver, DRIVER="470.57.02")
    device = by_check(result, "article")["device"]
    assert result.returncode == 1
    assert device["level"] == "missing"
    assert "driver 470.57.02 is older than 525" in device["found"]
    assert "driver 525 or newer" in device["remedy"]


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU that the frameworks can use here")
def test_a_gpu_in_use_is_warned_about_and_one_that_no_framework_can_use_stops_it(driver, tmp_path):
    result = run("--json", **driver, DRIVER="570.86.15")
    found = by_check(result, "article")
    assert result.returncode == 1
    assert found["device"]["found"] == "NVIDIA A100-SXM4-40GB"
    levels = {name: found[name]["level"] for name in preflight.GPU_CHECKS}
    assert levels == {
        "memory of the GPU": "warning",
        "other processes on the GPU": "warning",
        "compute mode of the GPU": "good",
        "clocks of the GPU": "warning",
        "JAX on the GPU": "missing",
        "PyTorch on the GPU": "missing",
    }
    assert "needed, 8.0 GiB are free" in found["memory of the GPU"]["found"]
    assert found["other processes on the GPU"]["found"].startswith("2 compute on it")
    assert "at 210 of 1410 MHz" in found["clocks of the GPU"]["found"]
    assert "--lock-gpu-clocks" in found["clocks of the GPU"]["remedy"]
    assert "NVML finds a GPU and torch cannot use it" in found["PyTorch on the GPU"]["found"]


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU that the frameworks can use here")
def test_a_gpu_that_a_framework_cannot_use_stops_the_measuring_before_its_first_case(
    driver, tmp_path
):
    result = subprocess.run(
        [sys.executable, "-m", "reproduce", "measure", "article", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | driver | {"DRIVER": "570.86.15"},
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("error: NVML finds a GPU and jax cannot use it (RuntimeError: ")
    assert "; run 'make setup'" in sentence
    assert not (tmp_path / "results" / "rows.jsonl").exists()


@pytest.fixture
def computing_anew():
    computing._computed_on.cache_clear()
    yield
    computing._computed_on.cache_clear()


@pytest.mark.usefixtures("computing_anew")
def test_what_does_not_answer_in_time_cannot_be_used(monkeypatch):
    class Chosen:
        uuid = "GPU-0"
        is_for_one_process = staticmethod(lambda: False)

    monkeypatch.setattr(environment, "gpu", lambda: (Chosen, ""))
    monkeypatch.setattr(computing, "LIMIT_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"torch cannot use it \(no result within 0.1 s\)"):
        computing.on_gpu(["torch"])


def test_a_framework_without_its_networks_cannot_be_used(tmp_path):
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()  # one without JAX, as transformers 5 is
    done = subprocess.run(
        [sys.executable, "-c", computing.PROGRAMS["jax"]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},  # on the CPU
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "ImportError: cannot import name 'BertConfig' from 'transformers'" in done.stderr


@pytest.mark.usefixtures("computing_anew")
def test_each_framework_computes_once_on_the_chosen_gpu_in_a_process_of_its_own(monkeypatch):
    class Chosen:
        uuid = "GPU-0"
        is_for_one_process = staticmethod(lambda: False)

    says = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['JAX_PLATFORMS'])"
    programs = {"jax": says, "torch": "import os; print(os.getpid())"}
    monkeypatch.setattr(environment, "gpu", lambda: (Chosen, ""))
    monkeypatch.setattr(computing, "PROGRAMS", programs)
    found = computing.on_gpu({"torch", "jax"})
    assert found["jax"] == "GPU-0 cuda"
    assert int(found["torch"]) != os.getpid()
    assert computing.on_gpu({"torch", "jax"}) == found
