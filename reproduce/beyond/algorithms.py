"""The article's algorithms at work: inverse-HVPs, spectra, and a bilevel problem."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree
from rich.progress import track

from reproduce import problems
from reproduce.algorithms.conjugate_gradient import conjugate_gradient
from reproduce.algorithms.gradient_descent import gradient_descent
from reproduce.algorithms.hypergradient import hypergradient
from reproduce.algorithms.lanczos import lanczos
from reproduce.algorithms.neumann import neumann
from reproduce.algorithms.newton import newton_step
from reproduce.algorithms.solve import Method
from reproduce.algorithms.vector import Hessian, Hvp, Tree, Vector
from reproduce.beyond.digits import Network, Regression
from reproduce.in_jax import models
from reproduce.in_jax.many_vectors import linearized

DAMPING = 1e-3
RECORDED = np.unique(np.geomspace(1, 6_000, 160).astype(int))
RESNET_BATCH = 2
STRENGTHS = np.geomspace(1e-2, 1e-6, 33)
STARTS = {"from strong": 1e-2, "from weak": 1e-6}
OUTER_STEPS, OUTER_STEP = 80, 10.0


def inverse_hvp_errors() -> pd.DataFrame:
    """How near v_t is to the inverse-HVP of the digits' network, by method.

    ``hvps`` and ``seconds`` are the cost up to v_t. ``error`` is ‖v_t − v‖ / ‖v‖, where v is
    the dense solution. The matrix is the Hessian of the training loss plus 0.001 · I, and b is
    the gradient of the validation loss.
    """
    with jax.enable_x64(True):
        network = Network()
        hvp, b = jax.jit(network.hvp), network.validation_gradient()
        dense = jax.lax.map(network.hvp, jnp.eye(b.size), batch_size=64)
        exact = jnp.linalg.solve(dense + DAMPING * jnp.eye(b.size), b)
        largest = lanczos(hvp, b, 30).ritz_values[-1] + DAMPING
        methods: dict[str, Method] = {
            "conjugate_gradient": conjugate_gradient,
            "gradient_descent": gradient_descent,
            "neumann": partial(neumann, step=float(1 / largest)),
        }
        return pd.DataFrame(
            {"method": name, "hvps": hvps, "seconds": seconds, "error": error}
            for name, method in track(methods.items(), "inverse-HVPs")
            for hvps, seconds, error in _errors(method, hvp, b, exact)
        )


def _errors(
    method: Method, hvp: Hvp, b: jax.Array, exact: jax.Array
) -> Iterator[tuple[int, float, float]]:
    """Follow ``method`` until the error is near rounding, or to the last HVP of ``RECORDED``.

    Yields:
        HVPs, seconds and error.
    """
    hessian, v, r = Hessian(hvp, DAMPING), Vector(0 * b), Vector(-b)
    _ = list(islice(method(Hessian(hvp, DAMPING), v, r), 3))  # compiles what it calls
    iterates = method(hessian, v, r)
    seconds, error = 0.0, 1.0
    while error > 1e-9 and hessian.hvps < RECORDED[-1]:
        start = time.perf_counter()
        v, _ = next(iterates)
        jax.block_until_ready(v.tree)
        seconds += time.perf_counter() - start
        if hessian.hvps in RECORDED:
            error = float(jnp.linalg.norm(v.tree - exact) / jnp.linalg.norm(exact))
            yield hessian.hvps, seconds, error


def spectra() -> pd.DataFrame:
    """Ritz values of two Hessians, and all eigenvalues of the smaller one.

    ``kind`` is ``ritz`` or ``exact``, ``parameters`` is d. A Ritz value has its ``start``, its
    ``residual``, and its ``weight`` in the quadrature over all starts.
    """
    with jax.enable_x64(True):
        network = Network()
        dense = jax.lax.map(network.hvp, jnp.eye(network.x.size), batch_size=64)
        exact = pd.DataFrame({"value": np.linalg.eigvalsh(dense), "weight": 1 / network.x.size})
        of_digits = _ritz_values(jax.jit(network.hvp), network.x, steps=80, starts=10)
    hvp, params = _resnet()
    of_resnet = _ritz_values(hvp, params, steps=20, starts=1)
    found = {
        ("digits", network.x.size, "exact"): exact,
        ("digits", network.x.size, "ritz"): of_digits,
        ("resnet34", ravel_pytree(params)[0].size, "ritz"): of_resnet,
    }
    columns = ["model", "parameters", "kind"]
    return pd.concat(found, names=columns).reset_index(columns)


def _ritz_values(hvp: Hvp, params: Tree, steps: int, starts: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x, tree_of = ravel_pytree(params)

    def of_start() -> pd.DataFrame:
        v = tree_of(jnp.asarray(rng.standard_normal(x.size, x.dtype)))
        found = lanczos(hvp, v, steps, reorthogonalise=True)
        columns = {"value": found.ritz_values, "residual": found.residuals}
        return pd.DataFrame(columns | {"weight": found.weights / starts})

    found = {start: of_start() for start in track(range(starts), f"spectrum, d = {x.size}")}
    return pd.concat(found, names=["start"]).reset_index("start")


def _resnet() -> tuple[Hvp, Tree]:
    """ResNet34's HVPs at one point, and that point, with the weights and inputs of the plans."""
    problem = problems.PROBLEMS["resnet34"]
    loss, params = models.build(problem, problems.weights(problem), "article")
    batch = models.to_device(problems.batch(problem, RESNET_BATCH))
    at_point, product = linearized(loss, params, params, batch)
    return partial(jax.jit(product), jax.jit(at_point)(params, batch)), params


