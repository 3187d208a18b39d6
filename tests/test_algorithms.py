"""Inverse-HVPs, Newton steps and hypergradients: against dense solves, SciPy and differences."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from cases import FRAMEWORKS, array, flat, random_like
from hessians import failing_after, network, normal, symmetric
from scipy.sparse.linalg import LinearOperator, cg

from reproduce.algorithms.conjugate_gradient import conjugate_gradient
from reproduce.algorithms.ending import Ending
from reproduce.algorithms.gradient_descent import gradient_descent
from reproduce.algorithms.hypergradient import hypergradient
from reproduce.algorithms.neumann import neumann
from reproduce.algorithms.newton import newton_step
from reproduce.algorithms.solve import solve
from reproduce.algorithms.vector import Hessian, Vector

EIGENVALUES = [0.5, 1.0, 2.0, 3.0, 7.0]
METHODS = {
    "conjugate_gradient": conjugate_gradient,
    "neumann": partial(neumann, step=2 / 7.5),
    "gradient_descent": partial(gradient_descent, step=2 / 7.5),
    "gradient_descent_of_best_steps": gradient_descent,
}


def first_iterates(method, matrix, b, count):
    """v_1, …, v_count of ``method`` from zero."""
    iterates = method(Hessian(lambda v: matrix @ v), Vector(0 * b), Vector(-b))
    return [v.tree for _, (v, _) in zip(range(count + 1), iterates, strict=False)][1:]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_solution_of_a_dense_solve(method):
    hessian, b = symmetric(EIGENVALUES), normal(5)
    solution = solve(lambda v: hessian @ v, b, method=METHODS[method], tolerance=1e-12)
    assert solution.ending is Ending.CONVERGED
    np.testing.assert_allclose(solution.v, np.linalg.solve(hessian, b), rtol=1e-10)


@pytest.mark.parametrize("method", [conjugate_gradient, gradient_descent])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_damped_inverse_hvp_of_a_network_is_that_of_its_dense_hessian(framework, method):
    hvp, params, dense = network(framework)
    b = random_like(framework, params)
    lowest, *_, highest = np.linalg.eigvalsh(dense)
    damping = highest / 4 - lowest
    solution = solve(hvp, b, method=method, damping=damping, tolerance=1e-11)
    assert solution.ending is Ending.CONVERGED
    assert {name: value.shape for name, value in solution.v.items()} == {
        name: value.shape for name, value in params.items()
    }
    expected = np.linalg.solve(dense + damping * np.eye(len(dense)), flat(b))
    np.testing.assert_allclose(flat(solution.v), expected, rtol=1e-8)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_indefinite_hessian_of_a_network_is_met_as_negative_curvature(framework):
    hvp, params, dense = network(framework)
    assert np.linalg.eigvalsh(dense)[0] < 0
    solution = solve(hvp, random_like(framework, params), tolerance=1e-12)
    assert solution.ending is Ending.NEGATIVE_CURVATURE


def test_conjugate_gradients_go_where_scipys_go():
    # Worse conditioned, the two would part: rounding grows tenfold from step to step.
    hessian, b = symmetric(np.geomspace(0.1, 1, 20)), normal(20)
    operator = LinearOperator(hessian.shape, matvec=lambda v: hessian @ v, dtype=float)
    for count, ours in enumerate(first_iterates(conjugate_gradient, hessian, b, 15), start=1):
        theirs, _ = cg(operator, b, rtol=0, maxiter=count)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "rate"),
    [
        (conjugate_gradient, lambda c: (np.sqrt(c) - 1) / (np.sqrt(c) + 1)),
        (gradient_descent, lambda c: (c - 1) / (c + 1)),
    ],
)
def test_errors_fall_at_the_rate_that_the_condition_number_promises(method, rate):
    hessian, b = symmetric(np.geomspace(0.1, 1, 20)), normal(20)
    exact = np.linalg.solve(hessian, b)
    energy = lambda error: np.sqrt(error @ hessian @ error)  # noqa: E731
    for count, v in enumerate(first_iterates(method, hessian, b, 20), start=1):
        assert energy(v - exact) <= 2 * rate(10) ** count * energy(exact)


def test_conjugate_gradients_need_an_hvp_for_each_distinct_eigenvalue_and_one_to_verify():
    hessian = symmetric([1.0] * 10 + [4.0] * 10 + [9.0])
    solution = solve(lambda v: hessian @ v, normal(21), tolerance=1e-10)
    assert (solution.ending, solution.hvps) == (Ending.CONVERGED, 4)


def test_neumann_iterations_are_gradient_descent_of_the_same_step():
    hessian, b = symmetric(EIGENVALUES), normal(5)
    pairs = (
        first_iterates(partial(method, step=0.1), hessian, b, 30)
        for method in (neumann, gradient_descent)
    )
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_best_step_leaves_no_slope_along_its_direction():
    hessian, b = symmetric(EIGENVALUES), normal(5)
    before = -b
    for v in first_iterates(gradient_descent, hessian, b, 5):
        after = hessian @ v - b
        assert abs(before @ after) < 1e-12 * (before @ before)
        before = after


@pytest.mark.parametrize("method", [conjugate_gradient, gradient_descent])
def test_a_direction_without_curvature_ends_at_once_and_damping_mends_it(method):
    hessian, b = np.diag([1.0, -1.0]), np.array([1.0, 1.0])
    solution = solve(lambda v: hessian @ v, b, method=method)
    assert (solution.ending, solution.hvps) == (Ending.NEGATIVE_CURVATURE, 1)
    damped = solve(lambda v: hessian @ v, b, method=method, damping=2.0, tolerance=1e-12)
    assert damped.ending is Ending.CONVERGED
    np.testing.assert_allclose(damped.v, [1 / 3, 1])


def test_a_singular_hessian_gives_the_shortest_solution_if_there_is_any():
    hessian, b = symmetric([0.0, 0.0, 1.0, 2.0, 5.0]), normal(5)
    within = hessian @ b
    solution = solve(lambda v: hessian @ v, within, tolerance=1e-10)
    assert (solution.ending, solution.hvps) == (Ending.CONVERGED, 4)
    np.testing.assert_allclose(solution.v, np.linalg.pinv(hessian) @ within, rtol=1e-8)
    without = solve(lambda v: hessian @ v, b, tolerance=1e-10, limit=100)
    assert without.ending in {Ending.LIMIT, Ending.NEGATIVE_CURVATURE}


def test_the_limit_is_kept_and_counts_the_hvp_of_the_start():
    hessian, b, calls = symmetric(EIGENVALUES), normal(5), []

    def hvp(v):
        calls.append(v)
        return hessian @ v

    from_zero = solve(hvp, b, tolerance=1e-12, limit=3)
    from_b = solve(hvp, b, b, tolerance=1e-12, limit=3)
    assert from_zero.ending is from_b.ending is Ending.LIMIT
    assert (from_zero.hvps, from_b.hvps, len(calls)) == (3, 3, 6)
    assert from_b.residual_norm == pytest.approx(np.linalg.norm(hessian @ from_b.v - b))


def test_the_solution_is_a_start_that_needs_one_hvp():
    hessian, b = symmetric(EIGENVALUES), normal(5)
    again = solve(lambda v: hessian @ v, b, np.linalg.solve(hessian, b))
    assert (again.ending, again.hvps) == (Ending.CONVERGED, 1)


def test_numbers_that_are_not_finite_break_a_method_down():
    hessian, b = symmetric(EIGENVALUES), normal(5)
    nan = solve(lambda v: hessian @ v * np.nan, b)
    assert (nan.ending, nan.hvps) == (Ending.BREAKDOWN, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        too_long = solve(lambda v: hessian @ v, b, method=partial(neumann, step=1.0))
    assert too_long.ending is Ending.BREAKDOWN


def typed(framework, values, dtype):
    """``values`` as an array of ``dtype``."""
    if framework == "torch":
        return torch.tensor(values, dtype=getattr(torch, dtype))
    values = values.astype(jax.numpy.dtype(dtype))
    return jax.numpy.asarray(values) if framework == "jax" else values


ARRAYS = ("numpy", "jax", "torch")
SCALES = {
    "float64": [1e-200, 1e-300, 1e200, 1e307],
    "float32": [1e-25, 1e-37, 1e25, 1e37],
    "bfloat16": [1e-25, 1e25],
    "float16": [1e-3, 1e3],
}


@pytest.mark.parametrize(
    ("framework", "dtype", "scale"),
    [
        (framework, dtype, scale)
        for framework in ARRAYS
        for dtype, scales in SCALES.items()
        for scale in scales
        if (framework, dtype) != ("numpy", "bfloat16")  # its products with scalars are in float32
    ],
)
def test_the_size_of_b_changes_neither_ending_nor_digits(framework, dtype, scale):
    diagonal = np.array([1.0, 2.0, 4.0, 8.0])
    matrix, b = (typed(framework, values, dtype) for values in (diagonal, scale * diagonal))
    solution = solve(lambda v: matrix * v, b, tolerance=1e-2)
    assert (solution.ending, solution.v.dtype) == (Ending.CONVERGED, b.dtype)
    found = np.array([float(number) for number in solution.v])
    assert np.linalg.norm(diagonal * (found / scale - 1)) <= 1.1e-2 * np.linalg.norm(diagonal)
    assert solution.residual_norm > 0 or (found == found[0]).all()


@pytest.mark.parametrize("framework", ARRAYS)
def test_products_of_half_precision_are_summed_in_double(framework):
    for dtype, count in (("float16", 100_000), ("bfloat16", 10_000)):
        vector = Vector([typed(framework, np.full(count, 3.0), dtype)])
        assert vector @ vector == 9 * count
        assert vector.norm() == math.sqrt(9 * count)


def test_jaxs_products_are_summed_in_double_where_it_is_set_to_single():
    with jax.enable_x64(False):
        small = Vector({"w": jax.numpy.full(3, 1e-30)})
        assert small.norm() == pytest.approx(math.sqrt(3) * 1e-30)
        solution = solve(lambda v: {"w": 2 * v["w"]}, small.tree)
        assert solution.v["w"].dtype == "float32"
        np.testing.assert_allclose(solution.v["w"], 5e-31, rtol=1e-6)


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-160, 1.0, 1e160, 1e308])
def test_a_norm_is_right_over_the_whole_range_of_double(scale):
    b = Vector({"none": None, "b": scale * np.array([1.0, 0, -1]), "empty": np.zeros(0)})
    assert b.norm() == pytest.approx(math.hypot(scale, scale), rel=1e-12)
    assert (0.0 * b).norm() == 0
    assert math.isnan(Vector([np.array([np.nan, np.inf]), np.array([1.0])]).norm())
    assert Vector([np.array([1.0]), np.array([1.0, -np.inf])]).norm() == math.inf


def test_a_single_precision_solution_below_its_range_is_not_called_converged():
    b = np.full(3, 2e-38, "float32")
    solution = solve(lambda v: 1e5 * v, b)
    assert solution.ending is Ending.PRECISION
    assert solution.residual_norm > 1e-6 * np.linalg.norm(b.astype(float))
    assert solve(lambda v: v, b).ending is Ending.CONVERGED


@pytest.mark.parametrize("condition", [10, 1e3, 1e5])
@pytest.mark.parametrize("factor", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("method", [conjugate_gradient, gradient_descent])
def test_what_is_called_converged_has_a_true_residual_within_the_tolerance(
    method, factor, condition
):
    hessian = symmetric(np.geomspace(1 / condition, 1, 20)).astype("float32")
    b = normal(20).astype("float32")
    solution = solve(lambda v: hessian @ v, b, factor * b, method=method)
    true = np.linalg.norm(hessian.astype(float) @ solution.v - b) / np.linalg.norm(b)
    assert solution.ending in {Ending.CONVERGED, Ending.PRECISION, Ending.LIMIT}
    if solution.ending is Ending.CONVERGED:
        assert true <= 1.5e-6  # the HVP in float32 rounds, too
    if solution.ending is Ending.PRECISION:
        assert solution.residual_norm > 1e-6 * np.linalg.norm(b)
    if condition == 10 and method is conjugate_gradient:
        assert solution.ending is Ending.CONVERGED


@pytest.mark.parametrize("tolerance", [0.0, 1e-17, 1e-200])
@pytest.mark.parametrize("method", METHODS)
def test_a_tolerance_below_the_arrays_precision_ends_as_such_with_the_solution(method, tolerance):
    hessian, b = symmetric(EIGENVALUES), normal(5)
    solution = solve(lambda v: hessian @ v, b, method=METHODS[method], tolerance=tolerance)
    assert solution.ending is Ending.PRECISION
    assert solution.hvps < 500
    np.testing.assert_allclose(solution.v, np.linalg.solve(hessian, b), rtol=1e-13)
    true = np.linalg.norm(hessian @ solution.v - b)
    assert solution.residual_norm == pytest.approx(true, abs=1e-15)


@pytest.mark.parametrize("start", [None, np.ones(5), np.full(5, 1e300)])
@pytest.mark.parametrize("method", METHODS)
def test_the_solution_of_nothing_is_zero_at_no_hvp(method, start):
    hessian = symmetric(EIGENVALUES)
    solution = solve(lambda v: hessian @ v, np.zeros(5), start, method=METHODS[method])
    assert (solution.ending, solution.hvps, solution.residual_norm) == (Ending.CONVERGED, 0, 0)
    assert (solution.v == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_after_a_breakdown_the_last_good_solution_is_returned(method, good, bad):
    hessian, b = symmetric(EIGENVALUES), normal(5)
    with np.errstate(invalid="ignore"):
        found = solve(failing_after(good, hessian, bad), b, method=METHODS[method])
    expected = [0 * b, *first_iterates(METHODS[method], hessian, b, 3)][good]
    assert (found.ending, found.hvps) == (Ending.BREAKDOWN, good + 1)
    np.testing.assert_allclose(found.v, expected, rtol=1e-12)
    assert found.residual_norm == pytest.approx(np.linalg.norm(hessian @ expected - b))


class Layer(NamedTuple):
    """A tree of which one leaf can be missing."""

    weight: Any
    bias: Any


@pytest.mark.parametrize("framework", ARRAYS)
def test_trees_can_be_named_tuples_and_have_leaves_of_none(framework):
    single, double = (typed(framework, normal(3), "float64") for _ in range(2))
    b = {"z": Layer(single, None), "a": [Layer(double, single)]}

    def hvp(v):
        (last,) = v["a"]
        return {"a": [Layer(4 * last.weight, last.bias)], "z": Layer(2 * v["z"].weight, None)}

    solution = solve(hvp, b, {"a": b["a"], "z": b["z"]})
    assert (solution.ending, list(solution.v)) == (Ending.CONVERGED, ["a", "z"])
    assert (type(solution.v["z"]), solution.v["z"].bias) == (Layer, None)
    np.testing.assert_allclose(solution.v["z"].weight, single / 2)
    np.testing.assert_allclose(solution.v["a"][0].weight, double / 4)


def test_an_hvp_is_given_the_order_of_b_whatever_order_it_returns():
    given, b = [], {"z": normal(2), "a": normal(3)}

    def hvp(v):
        given.append(list(v))
        return {"a": 3 * v["a"], "z": 2 * v["z"]}

    assert solve(hvp, b).ending is Ending.CONVERGED
    assert given == [["z", "a"]] * len(given)


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
@pytest.mark.parametrize("framework", ARRAYS)
def test_numbers_that_are_not_real_and_floating_are_refused(framework, dtype):
    wrong, right = (typed(framework, np.ones(2), each) for each in (dtype, "float32"))
    for arguments in ({"b": [right, wrong]}, {"b": [right, right], "v": [right, wrong]}):
        with pytest.raises(TypeError, match=f"real floating-point.*{dtype}.*convert it"):
            solve(lambda v: v, **arguments)
    with pytest.raises(TypeError, match="of int; convert it"):
        solve(lambda v: v, 3)


@pytest.mark.parametrize("shape", [(3, 1), (1,), ()])
def test_an_hvp_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="return a tree like v"):
        solve(lambda v: np.ones(shape), normal(3))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_trees_keep_their_order_and_numbers_their_precision(framework):
    single, double = normal(3).astype("float32"), normal((2, 2))
    b = {"z": [array(framework, single)], "a": (array(framework, double),)}

    def hvp(v):
        return {"z": [2 * v["z"][0]], "a": (3 * v["a"][0],)}

    solution = solve(hvp, b, damping=1.0, tolerance=1e-5)
    assert (list(solution.v), solution.ending) == (["z", "a"], Ending.CONVERGED)
    (of_single,), (of_double,) = solution.v.values()
    assert (of_single.dtype, of_double.dtype) == (b["z"][0].dtype, b["a"][0].dtype)
    np.testing.assert_allclose(of_single, single / 3, rtol=1e-4)
    np.testing.assert_allclose(of_double, double / 4, rtol=1e-4)


class Bilevel:
    """A logistic regression, its two regularisation strengths, and all their derivatives.

    x: (2,) are the logarithms of the strengths; y = {"w": (3,), "b": ()} are the weights.
    """

    def __init__(self, framework):
        self.np = {"jax": jax.numpy, "torch": torch}[framework]
        self.array = partial(array, framework)
        derive, jit = (jax, jax.jit) if framework == "jax" else (torch.func, lambda f: f)
        self.train, self.test = (self.array(normal((12, 3), seed)) for seed in (0, 1))
        self.y = {"w": self.array(np.zeros(3)), "b": self.array(np.zeros(()))}

        def along(gradient):
            return jit(lambda x, y, v: derive.jvp(lambda y: gradient(x, y), (y,), (v,))[1])

        self.G_y, self.F_x = (jit(derive.grad(f, place)) for f, place in ((self.G, 1), (self.F, 0)))
        self.F_y = jit(derive.grad(self.F, 1))
        self.G_yy, self.G_xy = along(derive.grad(self.G, 1)), along(derive.grad(self.G, 0))

    def loss(self, inputs, y):
        margin = inputs @ y["w"] + y["b"] - inputs[:, 0] ** 2
        return self.np.log1p(self.np.exp(-margin)).mean()

    def G(self, x, y):
        strengths = self.np.exp(x)
        squares = strengths[0] * (y["w"] ** 2).sum() + strengths[1] * y["b"] ** 2
        return self.loss(self.train, y) + squares / 2

    def F(self, x, y):
        return self.loss(self.test, y) + (x**3).sum() / 10

    def solution(self, x):
        """y*(x), by Newton's method, and the norms of the gradients on the way."""
        y, norms = self.y, []
        for _ in range(8):
            gradient = self.G_y(x, y)
            norms.append(Vector(gradient).norm())
            hvp = partial(self.G_yy, x, y)
            y, _ = newton_step(y, gradient, hvp, tolerance=1e-12)
        return y, norms


X = np.array([-1.0, 0.5])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_newton_steps_square_the_error_of_a_convex_loss(framework):
    bilevel = Bilevel(framework)
    _, norms = bilevel.solution(bilevel.array(X))
    assert norms[-1] < 1e-14
    before, after = np.array(norms[:-1]), np.array(norms[1:])
    assert (after <= 2 * before**2 + 1e-14).all()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_hypergradient_is_the_slope_of_the_outer_function_at_the_inner_solution(framework):
    bilevel = Bilevel(framework)
    x = bilevel.array(X)
    y, _ = bilevel.solution(x)
    found, solution = hypergradient(
        bilevel.F_x(x, y),
        bilevel.F_y(x, y),
        partial(bilevel.G_yy, x, y),
        partial(bilevel.G_xy, x, y),
        tolerance=1e-12,
    )
    assert solution.ending is Ending.CONVERGED

    def h(x):
        x = bilevel.array(x)
        return float(bilevel.F(x, bilevel.solution(x)[0]))

    steps = 1e-5 * np.eye(2)
    slopes = [(h(X + step) - h(X - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(found, slopes, rtol=1e-7)
    without = np.asarray(bilevel.F_x(x, y))
    assert np.abs(without - slopes).min() > 1e-4  # the correction is no small part
