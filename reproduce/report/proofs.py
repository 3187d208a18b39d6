"""Running the tests that prove the errata, and reading what came of them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from reproduce.article.errata import ERRATA
from reproduce.machine.environment import ROOT
from reproduce.results import compare
from reproduce.results.files import whole_file
from reproduce.results.rows import RowsError

FILE = "proofs.xml"
RECORDED = ROOT / "docs" / "recorded" / FILE


def run(results: Path) -> bool:
    """Run every proof and write pytest's JUnit file into ``results``; return whether all hold.

    Raises:
        RowsError: if ``results`` is no results folder, or the tests end early.
    """
    compare.rows_of(results)
    names = {erratum.proof for erratum in ERRATA}
    texts = {path: path.read_text(encoding="utf-8") for path in _test_files()}
    files = [path for path, text in texts.items() if any(name in text for name in names)]
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
    with whole_file(results / FILE) as unfinished:
        unfinished.touch()  # fails here, and not after all the proofs, where nothing can be written
        to_file = f"--junit-xml={unfinished.resolve()}"
        chosen = ["-k", " or ".join(sorted(names)), to_file, *map(str, files)]
        code = subprocess.run([*command, *chosen], cwd=ROOT, check=False).returncode
        if code not in {0, 1}:
            raise RowsError(
                f"the proofs were to be run, and pytest ended early, with code {code}; "
                "mend what it says above and prove again"
            )
    return code == 0


def _test_files() -> list[Path]:
    return sorted((ROOT / "tests").glob("test_*.py"))


def outcomes(results: Path) -> dict[str, str]:
    """What came of each proof, by the name of its test: of ``results``, or as it is recorded.

    A proof that several cases share is *proven* if all of them pass.

    Raises:
        RowsError: if the file cannot be read.
    """
    path = results / FILE
    found: dict[str, str] = {}
    for name, holds in _cases(path if path.exists() else RECORDED):
        found[name] = "proven" if holds and found.get(name) != "not proven" else "not proven"
    return found


def _cases(path: Path) -> Iterator[tuple[str, bool]]:
    try:
        cases = ElementTree.parse(path).iter("testcase")
    except ElementTree.ParseError as error:
        raise RowsError(
            f"{path}: expected what came of the proofs, found {error}; "
            "remove that file and prove again"
        ) from None
    for case in cases:
        yield (
            case.get("name", "").partition("[")[0],
            not any(child.tag != "properties" for child in case),
        )
