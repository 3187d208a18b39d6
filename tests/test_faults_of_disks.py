"""A disk that is full or fills up, a folder that cannot be written: one sentence, nothing lost."""

import shutil
import sys
from pathlib import Path

import pytest
from commands import altered, program, refused, run

from reproduce.plan import cases
from reproduce.results.rows import read_rows

TESTS = Path(__file__).parent
SMOKE = len(cases("smoke"))


def mount(mounted, disk, options, *more):
    assert mounted("mount", "-o", options, *more, "none", disk).returncode == 0


def copy_out(mounted, disk, folder):
    assert mounted("cp", "-r", disk, folder).returncode == 0
    return folder


def test_a_disk_without_room_is_refused_before_anything_is_measured(mounted, tmp_path):
    disk = tmp_path / "disk"
    mount(mounted, disk, "size=1m", "-t", "tmpfs")
    sentence = refused(mounted(*program("reproduce", "measure", "smoke", disk)))
    assert sentence.startswith(f"error: the plan needs 1.0 GiB of disk for {disk}")
    assert sentence.endswith("are free; make room or give another RESULTS")
    assert not any(copy_out(mounted, disk, tmp_path / "copy").iterdir())


def test_a_disk_that_fills_up_ends_the_run_and_with_room_it_goes_on(mounted, tmp_path):
    disk = tmp_path / "disk"
    mount(mounted, disk, "size=64k", "-t", "tmpfs")
    command = altered("fake_worker,no_reserve", "measure", "smoke", disk)
    sentence = refused(mounted(*command))
    assert "could not be read or written (No space left on device)" in sentence
    kept = read_rows(copy_out(mounted, disk, tmp_path / "full") / "rows.jsonl")
    assert 0 < len(kept) < SMOKE
    mount(mounted, disk, "remount,size=10m")
    again = mounted(*command)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} are in {disk} already" in again.stdout
    rows = read_rows(copy_out(mounted, disk, tmp_path / "whole") / "rows.jsonl")
    assert rows[: len(kept)] == kept
    assert len({row.case for row in rows}) == len(rows) == SMOKE


def test_a_file_that_may_not_grow_ends_the_run_and_later_it_goes_on(tmp_path):
    whole = tmp_path / "whole"
    assert run(*altered("fake_worker", "measure", "smoke", whole)).returncode == 0
    lines = (whole / "rows.jsonl").read_bytes().splitlines(keepends=True)
    in_the_13th_row = sum(map(len, lines[:12])) + len(lines[12]) // 2
    command = altered("fake_worker", "measure", "smoke", tmp_path)
    sentence = refused(run("prlimit", f"--fsize={in_the_13th_row}", *command))
    assert "could not be read or written" in sentence
    kept = read_rows(tmp_path / "rows.jsonl")
    assert 0 < len(kept) < SMOKE
    assert not (tmp_path / "rows.jsonl").read_bytes().endswith(b"\n")
    again = run(sys.executable, TESTS / "fake_run.py", tmp_path)
    assert again.returncode == 0, again.stderr
    assert "half-written last row was set aside" in again.stdout
    rows = read_rows(tmp_path / "rows.jsonl")
    assert rows[: len(kept)] == kept
    assert len({row.case for row in rows}) == len(rows) == SMOKE


@pytest.mark.slow
def test_figures_and_report_that_find_no_room_end_with_a_sentence_and_leave_no_half(
    mounted, tmp_path
):
    disk, rows = tmp_path / "disk", TESTS / "rows_sample.jsonl"
    mount(mounted, disk, "size=400k", "-t", "tmpfs")
    assert mounted("cp", rows, disk / "rows.jsonl").returncode == 0
    for command in (program("paper_figures", disk), program("reproduce", "report", disk)):
        assert "(No space left on device)" in refused(mounted(*command))
    copy = copy_out(mounted, disk, tmp_path / "full")
    assert (copy / "rows.jsonl").read_bytes() == rows.read_bytes()
    assert not [path.name for path in copy.rglob("*.unfinished")]
    assert not (copy / "report.html").exists()
    for path in copy.glob("figures/*"):
        assert path.read_bytes()[-8:] in {b"IEND\xaeB`\x82", path.read_bytes()[-8:-5] + b"%EOF\n"}
    mount(mounted, disk, "remount,size=40m")
    for command in (program("paper_figures", disk), program("reproduce", "report", disk)):
        assert mounted(*command).returncode == 0


VERBS = [
    ("reproduce", "measure", "smoke"),
    ("reproduce", "report"),
    ("reproduce", "prove"),
    ("paper_figures",),
]


def test_a_read_only_folder_is_refused_by_every_verb_that_writes(mounted, tmp_path):
    disk = tmp_path / "disk"
    mount(mounted, disk, "size=10m", "-t", "tmpfs")
    assert mounted("cp", TESTS / "rows_sample.jsonl", disk / "rows.jsonl").returncode == 0
    mount(mounted, disk, "remount,ro")
    for verb in VERBS:
        sentence = refused(mounted(*program(*verb, disk)))
        assert str(disk) in sentence
        assert "(Read-only file system)" in sentence
        assert "give another RESULTS" in sentence


def test_a_folder_of_somebody_else_and_a_file_in_its_place_are_refused(tmp_path, ordinary_user):
    shutil.copy(TESTS / "rows_sample.jsonl", tmp_path / "rows.jsonl")
    tmp_path.chmod(0o555)
    places = {tmp_path: "Permission denied", tmp_path / "rows.jsonl": "File exists"}
    for place, reason in places.items():
        command = program("reproduce", "measure", "smoke", place)
        sentence = refused(run(*ordinary_user, *command))
        assert f"{place}, which cannot be written ({reason}); give another RESULTS" in sentence
    assert "Permission denied" in refused(
        run(*ordinary_user, *program("reproduce", "report", tmp_path))
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
