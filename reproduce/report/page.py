"""The page ``report.html``: one file that contains everything it shows."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from reproduce.article import judge
from reproduce.article.claims import NOT_JUDGED
from reproduce.article.errata import ERRATA, KINDS
from reproduce.article.judge import Judgement, Verdict
from reproduce.beyond import advice
from reproduce.report import figures, origins, proofs, tables
from reproduce.report.evidence import Evidence
from reproduce.report.templates import templates
from reproduce.results.rows import rows_in

SYMBOLS: dict[Verdict, str] = {
    "reproduced": "✓",
    "not reproduced": "✗",
    "consistent": "✓",
    "inconsistent": "✗",
    "inconclusive": "?",
    "not tested here": "–",
}
FORMATS = {"deviation [%]": "{:+.1f}", "10⁹ operations": "{:.1f}"}
MISSING = "–"


def html(evidence: Evidence, found: Sequence[Judgement]) -> str:
    """The page of ``found``, the verdicts from all sources; the same folders give the same page."""
    beyond_rows = rows_in(evidence.beyond)
    plan = evidence.measured.rows[-1].plan
    template = _templates().get_template("page.html.jinja")
    return template.render(
        lines=origins.lines(evidence),
        caveat=origins.caveat(evidence),
        columns=_columns(evidence, found),
        sections=_grouped(found),
        intervals=judge.INTERVALS,
        not_judged=NOT_JUDGED,
        benches=figures.benches(evidence),
        diagrams=figures.diagrams(evidence.measured),
        deviations=tables.deviations(evidence),
        operations=tables.operations(evidence),
        operators=tables.operators(),
        errata={
            text: [erratum for erratum in ERRATA if erratum.kind == kind]
            for kind, text in KINDS.items()
        },
        beyond=figures.beyond(evidence.beyond),
        advice=advice.tables_of(beyond_rows),
        advice_notes=[advice.left_out(beyond_rows), advice.machine(beyond_rows)],
        proofs=proofs.outcomes(evidence.measured.path),
        proven_here=(evidence.measured.path / proofs.FILE).exists(),
        unfinished=tables.unfinished(evidence),
        environment=origins.environment(evidence),
        arguments=f"PLAN={plan}{_given(evidence.measured.path, plan)}",
        account=f"make a100{_given(evidence.compiled.path, 'a100')}",
    )


def _given(folder: Path, name: str) -> str:
    """The argument of `make` for ``folder``; empty if that is the default for ``name``."""
    return "" if folder.parts[-2:] == ("results", name) else f" RESULTS={folder}"


def _templates() -> jinja2.Environment:
    found = templates(Path(__file__).parent)
    found.filters |= {"cell": _cell, "key": _key, "amount": judge.amount, "told": judge.told}
    found.globals |= {"symbols": SYMBOLS, "zip": zip}
    return found


def _cell(value: Any, column: str) -> str:
    """The text of a cell in a table."""
    if isinstance(value, float):
        text = FORMATS.get(column, "{:.2f}").format(value)
        return MISSING if math.isnan(value) else text.replace("-", "−")
    return str(value)


def _key(value: Any) -> str:
    """The number that a cell is sorted by; empty if it has none."""
    return "" if isinstance(value, float) and math.isnan(value) else str(value)


def _columns(
    evidence: Evidence, found: Sequence[Judgement]
) -> list[tuple[str, str, dict[Verdict, int]]]:
    """Each source's name, origin, and number of verdicts of each kind."""
    where = {folder.source.name: origins.short(folder) for folder in evidence.folders}
    counts = Counter((each.source, each.verdict) for each in found)
    return [
        (source, where.get(source, origins.ARTICLE), {v: counts[source, v] for v in SYMBOLS})
        for source in dict.fromkeys(each.source for each in found)
    ]


def _grouped(found: Iterable[Judgement]) -> dict[str, dict[str, list[Judgement]]]:
    """The judgements by section of the article, then by claim."""
    sections: dict[str, dict[str, list[Judgement]]] = {}
    for each in found:
        sections.setdefault(each.section, {}).setdefault(each.claim, []).append(each)
    return sections
