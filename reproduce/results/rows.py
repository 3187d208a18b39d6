"""The results: one row per case, one JSON line per row, in one file or in one file per share.

A row has only what was measured, raw seconds and raw bytes, and nothing derived from it.
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
Seconds = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
How = Literal["measured", "checked", "compiled", "accounted", "counted"]
# The end of a failed case's reason, if its worker printed anything.
SEE_LOG = re.compile(r"; see (logs/[\w.-]+\.log)$")
# Older rows have ``how`` in the name of the device instead of in a field.
HOW_IN_DEVICE = re.compile(r"(?P<device>.+) \((?P<how>\w+), not run\)")
Status = Literal["done", "out_of_memory", "timeout", "unsupported", "error"]


class Row(Case, frozen=True, kw_only=True):
    """A case and its result; ``reason`` explains every status except ``done``.

    ``how`` says whether the case was measured on the ``device`` (in check mode or not), or
    compiled, accounted for or counted without running it; a case that was counted has no device.

    ``seconds`` has one value per repetition, and ``gradient_seconds`` the times of the gradient in
    the same rounds (empty if the method is the gradient). ``warmup_seconds`` are the calls before
    them. ``point_seconds`` are the times of what a method computes once for all vectors at a
    point, if it does.

    ``memory_bytes`` has every counter of the device under the counter's name; for a timed case,
    those of the program and the allocator. ``relative_difference`` is the norm of this HVP's
    difference from forward-over-reverse's, over the latter's norm. ``flops`` are the
    floating-point operations of the method, if the case asks for them. In check mode, ``digests``
    has the SHA-256 of ``weights``, ``batch`` and the method's ``result``, and ``result_norm`` is
    the norm of the result.

    ``case_seconds`` is the time of the whole case without waiting. ``measuring_seconds`` is its
    part after the problem is set up. Of both, a case has an equal share of its setting's time.
    ``compile_seconds``, by method and with tracing, is a part of ``measuring_seconds``.
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
        """The case that this row is the result of."""
        return Case(**{name: getattr(self, name) for name in Case.__struct_fields__})

    @property
    def log(self) -> str:
        """The log of its worker, as a path in the results folder; empty if there is none."""
        found = SEE_LOG.search(self.reason)
        return found[1] if found else ""

    @property
    def was_run(self) -> bool:
        """Whether the case was run."""
        return self.how in {"measured", "checked"}

    @property
    def place(self) -> str:
        """The device, and how the row was made if it was not simply measured there."""
        if self.how == "measured":
            return self.device
        how = "check mode" if self.was_run else f"{self.how}, not run"
        return f"{self.device or 'no device'} ({how})"

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about where it was measured, including those that need not match for reuse.

        Older rows have all facts in their identity.
        """
        identity, state = (self.environment.get(part, {}) for part in ("identity", "state"))
        return identity | state.get("machine", {})


def results_folder(name: str) -> Path:
    """The results folder ``name``, as it was given on the command line.

    Raises:
        UserError: if the name is empty, because that would mean the working directory.
    """
    if not name:
        raise UserError("a results folder was asked for, and its name is empty; give its path")
    return Path(name)


def encodable(text: str) -> str:
    """``text`` with escapes for bytes that are not text, which names of files can contain."""
    return text.encode(errors="backslashreplace").decode()


def rows_path(folder: Path, share: int | None = None) -> Path:
    """The file for the rows of a run into ``folder``: a whole plan's, or a share's."""
    return folder / "rows.jsonl" if share is None else folder / "rows.d" / f"{share}.jsonl"


def rows_paths(folder: Path) -> list[Path]:
    """The files of rows in ``folder``; none if nothing was measured.

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
        UserError: if a file cannot be read, or a line is not a row of this version.
    """
    return merged(map(read_rows, rows_paths(folder)))


def some_rows_in(folder: Path) -> list[Row]:
    """All rows of a results folder that was measured into.

    Raises:
        UserError: if it has none, or one that cannot be read.
    """
    rows = rows_in(folder)
    if not rows:
        raise UserError(
            f"rows were expected in {rows_path(folder)}, and there are none; "
            "give a folder that was measured into, or measure with `make measure`"
        )
    return rows


def merged(files: Iterable[list[Row]]) -> list[Row]:
    """The rows of all ``files``, ordered by their start; rows of one file keep their order."""
    return list(merge(*files, key=lambda row: row.started))


def read_rows(path: Path) -> list[Row]:
    """The rows of ``path`` in the order in which they were measured; none if there is no file.

    A last line that stops short is a half-written row and is left out.

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
    """The lines of ``path``. The last one has no line end; it is empty if the file is whole.

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
        """Appends ``rows`` to the file at once, and waits until they are on the disk.

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
    """The row in ``line``, which was read from ``place``.

    Only this function refuses bad rows, so all other code can rely on a row being complete.

    Raises:
        UserError: if the line is not a row of this version, or the row contradicts itself.
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
    """Refuse a ``row`` that lacks something it must have, or has it with a wrong type.

    Raises:
        ValueError: for the first such thing.
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
    """Whether ``line``, which has no line end, is a whole row: half an object is not JSON."""
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
