"""One case, measured in the framework that is loaded, and what it found."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from reproduce import cost, environment, measure, problems
from reproduce.plan import Case, Method, Mode
from reproduce.rows import Status
from reproduce.target import Target

REFERENCE = "forward_over_reverse"


class Finding(msgspec.Struct, kw_only=True):
    """What a worker hands back: the measured part of a row, under the row's names."""

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


class Tools(NamedTuple):
    """What a framework brings: its methods by name, and the modules of this package for it."""

    methods: dict[str, Callable]
    many_vectors: ModuleType
    models: ModuleType
    device: ModuleType


class Compiled(NamedTuple):
    """A program, the bytes that it says it needs, and the seconds that compiling it took."""

    program: Callable[..., Any]
    memory_bytes: dict[str, int]
    seconds: float


class Setting:
    """A network with its weights and a batch, made concrete in one framework.

    It is what cases share that are measured by one process, which differ in method and number
    of vectors alone; and what one of them has computed that others need.
    """

    def __init__(
        self,
        case: Case,
        tools: Tools,
        weights: dict[str, np.ndarray],
        checks: bool,
        shared_programs: Path | None,
    ) -> None:
        self.case, self.tools, self.weights, self.checks = case, tools, weights, checks
        self.shared_programs = shared_programs
        self.problem = problems.PROBLEMS[case.model]
        models = tools.models
        self.loss, self.params = models.build(self.problem, weights, case.normalisation)
        batch = problems.batch(self.problem, case.batch_size, case.seed)
        self.batch = models.to_device(batch)
        self.digests = {}
        if checks:
            self.digests["weights"] = measure.digest(weights.values())
            self.digests["batch"] = measure.digest(batch.values())
        if case.vector == "seeded":
            self.v = self.seeded(case.seed)
        else:
            # torch.compile would take one tensor under two names for one input.
            self.v = self.vector(weights) if case.mode == "compile" else self.params
        self.programs: dict[tuple, Compiled] = {}
        self.references: dict[tuple, list[np.ndarray]] = {}
        self.gradient: Any = None
        tools.device.wait((self.params, self.v, self.batch))

    def vector(self, values: dict[str, np.ndarray]) -> Any:
        """``values`` as a tree like the parameters."""
        return self.tools.models.build(self.problem, values, self.case.normalisation)[1]

    def seeded(self, seed: int) -> Any:
        """The normal vector of ``seed``, a tree like the parameters."""
        return self.vector(problems.seeded_vector(self.weights, seed))


