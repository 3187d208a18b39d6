"""Running the tests that prove the errata, and reading what came of them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from reproduce.environment import ROOT
from reproduce.errata import ERRATA

FILE = "proofs.xml"


def run(results: Path) -> bool:
    """Run every proof and write pytest's JUnit file into ``results``; return whether all hold."""
    names = {erratum.proof for erratum in ERRATA}
    files = [path for path in _test_files() if any(name in path.read_text() for name in names)]
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    chosen = ["-k", " or ".join(sorted(names)), f"--junit-xml={results / FILE}", *map(str, files)]
    return subprocess.run([*command, *chosen], cwd=ROOT, check=False).returncode == 0


def _test_files() -> list[Path]:
    return sorted((ROOT / "tests").glob("test_*.py"))


def outcomes(results: Path) -> dict[str, str]:
    """What came of each proof, by the name of its test; empty if none was run.

    A proof that several cases share is *proven* if all of them pass.
    """
    path = results / FILE
    found: dict[str, str] = {}
    for name, holds in _cases(path) if path.exists() else ():
        found[name] = "proven" if holds and found.get(name) != "not proven" else "not proven"
    return found


def _cases(path: Path) -> Iterator[tuple[str, bool]]:
    for case in ElementTree.parse(path).iter("testcase"):
        yield (
            case.get("name").partition("[")[0],
            not any(child.tag != "properties" for child in case),
        )
