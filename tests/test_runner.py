"""Cases run once each, in order, whatever becomes of them; what is done is not done again."""

import os
import signal
import sys
import time
from pathlib import Path

import fake_worker
import msgspec
import pytest
from conftest import start_interruptible
from fake_worker import CRASH, DONE, HANG, KILLED, OUT_OF_MEMORY, SHY

from reproduce import conditions, environment, runner, worker
from reproduce.plan import METHODS, Case, PlanError, cases
from reproduce.processes import Processes
from reproduce.rows import read_rows

TESTS = Path(__file__).parent


def case(batch_size=DONE, **changes):
    fields = {
        "plan": "smoke",
        "framework": "torch",
        "mode": "eager",
        "model": "tiny_bert",
        "batch_size": batch_size,
        "method": "gradient",
        "quantity": "time",
        "warmup": 1,
        "repetitions": 1,
    }
    return Case(**(fields | changes))


@pytest.fixture(autouse=True)
def without_frameworks(monkeypatch):
    monkeypatch.setattr(worker, "run", fake_worker.run)
    monkeypatch.setattr(worker, "modules", lambda framework: [])


def measure(folder, *wanted, timeout_seconds=20):
    return runner.measure(list(wanted), folder, on_gpu=False, timeout_seconds=timeout_seconds)


def log(folder):
    return (folder / "workers.log").read_text().splitlines()


def test_time_cases_run_in_the_plans_order_after_the_memory_cases(tmp_path):
    wanted = [case(method=m, quantity=q) for m in METHODS for q in ("time", "memory")]
    measure(tmp_path, *wanted)
    ran = log(tmp_path)
    assert all(line.startswith("memory") for line in ran[:4])
    assert ran[4:] == [str(each) for each in wanted if each.quantity == "time"]


def test_each_case_has_a_process_of_its_own(tmp_path):
    rows = measure(tmp_path, *(case(method=method) for method in METHODS))
    assert len({row.memory_bytes["resident_peak_bytes"] for row in rows}) == len(METHODS)


def in_turn(batch_size=DONE):
    return [case(batch_size, method=method, in_turn=True) for method in METHODS]


def test_cases_that_are_timed_in_turn_share_a_process_and_the_reference_comes_first(tmp_path):
    rows = measure(tmp_path, case(), *in_turn())
    processes = [row.memory_bytes["resident_peak_bytes"] for row in rows]
    assert len(set(processes)) == 2
    assert len(set(processes[1:])) == 1
    assert log(tmp_path)[1] == str(case(method="forward_over_reverse"))


def test_programs_that_are_found_by_name_are_of_one_code(tmp_path, monkeypatch):
    measure(tmp_path, case())
    folders = set((tmp_path / "programs").iterdir())
    measure(tmp_path, case(), case(SHY))
    assert set((tmp_path / "programs").iterdir()) == folders
    monkeypatch.setattr(environment, "code_hash", lambda *_: "of other code")
    measure(tmp_path, case())
    assert len(set((tmp_path / "programs").iterdir()) - folders) == len(folders) == 1


def test_what_no_earlier_run_has_compiled_is_compiled_before_all_and_is_no_row(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(worker, "COMPILER_MODULE", "json")
    wanted = [
        case(mode="compile", method=method, in_turn=True, quantity=quantity)
        for method in ("gradient", "linearized", "forward_over_reverse")
        for quantity in ("time", "memory")
    ]
    programs = Processes(tmp_path, False, 60, 1)._programs_of("torch")
    programs.mkdir(parents=True)
    for name in ("gradient-1", "linearized-at_point", "forward_over_reverse-1.seconds"):
        (programs / f"{wanted[0].problem}-{name}").touch()
    rows = measure(tmp_path, *wanted)
    assert {row.case for row in read_rows(tmp_path / "rows.jsonl")} == {*wanted}
    assert len(rows) == len(wanted)
    before, timed = log(tmp_path)[:5], log(tmp_path)[5:]
    compiled = {line.split()[-1] for line in before if line.startswith("compilation")}
    assert compiled == {"linearized", "forward_over_reverse"}
    assert {line.split()[0] for line in timed} == {"time"}
    assert "6 cases to measure, after 2 compilations, about" in capsys.readouterr().out


def test_what_cannot_be_compiled_is_found_again_when_it_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "COMPILER_MODULE", "json")
    (row,) = measure(tmp_path, case(CRASH, mode="compile"))
    assert (row.quantity, row.status) == ("time", "error")
    assert [line.split()[0] for line in log(tmp_path)] == ["compilation", "time"]


def test_the_gradient_is_compiled_beside_each_hvp_and_last():
    hvps = [case(mode="compile", method=method) for method in METHODS if method != "gradient"]
    compilations = runner.compilations([case(), *hvps, *hvps])
    assert [each.method for each in compilations] == [*METHODS[1:], "gradient"]


