"""One case, measured in the framework that is loaded, and what it found."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

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


class Experiment:
    """A case made concrete in one framework; its finding fills while it is measured."""

    def __init__(
        self,
        case: Case,
        finding: Finding,
        methods: dict[str, Callable],
        many_vectors: ModuleType,
        models: ModuleType,
        device: ModuleType,
        weights: dict[str, np.ndarray],
        checks: bool,
    ) -> None:
        self.case, self.finding, self.methods, self.device = case, finding, methods, device
        self.many_vectors, self.checks = many_vectors, checks
        problem = problems.PROBLEMS[case.model]
        self.loss, self.params = models.build(problem, weights, case.normalisation)
        batch = problems.batch(problem, case.batch_size, case.seed)
        if checks:
            finding.digests["weights"] = measure.digest(weights.values())
            finding.digests["batch"] = measure.digest(batch.values())
        self.batch = models.to_device(batch)

        def vector(values: dict[str, np.ndarray]) -> Any:
            return models.build(problem, values, case.normalisation)[1]

        def seeded(seed: int) -> Any:
            return vector(problems.seeded_vector(weights, seed))

        if case.vector == "seeded":
            self.v = seeded(case.seed)
        else:
            # torch.compile would take one tensor under two names for one input.
            self.v = vector(weights) if case.mode == "compile" else self.params
        self.more_vectors = [seeded(case.seed + place) for place in range(1, case.vectors)]
        device.wait((self.params, self.v, self.batch))

    def measure_time(self) -> None:
        """Times the method and, right after each repetition of an HVP, the gradient."""
        gradient = call = self.prepare("gradient")
        beside, clock = None, time.perf_counter
        if self.case.method != "gradient":
            if self.case.vector == "gradient":
                self.v = gradient()
            at_point, call = self.prepare_case()
            beside = gradient
            if at_point is not None:
                call = partial(call, at_point())
                self.finding.point_seconds, _ = measure.repeat(
                    at_point, None, self.case.repetitions, clock
                )
        first_seconds, first = measure.timed(call, clock)
        self.finding.relative_difference = self.difference_from_reference(first)
        self.digest(first)
        del first
        more, _ = measure.repeat(call, beside, self.case.warmup - 1, clock)
        self.finding.warmup_seconds = [first_seconds, *more]
        values = measure.repeat(call, beside, self.case.repetitions, clock)
        self.finding.seconds, self.finding.gradient_seconds = values
        self.finding.warnings = [
            *measure.disagreement(self.finding.relative_difference),
            *measure.suspicions(self.finding.seconds),
        ]

    def difference_from_reference(self, result: Any) -> float | None:
        """‖Hv − reference‖ / ‖reference‖, against forward-over-reverse; None for itself.

        What is compiled by ``torch.compile`` is held against mode ``eager``, the gradient,
        too; and of several vectors, the last is compared.
        """
        is_compiled, is_several = self.case.mode == "compile", self.case.vectors > 1
        reference = "gradient" if self.case.method == "gradient" else REFERENCE
        if self.case.method in {"gradient", REFERENCE} and not (is_compiled or is_several):
            return None
        to_numpy, leaves = self.device.to_numpy, self.device.to_numpy(result)
        if is_several:
            self.v, leaves = self.more_vectors[-1], [leaf[-1] for leaf in leaves]
        expected = self.prepare(reference, "eager" if is_compiled else self.case.mode)()
        return measure.relative_difference(leaves, to_numpy(expected))

    def measure_memory(self, gpu: str | None) -> None:
        """Counts the memory of one call with every counter that the device has.

        NVML's spans the compilation and the first call, as in the article; the others
        the second call, when all is loaded and compiled.
        """
        counters = self.finding.memory_bytes
        with _whole_gpu_counter(counters, gpu):
            at_point, call = self.prepare_case()
            if at_point is not None:
                call = partial(_in_turn, at_point, call, counters if gpu is None else {})
            call()
        with _process_counter(counters, gpu):
            counters |= self.device.bytes_before_call()
            result = call()
            counters |= self.device.bytes_after_call()
        self.digest(result)

    def digest(self, result: Any) -> None:
        """Keeps of ``result`` what tells whether another run gives the same, in check mode."""
        if self.checks:
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
            self.v = self.many_vectors.stacked([self.v, *self.more_vectors])
        return None, self.prepare(self.case.method, self.case.mode, self.case.vectors)

    def prepare_divided(self) -> tuple[Callable[[], Any], Callable[..., Any]]:
        """A call that computes what is computed once at a point, and one that takes it."""
        divide = self.many_vectors.METHODS[self.case.method]
        at_point, product = divide(self.loss, self.params, self.v, self.batch)
        first = self.compiled("at_point", self.case.mode, at_point, self.params, self.batch)
        arguments = (first(), self.v)
        second = self.compiled(self.case.method, self.case.mode, product, *arguments)
        return first, lambda state: second(state, self.v)

    def prepare(
        self, method: Method, mode: Mode | None = None, vectors: int = 1
    ) -> Callable[[], Any]:
        """A call that computes ``method`` and returns its result once it is there."""
        function, *arguments = self.call(method, vectors)
        return self.compiled(method, mode or self.case.mode, function, *arguments)

    def compiled(
        self, name: str, mode: Mode, function: Callable, *arguments: Any
    ) -> Callable[..., Any]:
        """``function`` compiled, on ``arguments`` or others like them; what that took is noted."""
        start = time.perf_counter()
        program, program_bytes = self.device.compile(function, mode, *arguments)
        self.finding.compile_seconds.setdefault(name, time.perf_counter() - start)
        self.finding.memory_bytes |= program_bytes
        return lambda *others: self.device.wait(program(*(others or arguments)))

    def call(self, method: Method, vectors: int = 1) -> tuple[Any, ...]:
        """The function that ``method`` is of parameters, vector and batch, and these three."""
        compute = self.methods[method]
        if vectors > 1:
            compute = self.many_vectors.at_once(compute)

        def function(params: Any, v: Any, batch: Any) -> Any:
            return compute(lambda params: self.loss(params, batch), params, v)

        return function, self.params, self.v, self.batch


def _in_turn(at_point: Callable, product: Callable, counters: dict[str, int]) -> Any:
    """Both, one after the other, noting what the process holds between them."""
    state = at_point()
    counters["resident_held_bytes"] = measure.resident_bytes()
    return product(state)


def _whole_gpu_counter(counters: dict[str, int], gpu: str | None) -> AbstractContextManager[None]:
    if gpu is None:
        return nullcontext()
    return measure.nvml_peak(counters, environment.used_bytes_of(gpu))


def _process_counter(counters: dict[str, int], gpu: str | None) -> AbstractContextManager[None]:
    return measure.resident_peak(counters) if gpu is None else nullcontext()
