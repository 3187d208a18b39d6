"""Running the tests of the errata, and reading their outcomes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec

from reproduce.errors import UserError
from reproduce.machine.environment import ROOT
from reproduce.results.files import whole_file
from reproduce.results.rows import some_rows_in

FILE = "proofs.xml"
RECORDED = ROOT / "docs" / "recorded" / FILE
MARK = "@pytest.mark.erratum("


class Proof(msgspec.Struct):
    """The outcome of an erratum's tests; it is proven if all of their cases passed."""

    proven: bool = True
    tests: list[str] = []


def run(results: Path) -> bool:
    """Run every proof and write pytest's JUnit file into ``results``; return whether all hold.

    Raises:
        UserError: if ``results`` is no results folder, or the tests end early.
    """
    some_rows_in(results)
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    files = [str(path) for path in tests if MARK in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-m", "erratum"]
    with whole_file(results / FILE) as unfinished:
        unfinished.touch()  # if nothing can be written, fail before the tests and not after them
        to_file = f"--junit-xml={unfinished.resolve()}"
        code = subprocess.run([*command, to_file, *files], cwd=ROOT, check=False).returncode
        if code not in {0, 1}:
            raise UserError(
                f"the proofs were to be run, and pytest ended early, with code {code}; "
                "mend the fault that it names above and prove again"
            )
    return code == 0


def outcomes(results: Path) -> dict[str, Proof]:
    """The outcome of each erratum's proof, by its id: that in ``results``, or the recorded one.

    Raises:
        UserError: if the file cannot be read.
    """
    path = results / FILE
    found: dict[str, Proof] = {}
    for erratum, test, passed in _cases(path if path.exists() else RECORDED):
        proof = found.setdefault(erratum, Proof())
        proof.proven &= passed
        if test not in proof.tests:
            proof.tests.append(test)
    return found


def _cases(path: Path) -> Iterator[tuple[str, str, bool]]:
    try:
        cases = ElementTree.parse(path).iter("testcase")
    except ElementTree.ParseError as error:
        raise UserError(
            f"{path}: expected the outcomes of the proofs, found {error}; "
            "remove that file and prove again"
        ) from None
    for case in cases:
        test = case.attrib["name"].partition("[")[0]
        passed = not any(child.tag != "properties" for child in case)
        for erratum in case.iterfind("properties/property[@name='erratum']"):
            yield erratum.attrib["value"], test, passed
