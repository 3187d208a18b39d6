"""The tables: memory against the article's, operations against theory, products beyond.

Each is written twice: as CSV with one line per value, and as Markdown for readers.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paper_figures import style
from paper_figures.layout import CannotDraw
from reproduce import methods, problems
from reproduce.plan import Run
from reproduce.results import counters, origin, published, summary
from reproduce.results.files import whole_file
from reproduce.results.rows import Row

# What is compared with the published values: the name of its deviation, and what its table says.
COMPARED = {
    "ours": ("deviation", ""),
    "tensors": (
        "tensors_deviation",
        "The tensors in that reserve, without the rest of it:",
    ),
    "unrecorded": (
        "unrecorded_deviation",
        "The tensors if parameters require no gradients, so that autograd does not record every "
        "HVP:",
    ),
}
# Digits after the point, by column of the CSV.
DIGITS = {
    **{f"{ours}_gib": 5 for ours in COMPARED},
    **{f"{deviation}_percent": 2 for deviation, _ in COMPARED.values()},
    "gflop": 3,
    "gradients": 4,
    "temporary_gib": 5,
    "needed_gib": 5,
    "theory_gradients": 4,
}

RUN = summary.LINE[:2]
NO_ROW = "–"
MEMORY_TABLE = """# Memory beside the article's

Each cell has ours / published, in GiB, and in parentheses the deviation, ours / published − 1.
Published values were read off the article's images; `memory_against_published.csv` has the
uncertainty of each."""
OPERATIONS_TABLE = """# Floating-point operations

Counted, not run. For JAX, XLA counts the traced program before it optimises it; for PyTorch,
products and convolutions are counted, and no elementwise operations. Theory counts only the
products of the layers: a JVP and a gradient cost 3 evaluations each, an HVP 8, or 9 (3 gradients)
if it computes the gradient as well."""
PRODUCTS_TABLE = """# Products beyond the article's: memory and operations

In GiB, and in multiples of the gradient's operations. A Gauss-Newton product is no HVP."""
PRODUCTS_IN = {
    "jax": "Temporary bytes of the compiled program, from XLA's memory analysis. The result, as "
    "large as the parameters, comes on top.",
    "torch": "Peak of the live tensors during one call, beyond its arguments, with its result.",
}
GFLOP_TABLE = "In 10⁹ operations:"
GRADIENTS_TABLE = "In multiples of the gradient:"


def select(name: str, rows: Iterable[Row]) -> tuple[list[Row], str]:
    """Return the rows that the table ``name`` is made of, and a sentence on those left out.

    They are chosen as for a figure, for each framework and mode.
    """
    rows = list(rows)
    if name == "products":
        return summary.accounted_of_beyond(rows)
    return summary.newest_of_each(summary.of_kind(rows, kind) for kind in KINDS[name])


