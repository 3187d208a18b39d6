"""Faults of a rows file: damage, a power cut, a clock set back, another order."""

import random
from codecs import BOM_UTF8
from pathlib import Path

import msgspec
import numpy as np
import pytest
from refusals import ROW, SAMPLE, refused
from runs import case, measure

import paper_figures.__main__ as drawing
import reproduce.__main__ as reproducing
from reproduce.article import judge, sources
from reproduce.evidence import check
from reproduce.machine import environment
from reproduce.measuring import processes
from reproduce.results import rows, summary
from reproduce.results.rows import VERSION, RowsFile, read_rows

TESTS = Path(__file__).parent
TIMED = msgspec.json.decode(
    next(line for line in SAMPLE.splitlines() if b"over_reverse" in line and b'"time"' in line)
)


def timed(**changes):
    """The line of a timed HVP with some of its fields changed."""
    return msgspec.json.encode(TIMED | changes)


IMPOSSIBLE = {
    "no seconds": timed(seconds=[]),
    "fewer seconds than repetitions": timed(seconds=TIMED["seconds"][1:]),
    "fewer seconds of the gradient": timed(gradient_seconds=TIMED["gradient_seconds"][1:]),
    "no seconds of the gradient": timed(gradient_seconds=[]),
    "zero seconds": timed(seconds=[0.0, *TIMED["seconds"][1:]]),
    "negative seconds of the gradient": timed(
        gradient_seconds=[-0.1, *TIMED["gradient_seconds"][1:]]
    ),
    "seconds that are not a number": timed(warmup_seconds=[float("nan")]),
    "infinite seconds": timed(point_seconds=["?"]).replace(b'"?"', b"1e999"),
    "a case of negative seconds": timed(case_seconds=-1.0),
    "a case that compiles in negative seconds": timed(compile_seconds={"gradient": -1.0}),
    "negative bytes": timed(memory_bytes={"resident_peak_bytes": -1}),
    "no bytes": timed(quantity="memory", memory_bytes={}),
    "no operations": timed(quantity="operations", flops=None),
    "zero operations": timed(quantity="operations", flops=0.0),
    "an empty batch": timed(batch_size=0),
    "no repetitions": timed(repetitions=0, seconds=[], gradient_seconds=[]),
    "no vectors": timed(vectors=0),
    "an identity that is none": timed(environment={"identity": None}),
    "packages that are a list": timed(environment={"identity": {"packages": ["jax"]}}),
    "a machine that is a text": timed(environment={"state": {"machine": "mine"}}),
    "an error of a product that is none": timed(
        environment={"precision": {f"{TIMED['framework']}_product_error": None}}
    ),
}
DAMAGES = IMPOSSIBLE | {
    "random bytes": bytes(np.random.default_rng(0).integers(11, 256, 500, dtype="uint8")),
    "not UTF-8": ROW.replace(b'"device":"', b'"device":"\xff'),
    "not UTF-8 in a name": b'{"version\xc3(": 1}',
    "zeros": bytes(4096),
    "zeros in a row": ROW[:100] + bytes(100) + ROW[200:],
    "half a row": ROW[: len(ROW) // 2],
    "two rows on a line": ROW + ROW,
    "an object": b'{"a": 1}',
    "a list": b"[1, 2]",
    "a number": b"12",
    "a text": b'"version"',
    "nothing": b"null",
    "a row without its status": ROW.replace(b'"status"', b'"state"'),
    "a row with text for a number": ROW.replace(b'"batch_size":', b'"batch_size":"many","x":'),
    "a deep line": b'{"version":' * 5000,
    "a huge line": b"x" * (32 << 20),
    "a newer version": ROW.replace(b'"version":1', b'"version":%d' % (VERSION + 1)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_named_by_every_verb_and_without_it_the_others_count(
    capsys, monkeypatch, tmp_path, damage
):
    path = tmp_path / "rows.jsonl"
    before, after = SAMPLE.splitlines()[:2], SAMPLE.splitlines()[2:4]
    assert DAMAGES[damage] != ROW
    path.write_bytes(b"\n".join([*before, DAMAGES[damage], *after, b""]))
    for program, verb in (
        (reproducing, "measure smoke"),
        (reproducing, "claims"),
        (reproducing, "report"),
        (drawing, ""),
    ):
        arguments = [*verb.split(), str(tmp_path)]
        sentence = refused(capsys, monkeypatch, tmp_path, arguments, program)
        assert f"{path}, line 3: " in sentence
        assert len(sentence) < 500
        if damage == "a newer version":
            assert f"a row of version {VERSION + 1} where this program reads 1" in sentence
    path.write_bytes(b"\n".join([*before, *after, b""]))
    assert [msgspec.json.encode(row) for row in read_rows(path)] == [*before, *after]


def test_a_last_row_cut_anywhere_is_passed_over_and_set_aside(tmp_path):
    path, (first, second, *_) = tmp_path / "rows.jsonl", SAMPLE.splitlines(keepends=True)
    for cut in [*range(1, len(second) - 1, 97), len(second) - 2]:
        path.write_bytes(first + second[:cut])
        assert len(read_rows(path)) == 1
        file = RowsFile(path)
        file.close()
        assert path.read_bytes() == first
        assert file.set_aside.read_bytes().endswith(second[:cut] + b"\n")
    path.write_bytes(first + bytes(4096))  # what some file systems leave after a power cut
    assert len(read_rows(path)) == 1


def test_a_last_row_that_is_whole_but_for_its_end_is_kept_and_the_next_goes_on_its_own_line(
    tmp_path,
):
    path, lines = tmp_path / "rows.jsonl", SAMPLE.splitlines()
    for start in (lines[0] + b"\n", b"", BOM_UTF8):
        path.write_bytes(start + lines[1])
        before = read_rows(path)
        assert before[-1] == rows.decoded(lines[1], "a test")
        file = RowsFile(path)
        file.append(before[:1])
        file.close()
        assert file.set_aside is None
        assert read_rows(path) == [*before, before[0]]


def test_an_impossible_last_row_is_named_also_without_its_end(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROW + b"\n" + IMPOSSIBLE["zero seconds"])
    with pytest.raises(rows.UserError, match=r"line 2: .* `float` > 0.0 - at `\$.seconds\[0\]`"):
        read_rows(path)


def test_what_an_editor_on_windows_adds_is_read_over(tmp_path):
    path, lines = tmp_path / "rows.jsonl", SAMPLE.splitlines()[:3]
    path.write_bytes(BOM_UTF8 + b"\r\n".join([*lines, b"", b""]))
    assert [msgspec.json.encode(row) for row in read_rows(path)] == lines
    assert check.check(tmp_path).rows == 3


def test_an_empty_rows_file_is_no_rows(capsys, monkeypatch, tmp_path):
    (tmp_path / "rows.jsonl").touch()
    for verb in ("claims", "report", "prove"):
        assert "there are none" in refused(capsys, monkeypatch, tmp_path, [verb, str(tmp_path)])


class ClockSetBack:
    """Tells a year earlier each time it is asked."""

    year = 2030

    @classmethod
    def now(cls, zone):
        cls.year -= 1
        return real_datetime(cls.year, 1, 1, tzinfo=zone)


real_datetime = processes.datetime


@pytest.mark.usefixtures("fake_workers")
def test_a_clock_that_is_set_back_loses_no_row_and_leaves_the_newest_the_newest(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "datetime", ClockSetBack)
    wanted = [case(method=method) for method in ("gradient", "reverse_over_forward")]
    first = measure(tmp_path, *wanted)
    identity = first[0].environment["identity"] | {"device": "a new device"}
    monkeypatch.setattr(environment, "identity", lambda on_gpu: identity)
    second = measure(tmp_path, *wanted)
    found = read_rows(tmp_path / "rows.jsonl")
    assert found == first + second
    assert found[-1].started < found[0].started
    kept, sentence = summary.newest(summary.last_of_each_case(found))
    assert kept == second
    assert sentence.endswith("drawn are the newest, device 'a new device'.")
    assert measure(tmp_path, *wanted) == second
    assert all(row.case_seconds > 0 for row in found)


def test_a_row_measured_again_is_the_newest_whatever_else_came_before_it():
    old, other = (
        msgspec.structs.replace(read_rows(TESTS / "rows_sample.jsonl")[0], device=device)
        for device in ("first", "second")
    )
    assert summary.last_of_each_case([old, other, old]) == [other, old]


def test_verdicts_do_not_depend_on_the_order_in_which_cases_were_measured():
    found = read_rows(TESTS / "rows_sample.jsonl")
    shuffled = random.Random(0).sample(found, len(found))
    first, second = (
        judge.judgements([sources.of_rows("a run", each, "")]) for each in (found, shuffled)
    )
    assert first == second
