"""The progress of a plan, as the user sees it while it is measured."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rich.progress

from reproduce import printing
from reproduce.machine.memory import polled
from reproduce.machine.target import Target
from reproduce.measuring import cost
from reproduce.plan import Setting
from reproduce.results import counters
from reproduce.results.rows import Row

# Without a terminal, what is being done is printed this often.
SECONDS_BETWEEN_LINES = 60


class Progress:
    """A line for each finished setting, and meanwhile the time left: in a bar, or line by line."""

    def __init__(
        self,
        done: int,
        settings: list[Setting],
        at_once: int,
        folder: Path,
        target: Target | None = None,
    ) -> None:
        """Announces ``settings``, of which ``at_once`` are prepared side by side.

        ``done`` cases are in ``folder`` already.
        """
        self.console = printing.console(soft_wrap=True)
        self.total, self.finished = len(settings), 0
        self.rows: dict[str, list[Row]] = {}
        self.sizes = {setting[0].setting_name: len(setting) for setting in settings}
        self.left = {
            setting[0].setting_name: cost.parts_seconds(setting, at_once, target)
            for setting in settings
        }
        self.expected = sum(map(sum, self.left.values()))
        self.start = time.monotonic()
        if not settings:
            self.console.print(f"All {done} cases are in {folder} already: nothing to measure.")
        else:
            kept = f", {done} are in {folder} already" if done else ""
            self.console.print(
                f"{sum(map(len, settings))} cases to measure in {self.total} settings, "
                f"about {self._left()}{kept}."
            )
        self.bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal or not settings,
        )
        self.task = self.bar.add_task("", total=self.total)
        self.doing = ""
        has_bar = self.console.is_terminal or not settings
        self.shown = self.bar if has_bar else polled(self._print_doing, SECONDS_BETWEEN_LINES)

    def __enter__(self) -> "Progress":
        self.shown.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.shown.__exit__(*reason)

    def report_aside(self, aside: Path | None) -> None:
        """Reports if a half-written last line was moved to ``aside``."""
        if aside is not None:
            self.console.print(f"A half-written last row was set aside in {aside}.")

    @contextmanager
    def loading(self, frameworks: Sequence[str]) -> Iterator[None]:
        """Reports how long the block took, in which the frameworks are loaded."""
        start = time.perf_counter()
        self._show(f"loading {' and '.join(frameworks)}")
        yield
        spent = time.perf_counter() - start
        self.start = time.monotonic()
        self._show("preparing")
        self.console.print(f"Loaded {' and '.join(frameworks)} once, in {spent:.1f} s.")

    def prepared(self, setting: Setting) -> None:
        """Shows that ``setting`` waits to be timed."""
        self.left[setting[0].setting_name] = (0.0, self.left[setting[0].setting_name][1])
        self._show(f"prepared {setting[0].setting_name}")

    def timing(self, setting: Setting) -> None:
        """Shows that ``setting`` is being timed."""
        self._show(setting[0].setting_name)

    def end(self, rows: Sequence[Row]) -> None:
        """Prints the results of a setting, once ``rows`` complete it."""
        if not rows:
            return
        name = rows[0].case.setting_name
        self.rows[name] = [*self.rows.get(name, []), *rows]
        if len(self.rows[name]) < self.sizes[name]:
            return
        self.finished += 1
        self.left[name] = (0.0, 0.0)
        seconds = cost.readable_seconds(sum(row.case_seconds for row in self.rows[name]))
        self.console.print(
            f"{self.finished:3}/{self.total} {name}: {_found(self.rows[name])} "
            f"({seconds}, {self._left()} left)"
        )
        self.bar.advance(self.task)

    def _show(self, what: str) -> None:
        self.doing = what
        self.bar.update(self.task, description=f"{what} · {self._left()} left")

    def _print_doing(self) -> None:
        if self.doing:
            self.console.print(f"{self.finished:3}/{self.total} {self.doing}, {self._left()} left")

    def _left(self) -> str:
        left = sum(map(sum, self.left.values()))
        expected_past = self.expected - left
        pace = (time.monotonic() - self.start) / expected_past if expected_past > 0 else 1.0
        return cost.readable_seconds(left * pace)


def _found(rows: Sequence[Row]) -> str:
    """The rows of a setting in one line; times of HVPs are in gradients."""
    warnings = dict.fromkeys(
        f" [{row.case.computed}: {warning}]" for row in rows for warning in row.warnings
    )
    return ", ".join(f"{row.case.computed} {_number(row)}" for row in rows) + "".join(warnings)


def _number(row: Row) -> str:
    if row.status != "done":
        return f"{row.status} ({row.reason})"
    if row.quantity == "operations":
        return f"{(row.flops or np.nan) / 1e9:.1f} GFLOP"
    if row.quantity != "time":
        counter = counters.shared([row])
        return cost.readable_bytes(counter.bytes_of(row)) if counter else "no counter of memory"
    if not row.gradient_seconds:
        return f"{np.median(row.seconds):.4g} s"
    return f"{np.median(np.divide(row.seconds, row.gradient_seconds)):.2f}"
