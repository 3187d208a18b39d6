"""What the user sees while a plan is measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rich.progress
from rich.console import Console

from reproduce import cost
from reproduce.plan import Case
from reproduce.rows import Row

PEAKS = (
    ("jax_peak_bytes_in_use", "jax_bytes_in_use_before"),
    ("torch_peak_allocated_bytes", "torch_allocated_before_bytes"),
    ("resident_peak_bytes", "resident_before_bytes"),
)


class Progress:
    """A line for each finished case, and on a terminal a bar with the time left."""

    def __init__(self, done: int, missing: dict[Case, float], folder: Path) -> None:
        """Says what is to be measured, and what is to be compiled before.

        ``missing`` gives each case that is, with the seconds by which it is expected to
        prolong the run; ``done`` cases are in ``folder`` already.
        """
        self.console = Console(highlight=False, soft_wrap=True)
        self.total, self.finished, self.expected = len(missing), 0, missing
        self.expected_left, self.expected_past = sum(missing.values()), 0.0
        self.start = time.monotonic()
        if not missing:
            self.console.print(f"All {done} cases are in {folder} already: nothing to measure.")
        else:
            compilations = sum(case.quantity == "compilation" for case in missing)
            before = f", after {compilations} compilations" if compilations else ""
            kept = f", {done} are in {folder} already" if done else ""
            self.console.print(
                f"{len(missing) - compilations} cases to measure{before}, "
                f"about {self._left()}{kept}."
            )
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal or not missing,
        )
        self.task = self.bar.add_task("", total=len(missing))

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def report_aside(self, aside: Path | None) -> None:
        """Says that a half-written last line was moved to ``aside``, if it was."""
        if aside is not None:
            self.console.print(f"A half-written last row was set aside in {aside}.")

    @contextmanager
    def loading(self, frameworks: list[str]) -> Iterator[None]:
        """Says how long loading the frameworks took, which happens inside the block."""
        start = time.perf_counter()
        self.bar.update(self.task, description=f"loading {' and '.join(frameworks)}")
        yield
        spent = time.perf_counter() - start
        self.start = time.monotonic()
        self.console.print(f"Loaded {' and '.join(frameworks)} once, in {spent:.1f} s.")

    def begin(self, cases: list[Case]) -> None:
        """Shows that ``cases`` are being measured, in turn if they are several."""
        more = f" and {len(cases) - 1} more in turn" if len(cases) > 1 else ""
        self.bar.update(self.task, description=f"{cases[0]}{more} · {self._left()} left")

    def end(self, row: Row) -> None:
        """Prints what ``row`` found."""
        self.finished += 1
        expected = self.expected[row.case]
        self.expected_left -= expected
        self.expected_past += expected
        self.console.print(
            f"{self.finished:4}/{self.total} {row.case}: {_found(row)} "
            f"(case {row.case_seconds:.1f} s, {self._left()} left)",
            markup=False,
        )
        self.bar.advance(self.task)

    def _left(self) -> str:
        past = time.monotonic() - self.start
        pace = past / self.expected_past if self.expected_past else 1.0
        return cost.readable_seconds(max(0.0, self.expected_left) * pace)


def _found(row: Row) -> str:
    if row.status != "done":
        return f"{row.status}: {row.reason}"
    if row.quantity == "operations":
        return f"{row.flops / 1e9:.1f} GFLOP"
    if row.quantity == "compilation":
        return cost.readable_seconds(sum(row.compile_seconds.values()))
    if row.quantity == "memory":
        return cost.readable_bytes(_rise_bytes(row.memory_bytes))
    middle = sorted(row.seconds)[len(row.seconds) // 2]
    return f"{middle:.4g} s" + "".join(f" [{warning}]" for warning in row.warnings)


def _rise_bytes(counters: dict[str, int]) -> int:
    if "live_peak_bytes" in counters:
        return counters["live_peak_bytes"]
    if "xla_total_bytes" in counters:
        return counters["xla_temp_bytes"] + counters["xla_output_bytes"]
    peak, before = next(pair for pair in PEAKS if pair[0] in counters)
    return counters[peak] - counters[before]
