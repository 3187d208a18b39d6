"""A user's mistakes: each ends with one sentence and code 2, and nothing is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from refusals import SAMPLE, ending, refused

import paper_figures.__main__ as drawing
import reproduce.__main__ as reproducing
from reproduce.machine.target import FOLDER

A100 = (FOLDER / "a100.txtpb").read_text()


@pytest.fixture
def places(tmp_path):
    """Folders and files to name in a command: {good}, {file}, {target} and so on."""
    found = {"nowhere": tmp_path / "nowhere", "file": tmp_path / "file", "long": "x" * 300}
    found["file"].write_text("not a folder")
    found["good"] = tmp_path / "good"
    found["good"].mkdir()
    (found["good"] / "rows.jsonl").write_bytes(SAMPLE)
    found["empty"] = tmp_path / "empty"
    found["empty"].mkdir()
    found["odd"] = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    return found


BAD = {
    # names
    "measure": "Missing argument",
    "mesure smoke {nowhere}": "No such command 'mesure'",
    "measure smok {nowhere}": "there are article, quick, cpu, smoke",
    "measure SMOKE {nowhere}": "there are article, quick, cpu, smoke",
    "measure '' {nowhere}": "plan '' was asked for",
    "measure smoke {nowhere} extra": "unexpected extra argument",
    "measure smoke": "Missing argument 'results'",
    "measure smoke {nowhere} --sed 1": "No such option: --sed",
    "measure smoke {nowhere} --more-model lenet": "model 'lenet' was asked for",
    "measure smoke {nowhere} --more-model ''": "model '' was asked for",
    "measure smoke {nowhere} --more-model resnet50,vit": "model 'resnet50,vit' was asked for",
    "measure smoke {nowhere} --vector ones": "'gradient', 'params', 'seeded'",
    "measure smoke {nowhere} --normalisation none": "'article', 'matched'",
    "measure article {nowhere}": "plan 'article' needs a GPU",
    "all --plan smok --results {nowhere}": "there are article, quick, cpu, smoke",
    "all --plan article --results {nowhere}": "plan 'article' needs a GPU",
    "all smoke {nowhere}": "unexpected extra argument",
    "plan smok": "there are article, quick, cpu, smoke",
    "plan cpu --more-model lenet": "model 'lenet' was asked for",
    # numbers
    "measure smoke {nowhere} --seed -1": "should be greater than or equal to 0",
    "measure smoke {nowhere} --seed 4294967296": "should be less than or equal to 4294967295",
    "measure smoke {nowhere} --seed 1e3": "should be a valid integer",
    "measure smoke {nowhere} --seed nan": "should be a valid integer",
    "measure smoke {nowhere} --seed": "requires an argument",
    "measure smoke {nowhere} --timeout-seconds 0": "a time limit of 0.0 s was asked for",
    "measure smoke {nowhere} --timeout-seconds -5": "a time limit of -5.0 s was asked for",
    "measure smoke {nowhere} --timeout-seconds nan": "a time limit of nan s was asked for",
    "measure smoke {nowhere} --timeout-seconds inf": "a time limit of inf s was asked for",
    "measure smoke {nowhere} --timeout-seconds 1e300": "a time limit of 1e+300 s was asked for",
    "measure smoke {nowhere} --timeout-seconds soon": "should be a valid number",
    "account smoke {nowhere} --timeout-seconds 0": "a time limit of 0.0 s was asked for",
    "compare {good} {good} --tolerance -0.1": "should be greater than or equal to 0",
    "compare {good} {good} --tolerance 2": "should be less than or equal to 1",
    "compare {good} {good} --tolerance nan": "should be less than or equal to 1",
    # paths
    "measure smoke ''": "its name is empty",
    "measure smoke {file}": "which cannot be written (File exists)",
    "measure smoke {file}/results": "which cannot be written (Not a directory)",
    "measure smoke {long}": "which cannot be written (File name too long)",
    "measure smoke /proc/results": "which cannot be written (No such file or directory)",
    "all --plan smoke --results {file}": "which cannot be written (File exists)",
    "all --plan beyond --results {file}/beyond": "which cannot be written (Not a directory)",
    "account smoke {file}": "which cannot be written (File exists)",
    "account smoke ''": "its name is empty",
    "claims ''": "its name is empty",
    "claims {nowhere}": "there are none",
    "claims {file}": "there are none",
    "claims {long}": "which cannot be read (File name too long)",
    "claims {good} --compiled {nowhere}": "there are none",
    "claims {good} --compiled ''": "its name is empty",
    "report {nowhere}": "there are none",
    "report {empty}": "there are none",
    "report {file}": "there are none",
    "prove {nowhere}": "there are none",
    "compare {good}": "Missing argument 'second'",
    "compare {good} {nowhere}": "there are none",
    "compare {nowhere} {good}": "there are none",
    # targets
    "account smok {nowhere}": "there are article, quick, cpu, smoke",
    "account smoke {nowhere} --target a1000": "take one of a100, h100",
    "account smoke {nowhere} --target ''": "target '' was asked for",
    "account smoke {nowhere} --target {good}": "there is no file",
    "account smoke {nowhere} --target {good}/rows.jsonl": "cannot be read as a GPU's description",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_ends_with_a_sentence(capsys, monkeypatch, tmp_path, places, command):
    arguments = [part.strip("'").format(**places) for part in command.split()]
    assert BAD[command] in refused(capsys, monkeypatch, tmp_path, arguments)


DRAWN_BADLY = {
    "": "Missing argument 'results'",
    "''": "its name is empty",
    "{good} no_such_figure": "figure or table 'no_such_figure' was asked for; there are",
    "{long}": "which cannot be read (File name too long)",
    "{file} hess_eig": "could not be read or written (Not a directory)",
}


@pytest.mark.parametrize("command", DRAWN_BADLY)
def test_bad_input_of_the_drawing_ends_with_a_sentence(
    capsys, monkeypatch, tmp_path, places, command
):
    arguments = [part.strip("'").format(**places) for part in command.split()]
    sentence = refused(capsys, monkeypatch, tmp_path, arguments, drawing)
    assert DRAWN_BADLY[command] in sentence


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("core_count:", "core_cout:", "'core_cout' is no field, field 'core_count' is missing"),
        ("core_count: 108", "", "field 'core_count' is missing"),
        ("core_count: 108", "core_count: many", "there is 'core_count:many'"),
        ("core_count: 108", "core_count 108", "there is 'core_count108'"),
        ("core_count: 108", "core_count: -108", "there is 'core_count:-108'"),
        ("core_count: 108", "core_count: 108.5", "a value like 108 is expected"),
        ("core_count: 108", 'core_count: "108"', "a value like 108 is expected"),
        ("core_count: 108", "core_count: 1.0.8", "cannot be read as a GPU's description"),
        ('"CUDA"', "CUDA", "there is 'platform_name:CUDA'"),
        ("gpu_device_info {", "gpu_device_info", "there is 'gpu_device_info'"),
        ("block_dim_limit_z: 65535\n}", "block_dim_limit_z: 65535\n", "braces do not match"),
        ("NVIDIA A100-SXM4-40GB", "", "cannot be read as a GPU's description"),
    ],
)
def test_a_mistyped_target_is_refused_before_the_run(
    capsys, monkeypatch, tmp_path, old, new, sentence
):
    assert old in A100
    target = tmp_path / "own.txtpb"
    target.write_text(A100.replace(old, new))
    arguments = ["account", "smoke", str(tmp_path / "results"), "--target", str(target)]
    found = refused(capsys, monkeypatch, tmp_path, arguments)
    assert sentence in found
    assert found.endswith("targets/a100.txtpb")


def test_proofs_that_were_cut_off_are_named(capsys, monkeypatch, tmp_path, places):
    (places["good"] / "proofs.xml").write_text("<testsuites><testsuite>")
    code, errors = ending(capsys, monkeypatch, reproducing, ["report", str(places["good"])])
    assert code == 2
    (sentence,) = errors.splitlines()
    assert f"{places['good'] / 'proofs.xml'}: expected the outcomes of the proofs" in sentence


@pytest.mark.parametrize("verb", ["measure", "compare"])
def test_a_command_of_its_own_process_ends_like_that_too(tmp_path, verb):
    nowhere = tmp_path / "nowhere"
    arguments = {
        "measure": ["cpu", nowhere, "--timeout-seconds", "nan"],
        "compare": [nowhere, os.fsencode(nowhere) + b"\xff"],
    }[verb]
    result = subprocess.run(
        [sys.executable, "-m", "reproduce", verb, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert not nowhere.exists()


def test_a_folder_whose_name_is_not_text_is_written_and_judged(places):
    folder = Path(places["odd"])
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(SAMPLE)
    drawn = "bench_hvp_memory_jax"
    for program in (["paper_figures", folder, drawn], ["reproduce", "report", folder]):
        result = subprocess.run(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    assert (folder / "figures" / f"{drawn}.pdf").exists()
    assert (folder / "report.html").exists()
