"""One archive of a results folder: rows, figures and verdicts, with a checksum of each file.

The archive is a zip file. The same files give the same bytes, whenever and wherever
they were written.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from reproduce.beyond.parts import PARTS
from reproduce.drawing import BENCHES, DIAGRAMS, OF_BEYOND, TABLES
from reproduce.errors import UserError
from reproduce.machine.environment import ROOT
from reproduce.report.evidence import beside
from reproduce.results.files import whole_file
from reproduce.results.rows import Row, rows_in, rows_paths, some_rows_in

MANIFEST, ENVIRONMENT, LOCK = "manifest.json", "environment.json", "requirements.lock"
VERSION = 1
# The prefix of files that were compiled for the A100.
COMPILED = "a100/"
# The files, besides logs, that this program writes, as patterns; any other file is the user's own.
WRITTEN = (
    "rows.jsonl",
    "rows.d/*.jsonl",
    "report.html",
    "claims.md",
    "summary.csv",
    "advice.md",
    "proofs.xml",
    *(f"{name}.csv" for name in PARTS),
    *(
        f"figures/{name}.{suffix}"
        for name in dict.fromkeys((*BENCHES, *DIAGRAMS, *OF_BEYOND))
        for suffix in ("png", "pdf")
    ),
    *(f"tables/{name}.{suffix}" for name in TABLES for suffix in ("csv", "md")),
)
# The earliest date of a zip file; a file that its owner may write and everybody may read.
TIMESTAMP, MODE = (1980, 1, 1, 0, 0, 0), 0o100644
UNIX = 3
LARGEST_BYTES = 1 << 30
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Member(msgspec.Struct, frozen=True):
    """A file's entry in the manifest."""

    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True):
    """The files of a bundle, and the devices and environments that its rows name."""

    plans: list[str]
    devices: list[str]
    revisions: list[str]
    matplotlib: str
    files: dict[str, Member]
    version: int = VERSION


def write(results: Path, output: Path) -> str:
    """Write the bundle of ``results`` to ``output``, whole or not at all; return its SHA-256.

    It includes the results compiled for the A100, if they are in or beside ``results``.

    Raises:
        UserError: if ``results`` has no rows, or one that cannot be read.
        UserError: if ``output`` cannot be written.
    """
    archive = _zipped(_contents(results))
    try:
        with whole_file(output) as unfinished:
            unfinished.write_bytes(archive)
    except OSError as error:
        raise UserError(
            f"the bundle could not be written to {output} ({error.strerror}); "
            "give another place with --output"
        ) from None
    return hashlib.sha256(archive).hexdigest()


def _contents(results: Path) -> dict[str, bytes]:
    """The content of every file of the bundle, by name, the manifest first.

    A bundle takes only files with names that this program writes, and none of the user's own.
    """
    sources = folders(results)
    some_rows_in(results)  # refuses a folder without rows
    by_prefix = {prefix: rows_in(folder) for prefix, folder in sources.items()}
    rows = [row for of_folder in by_prefix.values() for row in of_folder]
    files = {
        f"{prefix}{path.relative_to(folder)}": path.read_bytes()
        for prefix, folder in sources.items()
        for pattern in (*WRITTEN, *(row.log for row in by_prefix[prefix] if row.log))
        for path in folder.glob(pattern)
        if path.is_file()
    }
    files[ENVIRONMENT] = _json(environments(rows))
    files[LOCK] = (ROOT / LOCK).read_bytes()
    manifest = Manifest(
        plans=sorted({row.plan for row in rows}),
        devices=sorted({row.place for row in rows}),
        revisions=sorted({_revision(row) for row in rows}),
        matplotlib=metadata.version("matplotlib"),
        files={name: member(files[name]) for name in sorted(files)},
    )
    return {MANIFEST: _json(manifest)} | dict(sorted(files.items()))


def folders(results: Path) -> dict[str, Path]:
    """``results`` and the folder compiled for the A100, by their prefixes in a bundle."""
    compiled = beside(results, "a100")
    is_other = compiled.resolve() != results.resolve() and bool(rows_paths(compiled))
    return {"": results} | ({COMPILED: compiled} if is_other else {})


