"""The tables of the page, their columns under the names that a reader sees."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pandas as pd

from paper_figures import style, summary
from paper_figures import tables as paper_tables
from paper_figures.figures import CannotDraw
from reproduce.report.evidence import Evidence, Folder
from reproduce.rows import Row


def deviations(evidence: Evidence) -> pd.DataFrame:
    """Every cell of memory that the article published, with ours beside it."""
    return _both(_deviations_of, evidence)


def _deviations_of(folder: Folder) -> pd.DataFrame:
    table, _ = paper_tables.memory_against_published(_selected("memory_against_published", folder))
    columns = _cells(folder, table) | {
        "ours [GiB]": table["ours_gib"],
        "published [GiB]": table["published_gib"],
        "deviation [%]": table["deviation_percent"],
        "tensors alone [GiB]": table["tensors_gib"],
        "not recorded [GiB]": table["unrecorded_gib"],
    }
    return pd.DataFrame(columns)


def operations(evidence: Evidence) -> pd.DataFrame:
    """The operations of each method, and what they are in gradients."""
    return _both(_operations_of, evidence)


def _operations_of(folder: Folder) -> pd.DataFrame:
    table, _ = paper_tables.operations(_selected("operations", folder))
    columns = _cells(folder, table) | {
        "10⁹ operations": table["gflop"],
        "in gradients": table["gradients"],
        "in theory": table["theory_gradients"],
    }
    return pd.DataFrame(columns)


def _selected(name: str, folder: Folder) -> list[Row]:
    rows, _ = paper_tables.select(name, summary.last_of_each_case(folder.rows))
    return rows


def _cells(folder: Folder, table: pd.DataFrame) -> dict[str, Any]:
    runs = zip(table["framework"], table["mode"], strict=True)
    return {
        "source": folder.source.name,
        "framework": [style.RUNS[run] for run in runs],
        "model": table["model"].map(style.model_label),
        "batch size": table["batch_size"],
        "method": table["method"].str.replace("_", "-"),
    }


def _both(table_of: Callable[[Folder], pd.DataFrame], evidence: Evidence) -> pd.DataFrame:
    """The tables of the folders that have one, one below the other."""
    found = []
    for folder in evidence.folders:
        with suppress(CannotDraw):
            found.append(table_of(folder))
    return pd.concat(found) if found else pd.DataFrame()


def unfinished(evidence: Evidence) -> pd.DataFrame:
    """The cases that are not done, or that have warnings, and why."""
    records = [
        (str(row.case), row.status, "; ".join(filter(None, [row.reason, *row.warnings])))
        for folder in evidence.folders
        for row in summary.last_of_each_case(folder.rows)
        if row.status != "done" or row.warnings
    ]
    return pd.DataFrame(sorted(records), columns=["case", "status", "reason or warning"])
