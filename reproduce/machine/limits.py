"""Cores and free bytes of memory that this process may use.

All code that shares out cores or memory asks here. A process may use the least of what the
machine and each limit leave it. The limits are affinity, control groups of version 1 and 2, and
``ulimit -v`` and ``-d``.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

SELF = Path("/proc/self")
# A group's files, by its version: limit, used, and the part of the used that is reclaimable.
MEMORY = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
# By option of ulimit: the limit, and psutil's name for the memory that it counts.
ULIMITS = {"-v": (resource.RLIMIT_AS, "vms"), "-d": (resource.RLIMIT_DATA, "data")}


class Free(NamedTuple):
    """How many bytes are free, and what to do to free more."""

    bytes: int
    remedy: str


def cores() -> int:
    """How many threads can compute at the same time, at least 1."""
    return max(1, int(cores_of_time()))


def cores_of_time(process: Path = SELF) -> float:
    """The cores by time, which need not be whole: a control group may have part of a core."""
    return min([len(os.sched_getaffinity(0)), *_quotas(process)])


def free_memory(process: Path = SELF) -> Free:
    """The free memory of the host that this process and its children may use."""
    of_host = Free(psutil.virtual_memory().available, "close other programs")
    return min([of_host, *_free_in_groups(process), *_free_by_ulimit()])


def left_by_ulimit(option: str) -> int | None:
    """The bytes that ``ulimit`` with ``option`` leaves this process; None without a limit."""
    limit, name = ULIMITS[option]
    most, _ = resource.getrlimit(limit)
    if most == resource.RLIM_INFINITY:
        return None
    return max(0, most - getattr(psutil.Process().memory_info(), name))


def _quotas(process: Path) -> Iterator[float]:
    for version, group in _groups(process, "cpu"):
        if version == 2:
            quota, _, period = _text(group / "cpu.max").partition(" ")
        else:
            quota, period = (_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # without a limit it is "max" or -1
            yield int(quota) / int(period)


def _free_in_groups(process: Path) -> Iterator[Free]:
    for version, group in _groups(process, "memory"):
        limit, used, kept = MEMORY[version]
        most, now = _text(group / limit), _text(group / used)
        if most.isdigit() and now.isdigit():
            lines = map(str.split, _text(group / "memory.stat").splitlines())
            in_use = int(now) - int(dict(lines).get(kept, 0))
            yield Free(max(0, int(most) - in_use), f"raise the memory limit of {group}")


def _free_by_ulimit() -> Iterator[Free]:
    for option in ULIMITS:
        if (left := left_by_ulimit(option)) is not None:
            yield Free(left, f"raise 'ulimit {option}'")


def _groups(process: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """The control groups that limit ``process``: its own and those above.

    Source: cgroups(7), and proc(5) on ``mountinfo``: the fourth field is the group that is
    mounted, the fifth is where, and a hyphen comes before type, source and controllers.

    Yields:
        The version of each group, and its folder.
    """
    paths: dict[str, str] = {}
    for line in _text(process / "cgroup").splitlines():
        _, controllers, own = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), own)
    path: str | None
    for line in _text(process / "mountinfo").splitlines():
        mount, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == "cgroup2":
            version, path = 2, paths.get("")
        elif kind == "cgroup" and controller in options.split(","):
            version, path = 1, paths.get(controller)
        else:
            continue
        if path is None:
            continue
        root, place = mount.split(" ")[3:5]
        below = Path(os.path.relpath(path, root))
        # If the mounted group is not above the process's own, only the mounted one can be seen.
        group = Path(place) / ("" if ".." in below.parts else below)
        yield from (
            (version, each) for each in (group, *group.parents) if each.is_relative_to(place)
        )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # there is no such group here
        return ""
