"""The origins of a report's rows, in sentences and in a table."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from reproduce import methods, plan
from reproduce.report.evidence import MEASURED, Evidence, Folder
from reproduce.results import origin, summary
from reproduce.results.rows import Row

ARTICLE = f"{origin.ARTICLE_DEVICE}, JAX 0.4.21, PyTorch 2.1.1"
CUDA_PACKAGES = "CUDA packages"


def lines(evidence: Evidence) -> tuple[str, str]:
    """The place and the plan of a run, in two lines."""
    return _measured_line(evidence.measured.rows), _other_line(evidence.compiled.rows)


def _measured_line(rows: Sequence[Row]) -> str:
    newest = rows[-1]
    own = [row for row in summary.last_of_each_case(rows) if _place(row) == _place(newest)]
    done = sum(row.status == "done" for row in own)
    planned = len(plan.cases(newest.plan)) if newest.plan in plan.PLANS else 0
    others = sorted({_place(row) for row in rows} - {_place(newest)})
    parts = [
        f"Measured: {_place(newest)}",
        _frameworks(newest),
        f"{done} of {max(planned, len(own))} cases done, the newest on {newest.started[:10]}",
        f"other rows, of {' and '.join(others)}, are left out" if others else "",
    ]
    return "; ".join(filter(None, parts)) + "."


def _place(row: Row) -> str:
    return f"{row.place}, plan {row.plan}"


def _frameworks(row: Row) -> str:
    packages = row.facts.get("packages", {})
    named = methods.FRAMEWORKS.items()
    return ", ".join(f"{name} {packages[each]}" for each, name in named if each in packages)


def _other_line(rows: Sequence[Row]) -> str:
    article = f"Beside it: the article's published numbers ({ARTICLE})"
    if not rows:
        return f"{article}; nothing is compiled for the A100 yet: make a100 does that without one."
    count = len(summary.last_of_each_case(rows))
    return f"{article}, and {count} cases compiled, accounted or counted for that GPU but not run."


def caveat(evidence: Evidence) -> str:
    """The sentence on where this run's verdicts hold; empty if it matches the article's run."""
    newest = evidence.measured.rows[-1]
    if newest.was_run and origin.is_as_in_the_article(newest):
        return ""
    return (
        f"This run differs from the article's: its numbers and verdicts hold for "
        f"{_place(newest)}, not for an A100."
    )


def short(folder: Folder) -> str:
    """The origin of the rows of ``folder``, in a few words."""
    if not folder.rows:
        return "no rows"
    newest = folder.rows[-1]
    is_run = folder.source.name == MEASURED
    return _place(newest) if is_run else f"compiled or accounted, not run; plan {newest.plan}"


def environment(evidence: Evidence) -> pd.DataFrame:
    """One row per version, setting or hash, one column per folder, with all values found there."""
    columns = {
        folder.source.name: _facts(summary.last_of_each_case(folder.rows))
        for folder in evidence.folders
    }
    names = dict.fromkeys(name for facts in columns.values() for name in facts)
    records = [(name, *(facts.get(name, "") for facts in columns.values())) for name in names]
    return pd.DataFrame(records, columns=["setting", *columns])


def _facts(rows: Iterable[Row]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in _facts_of(row):
            found.setdefault(name, {})[value] = None
    return {name: "; ".join(values) for name, values in found.items()}


def _facts_of(row: Row) -> Iterator[tuple[str, str]]:
    identity = row.environment.get("identity", {})
    packages = identity.get("packages", {})
    cuda = [f"{name} {packages[name]}" for name in packages if name.startswith("nvidia-")]
    facts = {
        "device": row.place,
        "plan": row.plan,
        "vector": f"{row.quantity}: {row.vector}",
        "normalisation": row.normalisation,
        "seed": row.seed,
        "source revision": row.environment.get("state", {}).get("revision"),
        "hash of the measuring code": f"{row.framework}: {row.code_hash}",
        **{name: value for name, value in row.facts.items() if not isinstance(value, dict)},
        **{name: packages[name] for name in packages if not name.startswith("nvidia-")},
        CUDA_PACKAGES: ", ".join(cuda),
        **identity.get("settings", {}),
        **row.environment.get("precision", {}),
    }
    return ((name, str(value)) for name, value in facts.items() if value is not None)
