"""A bundle has all that a claim rests on, is the same bytes each time, and unpacks safely."""

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import msgspec
import pytest
from commands import ACCOUNTED
from typer.testing import CliRunner

from paper_figures import figures
from reproduce.__main__ import app
from reproduce.errors import UserError
from reproduce.evidence import bundle
from reproduce.results.rows import read_rows

TESTS = Path(__file__).parent
SAMPLE = TESTS / "rows_sample.jsonl"


@pytest.fixture
def results(tmp_path):
    """A results folder with a figure, beside it what was compiled for the A100."""
    folder = tmp_path / "results" / "cpu"
    (folder / "programs").mkdir(parents=True)
    (folder / "programs" / "a program").write_text("not to be bundled")
    shutil.copy(SAMPLE, folder / "rows.jsonl")
    figures.write("computational_graph", [], folder / "figures")
    (folder / "report.html").write_text("a report")
    (folder.parent / "a100").mkdir()
    shutil.copy(ACCOUNTED, folder.parent / "a100" / "rows.jsonl")
    return folder


def written(results):
    path = results / "bundle.zip"
    sha256 = bundle.write(results, path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def with_member(path, name, content="planted"):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    return path


def test_it_has_what_there_is_and_a_manifest_of_it(results):
    with zipfile.ZipFile(written(results)) as archive:
        assert archive.namelist() == [
            "manifest.json",
            "a100/rows.jsonl",
            "environment.json",
            "figures/computational_graph.pdf",
            "figures/computational_graph.png",
            "report.html",
            "requirements.lock",
            "rows.jsonl",
        ]
        manifest = json.loads(archive.read("manifest.json"))
        for name, said in manifest["files"].items():
            content = archive.read(name)
            assert said["sha256"] == hashlib.sha256(content).hexdigest()
            assert said["size_bytes"] == len(content)
    assert manifest["plans"] == ["article", "cpu"]
    assert "NVIDIA A100-SXM4-40GB (compiled, not run)" in manifest["devices"]


def test_what_this_program_did_not_write_stays_out_whatever_its_name(results):
    before = written(results).read_bytes()
    own = [b"private-notes.md", b"salaries.csv", b"figures/me.png", b"tables/mine.md", b"\xff.md"]
    own += [b"tables/\xfe\xff.csv", b"logs/time.log", b"figures/bench_hvp_time_jax.old.png"]
    (results / "tables").mkdir()
    (results / "logs").mkdir()
    for name in own:
        Path(os.fsdecode(os.fsencode(results) + b"/" + name)).write_text("not to be bundled")
    (results / "claims.md").mkdir()
    assert written(results).read_bytes() == before


def test_everything_that_this_program_writes_is_in_it(results):
    everything = ["spectra.csv", "claims.md", "summary.csv", "advice.md", "proofs.xml"]
    everything += ["figures/spectra.png", "figures/beyond_ratios.pdf", "tables/operations.md"]
    (results / "tables").mkdir()
    for name in everything:
        (results / name).write_text("written")
    with zipfile.ZipFile(written(results)) as archive:
        assert {*everything} <= {*archive.namelist()}


def test_the_log_that_a_failed_row_names_is_in_it(results):
    row, *_ = read_rows(results / "rows.jsonl")
    failed = {"status": "error", "reason": "a crash; see logs/time.log"}
    line = msgspec.json.encode(msgspec.structs.replace(row, **failed))
    with (results / "rows.jsonl").open("ab") as file:
        file.write(line + b"\n")
    (results / "logs").mkdir()
    (results / "logs" / "time.log").write_text("Traceback")
    with zipfile.ZipFile(written(results)) as archive:
        assert archive.read("logs/time.log") == b"Traceback"


def test_a_folder_whose_name_is_not_text_is_bundled(results):
    odd = Path(os.fsdecode(os.fsencode(results.parent) + b"/\xff"))
    results.rename(odd)
    assert written(odd).exists()


def test_what_was_compiled_is_taken_from_within_the_results_if_it_is_there(results):
    shutil.move(results.parent / "a100", results / "a100")
    with zipfile.ZipFile(written(results)) as archive:
        assert archive.read("a100/rows.jsonl") == (ACCOUNTED).read_bytes()


def test_the_folder_of_what_was_compiled_is_not_bundled_with_itself(results):
    with zipfile.ZipFile(written(results.parent / "a100")) as archive:
        assert "rows.jsonl" in archive.namelist()
        assert not any(name.startswith("a100/") for name in archive.namelist())


def test_the_same_files_give_the_same_bytes_at_another_time_place_and_umask(results, tmp_path):
    first = written(results).read_bytes()
    (results / "bundle.zip").unlink()
    umask = os.umask(0o077)
    try:
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(results.parent, elsewhere, copy_function=shutil.copyfile)
        for file in elsewhere.rglob("*"):
            os.utime(file, (1, 1))
            file.chmod(0o700)
        second = written(elsewhere / "cpu").read_bytes()
    finally:
        os.umask(umask)
    assert first == second


def test_each_environment_is_told_once_with_its_machines_and_revisions():
    row = read_rows(SAMPLE)[0]

    def measured_on(cores, revision, driver):
        state = {"revision": revision, "load": revision, "machine": {"driver": driver}}
        environment = {
            "identity": {"cores": cores},
            "state": state if driver else {"revision": revision},
            "precision": {"x64": False},
        }
        return msgspec.structs.replace(row, environment=environment)

    rows = [
        measured_on(2, "b", driver=570),
        measured_on(4, "a", driver=None),  # as rows were that had all of it in their identity
        measured_on(2, "a", driver=580),
        measured_on(2, "a", driver=570),
    ]
    precision = {"x64": False}
    assert bundle.environments(rows) == [
        {
            "identity": {"cores": 2},
            "precision": precision,
            "machines": [{"driver": 570}, {"driver": 580}],
            "revisions": ["a", "b"],
            "rows": 3,
        },
        {
            "identity": {"cores": 4},
            "precision": precision,
            "machines": [],
            "revisions": ["a"],
            "rows": 1,
        },
    ]


def test_without_rows_there_is_nothing_to_bundle(tmp_path):
    with pytest.raises(UserError, match="there are none"):
        bundle.write(tmp_path, tmp_path / "bundle.zip")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_path_size_and_checksum_and_takes_another_place(results, tmp_path):
    path = tmp_path / "mine.zip"
    found = CliRunner().invoke(app, ["bundle", str(results), "--output", str(path)])
    assert found.exit_code == 0
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.stdout == f"{path}: {path.stat().st_size / 1024:.0f} KiB, SHA-256 {sha256}\n"


def test_a_place_that_cannot_be_written_is_refused_with_a_sentence(results):
    with pytest.raises(UserError, match="give another place with --output"):
        bundle.write(results, results / "rows.jsonl" / "bundle.zip")


def test_unpacked_it_is_what_was_bundled(results, tmp_path):
    _, wrong = bundle.unpack(written(results), tmp_path / "unpacked")
    assert wrong == {}
    for name in ("rows.jsonl", "figures/computational_graph.png"):
        assert (tmp_path / "unpacked" / name).read_bytes() == (results / name).read_bytes()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "figures/../../outside"])
