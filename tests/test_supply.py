"""The bill of materials has the whole lock, and an audit that could not look says so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = Path(sys.executable).parent.parent


def make(*arguments, venv=ENVIRONMENT, **settings):
    return subprocess.run(
        ["make", "--no-print-directory", f"VENV={venv}", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | settings,
        timeout=120,
        check=False,
    )


def locked():
    """Version and hashes by package, from the lock's own lines."""
    found = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if pinned := re.match(r"(\S+)==(\S+)", line):
            hashes = found.setdefault(pinned[1], (pinned[2], set()))[1]
        elif digest := re.search(r"--hash=sha256:(\w{64})", line):
            hashes.add(digest[1])
    return found


@pytest.mark.slow
def test_the_bill_lists_every_locked_package_with_its_hashes_and_twice_the_same(tmp_path):
    bills = []
    for name, settings in (("first", {"TZ": "UTC"}), ("second", {"TZ": "Asia/Tokyo"})):
        result = make("sbom", f"RESULTS={tmp_path / name}", PYTHONHASHSEED="random", **settings)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        bills.append((tmp_path / name / "sbom.cdx.json").read_bytes())
    assert bills[0] == bills[1]
    bill = json.loads(bills[0])
    listed = {
        component["name"]: (
            component["version"],
            {
                each["content"]
                for reference in component["externalReferences"]
                for each in reference["hashes"]
            },
        )
        for component in bill["components"]
    }
    assert listed == locked()
    assert len(listed) > 80
    assert all(hashes for _, hashes in listed.values())
    assert len(bill["components"]) == len(listed)
    assert bill["metadata"]["component"]["name"] == "hvp-repro"
    assert not {"serialNumber", "timestamp"} & (bill.keys() | bill["metadata"].keys())


def test_an_audit_without_a_line_says_that_nothing_was_looked_up(tmp_path):
    result = make("audit", f"RESULTS={tmp_path}", UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "no"))
    sentence, ended = result.stderr.splitlines()
    assert sentence.startswith("error: known vulnerabilities of requirements.lock were asked for")
    assert "could not be looked up" in sentence
    assert sentence.endswith("run 'make audit' where the internet is reached")
    assert ended.endswith("Error 2")
    assert "No package" not in result.stdout
    assert not (tmp_path / "audit.txt").exists()


@pytest.mark.parametrize(
    ("answer", "said", "ended"),
    [
        ("exit 0", "No package of requirements.lock has a known vulnerability.", ""),
        ('echo "jinja2 3.1.6 CVE-0" >"$file"; exit 1', "jinja2 3.1.6 CVE-0", "Error 1"),
        # As pip-audit ends where the index has no such package.
        ("echo 'ERROR: not found' >&2; exit 1", "", "Error 2"),
    ],
)
def test_an_audit_tells_what_was_found_from_what_was_not_looked_up(tmp_path, answer, said, ended):
    # The index of vulnerabilities is on the internet: its answers are played.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    played = f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done; file=$2; {answer}\n'
    (programs / "uv").write_text(played)
    (programs / "uv").chmod(0o755)
    result = make("audit", f"RESULTS={tmp_path}", venv=tmp_path)
    assert result.stdout.strip() == said
    assert result.stderr.strip().endswith(ended)
    assert bool(ended) == bool(result.returncode)
    assert bool(ended) == bool(result.stderr)
