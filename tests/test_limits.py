"""A process finds what it may use, whatever limits it: groups, affinity, ulimit."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from reproduce.machine import limits

GROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
ASKED = """
from reproduce.machine import environment, limits
from reproduce.measuring import schedule
print(limits.cores(), limits.free_memory().bytes, sep=";", end=";")
print(environment.device(False).rpartition(", ")[2], limits.free_memory().remedy, sep=";", end=";")
print(schedule.here(False).cores == limits.cores())
"""


def asked(before):
    """Cores, bytes, cores by name, remedy: of a process whose shell has done something before."""
    command = ["sh", "-ec", f'{before}\nexec "$0" "$@"', sys.executable, "-c", ASKED]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    cores, free, name, remedy, is_scheduled_by = found.stdout.strip().split(";")
    assert is_scheduled_by == "True"
    return int(cores), int(free), name, remedy


@pytest.fixture
def group():
    """Make a control group of version 1.

    Yields:
        A function of a controller and its limits that returns the folder of such a group.
    """
    made = []

    def make(controller, **values):
        folder = GROUPS / controller / f"hvp-limits-{os.getpid()}-{len(made)}"
        try:
            folder.mkdir()
            made.append(folder)
            for name, value in values.items():
                (folder / f"{controller}.{name}").write_text(str(value))
        except OSError:
            pytest.skip("needs leave to make a control group of version 1")
        return folder

    yield make
    for folder in made:
        folder.rmdir()


def test_a_memory_group_limits_what_is_free(group):
    for limit in (1536 * MIB, 700 * MIB):
        folder = group("memory", limit_in_bytes=limit)
        _, free, _, remedy = asked(f"echo $$ > {folder}/cgroup.procs")
        assert limit - 200 * MIB < free < limit
        assert remedy == f"raise the memory limit of {folder}"


@pytest.mark.parametrize(("quota", "name"), [(50_000, "0.5 cores"), (100_000, "1 cores")])
def test_a_group_of_half_a_core_has_one_to_compute_on_and_is_named_by_its_time(group, quota, name):
    folder = group("cpu", cfs_quota_us=quota)
    cores, *_, found, _ = asked(f"echo $$ > {folder}/cgroup.procs")
    assert (cores, found) == (1, name)


def test_affinity_limits_the_cores():
    assert asked("taskset -pc 0 $$ > /dev/null")[0] == 1


@pytest.mark.parametrize("option", ["-v", "-d"])
def test_ulimit_limits_what_is_free(option):
    _, free, _, remedy = asked(f"ulimit {option} {2000 * 1024}")
    assert 1000 * MIB < free < 2000 * MIB
    assert remedy == f"raise 'ulimit {option}'"


@pytest.mark.parametrize("mebibytes", [1000, 4000])
def test_a_limit_of_address_space_is_named_before_anything_is_loaded(tmp_path, mebibytes):
    for verb in ("measure smoke", "doctor smoke"):
        limited = f"ulimit -v {mebibytes * 1024}; exec '{sys.executable}' -m reproduce {verb}"
        found = subprocess.run(
            ["sh", "-c", f"{limited} '{tmp_path}/results'"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        said = found.stdout + found.stderr
        assert found.returncode == {"measure smoke": 2, "doctor smoke": 1}[verb], said
        assert "the frameworks need 6.0 GiB of address space" in said
        assert "raise it, or run 'ulimit -v unlimited' first" in said
        assert "make setup" not in found.stderr


def test_a_group_of_memory_decides_how_much_is_prepared_at_once(group):
    folder = group("memory", limit_in_bytes=3000 * MIB)
    program = """
from reproduce.measuring import schedule
from reproduce.plan import by_setting, cases
settings = by_setting(cases("smoke"))
machine = schedule.here(False)
print(len(next(schedule.waves(settings, machine))), schedule.at_once(settings, machine))
"""
    for before, wanted in (("", "6 2"), (f"echo $$ > {folder}/cgroup.procs; ", "2 2")):
        command = ["sh", "-c", f'{before}exec taskset -c 0,1 "$0" -c "$1"', sys.executable, program]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == wanted


def test_without_limits_it_is_the_machines_own():
    free = limits.free_memory()
    assert free.bytes <= psutil.virtual_memory().total
    assert limits.cores() == len(os.sched_getaffinity(0)) == limits.cores_of_time()


def process(folder, cgroup, mountinfo):
    """A folder like that of a process in /proc, which is in groups below ``folder``."""
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mountinfo.format(folder))
    return folder


def files(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


SEEN_FROM = {
    "the machine": ("0::/a/b", "31 23 0:28 / {} rw - cgroup2 cgroup2 rw"),
    "a container": ("0::/", "31 23 0:28 / {}/a/b rw - cgroup2 cgroup rw,nsdelegate"),
    "a container that sees the machine's paths": (
        "0::/a/b",
        "31 23 0:28 /a/b {}/a/b ro shared:9 - cgroup2 cgroup rw",
    ),
    "a container whose group is another's": (
        "0::/../c",
        "31 23 0:28 / {}/a/b ro - cgroup2 cgroup rw",
    ),
    "a machine with both versions": (
        "4:memory:/\n1:cpu,cpuacct:/\n0::/a/b",
        "31 23 0:28 / /nowhere rw - cgroup none rw,memory\n32 1 0:2 / {} rw - cgroup2 none rw",
    ),
}


@pytest.mark.parametrize(("cgroup", "mountinfo"), SEEN_FROM.values(), ids=SEEN_FROM)
def test_groups_of_version_2_are_found_from_within_and_from_without(tmp_path, cgroup, mountinfo):
    stat = f"anon 5\ninactive_file {10 * MIB}"
    memory = {"memory__max": 40 * MIB, "memory__current": 30 * MIB, "memory__stat": stat}
    files(tmp_path / "a" / "b", **memory, cpu__max="150000 100000")
    own = process(tmp_path, cgroup, mountinfo)
    assert limits.free_memory(own) == (20 * MIB, f"raise the memory limit of {tmp_path}/a/b")
    assert limits.cores_of_time(own) == min(1.5, len(os.sched_getaffinity(0)))


def test_a_group_above_limits_too_and_no_limit_is_none(tmp_path):
    unlimited = {"memory__max": "max", "memory__current": 7, "cpu__max": "max 100000"}
    files(tmp_path / "a" / "b", **unlimited)
    own = process(tmp_path, *SEEN_FROM["the machine"])
    assert limits.cores_of_time(own) == len(os.sched_getaffinity(0))
    assert limits.free_memory(own).remedy == "close other programs"
    files(tmp_path / "a", memory__max=5, memory__current=9, cpu__max="25000 100000")
    assert limits.cores_of_time(own) == 0.25
    assert limits.free_memory(own) == (0, f"raise the memory limit of {tmp_path}/a")
