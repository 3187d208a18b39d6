"""The results: one row a case, one JSON line a row.

A row holds what was measured and nothing derived from it: raw seconds, raw bytes.
"""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from reproduce.plan import Case

VERSION = 1
Status = Literal["done", "out_of_memory", "timeout", "unsupported", "error"]


class Row(Case, frozen=True, kw_only=True):
    """A case and what came of it; ``reason`` says why, for every status but ``done``.

    ``seconds`` has one value a repetition, ``gradient_seconds`` the gradient timed in the same
    round (empty where the method is the gradient itself), ``warmup_seconds`` the calls before;
    ``point_seconds`` is what is computed once for all vectors at a point, where a method divides
    that from the HVP. ``memory_bytes`` has every counter that the device has, under its own name,
    and of what is timed those of program and allocator. ``relative_difference`` is that
    of this HVP to forward-over-reverse's: norm of the difference over the norm. ``flops``
    counts the floating-point operations of the method, where the case asks for them. In
    check mode, ``digests`` has the SHA-256 of ``weights``, ``batch`` and the method's
    ``result``, and ``result_norm`` the norm of that. ``case_seconds`` is the whole of the
    case without its wait, ``measuring_seconds`` its part after the problem is set up (of each
    an equal share of its setting's), and ``compile_seconds``, by method, with tracing, a part of
    that.
    """

    version: int = VERSION
    status: Status
    reason: str = ""
    device: str
    seconds: tuple[float, ...] = ()
    gradient_seconds: tuple[float, ...] = ()
    warmup_seconds: tuple[float, ...] = ()
    point_seconds: tuple[float, ...] = ()
    compile_seconds: dict[str, float] = {}
    measuring_seconds: float = 0.0
    case_seconds: float = 0.0
    memory_bytes: dict[str, int] = {}
    relative_difference: float | None = None
    flops: float | None = None
    digests: dict[str, str] = {}
    result_norm: float | None = None
    warnings: tuple[str, ...] = ()
    environment: dict[str, Any] = {}
    code_hash: str
    started: str

    @property
    def case(self) -> Case:
        """The case that this row answers."""
        return Case(**{name: getattr(self, name) for name in Case.__struct_fields__})

    @property
    def facts(self) -> dict[str, Any]:
        """What it says of where it was measured: what must match for it to be reused, and the rest.

        Older rows have all of it in their identity.
        """
        identity, state = (self.environment.get(part, {}) for part in ("identity", "state"))
        return identity | state.get("machine", {})


class RowsError(Exception):
    """Results that cannot be read; the message is one sentence for the user."""


def results_folder(name: str) -> Path:
    """The results folder ``name``, as it was given on the command line.

    Raises:
        RowsError: if the name is empty, which would be the working directory.
    """
    if not name:
        raise RowsError("a results folder was asked for, and its name is empty; give its path")
    return Path(name)


def unusable(error: OSError) -> str:
    """The sentence for a file or folder that fails a program in a way it did not foresee."""
    return (
        f"{error.filename or 'the results folder'} could not be read or written "
        f"({error.strerror or error}); mend that or give another RESULTS, and run the same "
        "command again: all that was finished is kept"
    )


def read_rows(path: Path) -> list[Row]:
    """The rows of ``path`` in the order of their measuring; none if there is no such file.

    A last line without its end is a row half written: it is passed over.

    Raises:
        RowsError: if the file cannot be read, a line is not a row, or is of another version.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RowsError(
            f"rows were expected in {path}, which cannot be read ({error.strerror}); "
            "give another folder"
        ) from None
    return [decoded(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line]


class RowsFile:
    """A rows file open for appending; a half-written last line is set aside first."""

    def __init__(self, path: Path) -> None:
        self.rows = read_rows(path)
        self.set_aside = _set_half_line_aside(path)
        self._file = path.open("ab", buffering=0)

    def append(self, rows: Sequence[Row]) -> None:
        """Writes ``rows`` at the end of the file at once, through to the disk.

        Raises:
            OSError: if the disk has no room for all of them.
        """
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        if self._file.write(lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        os.fsync(self._file.fileno())
        self.rows += rows

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def decoded(line: bytes, place: str) -> Row:
    """The row of one ``line``, which stands at ``place``.

    Raises:
        RowsError: if it is none, or of another version.
    """
    try:
        version = msgspec.json.decode(line)["version"]
        if version != VERSION:
            raise RowsError(
                f"{place}: a row of version {version} where this program reads {VERSION}; "
                "measure into another folder, or read it with the program that wrote it"
            )
        return msgspec.json.decode(line, type=Row)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RowsError(
            f"{place}: expected a row, found {error}; remove that line and measure again"
        ) from None


def _set_half_line_aside(path: Path) -> Path | None:
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return None
    aside = path.with_suffix(".half")
    with aside.open("ab") as file:
        file.write(content[end:] + b"\n")
    os.truncate(path, end)
    return aside
