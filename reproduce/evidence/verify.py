"""Plan ``smoke`` measured twice in check mode: the guarantees, and whether they hold."""

import math
import multiprocessing
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from reproduce import drawing
from reproduce.errors import UserError
from reproduce.machine import environment
from reproduce.measuring import runner
from reproduce.measuring.ways import Checked
from reproduce.methods import RUNS
from reproduce.plan import PLANS, SMOKE, Case, Run, cases
from reproduce.results.rows import Row

TIMEOUT_SECONDS = 600
# The status, in check mode, of a case with an operation that is not deterministic.
REFUSED = "unsupported"

Pair = tuple[Row, Row]


class Guarantee(msgspec.Struct, frozen=True):
    """A guarantee, the ``degree`` to which it should hold, the comparisons, and the failures.

    ``largest_difference`` is relative, between the two numbers or norms; None if only
    digests or files are compared. ``broken`` describes each failure.
    """

    what: str
    degree: str
    compared: int
    broken: tuple[str, ...]
    largest_difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.compared > 0 and not self.broken


def verify(folder: Path) -> list[Guarantee]:
    """The guarantees of two runs, each measured into a new folder below ``folder``.

    Each run has its own processes. If there is a GPU, they run on it.

    Raises:
        UserError: if the plan cannot be measured here.
    """
    both = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    wanted = cases(SMOKE)
    first, second = (_rows_of_run(wanted, both / name) for name in ("first", "second"))
    return [*of_rows(first, second), of_figures(both / "first", first)]


def _rows_of_run(wanted: list[Case], folder: Path) -> list[Row]:
    on_gpu = environment.gpu()[0] is not None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as new_process:
        arguments = (wanted, folder, Checked(on_gpu), TIMEOUT_SECONDS)
        rows = new_process.submit(runner.measure, *arguments).result()
    shutil.rmtree(folder / "programs", ignore_errors=True)
    return rows


def of_rows(first: Sequence[Row], second: Sequence[Row]) -> list[Guarantee]:
    """The guarantees of the rows of two runs: status, weights, batch, HVPs, bytes.

    Raises:
        UserError: if the runs have different cases or devices.
    """
    by_case = {row.case: row for row in second}
    if {row.case for row in first} != by_case.keys() or _devices(first) != _devices(second):
        raise UserError(
            "two runs can be compared if they have the same cases and device, and these do not; "
            "measure both here, with the same plan"
        )
    pairs = [(row, by_case[row.case]) for row in first]
    done = [pair for pair in pairs if {row.status for row in pair} == {"done"}]
    runs = dict.fromkeys((grid.framework, grid.mode) for grid in PLANS[SMOKE])
    return [
        _ends(pairs),
        *(_digests(name, done) for name in ("weights", "batch")),
        _one_problem_in_both_frameworks(first),
        *(_results(run, done) for run in runs),
        _program_bytes(done),
    ]


def of_figures(folder: Path, rows: Iterable[Row]) -> Guarantee:
    """Whether two processes draw the same bytes for the figures and tables of ``rows``."""
    drawing.draw(folder)
    found = drawing.redrawn(folder, rows)
    broken = tuple(f"{name}: {how}" for name, how in found.items() if how)
    return Guarantee("figures and tables", "the same bytes", len(found), broken)


def _devices(rows: Iterable[Row]) -> set[str]:
    return {row.place for row in rows}


def _ends(pairs: Sequence[Pair]) -> Guarantee:
    broken = [
        f"{a.case}: {a.status}, then {b.status} ({a.reason or b.reason})"
        for a, b in pairs
        if a.status != b.status or a.status not in {"done", REFUSED}
    ]
    return Guarantee("how each case ends", "done, or refused twice", len(pairs), tuple(broken))


def _digests(name: str, pairs: Sequence[Pair]) -> Guarantee:
    found = [(a.case, a.digests.get(name), b.digests.get(name)) for a, b in pairs]
    broken = [f"{case}: {a}, then {b}" for case, a, b in found if a is None or a != b]
    return Guarantee(name, "the same SHA-256", len(pairs), tuple(broken))


def _one_problem_in_both_frameworks(rows: Iterable[Row]) -> Guarantee:
    given: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if row.digests:
            digests = f"{row.digests['weights']} and {row.digests['batch']}"
            given.setdefault((row.model, row.batch_size), set()).add(digests)
    broken = [
        f"{model} batch {batch_size}: {', '.join(sorted(digests))}"
        for (model, batch_size), digests in given.items()
        if len(digests) > 1
    ]
    what = "both of a problem, in JAX and PyTorch"
    return Guarantee(what, "the same SHA-256", len(given), tuple(broken))


def _results(run: Run, pairs: Iterable[Pair]) -> Guarantee:
    own = [(a, b) for a, b in pairs if (a.framework, a.mode) == run]
    differences = [_relative(a.result_norm, b.result_norm) for a, b in own]
    broken = [
        f"{a.case}: other values, norms {a.result_norm} and {b.result_norm}"
        for a, b in own
        if a.digests.get("result") is None or a.digests["result"] != b.digests.get("result")
    ]
    what = f"gradients and HVPs, {RUNS[run]}"
    return Guarantee(what, "every bit", len(own), tuple(broken), max(differences, default=None))


def _program_bytes(pairs: Iterable[Pair]) -> Guarantee:
    counted = [
        (a.case, name, a.memory_bytes.get(name, 0), b.memory_bytes.get(name, 0))
        for a, b in pairs
        for name in sorted(a.memory_bytes.keys() | b.memory_bytes.keys())
        if name.startswith("xla_")
    ]
    broken = [f"{case}: {name} {a}, then {b}" for case, name, a, b in counted if a != b]
    largest = max((_relative(a, b) for _, _, a, b in counted), default=None)
    return Guarantee("XLA's bytes", "every byte", len(counted), tuple(broken), largest)


def _relative(a: float | None, b: float | None) -> float:
    """|b − a| / |a|; infinite if one of them is missing."""
    if a is None or b is None:
        return math.inf
    return abs(b - a) / a if a else float(b != a)