def test_a_file_that_leads_outside_is_refused_and_nothing_is_written(results, tmp_path, name):
    path = with_member(written(results), name)
    with pytest.raises(UserError, match="leads outside"):
        bundle.unpack(path, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_a_file_that_the_manifest_does_not_name_is_not_unpacked(results, tmp_path):
    path = with_member(written(results), "figures/planted.png")
    _, wrong = bundle.unpack(path, tmp_path / "unpacked")
    assert wrong == {"figures/planted.png": "is not in the manifest"}
    assert not (tmp_path / "unpacked" / "figures" / "planted.png").exists()


def test_a_link_is_unpacked_as_the_file_that_it_is_and_never_followed(results, tmp_path):
    path = written(results)
    link = zipfile.ZipInfo("figures/link")
    link.create_system, link.external_attr = bundle.UNIX, 0o120777 << 16
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    manifest["files"]["figures/link"] = msgspec.to_builtins(bundle.member(b"/etc"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc")
        for name, content in (files | {"manifest.json": json.dumps(manifest)}).items():
            archive.writestr(name, content)
    _, wrong = bundle.unpack(path, tmp_path / "unpacked")
    assert wrong == {}
    assert not (tmp_path / "unpacked" / "figures" / "link").is_symlink()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(results, tmp_path):
    path = with_member(written(results), "rows.jsonl")
    with pytest.raises(UserError, match="twice"):
        bundle.unpack(path, tmp_path / "unpacked")


def test_more_than_a_gibibyte_is_refused_before_it_is_unpacked(results, tmp_path, monkeypatch):
    path = written(results)
    monkeypatch.setattr(bundle, "LARGEST_BYTES", 100_000)
    with pytest.raises(UserError, match="more than 100000 bytes"):
        bundle.unpack(path, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
