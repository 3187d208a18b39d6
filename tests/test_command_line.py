"""The command line: wrong input ends with one sentence and code 2, before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, reproduce


def make(*arguments):
    return subprocess.run(
        ["make", f"VENV={Path(sys.executable).parent.parent}", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("measure", "fast", "{folder}"), "there are article, quick, cpu, smoke"),
        (("plan", "fast"), "there are article, quick, cpu, smoke"),
        (("measure", "cpu", "{folder}", "--more-model", "lenet"), "there are resnet34"),
        (("measure", "cpu", "{folder}", "--vector", "ones"), "'gradient', 'params', 'seeded'"),
        (("measure", "cpu", "{folder}", "--normalisation", "none"), "'article', 'matched'"),
        (("measure", "article", "{folder}"), "plan 'article' needs a GPU, and there is no usable"),
    ],
)
def test_wrong_input_ends_with_a_sentence_that_lists_what_is_allowed(tmp_path, arguments, sentence):
    result = reproduce(*(each.format(folder=tmp_path) for each in arguments))
    assert result.returncode == 2
    assert sentence in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_results_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    result = reproduce("measure", "smoke", str(tmp_path / "file" / "results"))
    assert result.returncode == 2
    assert "give another RESULTS" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_plan_is_printed_with_its_cost_before_anything_runs():
    result = reproduce("plan", "article")
    assert result.returncode == 0
    assert "resnet34" in result.stdout
    assert "1, 2, 4, 8, 16, 32, 64, 128" in " ".join(result.stdout.split())
    assert "of memory for a setting" in " ".join(result.stdout.split())


def test_every_case_of_a_plan_can_be_listed():
    rows = [line for line in reproduce("plan", "smoke", "--cases").stdout.splitlines()]
    assert sum("reverse_over_reverse" in line for line in rows) > 10


def test_without_a_gpu_the_cpu_plan_is_the_default_and_the_reason_is_given():
    result = reproduce("default-plan")
    assert result.stdout == "cpu\n"
    assert "because there is no usable NVIDIA GPU" in result.stderr


def test_plain_make_prints_its_targets():
    result = make()
    assert result.returncode == 0
    for target in ("all", "smoke", "test", "lint", "measure", "figures", "plan", "clean"):
        assert any(line.startswith(f"{target} ") for line in result.stdout.splitlines())
    assert "figures/<name>" in result.stdout


def test_make_draws_one_figure(tmp_path):
    result = make("figures/hess_eig", "PLAN=cpu", f"RESULTS={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {
        "hess_eig.png",
        "hess_eig.pdf",
    }


def test_make_refuses_an_unknown_plan_and_an_unknown_figure(tmp_path):
    plan = make("all", "PLAN=fast", f"RESULTS={tmp_path}")
    figure = make("figures/fig1", "PLAN=cpu", f"RESULTS={tmp_path}")
    assert "there are article, quick, cpu, smoke" in plan.stderr
    assert "there are bench_hvp_time_jax" in figure.stderr
    assert plan.returncode != 0
    assert figure.returncode != 0
