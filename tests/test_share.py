"""A plan in shares: each measures its settings into a file of its own, and all are read as one."""

import shlex

import pytest
import typer
from fake_worker import CRASH, DONE
from runs import case

from reproduce.cli import cluster
from reproduce.errors import UserError
from reproduce.evidence import bundle, check
from reproduce.measuring import cost, runner, schedule, share, slurm
from reproduce.measuring.share import Share, parsed
from reproduce.measuring.ways import Measured
from reproduce.plan import PLANS, by_setting, cases
from reproduce.results.rows import rows_in, rows_paths

WANTED = [
    case(size, method=m) for size in (20, 30, 40) for m in ("gradient", "forward_over_reverse")
]


def measure(folder, number, count, *wanted):
    own, way = Share(number, count), Measured(on_gpu=False)
    return runner.measure(list(wanted or WANTED), folder, way, 20, own)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("count", [1, 3, 8, 100])
def test_shares_are_whole_settings_and_together_the_plan(name, count):
    planned = cases(name)
    shares = [Share(number, count).of(planned) for number in range(1, count + 1)]
    assert sorted(map(str, planned)) == sorted(str(each) for found in shares for each in found)
    settings = by_setting(planned)
    assert all(setting in settings for found in shares for setting in by_setting(found))


def test_shares_are_expected_to_take_about_the_same_time():
    settings = by_setting(cases("article"))
    at_once = schedule.at_once(settings, schedule.MACHINE_WITH_A100)
    seconds = [
        sum(sum(cost.parts_seconds(setting, at_once)) for setting in each)
        for each in share.divided(settings, 8)
    ]
    assert max(seconds) < 1.1 * min(seconds)


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "1/0", "a/b", "1/2/3", "-1/2", " 1/2"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match="give i/N, the i-th of N shares"):
        parsed(text)
    assert parsed("2/4") == Share(2, 4)


@pytest.mark.usefixtures("fake_workers")
def test_each_share_has_a_file_and_a_reader_sees_one_run(tmp_path):
    for number in (3, 1, 2):
        assert {row.status for row in measure(tmp_path, number, 3)} == {"done"}
    assert [path.name for path in rows_paths(tmp_path)] == ["1.jsonl", "2.jsonl", "3.jsonl"]
    assert {row.case for row in rows_in(tmp_path)} == {*WANTED}
    assert len(rows_in(tmp_path)) == len(WANTED)


@pytest.mark.usefixtures("fake_workers")
def test_only_what_is_missing_is_measured_again_whatever_the_number_of_shares_was(tmp_path):
    measure(tmp_path, 1, 2)
    for number in (1, 2, 3):
        measure(tmp_path, number, 3)
    rows = runner.measure(WANTED, tmp_path, Measured(on_gpu=False), 20)
    assert {row.case for row in rows} == {*WANTED}
    assert len(rows_in(tmp_path)) == len(WANTED)
    assert rows_paths(tmp_path)[0].read_bytes() == b""


@pytest.mark.usefixtures("fake_workers")
def test_a_share_that_is_being_measured_is_refused_and_another_goes_on(tmp_path):
    (tmp_path / "rows.d").mkdir()
    with runner._locked(tmp_path / "rows.d" / "1.jsonl"):
        with pytest.raises(UserError, match="another run is measuring into"):
            measure(tmp_path, 1, 2)
        assert measure(tmp_path, 2, 2)


@pytest.mark.usefixtures("fake_workers")
def test_a_share_without_a_setting_measures_nothing(tmp_path):
    assert measure(tmp_path, 2, 2, case()) == []


@pytest.mark.usefixtures("fake_workers")
def test_a_share_removes_logs_of_its_own_settings_alone(tmp_path):
    (tmp_path / "logs").mkdir()
    name = "time-torch-eager-tiny_bert-batch-{}.log"
    own, other = (tmp_path / "logs" / name.format(size) for size in (DONE, DONE + 1))
    for log in (own, other):
        log.write_text("Traceback")
    measure(tmp_path, 1, 1, case(DONE))
    assert (own.exists(), other.exists()) == (False, True)


@pytest.mark.usefixtures("fake_workers")
def test_the_status_says_what_failed_and_what_is_missing(tmp_path, capsys):
    planned = cases("smoke")
    done, crashed = (next(c for c in planned if c.batch_size == size) for size in (DONE, CRASH))
    measure(tmp_path, 1, 1, done, crashed)
    assert status_of(tmp_path) == 1
    told = capsys.readouterr().out.splitlines()
    missing = {f"missing: {each}" for each in planned if each not in {done, crashed}}
    assert {line for line in told if line.startswith("missing: ")} == missing
    assert any(line.startswith(f"failed: {crashed} ended with error: ") for line in told)
    counted = f"1 of {len(planned)} cases are done, 1 failed, {len(planned) - 2} are missing"
    assert f"plan smoke, measured: {counted}" in told
    assert told[-1].startswith("2 rows of CPU: ")


def status_of(folder):
    try:
        cluster.status(folder)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def test_the_script_for_slurm_names_the_shares_that_miss_a_case(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slurm.runner, "pending", lambda planned, rows, way: planned[-1:])
    last = next(n for n in range(1, 5) if cases("smoke")[-1] in Share(n, 4).of(cases("smoke")))
    cluster.slurm("smoke", tmp_path, jobs=4, cap=2, sbatch="-p gpu", dry=True)
    printed = capsys.readouterr().out
    assert f"#SBATCH --array={last}%2 " in printed
    assert printed.count("#SBATCH -p gpu\n") == 2
    assert printed.splitlines()[-1] == "1 of 4 shares have cases to measure."
    assert not list(tmp_path.iterdir())


def test_without_sbatch_nothing_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch on PATH; run this where jobs"):
        cluster.slurm("smoke", tmp_path, jobs=1, cap=1)


def test_in_a_container_a_task_has_its_gpu_and_the_results_alone(tmp_path):
    script = slurm.Cluster("smoke", tmp_path, 2, 2, container="/an image.sif").measuring([1])
    (line,) = (line for line in script.splitlines() if line.startswith("exec"))
    assert shlex.split(line)[1:] == [
        *("apptainer", "run", "--nv", "--cleanenv"),
        *("--env", "CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES", "--pwd", "/hvp"),
        *("--bind", f"{tmp_path}:/hvp/results", "/an image.sif"),
        *("python", "-m", "reproduce", "measure", "smoke", "/hvp/results"),
        *("--share", "$SLURM_ARRAY_TASK_ID/2"),
    ]


@pytest.mark.usefixtures("fake_workers")
def test_a_bundle_has_the_rows_of_all_shares_and_its_check_reads_them(tmp_path):
    folder = tmp_path / "results"
    for number in (1, 2):
        measure(folder, number, 2)
    packed = tmp_path / "bundle.zip"
    bundle.write(folder, packed)
    assert check.check(packed).rows == len(WANTED)
    with (folder / "rows.d" / "2.jsonl").open("a") as file:
        file.write("no row\n")
    (objection,) = (
        each for each in check.check(folder).objections if "expected a row" in str(each)
    )
    assert str(objection).startswith("rows.d/2.jsonl, line")
