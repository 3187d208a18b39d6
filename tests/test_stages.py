"""The verb ``all`` measures, draws what has changed and reports; workers load no framework here."""

import os
import subprocess

import msgspec
import pytest
from commands import ROOT, altered

from reproduce.drawing import BENCHES, DIAGRAMS
from reproduce.plan import accounted_cases, cases
from reproduce.report import proofs
from reproduce.results.rows import read_rows


def run(plan, folder, **settings):
    command = altered("fake_worker", "all", "--plan", plan, "--results", folder)
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"FAKE_SECONDS": "0"} | settings,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def seconds_doubled(row):
    if row.quantity != "time":
        return row
    return msgspec.structs.replace(row, seconds=tuple(2 * value for value in row.seconds))


def write_rows(path, rows):
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A results folder with plan smoke, and how that ended."""
    folder = tmp_path_factory.mktemp("smoke")
    return folder, run("smoke", folder)


def test_a_plan_is_measured_drawn_and_reported(smoke):
    folder, result = smoke
    assert result.returncode == 0, result.stderr
    assert {row.case for row in read_rows(folder / "rows.jsonl")} == {*cases("smoke")}
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn == {name for name in (*BENCHES, *DIAGRAMS) if not name.endswith("_b64")}
    assert result.stdout.splitlines()[-1].endswith("report.html")
    assert not (folder / proofs.FILE).exists()  # no pytest here


def test_what_is_measured_and_drawn_is_left_as_it_is(smoke):
    folder, _ = smoke
    before = {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}
    result = run("smoke", folder)
    assert result.returncode == 0, result.stderr
    assert "nothing to measure" in result.stdout
    assert f"The figures in {folder / 'figures'} are up to date." in result.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()} == before


def test_rows_that_are_newer_than_their_time_says_are_drawn(smoke):
    folder, _ = smoke
    time_figure = folder / "figures" / "bench_hvp_time_jax.png"
    diagram = folder / "figures" / "hess_eig.png"
    before = time_figure.read_bytes(), diagram.read_bytes()
    rows = folder / "rows.jsonl"
    write_rows(rows, map(seconds_doubled, read_rows(rows)))
    os.utime(rows, (0, 0))
    result = run("smoke", folder)
    assert result.returncode == 0, result.stderr
    assert "up to date" not in result.stdout
    assert time_figure.read_bytes() != before[0]
    assert diagram.read_bytes() == before[1]


@pytest.mark.slow
def test_a_failed_case_ends_it_with_code_1_after_the_report(tmp_path):
    result = run("smoke", tmp_path, FAKE_FAILING="tiny_vit")
    assert result.returncode == 1
    assert "it was to fail" in result.stderr
    assert (tmp_path / "figures" / "bench_hvp_time_torch.png").exists()
    assert (tmp_path / "report.html").exists()


def test_rows_that_cannot_be_read_end_it_before_anything_is_drawn(tmp_path):
    (tmp_path / "rows.jsonl").write_text("no row\n")
    result = run("smoke", tmp_path)
    assert result.returncode == 2
    assert "line 1: expected a row" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_plan_cpu_goes_with_an_accounting_for_an_a100_in_its_folder(tmp_path):
    result = run("cpu", tmp_path)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "a100" / "rows.jsonl")
    assert {row.case for row in rows} == {*accounted_cases("article")}
    assert (tmp_path / "a100" / "figures" / "bench_hvp_memory_torch.png").exists()
    assert (tmp_path / "a100" / "tables" / "operations.csv").exists()
    assert not (tmp_path / "a100" / "figures" / "hess_eig.png").exists()
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_where_accounting_is_refused_the_report_is_still_written_and_the_code_is_2(tmp_path):
    (tmp_path / "a100").touch()
    result = run("cpu", tmp_path)
    assert result.returncode == 2
    assert "a100, which cannot be written (File exists); give another RESULTS" in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "report.html").exists()
