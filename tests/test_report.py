"""The report and what is written beside it, from recorded rows."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from reproduce import judge
from reproduce.errata import ERRATA
from reproduce.report.evidence import evidence

TESTS = Path(__file__).parent
ROOT = TESTS.parent
LARGEST_BYTES = 5 << 20


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def written(folder, with_figures=False):
    """The path of the report on the sample's rows, with claims.json beside it."""
    accounted = folder / "a100"
    accounted.mkdir(parents=True)
    shutil.copy(TESTS / "rows_sample.jsonl", folder / "rows.jsonl")
    shutil.copy(TESTS / "rows_accounted.jsonl", accounted / "rows.jsonl")
    if with_figures:
        for each in (folder, accounted):
            assert run("paper_figures", each).returncode == 0
    found = run("reproduce", "report", folder)
    assert found.returncode == 0, found.stderr
    judged = judge.judgements(evidence(folder).sources)
    (folder / "claims.json").write_bytes(msgspec.json.encode(judged))
    return folder / "report.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return written(tmp_path_factory.mktemp("results"), with_figures=True)


def test_the_page_is_one_file_that_asks_for_nothing_else(report):
    page = report.read_text()
    assert len(page.encode()) < LARGEST_BYTES
    for outside in ("http://", "https://", 'src="/', "@import"):
        assert outside not in page


def test_the_claims_and_the_summary_are_beside_it(report):
    judged = json.loads((report.parent / "claims.json").read_text())
    claims = (report.parent / "claims.md").read_text()
    assert all(each["statement"] in claims for each in judged)
    header, *lines = (report.parent / "summary.csv").read_text().splitlines()
    assert "batch_size" in header
    assert len(lines) == len((report.parent / "rows.jsonl").read_text().splitlines())


def test_every_erratum_is_on_the_page_with_its_proof(report):
    page = report.read_text()
    assert all(erratum.proof in page for erratum in ERRATA)


def test_the_same_rows_give_the_same_page(report):
    before = report.read_bytes()
    assert run("reproduce", "report", report.parent).returncode == 0
    assert report.read_bytes() == before


def test_without_figures_and_accounted_rows_there_is_a_page_that_says_so(tmp_path):
    shutil.copy(TESTS / "rows_sample.jsonl", tmp_path / "rows.jsonl")
    found = run("reproduce", "report", tmp_path)
    assert found.returncode == 0, found.stderr
    assert "not tested here" in (tmp_path / "report.html").read_text()


def test_a_folder_without_rows_is_refused_in_one_sentence(tmp_path):
    found = run("reproduce", "report", tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert len(found.stderr.splitlines()) == 1
