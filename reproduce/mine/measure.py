"""What right products cost: their time in turn with the gradient, and memory as they run."""

import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from reproduce.measuring import comparing, cost, timing
from reproduce.measuring.framework import Own, Tree
from reproduce.mine.correct import SEED, Right, Say, first_line, percent, vector
from reproduce.mine.found import Product
from reproduce.mine.kit import Kit, of_batch

VECTORS = 4
# The approximate seconds for timing all products, and for the parts computed once at a point.
TIMING_SECONDS, POINT_SECONDS = 30.0, 2.0
FEWEST_ROUNDS, MOST_ROUNDS = 3, 50


class Subject(NamedTuple):
    """The subject of timing: the user's loss in one framework, the vector, the right products."""

    kit: Kit
    found: Own
    v: Tree
    right: Right
    functions: dict[str, Callable[..., Tree]]

    def function(self, product: Product) -> Callable[..., Tree]:
        """The function that computes ``product``; always the same object."""
        return self.functions.setdefault(product.label, self.kit.product(product, self.found))

    @property
    def arguments(self) -> tuple[Tree, Tree, Tree]:
        """Parameters, vector and batch."""
        return self.found.params, self.v, self.found.batch


class Prepared(NamedTuple):
    """A product that is ready to be timed, and the function that computes it again."""

    product: Product
    call: Callable[[], Tree]


def subject(kit: Kit, found: Own, right: Right) -> Subject:
    """The user's loss with the vector that all HVPs multiply by."""
    v = kit.own.from_numpy(vector(kit.device.to_numpy(found.params)), found.params)
    return Subject(kit, found, v, right, {})


def time_all(of: Subject, products: list[Product], say: Say) -> tuple[list[float], int | None]:
    """Times all right ``products`` in turn with the gradient, whose seconds and bytes it returns.

    The first direct method that is right is also timed for several vectors at once.
    """
    gradient = _gradient(of)
    right = [each for each in products if each.verdict == "right"]
    tried = [_tried(of, each, _prepared, say) for each in right]
    direct = [each for each in right if each.is_direct and each.method in of.kit.own.AT_ONCE]
    for one in [each for each in direct if each.verdict == "right"][:1]:
        product = Product(method=one.method, is_repaired=one.is_repaired, vectors=VECTORS)
        products.append(product)
        tried.append(_tried(of, product, _at_once, say))
    ready = [each for each in tried if each is not None]
    seconds = _in_turn([gradient.call, *(each.call for each in ready)], TIMING_SECONDS)
    for each, took in zip(ready, seconds[1:], strict=True):
        each.product.seconds, each.product.gradient_seconds = took, seconds[0]
        one = each.product
        say(f"{one.label}: {_took(one)}{_told(one)}.")
    low, median, high = np.quantile(seconds[0], [0.2, 0.5, 0.8])
    if high - low > timing.SPREAD_LIMIT * median:
        say(
            f"The gradient's own times span {(high - low) / median:.0%} of their median: another "
            "program is running; close it, and run the same command again."
        )
    return seconds[0], gradient.product.memory_bytes


def time_one(of: Subject, product: Product, program: Callable[..., Tree]) -> None:
    """Times ``program``, which computes ``product``, in turn with the gradient, if it is right."""
    call = partial(_waited, of, program, *of.arguments)
    _judge(of, product, call())
    if product.verdict == "right":
        in_turn = _in_turn([_gradient(of).call, call], TIMING_SECONDS)
        product.gradient_seconds, product.seconds = in_turn


def _gradient(of: Subject) -> Prepared:
    function = of_batch(of.kit.methods["gradient"], of.found.loss)
    try:
        return _called(of, Product(method="gradient"), function)
    except Exception:  # where torch.func refuses it, autograd computes it
        call = partial(of.found.value_and_gradient, of.found.params)
        return Prepared(Product(method="gradient"), lambda: call()[1])


def _tried(
    of: Subject, product: Product, prepare: Callable[[Subject, Product], Prepared], say: Say
) -> Prepared | None:
    """The product if it can be computed and is right; else None, and a verdict on it."""
    try:
        prepared = prepare(of, product)
    except Exception as error:
        is_too_large = isinstance(error, MemoryError) or of.kit.device.is_out_of_memory(error)
        product.verdict = "too large" if is_too_large else "refused"
        product.reason = first_line(error)
    if product.verdict == "right":
        return prepared
    say(f"{product.label}: {product.verdict.upper()} when called ({product.reason}).")
    return None


