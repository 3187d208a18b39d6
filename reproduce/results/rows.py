"""The results: one row a case, one JSON line a row, in a file of a folder or in one a share.

A row holds what was measured and nothing derived from it: raw seconds, raw bytes.
"""

import errno
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from heapq import merge
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from reproduce.errors import UserError
from reproduce.plan import Case

VERSION = 1
# What a disk answers to writing, where the system names no file.
OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
How = Literal["measured", "checked", "compiled", "accounted", "counted"]
# How the reason of a case that failed ends, if its worker printed anything.
SEE_LOG = re.compile(r"; see (logs/[\w.-]+\.log)$")
# How rows said it that were written before they had a field for it: in the name of the device.
HOW_IN_DEVICE = re.compile(r"(?P<device>.+) \((?P<how>\w+), not run\)")
Status = Literal["done", "out_of_memory", "timeout", "unsupported", "error"]


class Row(Case, frozen=True, kw_only=True):
    """A case and what came of it; ``reason`` says why, for every status but ``done``.

    ``how`` it came about: measured on the ``device``, in check mode or not, or compiled,
    accounted for or counted without running it; what is counted has no device.
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
    how: How = "measured"
    device: str
    seconds: tuple[Seconds, ...] = ()
    gradient_seconds: tuple[Seconds, ...] = ()
    warmup_seconds: tuple[Seconds, ...] = ()
    point_seconds: tuple[Seconds, ...] = ()
    compile_seconds: dict[str, NotNegative] = {}
    measuring_seconds: NotNegative = 0.0
    case_seconds: NotNegative = 0.0
    memory_bytes: dict[str, Annotated[int, Meta(ge=0)]] = {}
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
    def log(self) -> str:
        """The file of the results folder with what its worker printed; empty if it names none."""
        found = SEE_LOG.search(self.reason)
        return found[1] if found else ""

    @property
    def was_run(self) -> bool:
        """Whether it came about by running the case."""
        return self.how in {"measured", "checked"}

    @property
    def place(self) -> str:
        """The device, and how the row came about where it was not simply measured there."""
        if self.how == "measured":
            return self.device
        how = "check mode" if self.was_run else f"{self.how}, not run"
        return f"{self.device or 'no device'} ({how})"

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of where it was measured, whether they must match for it to be reused or not.

        Older rows have all of it in their identity.
        """
        identity, state = (self.environment.get(part, {}) for part in ("identity", "state"))
        return identity | state.get("machine", {})


def results_folder(name: str) -> Path:
    """The results folder ``name``, as it was given on the command line.

    Raises:
        UserError: if the name is empty, which would be the working directory.
    """
    if not name:
        raise UserError("a results folder was asked for, and its name is empty; give its path")
    return Path(name)


def encodable(text: str) -> str:
    """``text`` with an escape in place of what is none, as names of files can have it."""
    return text.encode(errors="backslashreplace").decode()


def unusable(error: OSError) -> str:
    """The sentence for what fails a program in a way it did not foresee: a disk, or the system."""
    if error.filename is None and error.errno not in OF_DISKS:
        return (
            f"the system refused what a run needs ({error.strerror or error}); end other programs "
            "or raise this one's limits, and run the same command again: all that was finished is "
            "kept"
        )
    return (
        f"{error.filename or 'the results folder'} could not be read or written "
        f"({error.strerror or error}); mend that or give another RESULTS, and run the same "
        "command again: all that was finished is kept"
    )


def rows_path(folder: Path, share: int | None = None) -> Path:
    """Where the rows of a run go that measures into ``folder``: all of a plan, or a share of it."""
    return folder / "rows.jsonl" if share is None else folder / "rows.d" / f"{share}.jsonl"


def rows_paths(folder: Path) -> list[Path]:
    """The files of rows that are in ``folder``; none where nothing was measured.

    Raises:
        UserError: if the folder cannot be read.
    """
    of_shares = folder / "rows.d"
    try:
        names = [name for name in sorted(os.listdir(of_shares)) if name.endswith(".jsonl")]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise UserError(_unreadable(of_shares, error)) from None
    own = rows_path(folder)
    return [own] * os.path.lexists(own) + [of_shares / name for name in names]


