"""The report and what is written beside it, from recorded rows."""

import html
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import ACCOUNTED, RECORDED, program, run
from typer.testing import CliRunner

from reproduce.__main__ import app
from reproduce.article.errata import ERRATA
from reproduce.beyond import advice
from reproduce.drawing import BEYOND_FROM_ROWS
from reproduce.evidence import bundle
from reproduce.report import figures, proofs
from reproduce.report.evidence import beside, evidence
from reproduce.results import published
from reproduce.results.rows import read_rows

TESTS = Path(__file__).parent
ROOT = TESTS.parent
LARGEST_BYTES = 5 << 20


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


def errata_on(page):
    """The text of each erratum on the page, by its id."""
    section = page.read_text().partition('<section id="errata">')[2].partition("</section>")[0]
    _, *parts = section.split('<div class="erratum" id="')
    return dict(part.split('"', 1) for part in parts)


def test_every_erratum_is_on_the_page_with_the_tests_that_prove_it(report):
    shown, recorded = errata_on(report), proofs.outcomes(report.parent)
    assert set(shown) == {erratum.id for erratum in ERRATA}
    for erratum, text in shown.items():
        assert "✓ tests pass" in text
        assert all(f"<code>{test}</code>" in text for test in recorded[erratum].tests)


def test_the_operators_of_pytorch_that_the_docs_have_are_on_the_page(report):
    section = report.read_text().partition('<section id="operators">')[2].partition("</section>")[0]
    of_torch = (ROOT / "docs" / "operators.md").read_text().partition("\nRight by all")[0]
    lines = [line for line in of_torch.splitlines() if line.startswith("| ")][2:]
    rows = section.partition("<tbody>")[2].split("<tr>")[1:]
    for line, row in zip(lines, rows, strict=True):
        cells = [html.escape(cell.replace("**", "")) for cell in line.strip("| ").split(" | ")]
        assert [cell.partition("</td>")[0] for cell in row.split('">')[1:]] == cells


def test_the_same_rows_give_the_same_page(report):
    before = report.read_bytes()
    assert run(*program("reproduce", "report", report.parent)).returncode == 0
    assert report.read_bytes() == before


def test_the_page_says_at_its_head_on_what_this_run_was_made(report):
    head = report.read_text().partition('id="verdicts"')[0]
    assert "sample device, made-up numbers, plan article" in head
    assert "not for an A100" in head


@pytest.fixture(scope="module")
def costs(report):
    """The tables beside the figures, by the name of the figure."""
    return {shown.name: shown.costs for shown in figures.benches(evidence(report.parent))}


def test_what_an_hvp_takes_is_in_gradients_ours_and_published(costs):
    times = costs["bench_hvp_time_jax"].set_index(["model", "batch", "method"])
    found = times.sort_index().loc["ViT", 64, "reverse-over-forward"]
    rows = {str(row.case): row for row in read_rows(TESTS / "rows_sample.jsonl")}
    hvp = rows["time jax jit vit batch 64 reverse_over_forward"]
    assert found["this run"] == np.median(np.divide(hvp.seconds, hvp.gradient_seconds))
    table = published.time().set_index(["framework", "model", "batch_size", "method"])
    medians = table.sort_index().loc["jax", "vit", 64]["median_s"]
    ratio = medians["reverse_over_forward"] / medians["gradient"]
    assert found["published"] == pytest.approx(1 + ratio)


def test_a_column_is_there_for_each_source_that_has_numbers(costs):
    sources = {name: list(table.columns[3:]) for name, table in costs.items()}
    assert sources["bench_hvp_time_jax"] == ["this run", "published"]
    assert sources["bench_hvp_time_jax_without_jit"] == ["this run"]
    assert sources["bench_hvp_memory_jax"] == ["this run", "compiled for the A100", "published"]


def test_a_network_that_only_the_article_timed_is_in_no_table(costs):
    assert "resnet50" in set(published.time()["model"])
    assert all(set(table["model"]) == {"ResNet34", "ViT", "BERT"} for table in costs.values())


def test_what_was_compiled_is_looked_for_within_the_results_and_then_beside_them(tmp_path):
    results = tmp_path / "results" / "mine"
    for folder in (results, results.parent / "a100"):
        folder.mkdir(parents=True)
        shutil.copy(TESTS / "rows_sample.jsonl", folder / "rows.jsonl")
    assert evidence(results).compiled.path == results.parent / "a100"
    (results / "a100").mkdir()
    shutil.copy(TESTS / "rows_sample.jsonl", results / "a100" / "rows.jsonl")
    assert evidence(results).compiled.path == results / "a100"


