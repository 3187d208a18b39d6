"""Judging the claims on each source, and the verdicts as a table."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import pandas as pd

from reproduce import methods, problems
from reproduce.article.claims import CLAIMS, NOT_JUDGED, Claim, Needs
from reproduce.article.sources import IN_GRADIENTS, Source, interval

Verdict = Literal[
    "reproduced",
    "not reproduced",
    "consistent",
    "inconsistent",
    "inconclusive",
    "not tested here",
]
# The verdicts on the article's text when the source is the article's own numbers.
OF_ITSELF: dict[Verdict, Verdict] = {"reproduced": "consistent", "not reproduced": "inconsistent"}
# The verdicts on figures; the first of them that a claim's figures have is the claim's.
DECIDING = ("not reproduced", "inconsistent", "inconclusive", "reproduced", "consistent")
ON_CPU = "on this CPU"
# With fewer, not even the range of all values covers the median 19 times in 20.
FEWEST_REPETITIONS = 6
LISTED_FIGURES = 4


class Figure(msgspec.Struct, frozen=True):
    """A number behind a verdict, its case (``of``), and its 95 % interval."""

    of: str
    number: float
    low: float
    high: float
    verdict: Verdict


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a claim from one source, the figure that decided it, and all figures.

    ``deciding`` is, among the figures with this verdict, the one nearest to an end of the
    accepted range, or farthest beyond it; None if nothing was tested. ``origin`` says on which
    device and by which plan the cases were measured, and how that differs from the article.
    ``holds_for`` is ``on this CPU`` if a claim about a GPU was judged by a CPU's numbers, else
    empty.
    """

    claim: str
    section: str
    statement: str
    rule: str
    source: str
    verdict: Verdict
    deciding: Figure | None = None
    unit: str
    reason: str
    holds_for: str = ""
    origin: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()


class _NotTestedError(Exception):
    """A claim cannot be judged on a source; the message says what the source lacks."""


def judgements(sources: Iterable[Source]) -> list[Judgement]:
    """Every claim judged on every source, claim by claim."""
    sources = list(sources)
    return [judge(claim, source) for claim in CLAIMS for source in sources]


def judge(claim: Claim, source: Source) -> Judgement:
    """The verdict: *reproduced* if the intervals of all figures lie in the accepted range.

    It is *not reproduced* if the interval of any figure lies wholly outside, *inconclusive*
    otherwise or with fewer repetitions than ``FEWEST_REPETITIONS``, and *not tested here* if the
    source lacks the cases. If the source is the article's own numbers, the verdict is
    *consistent* or *inconsistent*.
    """
    try:
        figures, notes, origin = _tested(claim, source)
    except _NotTestedError as lack:
        figures, notes, origin = (), [str(lack)], ()
    deciding = _deciding(figures, claim) if figures else None
    is_of_cpu = source.on_cpu and claim.needs is not None and deciding is not None
    return Judgement(
        claim=claim.id,
        section=claim.section,
        statement=claim.statement,
        rule=claim.rule_in_words,
        source=source.name,
        verdict=deciding.verdict if deciding else "not tested here",
        deciding=deciding,
        unit=claim.unit,
        reason="; ".join(notes),
        holds_for=ON_CPU if is_of_cpu else "",
        origin=origin,
        figures=figures,
    )


def _tested(claim: Claim, source: Source) -> tuple[tuple[Figure, ...], list[str], tuple[str, ...]]:
    """The figures of ``claim``, notes on what they are computed from, and its origin."""
    if claim.needs is None:
        sizes = ["from the models' sizes: no measurement is needed"]
        return _figures(claim, None, source), sizes, ()
    values, notes = _select(source, claim.needs)
    cases = source.cases.loc[values.index]
    figures = _figures(claim, values, source)
    inside = sum(figure.verdict in {"reproduced", "consistent"} for figure in figures)
    notes = [f"{inside} of {len(figures)} intervals lie in the range", *notes]
    notes += _in_the_image(claim, claim.needs, source)
    if too_few := _too_few_repetitions(cases):
        notes.append(too_few)
        figures = tuple(msgspec.structs.replace(each, verdict="inconclusive") for each in figures)
    return figures, notes, tuple(dict.fromkeys(cases["origin"]))


