"""`make carry` takes along all that measuring needs beside PyTorch, JAX and their own."""

import os
import re
import subprocess
import sys
from importlib import metadata

import pytest
from commands import ROOT
from locks import pins, site_of
from packaging.requirements import Requirement

from reproduce.results.rows import read_rows

FRAMEWORKS = ("torch", "jax")


def with_needs(names):
    """``names`` and, on this machine, all that they ask for, without extras."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                left.append(re.sub(r"[-_.]+", "-", needed.name).lower())
    return found


@pytest.fixture(scope="module")
def of_carrying_machine(tmp_path_factory):
    """Runs Python where nothing but the frameworks, their needs and the carried can be imported."""
    packages = with_needs(FRAMEWORKS) | pins("requirements-carry.lock").keys()
    site = site_of(packages, tmp_path_factory.mktemp("site"))

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(site)},
            timeout=300,
            check=False,
        )

    return run


@pytest.mark.slow
def test_with_carried_packages_alone_both_frameworks_measure(of_carrying_machine, tmp_path):
    result = of_carrying_machine("tests/altered.py", "part", "measure", "smoke", tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = read_rows(tmp_path / "rows.jsonl")
    assert {row.case.framework for row in rows} == set(FRAMEWORKS)
    assert {row.status for row in rows} == {"done"}


def test_with_carried_packages_alone_curvlinops_is_imported(of_carrying_machine):
    result = of_carrying_machine("-c", "import curvlinops")
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_verb_that_needs_more_says_what_and_the_help_is_there(of_carrying_machine):
    result = of_carrying_machine("-m", "reproduce", "compare", "a", "b", "--json")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(
        r"error: 'compare' needs '\w+', which is not installed here; run it in .*\n",
        result.stderr,
    )
    result = of_carrying_machine("-m", "reproduce", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^  compare +'compare' needs", result.stdout, flags=re.MULTILINE)
    assert re.search(r"^  measure +Measure", result.stdout, flags=re.MULTILINE)


def test_the_carried_are_pinned_as_in_the_locks_and_are_no_part_of_a_framework():
    carried = pins("requirements-carry.lock")
    locked = pins("requirements-peers.lock") | pins("requirements.lock")
    assert carried.items() <= locked.items()
    assert not carried.keys() & {*FRAMEWORKS, "jaxlib", "numpy", "scipy", "triton", "torchvision"}
    assert not [name for name in carried if name.startswith("nvidia-") and name != "nvidia-ml-py"]