def test_what_was_compiled_is_looked_for_beside_a_link_and_not_beside_what_it_leads_to(
    tmp_path, monkeypatch
):
    disk, results = tmp_path / "disk" / "cpu", tmp_path / "results"
    for folder in (disk, results / "a100"):
        folder.mkdir(parents=True)
        shutil.copy(ACCOUNTED, folder / "rows.jsonl")
    (results / "cpu").symlink_to(disk)
    assert evidence(results / "cpu").compiled.rows
    assert bundle.folders(results / "cpu")["a100/"] == results / "a100"
    monkeypatch.chdir(results / "a100")
    assert beside(Path(), "beyond") == results / "beyond"
    assert beside(Path("../cpu"), "beyond") == results / "beyond"


@pytest.mark.parametrize("verb", ["claims", "report"])
def test_nothing_is_judged_where_no_row_is_of_the_articles_plans(tmp_path, verb):
    shutil.copy(RECORDED / "beyond" / "rows.jsonl", tmp_path / "rows.jsonl")
    result = CliRunner().invoke(app, [verb, str(tmp_path)])
    assert "all 52 are of plan 'beyond'; give a folder" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_lies_beyond_the_article_is_on_the_page_and_apart_from_it(report):
    page = html.unescape(report.read_text())
    section = page.partition('<section id="beyond">')[2].partition("</section>")[0]
    assert "Nothing here is in the article" in section
    for name in BEYOND_FROM_ROWS:
        assert page.count(f'<figure id="{name}">') == section.count(f'<figure id="{name}">') == 1
    for table in advice.tables_of(read_rows(RECORDED / "beyond" / "rows.jsonl")).values():
        assert all(f">{cell}</td>" in section for cell in table.to_numpy().ravel())


MARKED = """import pytest


@pytest.mark.erratum("weights")
@pytest.mark.erratum("example-shapes")
def test_of_two_errata():
    pass


@pytest.mark.erratum("lanczos-start")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_of_which_one_case_fails(number):
    assert number != 2


@pytest.mark.erratum("weights")
def test_that_fails_beside_one_that_passes():
    raise ValueError


@pytest.mark.erratum("hessian-call")
def test_that_is_skipped():
    pytest.skip("no reason")


@pytest.mark.erratum("example-shapes")
@pytest.mark.parametrize("number", [1, 2])
def test_of_which_each_case_passes(number):
    pass


def test_of_no_erratum():
    raise ValueError
"""
OUTCOMES = {
    "weights": (False, ["test_of_two_errata", "test_that_fails_beside_one_that_passes"]),
    "example-shapes": (True, ["test_of_two_errata", "test_of_which_each_case_passes"]),
    "lanczos-start": (False, ["test_of_which_one_case_fails"]),
    "hessian-call": (False, ["test_that_is_skipped"]),
}


def test_an_erratum_is_proven_if_all_cases_of_all_its_tests_pass(tmp_path, monkeypatch):
    tests, results = tmp_path / "tests", tmp_path / "results"
    tests.mkdir()
    results.mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(TESTS / "conftest.py", tests)
    shutil.copy(TESTS / "rows_sample.jsonl", results / "rows.jsonl")
    (tests / "test_marked.py").write_text(MARKED)
    (tests / "test_unmarked.py").write_text("raise ValueError")
    monkeypatch.setattr(proofs, "ROOT", tmp_path)
    assert not proofs.run(results)
    assert proofs.outcomes(results) == {
        erratum: proofs.Proof(*outcome) for erratum, outcome in OUTCOMES.items()
    }
    assert CliRunner().invoke(app, ["report", str(results)]).exit_code == 0
    shown = errata_on(results / "report.html")
    for erratum, text in shown.items():
        said = "its tests were not run"
        if erratum in OUTCOMES:
            said = "✓ tests pass" if OUTCOMES[erratum][0] else "✗ tests fail"
        assert said in text


def test_a_failed_case_is_on_the_page_and_its_reason_is_no_markup(tmp_path):
    shutil.copy(TESTS / "rows_sample.jsonl", tmp_path / "rows.jsonl")
    row = msgspec.structs.replace(
        read_rows(tmp_path / "rows.jsonl")[-1], status="error", reason="<script>x</script>"
    )
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;x" in page
    assert "<script>x" not in page
    assert str(row.case) in page


def test_without_figures_and_accounted_rows_there_is_a_page_that_says_so(tmp_path):
    shutil.copy(TESTS / "rows_sample.jsonl", tmp_path / "rows.jsonl")
    found = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert found.exit_code == 0, found.output
    page = (tmp_path / "report.html").read_text()
    for sentence in (
        "This figure is not drawn yet",
        "nothing is compiled",
        "as recorded with this package",
        "make beyond",
    ):
        assert sentence in page
