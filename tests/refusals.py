"""Commands in this process, of which each is to end with one sentence and to write nothing."""

import sys
from pathlib import Path

import msgspec
import pytest

import reproduce.__main__ as reproducing
from reproduce.results.rows import read_rows

SAMPLE = b"".join(
    msgspec.json.encode(row) + b"\n"
    for row in read_rows(Path(__file__).parent / "rows_sample.jsonl")
)
ROW = SAMPLE.splitlines()[0]


def ending(capsys, monkeypatch, program, arguments):
    """Code and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(SystemExit) as end:
        program.main()
    return end.value.code, capsys.readouterr().err


def all_files(folder):
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name not in {"rows.lock"}
    }


def refused(capsys, monkeypatch, tmp_path, arguments, program=reproducing):
    """The sentence on which a command ended; it has written nothing."""
    before = all_files(tmp_path)
    code, errors = ending(capsys, monkeypatch, program, arguments)
    assert code == 2, errors
    assert "Traceback" not in errors
    assert all_files(tmp_path) == before
    usage = errors.startswith("Usage: ")  # the command line's own sentence comes after how to ask
    sentence = (errors.rpartition("\n\n")[2] if usage else errors).strip()
    assert len(sentence.splitlines()) == 1, errors
    return sentence