def write(name: str, rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the table ``name`` as CSV and Markdown into ``folder``; return the two paths.

    ``rows`` are those that `select` returns for it. The same rows give the same bytes.

    Raises:
        CannotDraw: for the same reasons as the table's own function.
    """
    table, text = TABLES[name](rows)
    csv = table.round(DIGITS).to_csv(index=False, lineterminator="\n")
    return [_save(csv, folder / f"{name}.csv"), _save(text, folder / f"{name}.md")]


def _save(text: str, path: Path) -> Path:
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
    return path


def memory_against_published(rows: Sequence[Row]) -> tuple[pd.DataFrame, str]:
    """Return memory beside the article's, one line per published value, and its Markdown.

    Memory is in GiB, and the deviation, ours / published − 1, in percent. For PyTorch, both are
    also given for the tensors in the simulated reserve, with and without autograd's record.

    Raises:
        CannotDraw: no row has the article's device, run or not, and a published value; or the rows
            of a framework and mode have no memory counter in common.
    """
    own = [row for row in rows if origin.is_articles(row)]
    parts = [(of_run, _beside_published(of_run)) for of_run in _by_run(own)]
    parts = [(of_run, table) for of_run, table in parts if len(table)]
    if not parts:
        raise CannotDraw(
            f"there are no rows for {origin.ARTICLE_DEVICE} of memory that the article published"
        )
    text = [MEMORY_TABLE, *(_memory_section(*part) for part in parts)]
    return pd.concat(table for _, table in parts), "\n\n".join(text) + "\n"


def _beside_published(rows: Sequence[Row]) -> pd.DataFrame:
    counter = counters.shared(rows)
    if counter is None:
        raise CannotDraw("its rows have no memory counter in common; measure them again")
    records = [
        (
            *summary.line(row),
            row.place,
            row.status,
            _gib(counter, row),
            _tensors_gib(counters.LIVE_TENSORS, row),
            _tensors_gib(counters.UNRECORDED_TENSORS, row),
        )
        for row in _in_order(rows)
    ]
    columns = [f"{name}_gib" for name in COMPARED]
    table = pd.DataFrame(records, columns=[*summary.LINE, "device", "status", *columns])
    known = published.memory().rename(columns={"memory_gib": "published_gib"})
    known = known[[*summary.LINE, "published_gib", "uncertainty_gib"]]
    table = table.merge(known, on=summary.LINE)
    for ours, (deviation, _) in COMPARED.items():
        ratio = table[f"{ours}_gib"] / table["published_gib"]
        table[f"{deviation}_percent"] = 100 * (ratio - 1)
    return table


def _gib(counter: counters.Counter, row: Row) -> float:
    return counter.bytes_of(row) / summary.GIB if counter.is_in(row) else np.nan


def _tensors_gib(counter: counters.Counter, row: Row) -> float:
    return _gib(counter, row) if row.framework == "torch" else np.nan


def _memory_section(rows: Sequence[Row], table: pd.DataFrame) -> str:
    row, run = rows[0], (rows[0].framework, rows[0].mode)
    counter = counters.shared(rows)
    notes = [
        style.memory_note(counter) if counter else "",
        style.settings_note(row),
        style.machine_note(row),
    ]
    parts = [_section_title(run, origin.not_run(row)), *notes]
    for ours, (deviation, said) in COMPARED.items():
        columns = [f"{ours}_gib", "published_gib", f"{deviation}_percent", "status"]
        if table[f"{ours}_gib"].notna().any():
            texts = [_compared_cell(*values) for values in table[columns].itertuples(index=False)]
            parts += [said, _markdown(table.assign(text=texts), style.METHODS)]
    return "\n\n".join(filter(None, [*parts, style.deviation_note(row)]))


def operations(rows: Sequence[Row]) -> tuple[pd.DataFrame, str]:
    """Return the operations of each method, one line per case, and their Markdown.

    In 10⁹ floating-point operations, and as multiples of the gradient's, beside theory.

    Raises:
        CannotDraw: there are no rows with operations.
    """
    cost = summary.in_gradients(rows)
    records = [
        (*summary.line(row), row.flops / 1e9, cost.get(summary.line(row), np.nan))
        for row in _in_order(rows)
        if row.flops is not None
    ]
    if not records:
        raise CannotDraw("there are no rows of operations; count them first")
    table = pd.DataFrame(records, columns=[*summary.LINE, "gflop", "gradients"])
    table["theory_gradients"] = [
        methods.OPERATIONS[row.framework, row.mode][row.method] for row in table.itertuples()
    ]
    sections = [_operations_section(*part) for part in table.groupby(RUN, sort=False)]
    return table, "\n\n".join([OPERATIONS_TABLE, *sections]) + "\n"


def _operations_section(run: Run, table: pd.DataFrame) -> str:
    gflop = table.assign(text=table["gflop"].map("{:.1f}".format))
    gradients = table.assign(text=table["gradients"].map(_gradients_cell))
    of_run = methods.OPERATIONS[run]
    theory = [_gradients_cell(of_run[method]) for method in style.COUNTED]
    parts = [
        _section_title(run),
        GFLOP_TABLE,
        _markdown(gflop, style.COUNTED),
        GRADIENTS_TABLE,
        _markdown(gradients, style.COUNTED),
    ]
    return "\n\n".join(parts) + f"\n{_line('Theory', '', *theory)}"


def products(rows: Sequence[Row]) -> tuple[pd.DataFrame, str]:
    """Return memory and operations of plan beyond's products, one line each, and their Markdown.

    Memory in GiB is what a call needs beyond its arguments (in JAX also without its result).
    Operations are in multiples of the gradient's.

    Raises:
        CannotDraw: no row has both.
    """
    cost = summary.in_gradients(rows)
    records = [
        (
            *summary.line(row),
            row.status,
            row.memory_bytes.get("xla_temp_bytes", np.nan) / summary.GIB,
            needed / summary.GIB,
            cost[summary.line(row)],
        )
        for row in _in_order(rows)
        if (needed := summary.needed_bytes(row)) is not None and summary.line(row) in cost
    ]
    if not records:
        raise CannotDraw("there are no rows of both memory and operations; account for plan beyond")
    columns = ["status", "temporary_gib", "needed_gib", "gradients"]
    table = pd.DataFrame(records, columns=[*summary.LINE, *columns])
    device = next(row.device for row in rows if row.quantity == "memory")
    parts = [PRODUCTS_TABLE, f"Accounted for on {device}; nothing was run."]
    for run, of_run in table.groupby(RUN, sort=False):
        memory = of_run["temporary_gib"].fillna(of_run["needed_gib"]).map("{:.2f} · ".format)
        texts = memory + of_run["gradients"].map("{:.2f}".format)
        shown = _markdown(of_run.assign(text=texts), of_run["method"].unique())
        parts += [_section_title(run), PRODUCTS_IN[run[0]], shown]
    return table, "\n\n".join(parts) + "\n"


def _by_run(rows: Sequence[Row]) -> list[list[Row]]:
    runs = dict.fromkeys((row.framework, row.mode) for row in rows)
    return [[row for row in rows if (row.framework, row.mode) == run] for run in runs]


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of each framework and mode by model, batch size and method."""
    order = list(methods.LABELS)
    return sorted(
        rows,
        key=lambda row: (
            list(methods.RUNS).index((row.framework, row.mode)),
            problems.order(row.model),
            row.batch_size,
            order.index(row.method),
        ),
    )


def _markdown(table: pd.DataFrame, shown: Collection[str]) -> str:
    """Return the column ``text`` with a line for each model and batch size, a column per method."""
    header = ["Model", "Batch size", *map(style.method_label, shown)]
    lines = [_line(*header), _line(*["---"] * len(header))]
    for (model, batch_size), of_line in table.groupby(summary.CELL[:2], sort=False):
        texts = dict(zip(of_line["method"], of_line["text"], strict=True))
        cells = (texts.get(method, NO_ROW) for method in shown)
        lines.append(_line(problems.label(model), str(batch_size), *cells))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _section_title(run: Run, origin: str = "") -> str:
    return "## " + ", ".join(filter(None, [methods.RUNS[run], origin]))


def _gradients_cell(multiple: float) -> str:
    return NO_ROW if math.isnan(multiple) else f"{multiple:.2f}"


def _compared_cell(ours: float, published: float, deviation: float, status: str) -> str:
    """Return a cell that compares ``ours``, missing or not, with ``published``, both in GiB."""
    if math.isnan(ours):
        return f"{style.GAPS.get(status, NO_ROW)} / {published:.2f}"
    failed = "" if status == "done" else f", {style.GAPS[status]}"
    sign = "−" if deviation < 0 else "+"
    return f"{ours:.2f} / {published:.2f} ({sign}{abs(deviation):.1f} %){failed}"


TABLES: dict[str, Callable[[Sequence[Row]], tuple[pd.DataFrame, str]]] = {
    "memory_against_published": memory_against_published,
    "operations": operations,
    "products": products,
}
KINDS = {
    "memory_against_published": [("memory", *run) for run in methods.RUNS],
    "operations": [("operations", *run) for run in methods.RUNS],
}
