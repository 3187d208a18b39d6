"""Other versions of the frameworks: an environment a lock, and one framework of a plan alone."""

import re
import shutil
import sys
import tomllib

import pytest
from commands import ROOT
from packaging.specifiers import SpecifierSet

from reproduce.errors import UserError
from reproduce.measuring import versions


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A folder beside which the environments are, each there already with a Python that tells."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    for lock in (each for several in versions.LOCKS.values() for each in several):
        python = tmp_path / f"venv-{lock.name}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho {lock.name} "$@" >> {tmp_path}/told\nexit $CODE\n')
        python.chmod(0o755)
        shutil.copy(lock.path, python.parent.parent / "hvp-repro-made-from")
    return tmp_path


@pytest.mark.parametrize("code", [0, 1])
def test_each_framework_is_measured_in_the_environment_of_its_lock(beside, monkeypatch, code):
    monkeypatch.setenv("CODE", str(code))
    assert versions.measure_with("2023", "smoke", beside / "results") == code
    measured = f"-m reproduce measure smoke {beside}/results --framework"
    assert (beside / "told").read_text().splitlines() == [
        f"2023-jax {measured} jax",
        f"2023-torch {measured} torch",
    ]


def test_a_plan_that_is_refused_with_other_versions_says_with_which(beside, monkeypatch):
    monkeypatch.setenv("CODE", "2")
    with pytest.raises(UserError, match=re.escape("requirements-latest.lock was asked for")):
        versions.measure_with("latest", "smoke", beside / "results")


def test_versions_that_there_are_not_are_refused(tmp_path):
    with pytest.raises(UserError, match="'2022' were asked for; there are 2023, latest"):
        versions.measure_with("2022", "smoke", tmp_path)


def test_the_locks_of_2023_pin_the_versions_of_the_article_or_next_to_it():
    jax, torch = (lock.path.read_text() for lock in versions.LOCKS["2023"])
    assert "\njax==0.4.23 " in jax
    assert "torch==" not in jax
    assert "\ntorch==2.1.1 " in torch
    assert "\njax==" not in torch


def test_every_python_of_a_lock_or_of_the_makefile_is_allowed():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    named = set(re.findall(r"\b3\.\d\d\b", (ROOT / "Makefile").read_text()))
    named |= {lock.python for several in versions.LOCKS.values() for lock in several}
    assert named == {"3.11", "3.12", "3.13"}
    assert [python for python in named if python not in SpecifierSet(required)] == []