def hyperparameter_descent() -> pd.DataFrame:
    """The validation loss h of a regression against the ``strength`` of its regularisation, exp(x).

    ``run`` is ``grid``, or the starting point of a gradient descent in x. The table has h(x), its
    derivative in x (the hypergradient), and all ``hvps`` that a descent took.
    """
    with jax.enable_x64(True):
        regression = Regression()
        lines = chain(_grid(regression), *(_descent(regression, run) for run in STARTS))
        total = len(STRENGTHS) + len(STARTS) * OUTER_STEPS
        return pd.DataFrame(track(lines, "bilevel problem", total))


def _grid(regression: Regression) -> Iterator[dict[str, Any]]:
    y = regression.start
    for strength in STRENGTHS:
        line, y = _line(regression, np.log(strength), y)
        yield {"run": "grid", **line}


def _descent(regression: Regression, run: str) -> Iterator[dict[str, Any]]:
    x, y, hvps = np.log(STARTS[run]), regression.start, 0
    for _ in range(OUTER_STEPS):
        line, y = _line(regression, x, y)
        hvps += line["hvps"]
        yield {"run": run, **line, "hvps": hvps}
        x -= OUTER_STEP * line["hypergradient"]


def _line(regression: Regression, x: float, y: jax.Array) -> tuple[dict[str, Any], jax.Array]:
    """The line of the table for x, and y*(x), found from ``y``."""
    y, hvps = _inner_solution(regression, x, y)
    hvp, cross = partial(regression.G_yy, x, y), partial(regression.G_xy, x, y)
    slope, solution = hypergradient(0.0, regression.F_y(y), hvp, cross, tolerance=1e-8)
    return {
        "strength": np.exp(x),
        "validation_loss": float(regression.F(y)),
        "hypergradient": float(slope),
        "hvps": hvps + solution.hvps,
    }, y


def _inner_solution(regression: Regression, x: float, y: jax.Array) -> tuple[jax.Array, int]:
    """y*(x) by Newton's method from ``y``, and its HVPs."""
    hvps = 0
    while Vector(gradient := regression.G_y(x, y)).norm() > 1e-10:
        hvp = partial(regression.G_yy, x, y)
        y, solution = newton_step(y, gradient, hvp, tolerance=1e-3)
        hvps += solution.hvps
    return y, hvps
