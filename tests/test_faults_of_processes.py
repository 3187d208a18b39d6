"""Whatever process is killed, hangs or crashes: finished rows stay, and no process is left."""

import os
import random
import re
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import fake_worker
import psutil
import pytest
from fake_worker import DEAF, DONE, HALF_SENT, KILLED, SEGFAULT, STOPPED
from refusals import ending
from runs import case, measure, noted, until

import reproduce.__main__ as reproducing
from paper_figures import figures
from reproduce.cli import judging
from reproduce.errors import UserError
from reproduce.measuring import worker
from reproduce.measuring.processes import Processes
from reproduce.measuring.ways import Measured
from reproduce.plan import cases
from reproduce.results import summary
from reproduce.results.rows import read_rows

TESTS = Path(__file__).parent
KILLS = 20
CGROUPS = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
REAL_WORKER = worker.run


def start(program, *arguments):
    """A process of one of the programs beside this file."""
    return psutil.Popen(
        [sys.executable, str(TESTS / program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*command):
    """How it ended: its code and what it said of errors."""
    process = start(*command)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def finished(folder):
    """All whole rows of ``folder``, in bytes."""
    path = folder / "rows.jsonl"
    return path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""


def count(folder):
    return finished(folder).count(b"\n{") + bool(finished(folder))


def forkserver(parent):
    """The process that workers of ``parent`` fork from, once there is one."""
    until(lambda: forkservers(parent))
    return forkservers(parent)[0]


def forkservers(parent):
    alive = filter(is_alive, parent.children())
    return [each for each in alive if "forkserver" in " ".join(each.cmdline())]


def kill(process):
    """Kills ``process`` and waits until all that it started has ended by itself."""
    family = [process]
    with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        family += process.children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not any(map(is_alive, family)), seconds=60)


def is_alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def drawn(folder):
    """Every figure of ``folder``, its summary and its verdicts, in bytes."""
    rows = summary.last_of_each_case(read_rows(folder / "rows.jsonl"))
    for name in figures.BENCHES:
        if not name.endswith("_b64"):  # smoke has no batch size 64
            figures.write(name, figures.select(name, rows)[0], folder / "figures")
    judging.claims(folder)
    files = [*(folder / "figures").iterdir(), folder / "claims.md", folder / "summary.csv"]
    return {path.name: path.read_bytes() for path in files}


def until_grown_or_ended(folder, process):
    before = count(folder)
    until(lambda: count(folder) > before or process.poll() is not None)


def disturb(folder, moments):
    """Kills a run into ``folder`` again and again, first a worker of it and then the whole.

    Returns how often, until four runs were killed or all rows are there.
    """
    kills = 0
    for _ in range(4):
        before = finished(folder)
        process = start("fake_run.py", folder)
        until(process.children)
        time.sleep(moments.uniform(0.5, 1.0))
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            for victim in [each for server in forkservers(process) for each in server.children()]:
                victim.kill()
                kills += 1
                break
        until_grown_or_ended(folder, process)
        time.sleep(moments.uniform(0, 0.05))
        if process.poll() is None:
            kills += 1
            kill(process)
        process.communicate(timeout=60)  # also of a run that has ended by itself
        assert finished(folder).startswith(before)
        if count(folder) == len(cases("smoke")):
            break
    return kills


@pytest.mark.slow
def test_a_run_killed_at_20_moments_gives_the_bytes_of_an_undisturbed_one(tmp_path):
    undisturbed = tmp_path / "undisturbed"
    assert finish("fake_run.py", undisturbed)[0] == 0
    expected, moments, kills, runs = drawn(undisturbed), random.Random(0), 0, 0
    while kills < KILLS:
        folder = tmp_path / str(runs)
        kills += disturb(folder, moments)
        runs += 1
        assert runs < KILLS  # a run of which nothing can be killed tests nothing
        kept = finished(folder)
        code, errors = finish("fake_run.py", folder)
        assert code == 0, errors
        assert finished(folder).startswith(kept)
        done = [row.case for row in read_rows(folder / "rows.jsonl") if row.status == "done"]
        assert len(done) == len(set(done)) == len(cases("smoke"))
        assert drawn(folder) == expected


@pytest.mark.slow
def test_a_run_with_real_workers_goes_on_after_kills_and_half_written_programs(tmp_path):
    real = ("part", "measure", "smoke", tmp_path)
    process = start("altered.py", *real)
    until(process.children)
    time.sleep(2)  # it is loading the frameworks
    kill(process)
    process = start("altered.py", *real)
    until(lambda: count(tmp_path) >= 2, seconds=120)
    kill(process)
    kept = finished(tmp_path)
    for program in filter(Path.is_file, (tmp_path / "programs").rglob("*")):
        os.truncate(program, program.stat().st_size // 2)
    code, errors = finish("altered.py", *real)
    assert code == 0, errors
    assert finished(tmp_path).startswith(kept)
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [row.status for row in rows] == ["done"] * 6
    assert len({row.case for row in rows}) == 6


def test_no_worker_outlives_its_parent_not_even_one_that_cannot_be_told(tmp_path):
    program = f"""
import sys; sys.path[:0] = [{str(TESTS)!r}]
from pathlib import Path
import fake_worker, runs
from reproduce.measuring import schedule, worker
worker.run, worker.modules = fake_worker.run, lambda framework: []
schedule.here = lambda _: schedule.Machine(3, 1 << 40)
wanted = [runs.case(size, quantity="memory") for size in {(STOPPED, DEAF, fake_worker.HANG)}]
runs.measure(Path({str(tmp_path)!r}), *wanted)
"""
    process = psutil.Popen([sys.executable, "-c", program], cwd=TESTS.parent)
    until(lambda: len(noted(tmp_path)) == 3)
    assert len(forkserver(process).children()) == 3
    kill(process)


def test_a_run_goes_on_when_the_process_that_workers_fork_from_is_killed(tmp_path):
    process = start("fake_run.py", tmp_path)
    for wanted in (3, 10, 30):
        until(lambda wanted=wanted: count(tmp_path) >= wanted and forkservers(process))
        forkserver(process).kill()
    process.communicate(timeout=60)
    assert process.returncode in {0, 1}
    assert count(tmp_path) == len(cases("smoke"))
    code, errors = finish("fake_run.py", tmp_path)
    assert code == 0, errors


@pytest.mark.usefixtures("fake_workers")
def test_a_worker_that_cannot_be_started_is_an_error_and_the_next_one_starts(tmp_path):
    here, wanted = Processes(tmp_path, Measured(on_gpu=False), 20), [case(quantity="memory")]
    assert here._started(wanted, 1).outcomes[0].status == "done"
    server = forkserver(psutil.Process())
    server.suspend()  # takes the request, and dies with it
    threading.Timer(0.3, server.kill).start()
    (found,) = here._started(wanted, 1).outcomes
    assert found.status == "error"
    assert found.reason.startswith("no worker could be started")
    until(lambda: server.status() == psutil.STATUS_ZOMBIE)  # its sockets close a moment before
    assert here._started(wanted, 1).outcomes[0].status == "done"


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_not_disturbed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    first = start("fake_run.py", tmp_path)
    until(lambda: count(tmp_path) >= 3)
    arguments = ["measure", "smoke", str(tmp_path)]
    code, errors = ending(capsys, monkeypatch, reproducing, arguments)
    assert code == 2
    assert errors.startswith(f"error: another run is measuring into {tmp_path}; wait for it")
    assert len(errors.splitlines()) == 1
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert count(tmp_path) == len(cases("smoke"))


@pytest.mark.usefixtures("fake_workers")
def test_a_segfault_a_stop_a_deaf_hang_and_half_a_message_each_become_a_row(tmp_path):
    sizes = (SEGFAULT, STOPPED, DEAF, HALF_SENT, DONE)
    rows = measure(tmp_path, *map(case, sizes), timeout_seconds=1)
    assert [row.status for row in rows] == ["error", "timeout", "timeout", "error", "done"]
    assert "SIGSEGV" in rows[0].reason
    assert "exit code 0" in rows[3].reason
    assert forkserver(psutil.Process()).children() == []


@pytest.mark.usefixtures("fake_workers")
def test_a_worker_killed_by_somebody_is_measured_again(tmp_path):
    for runs in (1, 2):
        (row,) = measure(tmp_path, case(KILLED))
        assert (row.status, "SIGKILL" in row.reason) == ("error", True)
        assert noted(tmp_path).count(str(case(KILLED))) == runs


@pytest.mark.slow
def test_a_failed_case_names_the_log_of_its_worker_and_of_what_is_done_none_is_kept(tmp_path):
    (tmp_path / "logs").mkdir()
    of_before = tmp_path / "logs" / "time-torch-eager-tiny_bert-batch-1.log"
    of_before.write_text("a crash that was tried again\n")
    done, failed = measure(tmp_path, case(), case(batch_size=2, seed=-1), timeout_seconds=120)
    assert (done.status, failed.status) == ("done", "error")
    assert failed.reason.startswith("ValueError: ")
    assert failed.reason.endswith("; see logs/time-torch-eager-tiny_bert-batch-2.log")
    assert (tmp_path / failed.log).read_text().count("Traceback") == 2  # in company and alone
    assert [*(tmp_path / "logs").iterdir()] == [tmp_path / failed.log]


@pytest.fixture
def cgroup():
    """A control group of 64 MiB, made where this machine lets one be made.

    Yields:
        Its folder.
    """
    for root in CGROUPS:
        group = root / f"hvp-repro-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (group / name).exists():
                (group / name).write_text(str(64 << 20))
                yield group
                group.rmdir()
                return
        group.rmdir()
    pytest.skip("needs leave to make a control group of memory: root, outside of a container")


def eat(connection, cases, site):
    """Takes more memory than the control group has that is named beside the programs."""
    group = Path((site.programs.parent / "cgroup").read_text())
    (group / "cgroup.procs").write_text(str(os.getpid()))
    fake_worker.note(site, cases[0])
    connection.send(len(bytearray(os.urandom(1 << 20)) * 256))


def test_a_worker_killed_for_memory_by_the_kernel_is_out_of_memory(tmp_path, monkeypatch, cgroup):
    monkeypatch.setattr(worker, "run", eat)
    monkeypatch.setattr(worker, "modules", lambda framework: [])
    (tmp_path / "cgroup").write_text(str(cgroup))
    for _ in range(2):
        (row,) = measure(tmp_path, case())
        assert row.status == "out_of_memory"
        assert row.reason == "the system killed the worker because memory ran out"
    assert len(noted(tmp_path)) == 1  # it is not tried again


def starve(connection, cases, site):
    """The real worker, once the frameworks are loaded, with room for as many MiB as the seed."""
    (case,) = cases
    for name in worker.modules(case.framework):
        import_module(name)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + (case.seed << 20),) * 2)
    REAL_WORKER(connection, cases, site)


