"""The report on the sample's rows, written as a user has it written."""

import shutil

import msgspec
from commands import ACCOUNTED, RECORDED, TESTS, program, run

from reproduce.article import judge
from reproduce.drawing import BEYOND_FROM_ROWS
from reproduce.report.evidence import evidence


def written(folder, with_figures=False):
    """The path of the report on the sample's rows, with claims.json beside it."""
    accounted = folder / "a100"
    accounted.mkdir(parents=True)
    shutil.copy(TESTS / "rows_sample.jsonl", folder / "rows.jsonl")
    shutil.copy(ACCOUNTED, accounted / "rows.jsonl")
    if with_figures:
        for each in (folder, accounted):
            assert run(*program("paper_figures", each)).returncode == 0
        beyond = folder / "beyond"
        beyond.mkdir()
        shutil.copy(RECORDED / "beyond" / "rows.jsonl", beyond / "rows.jsonl")
        assert run(*program("paper_figures", beyond, *BEYOND_FROM_ROWS)).returncode == 0
    found = run(*program("reproduce", "report", folder))
    assert found.returncode == 0, found.stderr
    judged = judge.judgements(evidence(folder).sources)
    (folder / "claims.json").write_bytes(msgspec.json.encode(judged))
    return folder / "report.html"
