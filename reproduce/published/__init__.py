"""What the article published, as tables; README.md beside this file says how it was obtained."""

from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent
MODES = {"true": "jit", "false": "eager", "na": "eager"}


def memory() -> pd.DataFrame:
    """The article's memory figures: one row a cell, ``memory_gib`` and ``uncertainty_gib``.

    The cells are by ``framework``, ``mode``, ``model``, ``batch_size`` and ``method``, under
    the names of a ``Case``.
    """
    table = pd.read_csv(FOLDER / "article_memory.csv", keep_default_na=False)
    return table.assign(mode=table["jit"].map(MODES)).drop(columns="jit")


def time() -> pd.DataFrame:
    """The article's timings: one row a cell, ``p20_s``, ``median_s``, ``p80_s``, in seconds.

    An HVP's are its overhead over the gradient. The cells are by ``framework``, ``mode``,
    ``model``, ``batch_size`` and ``method``, under the names of a ``Case``.
    """
    table = pd.read_csv(FOLDER / "article_time.csv")
    return table.assign(mode=table["framework"].map({"jax": "jit", "torch": "eager"}))
