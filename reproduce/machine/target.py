"""Descriptions of GPUs that are not there, for compiling programs and for their memory limit."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from reproduce.errors import UserError

FOLDER = Path(__file__).parent / "targets"
SUFFIX = ".txtpb"
# The parts of a description: comments, fields with a text or a number, and nested fields.
PART = re.compile(r'#.*|(\w+)\s*(?::\s*("[^"\n]+"|[\d.]+)|(?=\{))|[{}\s]')


class Target(msgspec.Struct, frozen=True):
    """A GPU by its description, the text form of XLA's GpuTargetConfigProto."""

    name: str
    device: str
    memory_bytes: int
    description: str


def load(name: str) -> Target:
    """The target ``name``: one of those in the folder ``targets``, or a path to such a file.

    Raises:
        UserError: if there is no such file, or its fields differ from those of the A100's file.
    """
    path = FOLDER / f"{name}{SUFFIX}" if "." not in name and "/" not in name else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}")))
        raise UserError(
            f"target {name!r} was asked for and there is no file {path}; take one of {known}, "
            f"or give the path of a description like {FOLDER.name}/a100{SUFFIX}"
        )
    try:
        description = path.read_text(encoding="utf-8")
        found = _fields(description)
    except (OSError, ValueError) as error:
        raise UserError(
            f"target {name!r}: {path} cannot be read as a GPU's description ({error}); "
            f"write one like {FOLDER.name}/a100{SUFFIX}"
        ) from None
    faults = _faults(found, _fields((FOLDER / f"a100{SUFFIX}").read_text(encoding="utf-8")))
    if faults:
        raise UserError(
            f"target {name!r}: in {path}, {', '.join(faults)}; "
            f"write the same fields as {FOLDER.name}/a100{SUFFIX}"
        )
    device, memory_bytes = found["device_description_str"], found["device_memory_size"]
    return Target(path.stem, device, memory_bytes, description)


def _fields(description: str) -> dict[str, Any]:
    """The value of each field: a text, a number, or None if it has nested fields.

    Raises:
        ValueError: if there is anything else in ``description``.
    """
    rest = PART.sub("", description)
    if rest:
        raise ValueError(f"there is {rest[:40]!r}")
    parts = list(PART.finditer(description))
    braces = [part[0] for part in parts]
    if braces.count("{") != braces.count("}"):
        raise ValueError("its braces do not match")
    return {part[1]: json.loads(part[2]) if part[2] else None for part in parts if part[1]}


def _faults(found: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """Fields that are unknown, missing or of a wrong type, which XLA would refuse or take for 0."""
    return [
        *(f"{name!r} is no field" for name in found if name not in known),
        *(f"field {name!r} is missing" for name in known if name not in found),
        *(
            f"field {name!r} has {found[name]!r} where a value like {known[name]!r} is expected"
            for name in known
            if name in found and not _is_like(found[name], known[name])
        ),
    ]


def _is_like(value: Any, known: Any) -> bool:
    return isinstance(value, (int, float) if isinstance(known, float) else type(known))
