"""The rows that were accounted for, and what they and the article say, worked out by hand."""

from commands import ACCOUNTED

from reproduce.results import published
from reproduce.results.rows import read_rows

GIB = 2**30
ROWS = read_rows(ACCOUNTED)


def ours(row):
    """The GiB that a memory row stands for."""
    counted = row.memory_bytes
    if row.mode == "jit":
        return (counted["xla_temp_bytes"] + counted["xla_output_bytes"]) / GIB
    counter = "live_peak_bytes" if row.framework == "jax" else "simulated_reserved_bytes"
    return counted[counter] / GIB


def case_of(row):
    """Where a table has the row, or a line of the published numbers."""
    return row.framework, row.mode, row.model, row.batch_size, row.method


PUBLISHED = {case_of(line): line for line in published.memory().itertuples()}