def _select(source: Source, needs: Needs) -> tuple[pd.DataFrame, list[str]]:
    """The draws of the cases that are needed, and a note if the batch sizes differ.

    Raises:
        _NotTestedError: a model has no batch size, or too few, with all methods done.
    """
    frames, notes = [], []
    for model, wanted in needs.batch_sizes.items():
        found = _of_model(source.draws, needs, model)
        complete = _complete_batch_sizes(found, needs)
        taken = [size for size in wanted if size in complete]
        if not taken and needs.fewest_batch_sizes == 1:
            taken = complete[-1:]
        if len(taken) < needs.fewest_batch_sizes or not taken:
            raise _NotTestedError(_lack(source, needs, model, taken))
        if taken != list(wanted):
            notes.append(
                f"{problems.label(model)} at batch size {_listed(taken)} "
                f"instead of {_listed(wanted)}"
            )
        frames.append(found[found.index.isin(taken, level="batch_size")])
    return pd.concat(frames), notes


def _of_model(frame: pd.DataFrame, needs: Needs, model: str) -> pd.DataFrame:
    wanted = [
        (needs.quantity, *run, model, method) for run in needs.runs for method in needs.methods
    ]
    return frame[frame.index.droplevel("batch_size").isin(wanted)]


def _complete_batch_sizes(found: pd.DataFrame, needs: Needs) -> list[int]:
    """The batch sizes at which all runs and methods are there, in order."""
    counts = found.groupby(level="batch_size").size()
    return sorted(counts[counts == len(needs.runs) * len(needs.methods)].index)


def _lack(source: Source, needs: Needs, model: str, taken: list[int]) -> str:
    if needs.quantity not in source.cases.index.get_level_values("quantity"):
        if needs.quantity == "nvml":
            return "only NVML's counter can decide this: measure with --nvml, on a GPU"
        return f"no {needs.quantity}: {source.absent}"
    runs = " and ".join(methods.RUNS[run] for run in needs.runs)
    statuses = _of_model(source.cases, needs, model)["status"]
    counts = statuses[statuses != "done"].value_counts()
    failed = "".join(f"; {count} with status {status!r}" for status, count in counts.items())
    return (
        f"{needs.quantity} of {problems.label(model)} in {runs}: all methods are there at "
        f"{len(taken)} of the batch sizes, and it takes {needs.fewest_batch_sizes}{failed}"
    )


def _listed(batch_sizes: Iterable[int]) -> str:
    return ", ".join(map(str, batch_sizes))


def _figures(claim: Claim, values: pd.DataFrame | None, source: Source) -> tuple[Figure, ...]:
    result = claim.rule(values)
    cases = result.index.to_frame().to_dict("records")
    said = OF_ITSELF if source.of_article and claim.needs else {}
    found = []
    for case, number, low, high in zip(cases, result[0].tolist(), *interval(result), strict=True):
        verdict = _verdict(low, high, claim.accepts.ends)
        name = _name(case, claim.needs)
        found.append(Figure(name, number, low, high, said.get(verdict, verdict)))
    return tuple(found)


def _name(case: dict[str, Any], needs: Needs | None) -> str:
    parts = [problems.label(case["model"])]
    if needs and len(needs.runs) > 1 and "framework" in case:
        parts.append(methods.RUNS[case["framework"], case["mode"]])
    if "batch_size" in case:
        parts.append(f"batch {case['batch_size']}")
    if "method" in case:
        parts.append(case["method"].replace("_", "-"))
    return ", ".join(parts)


def _verdict(low: float, high: float, accepted: tuple[float, float]) -> Verdict:
    if accepted[0] <= low and high <= accepted[1]:
        return "reproduced"
    if high < accepted[0] or low > accepted[1]:
        return "not reproduced"
    return "inconclusive"


def _deciding(figures: Iterable[Figure], claim: Claim) -> Figure:
    """Of the figures with the claim's verdict, the one that is least within the range."""
    low, high = claim.accepts.ends

    def rank(figure: Figure) -> tuple[int, float]:
        return DECIDING.index(figure.verdict), min(figure.number - low, high - figure.number)

    return min(figures, key=rank)


