"""A network in one framework, with its weights, a batch and compiled programs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from reproduce import problems
from reproduce.measuring import comparing
from reproduce.measuring.framework import Tools
from reproduce.plan import Case, Method, Mode
from reproduce.problems.loss import LossByParts, Tree


class Compiled(NamedTuple):
    """A program, the bytes that it reports it needs, and the seconds that compiling took."""

    program: Callable[..., Any]
    memory_bytes: dict[str, int]
    seconds: float


class Network:
    """A network with its weights and a batch in one framework, shared by all cases of a setting.

    These cases differ only in method and number of vectors, and one process measures them.
    Programs and reference results that several cases need are kept here, too.
    """

    def __init__(
        self, case: Case, tools: Tools, weights: dict[str, np.ndarray], checks: bool
    ) -> None:
        self.case, self.tools, self.weights, self.checks = case, tools, weights, checks
        self.problem = problems.PROBLEMS[case.model]
        self.loss, self.params = self.build(weights)
        batch = problems.batch(self.problem, case.batch_size, case.seed)
        self.batch = tools.models.to_device(batch)
        digested = {"weights": weights, "batch": batch} if checks else {}
        self.digests = {name: comparing.digest(x.values()) for name, x in digested.items()}
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
        """``method`` compiled for vectors like ``v``; compiled only once."""
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