def environments(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Each environment that ``rows`` were measured in, once, with its machines."""
    found: dict[bytes, dict[str, Any]] = {}
    for row in rows:
        identity = row.environment.get("identity", {})
        first = {"identity": identity, "precision": {}, "machines": [], "revisions": [], "rows": 0}
        of_identity = found.setdefault(msgspec.json.encode(identity, order="sorted"), first)
        of_identity["precision"] |= row.environment.get("precision", {})
        machine = row.environment.get("state", {}).get("machine")
        if machine and machine not in of_identity["machines"]:
            of_identity["machines"].append(machine)
        of_identity["revisions"] = sorted({*of_identity["revisions"], _revision(row)})
        of_identity["rows"] += 1
    return list(found.values())


def _revision(row: Row) -> str:
    return row.environment.get("state", {}).get("revision", "unknown")


def member(content: bytes) -> Member:
    """The manifest's entry for a file of this ``content``."""
    return Member(hashlib.sha256(content).hexdigest(), len(content))


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def _zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            file.writestr(entry, content)
    return archive.getvalue()


def unpack(bundle: Path, folder: Path) -> tuple[Manifest, dict[str, str]]:
    """The manifest of ``bundle``, and what is wrong with its files, by name.

    Only files that the manifest names are written into ``folder``.

    Raises:
        UserError: if it is not a whole bundle, or would write outside ``folder``.
    """
    try:
        with zipfile.ZipFile(bundle) as archive:
            entries = _entries(bundle, archive)
            manifest = _manifest(bundle, archive)
            wrong = {name: "is not in the manifest" for name in entries - manifest.files.keys()}
            for name, expected in manifest.files.items():
                if name not in entries:
                    wrong[name] = "is missing"
                    continue
                content = _content(archive, name)
                if member(content) != expected:
                    wrong[name] = "is not the file that the manifest names"
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
    except UNREADABLE as error:
        raise UserError(_no_bundle(bundle, f"it cannot be read ({error})")) from None
    return manifest, dict(sorted(wrong.items()))


def rows_of(path: Path) -> list[Row]:
    """The rows of the results folder or bundle ``path``, without those compiled for the A100.

    Raises:
        UserError: if there are none, or the bundle is damaged.
    """
    if not path.is_file():
        return some_rows_in(path)
    with TemporaryDirectory() as folder:
        _, wrong = unpack(path, Path(folder))
        for name, how in wrong.items():
            raise UserError(_no_bundle(path, f"{name} {how}"))
        return some_rows_in(Path(folder))


def _entries(bundle: Path, archive: zipfile.ZipFile) -> set[str]:
    """The names of all files but the manifest.

    Raises:
        UserError: if they could do harm.
    """
    names = archive.namelist()
    for name in map(PurePosixPath, names):
        if name.is_absolute() or ".." in name.parts:
            raise UserError(_no_bundle(bundle, f"'{name}' in it leads outside of any folder"))
    if len({*names}) < len(names):
        raise UserError(_no_bundle(bundle, "a name is in it twice"))
    if sum(entry.file_size for entry in archive.infolist()) > LARGEST_BYTES:
        raise UserError(_no_bundle(bundle, f"it unpacks to more than {LARGEST_BYTES} bytes"))
    return {*names} - {MANIFEST}


def _manifest(bundle: Path, archive: zipfile.ZipFile) -> Manifest:
    try:
        manifest = msgspec.json.decode(archive.read(MANIFEST), type=Manifest)
    except KeyError:
        raise UserError(_no_bundle(bundle, f"there is no {MANIFEST} in it")) from None
    except (ValueError, RecursionError) as error:
        raise UserError(_no_bundle(bundle, f"its {MANIFEST} is not a manifest ({error})")) from None
    if manifest.version != VERSION:
        found = f"it is of version {manifest.version}, where this program reads {VERSION}"
        raise UserError(_no_bundle(bundle, found))
    return manifest


def _content(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of the file ``name``; empty if it is damaged."""
    try:
        return archive.read(name)
    except UNREADABLE:
        return b""


def _no_bundle(bundle: Path, found: str) -> str:
    return (
        f"a bundle was expected in {bundle}, and {found}; take a whole copy from where it came, "
        "or make one with 'python -m reproduce bundle RESULTS'"
    )
