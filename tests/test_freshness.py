"""A figure is drawn again if what it is made from, or its own file, is other than it was."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from paper_figures import freshness
from paper_figures.__main__ import app

SAMPLE = Path(__file__).parent / "rows_sample.jsonl"
NAMES = ("bench_hvp_memory_jax", "hess_eig", "operations")
ALTERED = {
    "rows": ("rows.jsonl", lambda path: path.write_bytes(path.read_bytes()[:-1] + b" \n")),
    "a figure that is gone": ("figures/hess_eig.pdf", Path.unlink),
    "a figure that was edited": ("figures/hess_eig.png", lambda path: path.write_bytes(b"other")),
    "a record that is none": ("figures/.drawn", lambda path: path.write_bytes(b"")),
    "a record that is gone": ("figures/.drawn", Path.unlink),
}


def draw(results, *names):
    return CliRunner().invoke(app, ["--changed", "--", str(results), *(names or NAMES)])


@pytest.fixture
def drawn(tmp_path):
    """A results folder with three figures and tables that are current."""
    shutil.copy(SAMPLE, tmp_path / "rows.jsonl")
    draw(tmp_path)
    assert freshness.current(tmp_path, NAMES) == {*NAMES}
    return tmp_path


def test_what_is_current_is_not_drawn(drawn):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    result = draw(drawn)
    assert result.output == f"The figures in {drawn / 'figures'} are up to date.\n"
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_altered_is_drawn_whatever_its_time(drawn, what):
    wanted = {path: path.read_bytes() for path in (drawn / "figures").iterdir()}
    name, alter = ALTERED[what]
    alter(drawn / name)
    if (drawn / name).exists():
        os.utime(drawn / name, (0, 0))
    assert "up to date" not in draw(drawn).output
    assert freshness.current(drawn, NAMES) == {*NAMES}
    if what != "rows":
        assert {path: path.read_bytes() for path in (drawn / "figures").iterdir()} == wanted


def test_only_what_was_altered_is_drawn(drawn):
    (drawn / "figures" / "hess_eig.png").unlink()
    assert draw(drawn).output == f"{drawn}/figures/hess_eig.png and hess_eig.pdf\n"


@pytest.mark.parametrize(
    "source",
    [
        "paper_figures/style.py",
        "reproduce/plan.py",
        "reproduce/results/published/article_memory.csv",
    ],
)
def test_other_code_makes_everything_anew_and_other_times_nothing(
    drawn, tmp_path_factory, monkeypatch, source
):
    tree = tmp_path_factory.mktemp("tree")
    for package in freshness.PACKAGES:
        shutil.copytree(ROOT / package, tree / package)
    monkeypatch.setattr(freshness, "ROOT", tree)
    os.utime(tree / source)
    assert freshness.current(drawn, NAMES) == {*NAMES}
    with (tree / source).open("a") as file:
        file.write("\n")
    assert freshness.current(drawn, NAMES) == set()


def test_what_cannot_be_drawn_is_not_tried_again_and_still_no_success(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    first, second = (draw(tmp_path, "hess_eig", "operations") for _ in range(2))
    assert "operations is not written" in first.output
    assert "up to date" in second.output
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert draw(tmp_path, "hess_eig").exit_code == 0
