"""GPUs that are not there: what a program is compiled for, and how much memory it may take."""

import re
from pathlib import Path

import msgspec

from reproduce.plan import PlanError

FOLDER = Path(__file__).parent / "targets"
SUFFIX = ".txtpb"


class Target(msgspec.Struct, frozen=True):
    """A GPU by its description, the text form of XLA's GpuTargetConfigProto."""

    name: str
    device: str
    memory_bytes: int
    description: str


def load(name: str) -> Target:
    """The target ``name``: one of the folder ``targets``, or the path of a file like those.

    Raises:
        PlanError: if there is no such file, or if it does not say name and memory.
    """
    path = FOLDER / f"{name}{SUFFIX}" if "." not in name and "/" not in name else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}")))
        raise PlanError(
            f"target {name!r} was asked for and there is no file {path}; take one of {known}, "
            f"or give the path of a description like {FOLDER.name}/a100{SUFFIX}"
        )
    description = path.read_text()
    device = re.search(r'device_description_str:\s*"([^"]+)"', description)
    memory = re.search(r"device_memory_size:\s*(\d+)", description)
    if device is None or memory is None:
        raise PlanError(
            f"target {name!r}: {path} does not say device_description_str and "
            f"device_memory_size; write both, as in {FOLDER.name}/a100{SUFFIX}"
        )
    return Target(path.stem, device[1], int(memory[1]), description)