class Experiment:
    """A case in its setting; its finding fills while it is measured."""

    def __init__(self, case: Case, finding: Finding, setting: Setting) -> None:
        self.case, self.finding, self.setting, self.v = case, finding, setting, setting.v
        self.loss, self.params, self.batch = setting.loss, setting.params, setting.batch
        self.methods, self.many_vectors, _, self.device = setting.tools
        finding.digests |= setting.digests

    def prepare_timing(self) -> None:
        """Makes ready what is timed, calls it for the first time, and compares its result.

        That call's memory is counted, with what it computes at a point. On a GPU it can have
        workspaces that libraries keep.
        """
        self.timed_call = self.gradient = self.prepare("gradient")
        clock, at_point = time.perf_counter, None
        if self.case.method != "gradient":
            if self.case.vector == "gradient":
                if self.setting.gradient is None:
                    self.setting.gradient = self.gradient()
                self.v = self.setting.gradient
            at_point, self.timed_call = self.prepare_case()
        with self.device.allocator_peak(self.finding.memory_bytes):
            if at_point is not None:
                self.timed_call = partial(self.timed_call, at_point())
            first_seconds, first = measure.timed(self.timed_call, clock)
        self.finding.warmup_seconds = [first_seconds]
        if at_point is not None:
            timed = measure.in_turn([at_point], self.case.repetitions, clock)
            self.finding.point_seconds = timed[0]
        self.finding.relative_difference = self.difference_from_reference(first)
        self.finding.warnings = measure.disagreement(self.finding.relative_difference)
        self.digest(first)

    def difference_from_reference(self, result: Any) -> float | None:
        """‖Hv − reference‖ / ‖reference‖, against forward-over-reverse; None for itself.

        What is compiled by ``torch.compile`` is held against mode ``eager``, the gradient,
        too; and of several vectors, the last is compared.
        """
        case, references = self.case, self.setting.references
        method = "gradient" if case.method == "gradient" else REFERENCE
        mode = "eager" if case.mode == "compile" else case.mode
        leaves = self.device.to_numpy(result)
        if (case.method, case.mode, case.vectors) == (method, mode, 1):
            references[method, 1] = leaves
            return None
        if case.vectors > 1:
            self.v, leaves = self.last_v, [leaf[-1] for leaf in leaves]
        if (method, case.vectors) not in references:
            expected = self.prepare(method, mode)()
            references[method, case.vectors] = self.device.to_numpy(expected)
        return measure.relative_difference(leaves, references[method, case.vectors])

    def measure_memory(self, gpu: str | None) -> None:
        """Counts the memory of one call with every counter that the device has.

        NVML's spans the compilation and the first call, as in the article, and the
        allocator's the second, when all is loaded and compiled. On a CPU the allocator's spans
        the first, and the resident set's the second, without the profiler's own notes.
        """
        counters = self.finding.memory_bytes
        allocator = partial(self.device.allocator_peak, counters)
        with _whole_gpu_counter(counters, gpu):
            at_point, call = self.prepare_case()
            whole = call if at_point is None else lambda: call(at_point())
            with allocator() if gpu is None else nullcontext():
                whole()
        with measure.resident_peak(counters) if gpu is None else allocator():
            result = whole()
        self.digest(result)

    def digest(self, result: Any) -> None:
        """Keeps of ``result`` what tells whether another run gives the same, in check mode."""
        if self.setting.checks:
            leaves = self.device.to_numpy(result)
            self.finding.digests["result"] = measure.digest(leaves)
            self.finding.result_norm = measure.norm(leaves)

    def account(self, accounting: ModuleType, target: Target, programs: Path) -> None:
        """Counts the method's operations, or its memory on ``target`` and whether it fits."""
        function, *arguments = self.call(self.case.method)
        if self.case.quantity == "operations":
            self.finding.flops = accounting.flops(function, *arguments)
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
        """What the case computes once at a point, None for most, and a call that takes it."""
        if self.case.method in self.many_vectors.METHODS:
            return self.prepare_divided()
        if self.case.vectors > 1:
            seeds = range(self.case.seed + 1, self.case.seed + self.case.vectors)
            vectors = [self.v, *map(self.setting.seeded, seeds)]
            self.v, self.last_v = self.many_vectors.stacked(vectors), vectors[-1]
        return None, self.prepare(self.case.method, self.case.mode, self.case.vectors)

    def prepare_divided(self) -> tuple[Callable[[], Any], Callable[..., Any]]:
        """A call that computes what is computed once at a point, and one that takes it."""
        method, mode, start = self.case.method, self.case.mode, (self.params, self.batch)
        divide = self.many_vectors.METHODS[method]
        parts = cache(partial(divide, self.loss, self.params, self.v, self.batch))
        at_point = self.compiled(f"{method}-at_point", lambda: parts()[0], mode, *start)
        first = self.noted("at_point", at_point)
        state = first(*start)
        product = self.compiled(f"{method}-product", lambda: parts()[1], mode, state, self.v)
        second = self.noted(method, product)
        return partial(first, *start), lambda state: second(state, self.v)

    def prepare(
        self, method: Method, mode: Mode | None = None, vectors: int = 1
    ) -> Callable[[], Any]:
        """A call that computes ``method`` and returns its result once it is there.

        It is compiled once in a setting.
        """
        mode = mode or self.case.mode
        function, *arguments = self.call(method, vectors)
        programs, key = self.setting.programs, (method, mode, vectors)
        if key not in programs:
            name = f"{method}-{vectors}"
            programs[key] = self.compiled(name, lambda: function, mode, *arguments)
        return partial(self.noted(method, programs[key]), *arguments)

    def compiled(
        self, name: str, make: Callable[[], Callable], mode: Mode, *arguments: Any
    ) -> Compiled:
        """The function that ``make`` makes, compiled for ``arguments`` and others like them.

        Where another process has kept the program, ``make`` need not be called.
        """
        shared = self.setting.shared_programs
        kept = shared and shared / f"{self.case.problem}-{name}"
        return Compiled(*self.device.compile(make, mode, kept, *arguments))

    def noted(self, name: str, compiled: Compiled) -> Callable[..., Any]:
        """A call that waits for the program's result; what it took to compile is noted.

        So are the bytes that the case's own program needs, which comes before those that it is
        compared with.
        """
        self.finding.compile_seconds.setdefault(name, compiled.seconds)
        if name == self.case.method:
            for counter, count in compiled.memory_bytes.items():
                self.finding.memory_bytes.setdefault(counter, count)
        return lambda *arguments: self.device.wait(compiled.program(*arguments))

    def call(self, method: Method, vectors: int = 1) -> tuple[Any, ...]:
        """The function that ``method`` is of parameters, vector and batch, and these three."""
        compute, loss = self.methods[method], self.loss
        if vectors > 1:
            compute = self.many_vectors.at_once(compute)

        def function(params: Any, v: Any, batch: Any) -> Any:
            return compute(lambda params: loss(params, batch), params, v)

        return function, self.params, self.v, self.batch


def time_in_turn(experiments: list[Experiment]) -> None:
    """Times each of ``experiments`` and then the gradient, in every round."""
    hvps = [each for each in experiments if each.case.method != "gradient"]
    calls = [*(each.timed_call for each in hvps), experiments[0].gradient]
    case, clock = experiments[0].case, time.perf_counter
    warmup = measure.in_turn(calls, case.warmup - 1, clock)
    timed = measure.in_turn(calls, case.repetitions, clock)
    for each in experiments:
        place = hvps.index(each) if each in hvps else -1
        finding = each.finding
        finding.warmup_seconds = [*finding.warmup_seconds, *warmup[place]]
        finding.seconds = timed[place]
        finding.gradient_seconds = timed[-1] if each in hvps else []
        finding.warnings = [*finding.warnings, *measure.suspicions(finding.seconds)]


def _whole_gpu_counter(counters: dict[str, int], gpu: str | None) -> AbstractContextManager[None]:
    if gpu is None:
        return nullcontext()
    return measure.nvml_peak(counters, environment.used_bytes_of(gpu))