def _prepared(of: Subject, product: Product) -> Prepared:
    if product.method in of.kit.own.AT_A_POINT:
        return _divided(of, product)
    return _called(of, product, of.function(product))


def _called(of: Subject, product: Product, function: Callable[..., Tree]) -> Prepared:
    program, counters, product.compile_seconds = of.kit.own.program(function, *of.arguments)
    call = partial(_waited, of, program, *of.arguments)
    first = call()
    _note(of, product, call, first, counters)
    return Prepared(product, call)


def _divided(of: Subject, product: Product) -> Prepared:
    params, v, batch = of.arguments
    loss = of.kit.loss(product, of.found)
    divide, compile_ = of.kit.many_vectors.METHODS[product.method], of.kit.device.compile
    at_point, after = divide(loss, params, v, batch)
    first, _, first_seconds = compile_(at_point, of.kit.own.MODE, params, batch)
    state = _waited(of, first, params, batch)
    second, counters, second_seconds = compile_(after, of.kit.own.MODE, state, v)
    product.compile_seconds = first_seconds + second_seconds

    def whole() -> Tree:
        return _waited(of, second, _waited(of, first, params, batch), v)

    _note(of, product, whole, whole(), counters)
    once = partial(_waited, of, first, params, batch)
    product.point_seconds = float(np.median(_in_turn([once], POINT_SECONDS)))
    return Prepared(product, partial(_waited, of, second, state, v))


def _at_once(of: Subject, product: Product) -> Prepared:
    hvp = of.kit.many_vectors.at_once(of.kit.methods[product.method])
    function = of_batch(hvp, of.kit.loss(product, of.found))
    vectors = of.kit.many_vectors.stacked([of.v] * product.vectors)
    return _called(of._replace(v=vectors), product, function)


def _note(
    of: Subject,
    product: Product,
    call: Callable[[], Tree],
    first: Tree,
    counters: Mapping[str, int],
) -> None:
    """Notes the error of the ``first`` result, and the memory of a further call."""
    if product.method != "gradient":
        _judge(of, product, first)
    noted = dict(counters)
    of.kit.device.count_call(call, noted)
    product.memory_bytes = _bytes(noted, product.method in of.kit.own.AT_A_POINT)


def _judge(of: Subject, product: Product, result: Tree) -> None:
    """Notes the error of ``result``, and whether the user's precision explains it."""
    leaves = of.kit.device.to_numpy(result)
    if product.vectors > 1:
        leaves = [leaf[-1] for leaf in leaves]
    product.error = comparing.relative_difference(leaves, of.right.of(product))
    if not product.error <= of.right.rounding:  # nor if it is not a number
        product.verdict = "wrong"
        product.reason = f"off by {percent(product.error)}"


def _bytes(counters: dict[str, int], is_after_point: bool) -> int | None:
    if "torch_peak_allocated_bytes" in counters:
        return counters["torch_peak_allocated_bytes"] - counters["torch_allocated_before_bytes"]
    if "xla_temp_bytes" not in counters:
        return None
    other = "xla_argument_bytes" if is_after_point else "xla_output_bytes"
    return counters["xla_temp_bytes"] + counters[other]


def _in_turn(calls: list[Callable[[], Tree]], allowed_seconds: float) -> list[list[float]]:
    """Seconds of each call in every round; there are as many rounds as the time allows."""
    of_round = sum(timing.timed(call, time.perf_counter)[0] for call in calls)
    rounds = int(np.clip(allowed_seconds / of_round, FEWEST_ROUNDS, MOST_ROUNDS))
    return timing.in_turn(calls, rounds, time.perf_counter, random.Random(SEED))


def _waited(of: Subject, program: Callable[..., Tree], *arguments: Tree) -> Tree:
    return of.kit.device.wait(program(*arguments))


def _took(product: Product) -> str:
    each = " a vector" if product.vectors > 1 else ""
    gradients = np.median(product.in_gradients)
    return f"{seconds(product.seconds_of_one)}{each}, {gradients:.2f} gradients"


def _told(product: Product) -> str:
    told = ""
    if product.point_seconds:
        told += f", after {seconds(product.point_seconds)} at the point"
    if product.memory_bytes:
        told += f", {cost.readable_bytes(product.memory_bytes)}"
    if product.error is not None:
        told += f", error {product.error:.0e}"
    return told


def seconds(value: float) -> str:
    """``value`` in seconds or milliseconds, with three digits."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
