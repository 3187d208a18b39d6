"""The tables of the page, with labels for the reader."""

from typing import Any

import pandas as pd

from reproduce import methods, problems
from reproduce.machine.environment import ROOT
from reproduce.report.evidence import Evidence, Folder
from reproduce.results import summary


def deviations(evidence: Evidence) -> pd.DataFrame:
    """Every memory value that the article published, with ours beside it."""
    columns = {
        "ours_gib": "ours [GiB]",
        "published_gib": "published [GiB]",
        "deviation_percent": "deviation [%]",
        "tensors_gib": "tensors alone [GiB]",
        "unrecorded_gib": "not recorded [GiB]",
    }
    return _of_folders("memory_against_published", columns, evidence)


def operations(evidence: Evidence) -> pd.DataFrame:
    """The operations of each method, also in gradients."""
    columns = {
        "gflop": "10⁹ operations",
        "gradients": "in gradients",
        "theory_gradients": "in theory",
    }
    return _of_folders("operations", columns, evidence)


def _of_folders(name: str, columns: dict[str, str], evidence: Evidence) -> pd.DataFrame:
    """The table ``name`` of every folder that has it, one below the other."""
    found = [
        pd.DataFrame(_cells(folder, table) | {new: table[old] for old, new in columns.items()})
        for folder in evidence.folders
        if (path := folder.path / "tables" / f"{name}.csv").exists()
        for table in [pd.read_csv(path)]
    ]
    return pd.concat(found) if found else pd.DataFrame()


def _cells(folder: Folder, table: pd.DataFrame) -> dict[str, Any]:
    runs = zip(table["framework"], table["mode"], strict=True)
    return {
        "source": folder.source.name,
        "framework": [methods.RUNS[run] for run in runs],
        "model": table["model"].map(problems.label),
        "batch size": table["batch_size"],
        "method": table["method"].map(methods.LABELS),
    }


def operators() -> pd.DataFrame:
    """The operators of PyTorch through which an HVP is wrong or refused, from docs/operators.md."""
    of_torch = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8").split("\n## ")[1]
    lines = [line for line in of_torch.splitlines() if line.startswith("|")]
    head, _, *cells = (line.strip("| ").replace("**", "").split(" | ") for line in lines)
    return pd.DataFrame(cells, columns=head)


def unfinished(evidence: Evidence) -> pd.DataFrame:
    """The cases that are not done, or that have warnings, and why."""
    records = [
        (str(row.case), row.status, "; ".join(filter(None, [row.reason, *row.warnings])))
        for folder in evidence.folders
        for row in summary.last_of_each_case(folder.rows)
        if row.status != "done" or row.warnings
    ]
    return pd.DataFrame(sorted(records), columns=["case", "status", "reason or warning"])
