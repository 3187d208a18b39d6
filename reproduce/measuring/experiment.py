"""Measuring one case in the framework that is loaded."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from reproduce import problems
from reproduce.machine import memory
from reproduce.machine.gpu import used_bytes_of
from reproduce.machine.target import Target
from reproduce.measuring import comparing, cost, timing
from reproduce.measuring.framework import Accounting, Tools
from reproduce.plan import GAUSS_NEWTON, LOW_PRECISION, REFERENCE, Case, Method, Mode
from reproduce.problems.loss import LossByParts, Tree
from reproduce.results.rows import Status


class Finding(msgspec.Struct, kw_only=True):
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


class Compiled(NamedTuple):
    """A program, the bytes that it reports it needs, and the seconds that compiling took."""

    program: Callable[..., Any]
    memory_bytes: dict[str, int]
    seconds: float


class Instance:
    """A network with its weights and a batch in one framework, shared by all cases of a setting.

    These cases differ only in method and number of vectors, and one process measures them. The
    instance also keeps programs and reference results that several cases need.
    """

    def __init__(
        self, case: Case, tools: Tools, weights: dict[str, np.ndarray], checks: bool
    ) -> None:
        self.case, self.tools, self.weights, self.checks = case, tools, weights, checks
        self.problem = problems.PROBLEMS[case.model]
        models = tools.models
        self.loss, self.params = self.build(weights)
        batch = problems.batch(self.problem, case.batch_size, case.seed)
        self.batch = models.to_device(batch)
        self.digests = {}
        if checks:
            self.digests["weights"] = comparing.digest(weights.values())
            self.digests["batch"] = comparing.digest(batch.values())
        if case.vector == "seeded":
            self.v = self.seeded(case.seed)
        else:
            # torch.compile would merge params and v into one input if they were the same tensors.
            self.v = self.vector(weights) if case.mode == "compile" else self.params
        self.programs: dict[tuple[Method, Mode, int], Compiled] = {}
        self.references: dict[tuple[Method, int], list[np.ndarray]] = {}
        tools.device.wait((self.params, self.v, self.batch))

    def function(self, method: Method, vectors: int = 1) -> Callable[[Any, Any, Any], Any]:
        """``method`` as a function of parameters, one vector or several, and batch."""
        compute, loss = self.tools.methods[method], self.loss
        if vectors > 1:
            compute = self.tools.many_vectors.at_once(compute)

        def function(params: Any, v: Any, batch: Any) -> Any:
            return compute(loss.at(batch), params, v)

        return function

    def program(self, method: Method, mode: Mode, v: Any, vectors: int = 1) -> Compiled:
        """``method`` compiled for vectors like ``v``; compiled only once per instance."""
        key = method, mode, vectors
        if key not in self.programs:
            function, compile_ = self.function(method, vectors), self.tools.device.compile
            self.programs[key] = Compiled(*compile_(function, mode, self.params, v, self.batch))
        return self.programs[key]

    def compile_side_by_side(self, methods: set[Method], threads: int) -> None:
        """Compiles those of ``methods`` that are a single program, with jit.

        A failure is ignored here, and comes back when the program is asked for.
        """

        def compile_(method: Method) -> None:
            with suppress(Exception):
                self.program(method, "jit", self.v)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(compile_, methods & self.tools.methods.keys()))

    def vector(self, values: dict[str, np.ndarray]) -> Any:
        """``values`` as a tree like the parameters."""
        return self.build(values)[1]

    def build(self, weights: dict[str, np.ndarray]) -> tuple[LossByParts, Tree]:
        """The loss of the case's network, and its parameters."""
        case = self.case
        kind = case.normalisation, case.layer_norm, case.recorded
        return self.tools.models.build(self.problem, weights, *kind)

    def seeded(self, seed: int) -> Any:
        """The normal vector of ``seed``, a tree like the parameters."""
        return self.vector(problems.seeded_vector(self.weights, seed))