def rows_in(folder: Path) -> list[Row]:
    """All rows of the results folder ``folder``, the newest last; none if there are none.

    Raises:
        UserError: if a file cannot be read, a line is not a row, or is of another version.
    """
    return merged(map(read_rows, rows_paths(folder)))


def merged(files: Iterable[list[Row]]) -> list[Row]:
    """The rows of all ``files`` by when they were started, those of a file in their order."""
    return list(merge(*files, key=lambda row: row.started))


def read_rows(path: Path) -> list[Row]:
    """The rows of ``path`` in the order of their measuring; none if there is no such file.

    A last line that stops short is a row half written: it is passed over.

    Raises:
        UserError: if the file cannot be read, a line is not a row, or is of another version.
    """
    try:
        *lines, last = lines_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(_unreadable(path, error)) from None
    lines += [last] if _is_whole(last) else []
    return [decoded(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _unreadable(path: Path, error: OSError) -> str:
    return (
        f"rows were expected in {path}, which cannot be read ({error.strerror}); "
        "give another folder"
    )


def lines_of(path: Path) -> list[bytes]:
    """The lines of ``path``; the last has no end, and is empty where a row's end comes last.

    Raises:
        OSError: if the file cannot be read.
    """
    return path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")


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

    Whoever has a row can count on what it is to hold: here is the one place that refuses others.

    Raises:
        UserError: if it is none, of another version, or contradicts itself.
    """
    try:
        version = msgspec.json.decode(line)["version"]
        if version != VERSION:
            raise UserError(
                f"{place}: a row of version {version} where this program reads {VERSION}; "
                "measure into another folder, or read it with the program that wrote it"
            )
        row = _with_how(msgspec.json.decode(line, type=Row))
        _refuse_contradictions(row)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{place}: expected a row, found {error}; remove that line and measure again"
        ) from None
    return row


def _with_how(row: Row) -> Row:
    found = HOW_IN_DEVICE.fullmatch(row.device)
    if found is None:
        return row
    device = "" if found["how"] == "counted" else found["device"]
    return msgspec.structs.replace(row, how=found["how"], device=device)


def _refuse_contradictions(row: Row) -> None:
    """Refuse a ``row`` that lacks what it is to hold, or has it of another kind.

    Raises:
        ValueError: the first that it has not.
    """
    identity, state, precision = (
        _object(row.environment, part) for part in ("identity", "state", "precision")
    )
    for whole, part in ((identity, "packages"), (identity, "settings"), (state, "machine")):
        _object(whole, part)
    error = precision.get(f"{row.framework}_product_error", 0.0)
    if not isinstance(error, float | int):
        raise ValueError(f"a product's error of {error!r}")
    if row.status != "done":
        return
    if row.quantity == "operations":
        if row.flops is None or row.flops <= 0:
            raise ValueError(f"a case that is done with {row.flops} operations")
    elif row.quantity != "time":
        if not row.memory_bytes:
            raise ValueError("a case that is done without its bytes")
    elif len(row.seconds) != row.repetitions:
        raise ValueError(f"{len(row.seconds)} seconds of {row.repetitions} repetitions")
    elif row.method != "gradient" and len(row.gradient_seconds) != row.repetitions:
        raise ValueError(
            f"{len(row.gradient_seconds)} gradient_seconds of {row.repetitions} repetitions"
        )


def _object(whole: dict[str, Any], part: str) -> dict[str, Any]:
    found = whole.get(part, {})
    if not isinstance(found, dict):
        raise ValueError(f"{found!r} as {part} of its environment")
    return found


def _is_whole(line: bytes) -> bool:
    """Whether ``line``, which has no end, stops where a row does: half an object is no JSON."""
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _set_half_line_aside(path: Path) -> Path | None:
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    if end == len(content):
        return None
    if _is_whole(content[end:].removeprefix(BOM_UTF8)):
        with path.open("ab") as file:
            file.write(b"\n")
        return None
    aside = path.with_suffix(".half")
    with aside.open("ab") as file:
        file.write(content[end:] + b"\n")
    os.truncate(path, end)
    return aside