@pytest.mark.slow
def test_a_real_worker_that_may_not_allocate_is_out_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "run", starve)
    wanted = case(model="resnet34", batch_size=64, seed=1000)
    (row,) = measure(tmp_path, wanted, timeout_seconds=120)
    assert row.status == "out_of_memory", row.reason
    # Of the allocator, or of oneDNN, whose primitives are where it may be that memory ends.
    assert re.search("DefaultCPUAllocator: can't allocate|could not create a primitive", row.reason)


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_a_framework_that_does_not_load_ends_the_run_before_it_starts(tmp_path, error):
    (tmp_path / "broken.py").write_text(f"raise {error}('no such driver')")
    program = f"""
import sys; sys.path[:0] = [{str(TESTS)!r}, {str(tmp_path)!r}]
from pathlib import Path
import runs
from reproduce.measuring import worker
from reproduce.errors import UserError
worker.modules = lambda framework: ["broken"]
try:
    runs.measure(Path({str(tmp_path / "results")!r}), runs.case())
except UserError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "the plan needs torch, which cannot be loaded here" in result.stdout
    assert "no such driver" in result.stderr
    assert not (tmp_path / "results" / "logs").exists()


@pytest.mark.usefixtures("fake_workers")
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_time_limit_that_is_none_is_refused(tmp_path, seconds):
    with pytest.raises(UserError, match=r"a time limit of .* give more than 0 and at most"):
        measure(tmp_path, case(), timeout_seconds=seconds)