def test_as_many_compile_side_by_side_as_fit(monkeypatch):
    timed = case(mode="compile", model="bert", in_turn=True, method="forward_over_reverse")
    needed = max(map(runner.cost.memory_bytes, runner.compilations([timed])))
    assert needed < runner.cost.memory_bytes(timed)
    monkeypatch.setattr(environment, "free_bytes", lambda on_gpu: 2 * needed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    assert runner.cases_at_once([timed], on_gpu=False) == 2


def test_what_fails_in_company_is_measured_alone(tmp_path):
    rows = measure(tmp_path, *in_turn(SHY))
    assert [row.status for row in rows] == ["done"] * len(METHODS)
    assert len({row.memory_bytes["resident_peak_bytes"] for row in rows}) == len(METHODS)
    assert len(log(tmp_path)) == 1 + len(METHODS)


def test_a_finished_case_is_not_measured_again(tmp_path):
    measure(tmp_path, case())
    rows = measure(tmp_path, case(), case(method="reverse_over_forward"))
    assert [row.method for row in rows] == ["gradient", "reverse_over_forward"]
    assert len(log(tmp_path)) == 2


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        ("code_hash", lambda framework, is_accounted: "another"),
        ("identity", lambda on_gpu: {"device": "another device"}),
    ],
)
def test_a_change_of_code_or_environment_measures_anew(tmp_path, monkeypatch, target, changed):
    measure(tmp_path, case())
    monkeypatch.setattr(environment, target, changed)
    measure(tmp_path, case())
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2


def test_a_change_of_settings_is_another_case(tmp_path):
    measure(tmp_path, case())
    (row,) = measure(tmp_path, case(seed=1))
    assert row.seed == 1
    assert len(log(tmp_path)) == 2


def test_every_failure_becomes_a_row_with_a_reason_and_the_run_goes_on(tmp_path):
    sizes = (CRASH, KILLED, HANG, OUT_OF_MEMORY, DONE)
    rows = measure(tmp_path, *map(case, sizes), timeout_seconds=2)
    assert [(row.batch_size, row.status) for row in rows] == [
        (CRASH, "error"),
        (KILLED, "error"),
        (HANG, "timeout"),
        (OUT_OF_MEMORY, "out_of_memory"),
        (DONE, "done"),
    ]
    assert [bool(row.reason) for row in rows] == [True, True, True, True, False]
    assert "exit code 7" in rows[0].reason
    assert "SIGKILL" in rows[1].reason
    assert "2 s" in rows[2].reason


def test_crashes_and_time_limits_are_tried_again_and_out_of_memory_is_not(tmp_path):
    wanted = [case(size) for size in (CRASH, HANG, OUT_OF_MEMORY)]
    measure(tmp_path, *wanted, timeout_seconds=1)
    measure(tmp_path, *wanted, timeout_seconds=1)
    assert log(tmp_path).count(str(wanted[0])) == 2
    assert log(tmp_path).count(str(wanted[1])) == 2
    assert log(tmp_path).count(str(wanted[2])) == 1


def test_a_row_is_on_disk_before_the_next_case_starts(tmp_path):
    # The second case hangs: what the file holds meanwhile is what the first one left.
    program = f"""
import sys; sys.path[:0] = [{str(TESTS)!r}]
from pathlib import Path
import fake_worker, test_runner
from reproduce import runner, worker
worker.run, worker.modules = fake_worker.run, lambda framework: []
try:
    test_runner.measure(Path({str(tmp_path)!r}), test_runner.case(), test_runner.case({HANG}))
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = start_interruptible([sys.executable, "-c", program], cwd=TESTS.parent)
    until(lambda: read_rows(tmp_path / "rows.jsonl"))
    with pytest.raises(PlanError, match="another run is measuring into"):
        measure(tmp_path, case())
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1
    measure(tmp_path, case())
    assert log(tmp_path).count(str(case())) == 1


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": "lenet"}, "model 'lenet' was asked for; there are resnet34, resnet50, vit"),
        ({"framework": "tensorflow"}, "the plan needs 'tensorflow', which is not installed here"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(tmp_path, wrong, sentence):
    wrong_case = msgspec.structs.replace(case(), **wrong)
    with pytest.raises(PlanError, match=sentence):
        measure(tmp_path, case(), wrong_case)
    assert not (tmp_path / "rows.jsonl").exists()


def test_too_little_memory_or_disk_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "free_bytes", lambda on_gpu: 2**20)
    with pytest.raises(PlanError, match=r"of memory, .* are free"):
        measure(tmp_path, case())
    monkeypatch.setattr(conditions, "NEEDED_DISK_BYTES", 2**60)
    with pytest.raises(PlanError, match="of disk"):
        measure(tmp_path, case())


def test_an_unknown_plan_is_refused_with_the_known_ones():
    with pytest.raises(PlanError, match="plan 'all' was asked for; there are article, cpu, smoke"):
        cases("all")


def test_a_row_says_what_it_was_measured_on(tmp_path):
    (row,) = measure(tmp_path, case())
    identity = row.environment["identity"]
    assert row.device == identity["device"]
    assert row.device.startswith("CPU: ")
    assert identity["packages"]["torch"].startswith("2.")
    assert {"lock", "settings", "python", "cores"} <= identity.keys()
    assert {"load", "revision"} <= row.environment["state"].keys()
    assert row.case_seconds > 0


def test_memory_cases_run_side_by_side_only_as_far_as_memory_goes(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    needed = runner.cost.memory_bytes(case())
    for free, expected in ((needed, 1), (needed // 2, 1), (1000 * needed, cores)):
        monkeypatch.setattr(environment, "free_bytes", lambda on_gpu, free=free: free)
        assert runner.cases_at_once([case()], on_gpu=False) == expected
        assert runner.cases_at_once([case()], on_gpu=True) == 1
