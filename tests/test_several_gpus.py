"""A plan on several GPUs of a machine: those of tests/nvml.c, with workers that load nothing."""

import os
import sys

import pytest
from commands import altered_everywhere, refused, run

from reproduce.results.rows import read_rows, rows_in, rows_paths

UUIDS = [f"GPU-8932f93{n}-d72c-4106-c12f-20bd9faed9f6" for n in (0, 1)]
PROGRAM = """
import sys
from pathlib import Path
from reproduce import printing
from reproduce.measuring import side_by_side
import typer
app = typer.Typer()
@app.command()
def measure(folder: Path, gpus: int):
    raise typer.Exit(side_by_side.measure("smoke", folder, gpus))
printing.run(app, "measure")
"""


@pytest.fixture
def measured(tmp_path, driver):
    """How a part of plan smoke was measured on so many of two GPUs."""

    def measured(gpus, **settings):
        own = driver | {"DRIVER": "570.86.15", "NVML_GPUS": "2", "CUDA_VISIBLE_DEVICES": "1,0"}
        own |= altered_everywhere("fake_worker,part,no_computing") | {"FAKE_SECONDS": "0"}
        command = [sys.executable, "-c", PROGRAM, tmp_path, gpus]
        return run(*command, env=os.environ | own | settings)

    return measured


def test_each_gpu_measures_a_share_with_its_part_of_the_cores(measured, tmp_path):
    result = measured(2)
    assert result.returncode == 0, result.stderr
    by_share = map(read_rows, rows_paths(tmp_path))
    uuids = [{row.facts["gpu_uuid"] for row in rows} for rows in by_share]
    assert uuids == [{UUIDS[1]}, {UUIDS[0]}]
    assert {row.status for row in rows_in(tmp_path)} == {"done"}
    assert len(rows_in(tmp_path)) == 6
    most = -(-len(os.sched_getaffinity(0)) // 2)
    assert all(row.facts["cores"] <= most for row in rows_in(tmp_path))


def test_a_failed_case_of_a_share_is_told_and_does_not_end_the_others(measured, tmp_path):
    result = measured(2, FAKE_FAILING="tiny_bert")
    assert result.returncode == 1
    assert "it was to fail" in result.stderr
    assert len(rows_in(tmp_path)) == 6


def test_more_gpus_than_there_are_is_refused(measured, tmp_path):
    assert refused(measured(3)).endswith("3 GPUs were asked for, and there are 2; give GPUS=2")
    assert "CUDA_VISIBLE_DEVICES=7 names none" in refused(measured(2, CUDA_VISIBLE_DEVICES="7"))
    assert not rows_in(tmp_path)


def test_gpus_of_different_kinds_are_refused(measured, tmp_path):
    assert refused(measured(2, OTHER="0")).endswith(
        "2 GPUs were asked for, and the first 2 are of different kinds (NVIDIA A100-SXM4-40GB, "
        "NVIDIA H200), whose rows do not go together; name GPUs of one kind in CUDA_VISIBLE_DEVICES"
    )
    assert not rows_in(tmp_path)
