"""Two runs in check mode give the same, and where they do not, it is found and named."""

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from reproduce import problems
from reproduce.__main__ import app
from reproduce.errors import UserError
from reproduce.evidence import verify
from reproduce.measuring import comparing, runner
from reproduce.measuring.ways import Checked, Measured
from reproduce.plan import Case
from reproduce.results.rows import read_rows

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
FEW = [
    Case(
        plan="smoke",
        framework=framework,
        mode=mode,
        model="tiny_bert",
        batch_size=2,
        method=method,
        quantity=quantity,
        warmup=1,
        repetitions=2,
    )
    for framework, mode, method, quantity in (
        ("jax", "jit", "reverse_over_forward", "time"),
        ("jax", "eager", "gradient", "memory"),
        ("torch", "eager", "reverse_over_forward", "time"),
    )
]
JAX, _, TORCH = FEW


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two real runs of a few cases by the command: its result, its folder, and their rows."""
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "cases", lambda plan: FEW)
        result = CliRunner().invoke(app, ["verify", str(folder)])
    (both,) = folder.iterdir()
    first, second = (read_rows(both / name / "rows.jsonl") for name in ("first", "second"))
    return {"result": result, "folder": both, "first": first, "second": second}


def with_change(rows, case, **changes):
    return [msgspec.structs.replace(r, **changes) if r.case == case else r for r in rows]


def broken(runs, case, **changes):
    """The sentences on the guarantees that a change of one row of the second run breaks."""
    found = verify.of_rows(runs["first"], with_change(runs["second"], case, **changes))
    return {each.what: each.broken for each in found if not each.holds}


def row_of(runs, case):
    return next(row for row in runs["second"] if row.case == case)


def test_two_runs_of_all_paths_give_the_same(runs):
    assert runs["result"].exit_code == 0, runs["result"].output
    assert "All 9 guarantees hold." in runs["result"].output
    assert (runs["folder"] / "first" / "figures" / "bench_hvp_time_jax.png").exists()


def test_a_run_starts_from_nothing_in_processes_of_its_own_and_leaves_no_programs(runs):
    for name in ("first", "second"):
        rows = runs[name]
        assert {row.case for row in rows} == set(FEW)
        assert not (runs["folder"] / name / "programs").exists()
    compiled = [row.compile_seconds for row in runs["first"] + runs["second"] if row.case == JAX]
    assert compiled[0] != compiled[1]


def test_rows_of_check_mode_say_so_and_answer_no_ordinary_case(runs):
    rows = runs["first"]
    identity = rows[0].environment["identity"]
    ordinary = {name: value for name, value in identity.items() if name != "how"}
    assert ordinary != identity
    assert {row.place for row in rows} == {f"{identity['device']} (check mode)"}
    assert runner.pending(FEW, rows, Checked(on_gpu=False), identity) == []
    assert runner.pending(FEW, rows, Measured(on_gpu=False), ordinary) == FEW
    assert row_of(runs, TORCH).environment["precision"]["torch_deterministic"]


def test_a_bit_of_one_weight_or_one_value_changes_the_digest():
    weights = problems.weights(problems.PROBLEMS["tiny_bert"])
    before = comparing.digest(weights.values())
    assert before == comparing.digest(value.copy() for value in weights.values())
    bits = weights["classifier.weight"].view(np.uint32)
    bits[1, 1] ^= 1
    assert comparing.digest(weights.values()) != before
    bits[1, 1] ^= 1
    assert comparing.digest(weights.values()) == before
    weights["classifier.weight"] = weights["classifier.weight"].T
    assert comparing.digest(weights.values()) != before


@pytest.mark.parametrize("name", ["weights", "batch"])
def test_other_weights_or_another_batch_are_found_and_named(runs, name):
    digests = row_of(runs, TORCH).digests
    found = broken(runs, TORCH, digests=digests | {name: "of others"})
    assert found.keys() == {name}
    assert found[name] == (f"{TORCH}: {digests[name]}, then of others",)


def test_weights_that_differ_between_the_frameworks_are_found(runs):
    digests = row_of(runs, TORCH).digests | {"weights": "of others"}
    both = (with_change(runs[name], TORCH, digests=digests) for name in ("first", "second"))
    (found,) = (each for each in verify.of_rows(*both) if not each.holds)
    assert found.what == "both of a problem, in JAX and PyTorch"
    assert found.broken[0].startswith("tiny_bert batch 2: ")


def test_one_other_bit_of_an_hvp_is_found_with_the_difference_of_the_norms(runs):
    row = row_of(runs, TORCH)
    changes = {"digests": row.digests | {"result": "other"}, "result_norm": 1.25 * row.result_norm}
    second = with_change(runs["second"], TORCH, **changes)
    (found,) = (each for each in verify.of_rows(runs["first"], second) if not each.holds)
    assert found.what == "gradients and HVPs, PyTorch"
    assert found.broken[0].startswith(f"{TORCH}: other values, norms {row.result_norm} and ")
    assert found.largest_difference == pytest.approx(0.25)


def test_one_other_byte_of_xla_is_found_and_named(runs):
    counters = row_of(runs, JAX).memory_bytes
    temporary = counters["xla_temp_bytes"]
    found = broken(runs, JAX, memory_bytes=counters | {"xla_temp_bytes": temporary + 1})
    difference = f"{JAX}: xla_temp_bytes {temporary}, then {temporary + 1}"
    assert found == {"XLA's bytes": (difference,)}


def test_a_case_that_fails_once_is_a_broken_guarantee(runs):
    found = broken(runs, TORCH, status="error", reason="a crash")
    assert found["how each case ends"] == (f"{TORCH}: done, then error (a crash)",)


def test_an_operation_that_is_refused_both_times_is_not_guaranteed_and_breaks_nothing(runs):
    refused = {"status": "unsupported", "reason": "it is not deterministic"}
    both = (with_change(runs[name], JAX, **refused) for name in ("first", "second"))
    found = {each.what: each for each in verify.of_rows(*both)}
    assert found["how each case ends"].holds
    assert found["gradients and HVPs, JAX with jit"].compared == 0
    assert not found["gradients and HVPs, JAX with jit"].holds


def test_rows_without_digests_guarantee_nothing(runs):
    plain = [msgspec.structs.replace(row, digests={}, result_norm=None) for row in runs["first"]]
    assert {each.what for each in verify.of_rows(plain, plain) if each.holds} == {
        "how each case ends",
        "XLA's bytes",
    }


def test_runs_of_other_cases_or_devices_are_not_compared(runs):
    elsewhere = [msgspec.structs.replace(row, device="another") for row in runs["second"]]
    for second in (runs["second"][1:], elsewhere):
        with pytest.raises(UserError, match="measure both here, with the same plan"):
            verify.of_rows(runs["first"], second)


def test_figures_are_drawn_and_compared_in_the_folder_as_it_is_named_here(tmp_path, monkeypatch):
    sample = Path(__file__).parent / "rows_sample.jsonl"
    (tmp_path / "first").mkdir()
    shutil.copy(sample, tmp_path / "first" / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    found = verify.of_figures(Path("first"), read_rows(sample))
    assert found.holds
    assert found.compared == len(list(tmp_path.glob("first/*/[!.]*"))) > 20
    assert not (ROOT / "first").exists()


def output_of(program):
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_pytorch_refuses_what_is_not_deterministic_and_the_case_is_unsupported():
    program = """
import torch
from reproduce.in_torch import device
device.use_deterministic_algorithms()
try:
    torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
except RuntimeError as error:
    print(device.is_unsupported(error))
"""
    assert output_of(program) == "True\n"


def test_xla_compiles_a_deterministic_program_for_a_gpu_though_jax_was_imported_before():
    program = """
import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from reproduce.in_jax import accounting, device
from reproduce.machine.target import load
{}
def pooled(x):
    return jax.lax.reduce_window(x, -jax.numpy.inf, jax.lax.max, (3,), (2,), "VALID").sum()
(gpu,) = topologies.get_topology_desc(
    platform="cuda", target_config=load("a100").description, topology="1x1x1"
).devices
x = jax.ShapeDtypeStruct((32,), "float32", sharding=SingleDeviceSharding(gpu))
compiled = jax.jit(jax.grad(pooled)).lower(x).compile(compiler_options=accounting.WITHOUT_GPU)
print(compiled.as_text())
"""
    plain, deterministic = map(
        output_of, (program.format(""), program.format("device.use_deterministic_algorithms()"))
    )
    assert "scatter" in plain
    assert deterministic != plain
