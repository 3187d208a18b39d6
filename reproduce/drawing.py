"""The list of all figures and tables, and functions that draw them in a separate process."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import msgspec

from reproduce.machine.environment import ROOT
from reproduce.plan import Framework, Mode, Quantity
from reproduce.results.rows import Row


class Bench(NamedTuple):
    """A measured figure: the rows it needs, and the batch size of its bars.

    If the plan does not have ``batch_size`` for all models, the bars show the largest
    batch size that all models have; with ``only_this_size`` the figure is not drawn instead.
    ``see`` is what the report tells the reader to look at.
    """

    quantity: Quantity
    framework: Framework
    mode: Mode
    batch_size: int
    see: str = ""
    only_this_size: bool = False
    has_curve: bool = True


BENCHES = {
    # The article's text says batch size 128, its time figures show 64: both are drawn.
    "bench_hvp_time_jax": Bench(
        "time", "jax", "jit", 128, "how near the three HVPs come to each other in JAX"
    ),
    "bench_hvp_time_jax_b64": Bench("time", "jax", "jit", 64, only_this_size=True),
    "bench_hvp_time_torch": Bench(
        "time",
        "torch",
        "eager",
        128,
        "forward-over-reverse next to reverse-over-reverse in PyTorch",
    ),
    "bench_hvp_time_torch_b64": Bench("time", "torch", "eager", 64, only_this_size=True),
    "bench_hvp_time_jax_without_jit": Bench(
        "time",
        "jax",
        "eager",
        64,
        "how long JAX takes if nothing is compiled, which the article does not show",
        has_curve=False,
    ),
    "bench_hvp_memory_jax": Bench(
        "memory",
        "jax",
        "jit",
        64,
        "how near the three HVPs of a network come to each other with jit",
    ),
    "bench_hvp_memory_jax_without_jit": Bench(
        "memory", "jax", "eager", 64, "reverse-over-reverse next to the other two without jit"
    ),
    "bench_hvp_memory_torch": Bench(
        "memory",
        "torch",
        "eager",
        64,
        "forward-over-reverse next to reverse-over-forward in PyTorch",
    ),
}
# Each diagram, with what to look at.
DIAGRAMS = {
    "hess_eig": "the signs of the two eigenvalues, which tell a minimum from a saddle point",
    "computational_graph": "each vertex: a value of the function, and the operation that gives it",
    "forward_diff": "how tangents follow the edges, from the parents of a vertex to the vertex",
    "reverse_diff": "how cotangents go against the edges, from the children of a vertex to it",
}
# Drawn from plan beyond's rows, and from the tables that its parts write.
BEYOND_FROM_ROWS = {
    "beyond_ratios": "how near each HVP comes to its operation count, the black mark",
    "beyond_amortised": "after how many HVPs at one point the solid line falls below the dashed",
    "beyond_vectors": "whether an HVP costs less when several vectors are multiplied at once",
    "beyond_front": "the HVPs for which no other one needs both less memory and fewer operations",
}
BEYOND_FROM_TABLES = {
    "inverse_hvp_errors": "how many fewer HVPs conjugate gradient takes than the other two",
    "spectra": "how well Lanczos quadrature matches the exact spectrum, where that is known",
    "hyperparameter_descent": "where both descents end on the grey curve",
}
TABLES_OF_ARTICLE = ("memory_against_published", "operations")
OF_ACCOUNTED_BEYOND = ("beyond_front", "products")
TABLES = (*TABLES_OF_ARTICLE, "products")
OF_ARTICLE = (*BENCHES, *DIAGRAMS, *TABLES_OF_ARTICLE)
OF_BEYOND = BEYOND_FROM_ROWS | BEYOND_FROM_TABLES
OF_ACCOUNTING = (
    *(name for name, bench in BENCHES.items() if bench.quantity == "memory"),
    *TABLES_OF_ARTICLE,
)


def draw(results: Path, *names: str) -> int:
    """Draw what has changed of ``names``, by default the article's; return the exit code."""
    sys.stdout.flush()
    return _run("paper_figures", "--changed", "--", str(results), *names).returncode


def draw_mine(results: Path) -> int:
    """Draw the results of ``python -m reproduce mine`` in ``results``; return the exit code."""
    return _run("paper_figures.mine", str(results)).returncode


def redrawn(results: Path, rows: Iterable[Row]) -> dict[str, str]:
    """How each figure and table in ``results`` differs from one drawn anew from ``rows``.

    The keys are paths below ``results``; the text is empty if the bytes are the same.
    """
    lines = b"\n".join(map(msgspec.json.encode, rows))
    found = _run("paper_figures.redraw", str(results), input=lines, stdout=PIPE)
    found.check_returncode()
    return msgspec.json.decode(found.stdout, type=dict[str, str])


def _run(module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": search}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, check=False, **options)
