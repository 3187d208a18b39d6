"""Measuring one case of a network, in the framework that is loaded."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from reproduce.machine import memory
from reproduce.machine.gpu import used_bytes_of
from reproduce.machine.target import Target
from reproduce.measuring import comparing, cost, timing
from reproduce.measuring.framework import Accounting
from reproduce.measuring.network import Compiled, Network
from reproduce.plan import GAUSS_NEWTON, LOW_PRECISION, REFERENCE, Case, Method, Mode
from reproduce.results.rows import Status


class Outcome(msgspec.Struct, kw_only=True):
    """The measured part of a row, under the row's names; workers send it to their parent."""

    status: Status = "done"
    reason: str = ""
    seconds: list[float] = []
    gradient_seconds: list[float] = []
    warmup_seconds: list[float] = []
    point_seconds: list[float] = []
    compile_seconds: dict[str, float] = {}
    measuring_seconds: float = 0.0
    memory_bytes: dict[str, int] = {}
    relative_difference: float | None = None
    flops: float | None = None
    digests: dict[str, str] = {}
    result_norm: float | None = None
    warnings: list[str] = []
    precision: dict[str, Any] = {}


class Measurement:
    """A case and its network; measuring it fills its outcome."""

    def __init__(self, case: Case, outcome: Outcome, network: Network) -> None:
        self.case, self.outcome, self.network, self.v = case, outcome, network, network.v
        self.loss, self.params, self.batch = network.loss, network.params, network.batch
        self.many_vectors, self.device = network.tools.many_vectors, network.tools.device
        self.at_point: Callable[[], Any] | None = None
        self.product: Callable[..., Any]
        outcome.digests |= network.digests

    def prepare_timing(self) -> None:
        """Compiles what is timed, calls it, compares its result and counts its memory.

        The allocator's memory is that of a second call, because on a GPU libraries allocate
        workspaces in the first call and keep them.
        """
        self.prepare()
        seconds, first = timing.timed(self.whole, time.perf_counter)
        self.outcome.warmup_seconds = [seconds]
        if self.case.method == "gradient" and self.case.vector == "gradient":
            self.network.v = first  # still attached to autograd's graph, as in the article
        self.look_at(first)
        self.outcome.relative_difference = self.difference_from_reference(first)
        if self.case.method not in LOW_PRECISION:
            self.outcome.warnings = comparing.disagreement(
                self.outcome.relative_difference,
                self.case.method == "reverse_over_forward" and self.case.layer_norm == "native",
            )
        del first
        self.device.count_call(self.whole, self.outcome.memory_bytes)
        self.timed_call = partial(self.product, self.at_point()) if self.at_point else self.product

    def whole(self) -> Any:
        """The result of the whole method: its part at the point, if any, then the product."""
        return self.product(self.at_point()) if self.at_point else self.product()

    def difference_from_reference(self, result: Any) -> float | None:
        """‖Hv − reference‖ / ‖reference‖, where forward-over-reverse is the reference.

        None for the reference itself, and for a Gauss-Newton product, which is another quantity.
        A gradient is compared with the gradient. Results of ``torch.compile`` are compared with
        mode ``eager``. If there are several vectors, the last is compared.
        """
        case, references = self.case, self.network.references
        method: Method = "gradient" if case.method == "gradient" else REFERENCE
        mode = "eager" if case.mode == "compile" else case.mode
        leaves = self.device.to_numpy(result)
        if case.is_reference:
            references[method, 1] = leaves
        if case.is_reference or case.method in GAUSS_NEWTON:
            return None
        if case.vectors > 1:
            self.v, leaves = self.last_v, [leaf[-1] for leaf in leaves]
        if (method, case.vectors) not in references:
            expected = self.prepared(method, mode)()
            references[method, case.vectors] = self.device.to_numpy(expected)
        difference = comparing.relative_difference(leaves, references[method, case.vectors])
        return comparing.finite(difference, f"the relative difference from {method} in mode {mode}")

    def measure_memory(self, gpu: str | None) -> None:
        """Counts the memory of one call: the allocator's peak on a GPU, the resident set on a CPU.

        XLA's peak covers the life of the process and cannot be reset. On a GPU each case therefore
        has its own process, whose programs were compiled by an earlier one, since compiling
        allocates memory, too. The resident set is counted in the second call, when everything is
        loaded; a CPU's allocator is counted in the first.
        """
        counters = self.outcome.memory_bytes
        self.prepare()
        if gpu is None:
            with self.device.allocator_peak(counters):
                self.whole()
        peak = memory.resident_peak if gpu is None else self.device.allocator_peak
        with peak(counters):
            result = self.whole()
        self.look_at(result)

    def measure_nvml(self, gpu: str) -> None:
        """Polls the used memory of the whole GPU during compilation and the first call.

        The article's memory figures show this number.
        """
        with memory.nvml_peak(self.outcome.memory_bytes, used_bytes_of(gpu)):
            self.prepare()
            result = self.whole()
        self.look_at(result)

    def look_at(self, result: Any) -> None:
        """Checks that ``result`` is finite; in check mode, keeps its digest and norm.

        Raises:
            FloatingPointError: if a number in it is not finite.
        """
        leaves = self.device.to_numpy(result)
        norm = comparing.finite(
            comparing.norm(leaves), f"the norm of the {self.case.method}'s result"
        )
        if self.network.checks:
            self.outcome.digests["result"] = comparing.digest(leaves)
            self.outcome.result_norm = norm

    def account(self, accounting: Accounting, target: Target, programs: Path) -> None:
        """Counts the method's operations, or its memory on ``target`` and whether it fits."""
        function = self.network.function(self.case.method)
        arguments = self.params, self.v, self.batch
        if self.case.quantity == "operations":
            flops = accounting.flops(function, *arguments)
            self.outcome.flops = comparing.finite(flops, f"the operations of {self.case.method}")
            return
        needed, counters, compile_seconds = accounting.memory(
            function, self.case.mode, target, programs, *arguments
        )
        self.outcome.memory_bytes = counters
        self.outcome.compile_seconds = {self.case.method: compile_seconds}
        if needed > target.memory_bytes:
            self.outcome.status = "out_of_memory"
            self.outcome.reason = (
                f"needs {cost.readable_bytes(needed)}, and {target.device} has "
                f"{cost.readable_bytes(target.memory_bytes)}; take a smaller batch"
            )

    def prepare(self) -> None:
        """Compiles the product, and the part at the point if the method has one."""
        method, mode, vectors = self.case.method, self.case.mode, self.case.vectors
        if method in self.many_vectors.METHODS:
            self.prepare_parts()
            return
        if vectors > 1:
            seeds = range(self.case.seed + 1, self.case.seed + vectors)
            all_vectors = [self.v, *map(self.network.seeded, seeds)]
            self.v, self.last_v = self.many_vectors.stacked(all_vectors), all_vectors[-1]
        self.product = self.prepared(method, mode, vectors)

    def prepare_parts(self) -> None:
        """Compiles what is computed once at a point, and the product that takes its result."""
        method, mode, start = self.case.method, self.case.mode, (self.params, self.batch)
        divide = self.many_vectors.METHODS[method]
        parts = divide(self.loss, self.params, self.v, self.batch)
        at_point = self.device.compile(parts[0], mode, *start)
        first = self.noted("at_point", Compiled(*at_point))
        state = first(*start)
        product = self.device.compile(parts[1], mode, state, self.v)
        second = self.noted(method, Compiled(*product))
        self.at_point, self.product = partial(first, *start), lambda state: second(state, self.v)

    def prepared(self, method: Method, mode: Mode, vectors: int = 1) -> Callable[[], Any]:
        """A call that computes ``method``, waits for the result and returns it."""
        program = self.network.program(method, mode, self.v, vectors)
        return partial(self.noted(method, program), self.params, self.v, self.batch)

    def noted(self, name: str, compiled: Compiled) -> Callable[..., Any]:
        """A call that waits for the program's result; records the seconds of compiling.

        Also records the bytes that the case's own program needs.
        """
        self.outcome.compile_seconds.setdefault(name, compiled.seconds)
        if name == self.case.method:
            for counter, count in compiled.memory_bytes.items():
                self.outcome.memory_bytes.setdefault(counter, count)
        return lambda *arguments: self.device.wait(compiled.program(*arguments))


def time_in_turn(measurements: list[Measurement]) -> None:
    """Times each of ``measurements``, one of which is the gradient, once in every round.

    The order within a round is shuffled with the case's seed.
    """
    case, clock = measurements[0].case, time.perf_counter
    for each in measurements:
        if each.at_point:
            timed = timing.in_turn([each.at_point], case.repetitions, clock)
            each.outcome.point_seconds = timed[0]
    calls = [each.timed_call for each in measurements]
    order = random.Random(case.seed)
    warmup = timing.in_turn(calls, case.warmup - 1, clock, order)
    timed = timing.in_turn(calls, case.repetitions, clock, order)
    gradient = next(i for i, each in enumerate(measurements) if each.case.method == "gradient")
    for place, each in enumerate(measurements):
        outcome = each.outcome
        outcome.warmup_seconds = [*outcome.warmup_seconds, *warmup[place]]
        outcome.seconds = timed[place]
        outcome.gradient_seconds = [] if place == gradient else timed[gradient]
        outcome.warnings = [*outcome.warnings, *timing.suspicions(outcome.seconds)]
