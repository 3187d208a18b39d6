"""Figures and tables, drawn by a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

from reproduce.environment import ROOT

# What is drawn and written from an accounting.
OF_ACCOUNTING = (
    "bench_hvp_memory_jax",
    "bench_hvp_memory_jax_without_jit",
    "bench_hvp_memory_torch",
    "memory_against_published",
    "operations",
)
# What is drawn of what lies beyond the article.
OF_BEYOND = (
    "beyond_ratios",
    "beyond_amortised",
    "beyond_vectors",
    "inverse_hvp_errors",
    "spectra",
    "hyperparameter_descent",
)


def draw(results: Path, *names: str) -> int:
    """The exit code of drawing what has changed in ``results``: of ``names``, or the article's."""
    sys.stdout.flush()
    search = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    return subprocess.run(
        [sys.executable, "-m", "paper_figures", "--changed", "--", str(results), *names],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(search)},
        check=False,
    ).returncode
