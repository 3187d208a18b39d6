"""Cases run once each, in order, whatever becomes of them; what is done is not done again."""

import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import fake_worker
import msgspec
import pytest
from conftest import start_interruptible
from fake_worker import CRASH, DONE, HANG, KILLED, OUT_OF_MEMORY, SHY, TIMED_CRASH
from runs import case, measure, noted, until

from reproduce.errors import UserError
from reproduce.machine import environment, limits
from reproduce.measuring import cost, preflight, progress, schedule, worker
from reproduce.measuring.processes import Processes
from reproduce.measuring.progress import Progress
from reproduce.measuring.ways import Measured
from reproduce.plan import METHODS, by_setting, cases
from reproduce.results.rows import read_rows

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True)
def without_frameworks(monkeypatch):
    monkeypatch.setattr(worker, "run", fake_worker.run)
    monkeypatch.setattr(worker, "modules", lambda framework: [])


def process_of(row):
    return row.memory_bytes["resident_peak_bytes"]


def machine(monkeypatch, cores=2, host_bytes=1 << 40, gpu_bytes=None):
    """As if this machine had these."""
    monkeypatch.setattr(schedule, "here", lambda _: schedule.Machine(cores, host_bytes, gpu_bytes))


def test_the_cases_of_a_setting_share_a_process_and_the_reference_comes_after_the_gradient(
    tmp_path,
):
    wanted = [case(method=method) for method in reversed(METHODS)]
    rows = measure(tmp_path, *wanted, case(batch_size=20))
    assert len(set(map(process_of, rows))) == 2
    assert len({process_of(row) for row in rows if row.batch_size == DONE}) == 1
    of_setting = [line for line in noted(tmp_path) if f"batch {DONE} " in line]
    assert [line.split()[-1] for line in of_setting[:2]] == ["gradient", "forward_over_reverse"]


def test_settings_are_prepared_together_and_timed_one_after_the_other_in_the_plans_order(
    tmp_path, monkeypatch
):
    machine(monkeypatch, cores=2)
    wanted = [case(batch_size=size) for size in (30, 20, 40, 25)]
    measure(tmp_path, *wanted)
    prepared, timed = noted(tmp_path)[:4], noted(tmp_path)[4:]
    assert {str(each) for each in wanted} == set(prepared)
    expected = [f"{done} {each.setting_name}" for each in wanted for done in ("timing", "timed")]
    assert timed == expected


