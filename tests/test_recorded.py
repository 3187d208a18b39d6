"""The recorded runs: what the docs show of them is made from them, by the commands they give."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce.results.rows import read_rows

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RECORDED = DOCS / "recorded"


def run(*arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("cpu-amd-epyc", "bench_hvp_time_jax"),
        ("cpu-amd-epyc/a100", "bench_hvp_memory_jax"),
        ("cpu-amd-epyc/beyond", "beyond_ratios"),
    ],
)
def test_a_figure_in_the_docs_is_drawn_from_its_recorded_rows(tmp_path, folder, name):
    shutil.copy(RECORDED / folder / "rows.jsonl", tmp_path)
    assert run("paper_figures", tmp_path, name).returncode == 0
    drawn = tmp_path / "figures" / f"{name}.png"
    assert drawn.read_bytes() == (DOCS / f"{name}.png").read_bytes()


@pytest.mark.parametrize("versions", ["2023", "locked", "latest"])
def test_the_docs_say_how_wrong_an_hvp_is_in_each_of_the_recorded_versions(versions):
    rows = read_rows(RECORDED / "cpu-amd-epyc" / "versions" / versions / "rows.jsonl")
    text = " ".join((DOCS / "measuring.md").read_text().split())
    off = {
        (row.framework, row.model, row.method): row.relative_difference
        for row in rows
        if row.relative_difference is not None
    }
    of_vit, of_bert = (
        f"{100 * off.pop(('torch', model, 'reverse_over_forward')):.1f} %"
        for model in ("tiny_vit", "tiny_bert")
    )
    assert f"{of_vit} of its norm for `tiny_vit` and by {of_bert} for `tiny_bert`" in text
    assert max(off.values()) < 4.5e-7


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu-amd-epyc", "nvidia-h200"])
def test_a_recorded_run_can_be_judged_packed_and_checked(tmp_path, device):
    results = tmp_path / "recorded"
    shutil.copytree(RECORDED / device, results)
    run("paper_figures", results)
    reported = run("reproduce", "report", results)
    assert reported.returncode == 0, reported.stderr
    packed = run("reproduce", "bundle", results)
    assert packed.returncode == 0, packed.stderr
    checked = run("reproduce", "check", results / "bundle.zip")
    assert checked.returncode == 0, checked.stdout
