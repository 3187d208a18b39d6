"""How much of a plan has rows, and which of its cases failed."""

from collections.abc import Iterable

import msgspec

from reproduce.plan import PLANS, Case, accounted_cases, cases
from reproduce.results.rows import Row


class Coverage(msgspec.Struct, frozen=True):
    """How many cases of a plan are done, and which failed or are missing, by their newest rows."""

    plan: str
    is_accounted: bool
    planned: int
    done: int
    failed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def is_begun(self) -> bool:
        """Whether any case of the plan has a row."""
        return len(self.missing) < self.planned

    def __str__(self) -> str:
        how = "accounted for" if self.is_accounted else "measured"
        return (
            f"plan {self.plan}, {how}: {self.done} of {self.planned} cases are done, "
            f"{len(self.failed)} failed, {len(self.missing)} are missing"
        )


def coverage(rows: Iterable[Row]) -> list[Coverage]:
    """The coverage of each plan in ``rows``, and of plan ``article``, measured or accounted for."""
    newest: dict[tuple[str, bool], dict[Case, Row]] = {
        ("article", False): {},
        ("article", True): {},
    }
    for row in rows:
        newest.setdefault((row.plan, not row.was_run), {})[row.case.key] = row
    return [_of_plan(*key, of_plan) for key, of_plan in newest.items() if key[0] in PLANS]


def _of_plan(plan: str, is_accounted: bool, newest: dict[Case, Row]) -> Coverage:
    planned = [case.key for case in (accounted_cases if is_accounted else cases)(plan)]
    found = [newest[case] for case in planned if case in newest]
    return Coverage(
        plan,
        is_accounted,
        len(planned),
        sum(row.status == "done" for row in found),
        tuple(
            f"{row.case} ended with {row.status}: {row.reason}"
            for row in found
            if row.status != "done"
        ),
        tuple(str(case) for case in planned if case not in newest),
    )