def test_a_wave_is_as_large_as_cores_and_memory_allow():
    settings = by_setting([case(batch_size=size) for size in range(1, 10)])
    needed = cost.memory_bytes(settings[0])
    for host_bytes, expected in ((1 << 40, [6, 3]), (int(2.3 * needed), [2, 2, 2, 2, 1])):
        found = schedule.waves(settings, schedule.Machine(2, host_bytes))
        assert [len(wave) for wave in found] == expected
    assert schedule.at_once(settings, schedule.Machine(2, needed // 2)) == 1


def test_on_a_gpu_its_memory_limits_a_wave_and_nvml_has_it_for_itself():
    settings = by_setting(cases("article", nvml=True))
    a100 = schedule.MACHINE_WITH_A100
    waves = list(schedule.waves(settings, a100))
    assert [each for wave in waves for each in wave] == settings
    assert max(map(len, waves)) > 1
    for wave in waves:
        assert len(wave) == 1 or sum(map(cost.memory_bytes, wave)) <= a100.gpu_bytes
        assert wave[0][0].quantity != "nvml" or list(map(len, wave)) == [1]


class StandInForGpu:
    """A GPU as a run asks it."""

    uuid = "GPU-0"

    @contextmanager
    def watched(self):
        """Held back by heat, once.

        Yields:
            What it is filled with.
        """
        seen = {}
        yield seen
        seen |= {"gpu_throttle_reasons": ["thermal slowdown by the hardware"]}


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU; workers are new processes then."""
    machine(monkeypatch, gpu_bytes=1 << 40)
    for name, value in (
        ("gpu", (StandInForGpu(), "")),
        ("identity", {"device": "a GPU"}),
        ("state", {}),
    ):
        monkeypatch.setattr(environment, name, lambda *_, value=value: value)


def rows_on_gpu(folder, *wanted):
    settings, processes = by_setting(wanted), Processes(folder, Measured(on_gpu=True), 60)
    with Progress(0, settings, 1, folder) as progress:
        processes.load(settings, progress)
        return [row for rows in processes.rows(settings, progress) for row in rows]


@pytest.mark.usefixtures("gpu")
def test_what_a_gpu_does_while_it_is_timed_is_in_its_rows_and_throttling_is_a_warning(tmp_path):
    (row,) = rows_on_gpu(tmp_path, case())
    assert row.environment["state"]["gpu_throttle_reasons"]
    assert "held its clocks back" in row.warnings[0]


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_each_memory_case_has_a_process_after_one_that_compiled_for_all(tmp_path):
    rows = rows_on_gpu(tmp_path, *(case(quantity="memory", method=method) for method in METHODS))
    assert len(set(map(process_of, rows))) == len(METHODS)
    assert noted(tmp_path)[: len(METHODS)] == noted(tmp_path)[len(METHODS) :]


def test_without_a_terminal_what_is_being_done_is_printed_now_and_then(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)
    measure(tmp_path, case())
    assert re.search(r"^  0/1 preparing, .* left$", capsys.readouterr().out, re.MULTILINE)


def test_what_fails_in_company_is_tried_once_alone(tmp_path):
    rows = measure(tmp_path, *(case(SHY, method=method) for method in METHODS))
    assert [row.status for row in rows] == ["done"] * len(METHODS)
    assert len(set(map(process_of, rows))) == len(METHODS)


def test_a_setting_that_dies_while_it_is_timed_is_tried_once_more_and_is_a_row(tmp_path):
    rows = measure(tmp_path, *map(case, (DONE, TIMED_CRASH)))
    assert [row.status for row in rows] == ["done", "error"]
    assert sum(line.startswith("timing") for line in noted(tmp_path)) == 3


def test_a_finished_case_is_not_measured_again(tmp_path):
    measure(tmp_path, case())
    rows = measure(tmp_path, case(), case(method="reverse_over_forward"))
    assert [row.method for row in rows] == ["gradient", "reverse_over_forward"]
    assert noted(tmp_path).count(str(case())) == 1


@pytest.mark.parametrize(
    ("target", "changed"),
    [
        ("code_hash", lambda self, case: "another"),
        ("identity", property(lambda self: {"device": "another device"})),
    ],
)
def test_a_change_of_code_or_environment_measures_anew(tmp_path, monkeypatch, target, changed):
    measure(tmp_path, case())
    monkeypatch.setattr(Measured, target, changed)
    measure(tmp_path, case())
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2


def test_a_change_of_settings_is_another_case(tmp_path):
    measure(tmp_path, case())
    (row,) = measure(tmp_path, case(seed=1))
    assert row.seed == 1
    assert sum(line.startswith("timed") for line in noted(tmp_path)) == 2


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


def test_crashes_are_tried_again_and_time_limits_and_out_of_memory_are_not(tmp_path):
    wanted = [case(size) for size in (CRASH, HANG, OUT_OF_MEMORY)]
    measure(tmp_path, *wanted, timeout_seconds=1)
    first = noted(tmp_path)
    measure(tmp_path, *wanted, timeout_seconds=1)
    assert set(noted(tmp_path)[len(first) :]) == {str(wanted[0])}
    assert [first.count(str(each)) for each in wanted] == [2, 2, 2]  # in company and alone


def test_a_row_is_on_disk_before_the_next_wave_starts(tmp_path):
    # Its case hangs: what the file holds meanwhile is what the first one left.
    program = f"""
import sys; sys.path[:0] = [{str(TESTS)!r}]
from pathlib import Path
import fake_worker, runs
from reproduce.measuring import runner, schedule, worker
worker.run, worker.modules = fake_worker.run, lambda framework: []
schedule.WAITING_PER_CORE, schedule.here = 1, lambda _: schedule.Machine(1, 1 << 40)
try:
    runs.measure(Path({str(tmp_path)!r}), runs.case(), runs.case({HANG}))
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = start_interruptible([sys.executable, "-c", program], cwd=TESTS.parent)
    until(lambda: read_rows(tmp_path / "rows.jsonl"))
    with pytest.raises(UserError, match="another run is measuring into"):
        measure(tmp_path, case())
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert len(read_rows(tmp_path / "rows.jsonl")) == 1
    measure(tmp_path, case())
    assert noted(tmp_path).count(str(case())) == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": "lenet"}, "model 'lenet' was asked for; there are resnet34, resnet50, vit"),
        ({"framework": "tensorflow"}, "the plan needs 'tensorflow', which is not installed here"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(tmp_path, wrong, sentence):
    wrong_case = msgspec.structs.replace(case(), **wrong)
    with pytest.raises(UserError, match=sentence):
        measure(tmp_path, case(), wrong_case)
    assert not (tmp_path / "rows.jsonl").exists()


def test_too_little_memory_or_disk_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "free_memory", lambda: limits.Free(2**20, "close other programs"))
    with pytest.raises(UserError, match=r"of memory, .* are free"):
        measure(tmp_path, case())
    monkeypatch.setattr(preflight, "NEEDED_DISK_BYTES", 2**60)
    with pytest.raises(UserError, match="of disk"):
        measure(tmp_path, case())


def test_an_unknown_plan_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="plan 'all' was asked for; there are article, quick, cpu"):
        cases("all")


def test_a_row_says_what_it_was_measured_on(tmp_path):
    (row,) = measure(tmp_path, case())
    identity = row.environment["identity"]
    assert row.device == identity["device"]
    assert row.device.startswith("CPU: ")
    assert identity["packages"]["torch"].startswith("2.")
    assert {"device", "packages", "settings", "python"} <= identity.keys()
    state = row.environment["state"]
    assert {"load", "revision", "machine"} <= state.keys()
    assert {"lock", "cores", "python"} <= state["machine"].keys()
    assert row.case_seconds > 0
