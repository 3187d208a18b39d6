"""Check a results folder or a bundle: checksums, rows, coverage, figures."""

from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from reproduce.drawing import redrawn
from reproduce.errors import UserError
from reproduce.evidence import bundle
from reproduce.evidence.bundle import Manifest
from reproduce.results.coverage import Coverage, coverage
from reproduce.results.rows import Row, decoded, lines_of, merged, rows_paths

MEASURE = "measure it with 'python -m reproduce measure PLAN RESULTS'"


class Objection(msgspec.Struct, frozen=True):
    """A fault and its remedy; ``is_strict`` if only a strict check objects to it."""

    what: str
    remedy: str
    is_strict: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class Checked(msgspec.Struct, frozen=True):
    """How many things were checked, the objections, and ``notes`` that are no objections."""

    checksums: int
    rows: int
    drawn_files: int
    coverage: tuple[Coverage, ...]
    objections: tuple[Objection, ...]
    notes: tuple[str, ...]

    def broken(self, is_strict: bool) -> list[Objection]:
        """The objections that count; in a strict check, all of them."""
        return [each for each in self.objections if is_strict or not each.is_strict]


def check(path: Path) -> Checked:
    """Check the results folder or the bundle ``path`` without writing beside it.

    Raises:
        UserError: if it is neither.
        UserError: if it has no rows.
    """
    if path.is_dir():
        return _checked(path, bundle.folders(path))
    with TemporaryDirectory() as temporary:
        unpacked = Path(temporary)
        manifest, wrong = bundle.unpack(path, unpacked)
        # Not `bundle.folders`, which also looks beside the folder.
        folders = {"": unpacked, bundle.COMPILED: unpacked / bundle.COMPILED}
        return _checked(path, folders, manifest, wrong)


def _checked(
    path: Path,
    folders: dict[str, Path],
    manifest: Manifest | None = None,
    wrong: dict[str, str] | None = None,
) -> Checked:
    rows: list[Row] = []
    unread: list[Objection] = []
    differences: dict[str, str] = {}
    for prefix, folder in folders.items():
        own, not_rows = _rows(folder, prefix)
        if not prefix and not own and not not_rows and not wrong:
            raise UserError(
                f"rows were expected in {path}, and there are none; "
                "give a results folder that was measured into, or a bundle of one"
            )
        rows += own
        unread += not_rows
        differences |= {f"{prefix}{name}": how for name, how in redrawn(folder, own).items()}
    covered = coverage(rows)
    notes = tuple(_other_matplotlib(manifest, differences)) if manifest else ()
    return Checked(
        checksums=len(manifest.files) if manifest else 0,
        rows=len(rows),
        drawn_files=len(differences),
        coverage=tuple(covered),
        objections=(
            *_of_files(wrong or {}),
            *unread,
            *(each for row in rows for each in _of_row(row)),
            *(each for of_plan in covered for each in _of_plan(of_plan)),
            *_of_lock(rows, manifest),
            *_of_drawn(differences, is_comparable=not notes),
        ),
        notes=notes,
    )


def _rows(folder: Path, prefix: str) -> tuple[list[Row], list[Objection]]:
    """The rows of ``folder``, and an objection to each line that is not a row."""
    found = [_of_file(path, f"{prefix}{path.relative_to(folder)}") for path in rows_paths(folder)]
    return merged(rows for rows, _ in found), [each for _, wrong in found for each in wrong]


def _of_file(path: Path, place: str) -> tuple[list[Row], list[Objection]]:
    rows, objections = [], []
    for number, line in enumerate(lines_of(path), 1):
        try:
            rows += [decoded(line, f"{place}, line {number}")] if line.strip() else []
        except UserError as error:
            what, remedy = str(error).rsplit("; ", 1)
            objections.append(Objection(what, remedy))
    return rows, objections


def _of_files(wrong: dict[str, str]) -> Iterator[Objection]:
    for name, how in wrong.items():
        yield Objection(f"{name} {how}", "take another copy of the bundle from where it came")


def _of_row(row: Row) -> Iterator[Objection]:
    """The objections to ``row``: what it should have and lacks, and its warnings.

    Yields:
        The objections, one by one.
    """
    is_compared = row.relative_difference is not None or row.is_reference
    if row.status == "done" and row.quantity == "time" and not is_compared:
        what = f"{row.case}: its result was not compared with another method's"
        yield Objection(what, MEASURE, is_strict=True)
    if row.status != "done" and not row.reason:
        yield Objection(f"{row.case}: {row.status} without a reason", MEASURE)
    for warning in row.warnings:
        what, _, remedy = warning.partition(": ")
        yield Objection(f"{row.case}: {what}", remedy, is_strict=True)


def _of_plan(covered: Coverage) -> Iterator[Objection]:
    if covered.is_begun:
        for failure in covered.failed:
            yield Objection(failure, "see its reason, then measure again", is_strict=True)
        for case in covered.missing:
            yield Objection(f"{case} is missing from plan {covered.plan}", MEASURE, is_strict=True)


def _of_lock(rows: Iterable[Row], manifest: Manifest | None) -> Iterator[Objection]:
    locks = {row.facts.get("lock") for row in rows} - {None}
    bundled = manifest and manifest.files.get(bundle.LOCK)
    if bundled and locks - {bundled.sha256}:
        yield Objection(
            f"rows were measured with other versions than those of {bundle.LOCK}",
            "bundle them from the revision that measured them",
            is_strict=True,
        )


def _of_drawn(differences: dict[str, str], is_comparable: bool) -> Iterator[Objection]:
    for name, how in differences.items():
        if how and (is_comparable or "tables/" in name):
            yield Objection(
                f"{name} {how}",
                "draw it with 'python -m paper_figures RESULTS' if this version is to vouch for it",
            )


def _other_matplotlib(manifest: Manifest, differences: dict[str, str]) -> Iterator[str]:
    here = metadata.version("matplotlib")
    different = sum(bool(how) for name, how in differences.items() if "figures/" in name)
    if manifest.matplotlib != here:
        yield (
            f"the figures were bundled with matplotlib {manifest.matplotlib}, and this is {here}, "
            f"which may be why {different} of them differ"
        )