class Experiment:
    """A case of an instance; measuring it fills its finding."""

    def __init__(self, case: Case, finding: Finding, instance: Instance) -> None:
        self.case, self.finding, self.instance, self.v = case, finding, instance, instance.v
        self.loss, self.params, self.batch = instance.loss, instance.params, instance.batch
        self.many_vectors, self.device = instance.tools.many_vectors, instance.tools.device
        finding.digests |= instance.digests

    def prepare_timing(self) -> None:
        """Compiles what is timed, calls it, compares its result and counts its memory.

        The allocator's memory is that of a second call, because on a GPU libraries allocate
        workspaces in the first call and keep them.
        """
        self.at_point, call = self.prepare_case()
        seconds, first = timing.timed(self.whole(call), time.perf_counter)
        self.finding.warmup_seconds = [seconds]
        if self.case.method == "gradient" and self.case.vector == "gradient":
            self.instance.v = first  # still attached to autograd's graph, as in the article
        self.look_at(first)
        self.finding.relative_difference = self.difference_from_reference(first)
        if self.case.method not in LOW_PRECISION:
            self.finding.warnings = comparing.disagreement(
                self.finding.relative_difference,
                self.case.method == "reverse_over_forward" and self.case.layer_norm == "native",
            )
        del first
        self.device.count_call(self.whole(call), self.finding.memory_bytes)
        self.timed_call = call if self.at_point is None else partial(call, self.at_point())

    def whole(self, call: Callable[..., Any]) -> Callable[[], Any]:
        """The whole method as one call: its part at the point, if any, then the product."""
        at_point = self.at_point
        return call if at_point is None else lambda: call(at_point())

    def difference_from_reference(self, result: Any) -> float | None:
        """‖Hv − reference‖ / ‖reference‖, where forward-over-reverse is the reference.

        None for the reference itself, and for a Gauss-Newton product, which is another quantity.
        A gradient is compared with the gradient. Results of ``torch.compile`` are compared with
        mode ``eager``. If there are several vectors, the last is compared.
        """
        case, references = self.case, self.instance.references
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
            expected = self.prepare(method, mode)()
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
        counters = self.finding.memory_bytes
        self.at_point, call = self.prepare_case()
        whole = self.whole(call)
        if gpu is None:
            with self.device.allocator_peak(counters):
                whole()
        peak = memory.resident_peak if gpu is None else self.device.allocator_peak
        with peak(counters):
            result = whole()
        self.look_at(result)

    def measure_nvml(self, gpu: str) -> None:
        """Polls the used memory of the whole GPU during compilation and the first call.

        The article's memory figures show this number.
        """
        with memory.nvml_peak(self.finding.memory_bytes, used_bytes_of(gpu)):
            self.at_point, call = self.prepare_case()
            result = self.whole(call)()
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
        if self.instance.checks:
            self.finding.digests["result"] = comparing.digest(leaves)
            self.finding.result_norm = norm

    def account(self, accounting: Accounting, target: Target, programs: Path) -> None:
        """Counts the method's operations, or its memory on ``target`` and whether it fits."""
        function = self.instance.function(self.case.method)
        arguments = self.params, self.v, self.batch
        if self.case.quantity == "operations":
            flops = accounting.flops(function, *arguments)
            self.finding.flops = comparing.finite(flops, f"the operations of {self.case.method}")
            return
        needed, counters, compile_seconds = accounting.memory(
            function, self.case.mode, target, programs, *arguments
        )
        self.finding.memory_bytes = counters
        self.finding.compile_seconds = {self.case.method: compile_seconds}
        if needed > target.memory_bytes:
            self.finding.status = "out_of_memory"
            self.finding.reason = (
                f"needs {cost.readable_bytes(needed)}, and {target.device} has "
                f"{cost.readable_bytes(target.memory_bytes)}; take a smaller batch"
            )

    def prepare_case(self) -> tuple[Callable[[], Any] | None, Callable[..., Any]]:
        """A call for the case's part at the point (None for most methods), and one for the rest."""
        if self.case.method in self.many_vectors.METHODS:
            return self.prepare_divided()
        if self.case.vectors > 1:
            seeds = range(self.case.seed + 1, self.case.seed + self.case.vectors)
            vectors = [self.v, *map(self.instance.seeded, seeds)]
            self.v, self.last_v = self.many_vectors.stacked(vectors), vectors[-1]
        return None, self.prepare(self.case.method, self.case.mode, self.case.vectors)

    def prepare_divided(self) -> tuple[Callable[[], Any], Callable[..., Any]]:
        """A call for the part that is computed once at a point, and one that takes its result."""
        method, mode, start = self.case.method, self.case.mode, (self.params, self.batch)
        divide = self.many_vectors.METHODS[method]
        parts = divide(self.loss, self.params, self.v, self.batch)
        at_point = self.device.compile(parts[0], mode, *start)
        first = self.noted("at_point", Compiled(*at_point))
        state = first(*start)
        product = self.device.compile(parts[1], mode, state, self.v)
        second = self.noted(method, Compiled(*product))
        return partial(first, *start), lambda state: second(state, self.v)

    def prepare(
        self, method: Method, mode: Mode | None = None, vectors: int = 1
    ) -> Callable[[], Any]:
        """A call that computes ``method``, waits for the result and returns it."""
        program = self.instance.program(method, mode or self.case.mode, self.v, vectors)
        return partial(self.noted(method, program), self.params, self.v, self.batch)

    def noted(self, name: str, compiled: Compiled) -> Callable[..., Any]:
        """A call that waits for the program's result; records the seconds of compiling.

        Also records the bytes that the case's own program needs.
        """
        self.finding.compile_seconds.setdefault(name, compiled.seconds)
        if name == self.case.method:
            for counter, count in compiled.memory_bytes.items():
                self.finding.memory_bytes.setdefault(counter, count)
        return lambda *arguments: self.device.wait(compiled.program(*arguments))


def time_in_turn(experiments: list[Experiment]) -> None:
    """Times each of ``experiments``, one of which is the gradient, once in every round.

    The order within a round is shuffled with the case's seed.
    """
    case, clock = experiments[0].case, time.perf_counter
    for each in experiments:
        if each.at_point is not None:
            timed = timing.in_turn([each.at_point], case.repetitions, clock)
            each.finding.point_seconds = timed[0]
    calls = [each.timed_call for each in experiments]
    order = random.Random(case.seed)
    warmup = timing.in_turn(calls, case.warmup - 1, clock, order)
    timed = timing.in_turn(calls, case.repetitions, clock, order)
    gradient = next(i for i, each in enumerate(experiments) if each.case.method == "gradient")
    for place, each in enumerate(experiments):
        finding = each.finding
        finding.warmup_seconds = [*finding.warmup_seconds, *warmup[place]]
        finding.seconds = timed[place]
        finding.gradient_seconds = [] if place == gradient else timed[gradient]
        finding.warnings = [*finding.warnings, *timing.suspicions(finding.seconds)]
