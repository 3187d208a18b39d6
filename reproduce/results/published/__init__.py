"""The article's numbers as tables; README.md in this folder says how they were obtained."""

from pathlib import Path

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
# The quantiles of the article's error bars.
QUANTILES = (0.2, 0.5, 0.8)
MODES = {"true": "jit", "false": "eager", "na": "eager"}


def memory() -> pd.DataFrame:
    """The article's memory figures: one row per value, ``memory_gib`` and ``uncertainty_gib``.

    The columns ``framework``, ``mode``, ``model``, ``batch_size`` and ``method`` have the values
    of a ``Case``.
    """
    table = pd.read_csv(FOLDER / "article_memory.csv", keep_default_na=False)
    return table.assign(mode=table["jit"].map(MODES)).drop(columns="jit")


def time() -> pd.DataFrame:
    """The article's timings: one row per case, ``seconds`` and its quantiles.

    ``seconds`` lists the times in the order of measuring; ``p20_s``, ``median_s`` and
    ``p80_s`` are in seconds, too. The times of an HVP are its overheads over the gradient. The
    columns ``framework``, ``mode``, ``model``, ``batch_size`` and ``method`` have the values of a
    ``Case``.
    """
    table = pd.read_csv(FOLDER / "article_time.csv")
    table["seconds"] = [np.array(values.split(), float) for values in table["seconds"]]
    table["mode"] = table["framework"].map({"jax": "jit", "torch": "eager"})
    quantiles = [np.quantile(values, QUANTILES) for values in table["seconds"]]
    table[["p20_s", "median_s", "p80_s"]] = quantiles
    return table
