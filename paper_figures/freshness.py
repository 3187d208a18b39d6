"""Find the figures and tables that would be the same if they were made again.

A figure is current if its sources (rows, tables, code, matplotlib) and its own files still have
the digest that was recorded when it was made. Dates of files are ignored.
"""

import hashlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import msgspec

from reproduce.results.files import whole_file
from reproduce.results.rows import rows_paths

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("paper_figures", "reproduce")


def current(results: Path, names: Iterable[str]) -> set[str]:
    """The ``names`` that need not be made again in ``results``."""
    try:
        recorded = msgspec.json.decode(_record(results).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return set()
    digests = _digests(results, names)
    return {name for name in digests if recorded.get(name) == digests[name]}


def record(results: Path, names: Iterable[str]) -> None:
    """Record that all of ``names`` that can be made were made in ``results`` just now."""
    with whole_file(_record(results)) as unfinished:
        unfinished.write_bytes(msgspec.json.encode(_digests(results, names)))


def files(results: Path, name: str) -> list[Path]:
    """The files of the figure or table ``name`` in ``results``."""
    return [path for kind in ("figures", "tables") for path in (results / kind).glob(f"{name}.*")]


def _record(results: Path) -> Path:
    return results / "figures" / ".drawn"


def _digests(results: Path, names: Iterable[str]) -> dict[str, str]:
    code = [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".csv"}
    ]
    shared = metadata.version("matplotlib"), *_contents([*code, *rows_paths(results)])
    return {
        name: _sha256(
            repr([shared, _contents([results / f"{name}.csv", *files(results, name)])]).encode()
        )
        for name in names
    }


def _contents(paths: Iterable[Path]) -> list[str]:
    """Name and digest of each of ``paths`` that exists."""
    return sorted(f"{path.name} {_sha256(path.read_bytes())}" for path in paths if path.is_file())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
