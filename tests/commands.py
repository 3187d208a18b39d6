"""Commands as a user gives them, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import msgspec

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# What was recorded on two cores of a CPU, and accounted for there.
RECORDED = ROOT / "docs" / "recorded" / "cpu-amd-epyc"
ACCOUNTED = RECORDED / "a100" / "rows.jsonl"


def write_rows(folder, rows):
    """Rows in a results folder, as a run writes them; the content of their file."""
    content = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    (folder / "rows.jsonl").write_bytes(content)
    return content


def program(*arguments):
    """The command that runs a module with ``arguments``."""
    return [sys.executable, "-m", *map(str, arguments)]


def altered(alteration, *arguments):
    """The command line of `reproduce`, altered as tests/altered.py has it."""
    return [sys.executable, str(TESTS / "altered.py"), alteration, *map(str, arguments)]


def altered_everywhere(alterations):
    """Settings under which whatever Python starts is altered, as tests/altered.py has it."""
    return {"PYTHONPATH": str(TESTS / "everywhere"), "ALTERED": alterations}


def run(*command, **options):
    """How ``command`` ended, in the folder of the source."""
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        **options,
    )


def reproduce(*arguments):
    return run(*program("reproduce", *arguments))


def refused(result):
    """The one sentence on which a command ended with code 2."""
    assert result.returncode == 2, result.stderr
    *others, sentence = result.stderr.splitlines()
    assert all("atplotlib" in other for other in others)  # on its own cache, without a home
    return sentence