def _in_the_image(claim: Claim, needs: Needs, source: Source) -> list[str]:
    """The note on the batch size of the published image, if the source has it."""
    if needs.also_at is None:
        return []
    there = dict.fromkeys(needs.batch_sizes, (needs.also_at,))
    try:
        values, elsewhere = _select(source, msgspec.structs.replace(needs, batch_sizes=there))
    except _NotTestedError:
        return []
    if elsewhere:
        return []
    found = _deciding(_figures(claim, values, source), claim)
    where = f"at batch size {needs.also_at}, which the image shows"
    return [f"{where}, {found.verdict}: {told(found, claim.unit)}"]


def _too_few_repetitions(cases: pd.DataFrame) -> str:
    """The reason why no verdict can rest on ``cases``; empty if one can."""
    fewest = cases["repetitions"].min()
    is_time = cases.index.get_level_values("quantity").isin(["time", IN_GRADIENTS]).any()
    if not is_time or fewest >= FEWEST_REPETITIONS:
        return ""
    return f"a verdict needs {FEWEST_REPETITIONS} repetitions, and there are {fewest}"


def amount(figure: Figure, unit: str) -> str:
    """The number of ``figure`` in words, with its interval if it has one."""
    number = _number(figure.number)
    if (figure.low, figure.high) != (figure.number, figure.number):
        number += f" [{_number(figure.low)}, {_number(figure.high)}]"
    return f"{number} {unit}"


def told(figure: Figure, unit: str) -> str:
    """The `amount` of ``figure``, and its case."""
    return f"{amount(figure, unit)} ({figure.of})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def claims_table(found: list[Judgement]) -> str:
    """The verdicts in Markdown: a table of claims by sources, then what each source is."""
    sources = list(dict.fromkeys(each.source for each in found))
    lines = [["claim", *sources], ["---"] * (len(sources) + 1)]
    lines += [[same[0].statement, *map(_cell, same)] for same in _by(found, "claim")]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{table}\n{''.join(map(_origins, _by(found, 'source')))}"


def _by(found: list[Judgement], field: str) -> list[list[Judgement]]:
    groups: dict[str, list[Judgement]] = {}
    for each in found:
        groups.setdefault(getattr(each, field), []).append(each)
    return list(groups.values())


def _cell(found: Judgement) -> str:
    where = f" {found.holds_for}" if found.holds_for else ""
    what = told(found.deciding, found.unit) if found.deciding else found.reason
    return f"**{found.verdict}**{where}: {what}"


def _origins(same_source: list[Judgement]) -> str:
    origins = dict.fromkeys(origin for each in same_source for origin in each.origin)
    items = "".join(f"  - {origin}\n" for origin in origins) or "  - nothing measured\n"
    return f"- *{same_source[0].source}*\n{items}"


def claims_markdown(found: list[Judgement]) -> str:
    """The table of the verdicts, then each claim's rule and the grounds of every verdict."""
    others = "".join(f"- {statement}: {why}.\n" for statement, why in NOT_JUDGED.items())
    parts = ["# The article's claims, judged", claims_table(found), INTERVALS]
    parts += ["Not judged, because no number here decides them:", others]
    for same_claim in _by(found, "claim"):
        first = same_claim[0]
        parts.append(f"## {first.claim}")
        parts.append(f"Section *{first.section}*: {first.statement}.")
        parts.append(f"Rule: {first.rule}.")
        parts.append(
            "".join(f"- *{each.source}*: {_cell(each)}{_grounds(each)}\n" for each in same_claim)
        )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _grounds(found: Judgement) -> str:
    if found.deciding is None:
        return "."
    numbers = [f"{_number(figure.number)} ({figure.of})" for figure in found.figures]
    listed = f"; all figures: {', '.join(numbers)}" if len(numbers) <= LISTED_FIGURES else ""
    return f"; {found.reason}{listed}."


INTERVALS = """\
A claim is *reproduced* if the 95 % intervals of all its figures lie in the range, and *not
reproduced* if one of them lies wholly outside. Otherwise, or with too few repetitions, it is
*inconclusive*. The article's text is *consistent* or *inconsistent* with its own numbers.
The table shows the figure that decided. The intervals of times are the bootstrap's over
repetitions; they do not include variation from one run to the next."""
