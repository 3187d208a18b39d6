"""Products beside the article's HVPs: they keep less, or are Gauss-Newton's, as they say."""

from functools import cache, partial

import jax
import msgspec
import numpy as np
import pytest
import torch
from cases import (
    FAMILIES,
    FRAMEWORKS,
    array,
    build,
    flat,
    flax_tree,
    mapped,
    module,
    random_like,
    tolerance,
)
from jax.flatten_util import ravel_pytree

from reproduce import methods, problems
from reproduce.measuring import comparing, worker
from reproduce.plan import CHECKPOINTED, GAUSS_NEWTON, HVPS, Case, accounted_cases, cases
from reproduce.problems.loss import LossOfLogits

X = np.random.default_rng(0).standard_normal((6, 4))
Y = np.random.default_rng(1).integers(0, 3, 6)


def logits(framework, params, is_linear):
    """Of a layer, or of two with tanh between them, for six samples and three classes."""
    x = array(framework, X)
    if not is_linear:
        x = (torch if framework == "torch" else jax.numpy).tanh(x @ params["U"])
    return x @ params["W"] + params["b"]


def cross_entropy(framework, z):
    log = torch.log_softmax(z, -1) if framework == "torch" else jax.nn.log_softmax(z)
    return -(array(framework, np.eye(3)[Y]) * log).sum() / len(Y)


def squares(framework, z):
    return ((z - array(framework, np.eye(3)[Y])) ** 2).mean()


LOSSES = {"cross-entropy": cross_entropy, "squares": squares}


def network(framework, of_logits, is_linear=False):
    """A loss by its parts, without a penalty, and its parameters."""
    shapes = {"U": (4, 4), "W": (4, 3), "b": (3,)}
    rng = np.random.default_rng(2)
    params = {name: array(framework, rng.standard_normal(shape)) for name, shape in shapes.items()}
    if is_linear:
        del params["U"]
    of_params = partial(logits, framework, is_linear=is_linear)
    return LossOfLogits(of_params, partial(LOSSES[of_logits], framework)), params


def gauss_newton(framework, loss, params):
    product = partial(module(framework, "products").gauss_newton, loss, params)
    return jax.jit(product) if framework == "jax" else product


@cache
def dense(of_logits):
    """JᵀHJ as a matrix, from the dense J and H of JAX."""
    loss, params = network("jax", of_logits)
    point, tree_of = ravel_pytree(params)
    of_flat = lambda flat: loss.logits(tree_of(flat)).ravel()  # noqa: E731
    jacobian = np.asarray(jax.jacfwd(of_flat)(point))
    hessian = jax.hessian(lambda flat: loss.of_logits(flat.reshape(6, 3)))(of_flat(point))
    return jacobian.T @ np.asarray(hessian) @ jacobian


@pytest.mark.parametrize("of_logits", LOSSES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_gauss_newton_product_is_that_of_the_dense_matrix(framework, of_logits):
    loss, params = network(framework, of_logits)
    v = random_like(framework, params)
    result, expected = flat(gauss_newton(framework, loss, params)(v)), dense(of_logits) @ flat(v)
    assert comparing.relative_difference([result], [expected]) < 1e-12
    hvp = flat(module(framework, "hvp").forward_over_reverse(loss, params, v))
    assert comparing.relative_difference([hvp], [expected]) > 0.1  # it is another product


@pytest.mark.parametrize("of_logits", LOSSES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_vector_makes_a_gauss_newton_product_negative(framework, of_logits):
    loss, params = network(framework, of_logits)
    product, hvp = gauss_newton(framework, loss, params), module(framework, "hvp")
    vectors = [random_like(framework, params, seed) for seed in range(20)]
    assert all(flat(v) @ flat(product(v)) >= 0 for v in vectors)
    of_hessian = [flat(v) @ flat(hvp.reverse_over_reverse(loss, params, v)) for v in vectors]
    assert min(of_hessian) < 0 or of_logits == "squares"  # as an HVP's can be
    lowest, highest = np.linalg.eigvalsh(dense(of_logits))[[0, -1]]
    assert lowest > -1e-12 * highest


@pytest.mark.parametrize("of_logits", LOSSES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_of_linear_logits_a_gauss_newton_product_is_the_hvp(framework, of_logits):
    loss, params = network(framework, of_logits, is_linear=True)
    v = random_like(framework, params)
    expected = flat(module(framework, "hvp").reverse_over_reverse(loss, params, v))
    result = flat(gauss_newton(framework, loss, params)(v))
    assert comparing.relative_difference([result], [expected]) < 1e-12


@pytest.mark.parametrize(
    "name", [pytest.param("resnet", marks=pytest.mark.slow), "bert", "gpt2", "llama"]
)
def test_of_a_network_both_frameworks_have_the_same_gauss_newton_product(name):
    problem, results = FAMILIES[name], {}
    vector = problems.seeded_vector(problems.weights(problem, dtype="float64"))
    for framework in FRAMEWORKS:
        loss, params = build(framework, name, "matched")
        _, v = module(framework, "models").build(problem, vector, "matched")
        results[framework] = gauss_newton(framework, loss, params)(v)
    of_torch = flax_tree(problem, results["torch"])
    difference = comparing.relative_difference([flat(results["jax"])], [flat(of_torch)])
    assert difference < tolerance(name, 1e-9)


def test_the_penalty_of_a_gauss_newton_product_is_its_own_hvp():
    loss, params = build("torch", "bert")
    v = random_like("torch", params)
    products, hvp = module("torch", "products"), module("torch", "hvp")
    none = LossOfLogits(loss.logits, loss.of_logits)
    added = mapped(
        lambda a, b: a - b,
        products.gauss_newton(loss, params, v),
        products.gauss_newton(none, params, v),
    )
    expected = flat(hvp.reverse_over_reverse(loss.penalty, params, v))
    assert comparing.relative_difference([flat(added)], [expected]) < 1e-9


@pytest.mark.parametrize("method", CHECKPOINTED)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "bert")) for name in FAMILIES],
)
def test_an_hvp_that_computes_again_is_the_one_that_does_not(name, method):
    loss, params = build("jax", name)
    v = random_like("jax", params)
    hvp, products = module("jax", "hvp"), module("jax", "products")

    def both(params, v):
        ours = products.METHODS[method](loss, params, v)
        return hvp.METHODS[HVPS[0]](loss, params, v), ours

    assert str(jax.make_jaxpr(both)(params, v)).count("remat") == layers(name, method)
    expected, result = map(flat, jax.jit(both)(params, v))
    assert comparing.relative_difference([result], [expected]) < 1e-13


def layers(name, method):
    """How many parts of the network are computed again: the whole, or layer by layer."""
    return 2 if method == "checkpointed_layers" and name in ("resnet", "bottleneck") else 1


def test_outside_its_block_no_layer_is_computed_again():
    loss, params = build("jax", "bert")
    models = module("jax", "models")
    with models.layers_computed_again():
        assert "remat" in str(jax.make_jaxpr(jax.grad(loss))(params))
    assert "remat" not in str(jax.make_jaxpr(jax.grad(loss))(params))


@pytest.mark.parametrize("name", ["bert", pytest.param("resnet", marks=pytest.mark.slow)])
def test_an_hvp_in_bfloat16_is_the_hvp_to_about_a_percent(name):
    loss, params = build("jax", name)
    v = random_like("jax", params)
    hvp, products = module("jax", "hvp"), module("jax", "products")

    def both(params, v):
        return hvp.METHODS[HVPS[0]](loss, params, v), products.bfloat16(loss, params, v)

    expected, result = jax.jit(both)(params, v)
    assert jax.tree.map(lambda x: x.dtype, result) == jax.tree.map(lambda x: x.dtype, params)
    assert 1e-4 < comparing.relative_difference([flat(result)], [flat(expected)]) < 0.1
    outside = jax.make_jaxpr(partial(hvp.METHODS[HVPS[0]], loss))(params, v)
    assert "bf16" not in str(outside)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_they_have_the_operations_that_are_said(framework):
    bert = problems.PROBLEMS["bert"]
    shallow = msgspec.structs.replace(bert, config=bert.config | {"num_hidden_layers": 3})
    shapes = problems.weight_shapes(shallow)
    weights = {name: np.zeros(shape, "float32") for name, shape in shapes.items()}
    models, accounting = module(framework, "models"), module(framework, "accounting")
    loss, params = models.build(shallow, weights)
    batch = models.to_device(problems.batch(shallow, 32))

    def operations(compute):
        function = lambda p, v, batch: compute(loss.at(batch), p, v)  # noqa: E731
        return accounting.flops(function, params, params, batch)

    of_gradient = operations(module(framework, "hvp").gradient)
    mode = {"jax": "jit", "torch": "eager"}[framework]
    for method, compute in module(framework, "products").METHODS.items():
        theory = methods.OPERATIONS[framework, mode][method]
        assert operations(compute) / of_gradient == pytest.approx(theory, rel=0.05), method


CASE = Case(
    plan="beyond",
    framework="jax",
    mode="jit",
    model="tiny_bert",
    batch_size=2,
    method="gauss_newton",
    quantity="time",
    warmup=1,
    repetitions=2,
)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_gauss_newton_product_is_timed_and_not_compared_with_an_hvp(tmp_path, framework):
    mode = {"jax": "jit", "torch": "eager"}[framework]
    site = worker.Site(tmp_path / "log", preparing_cores=1, gpu=None, programs=tmp_path)
    case = msgspec.structs.replace(CASE, framework=framework, mode=mode)
    outcome = worker.measure([case], site)[0]
    assert (outcome.status, outcome.reason) == ("done", "")
    assert outcome.relative_difference is None
    assert len(outcome.seconds) == len(outcome.gradient_seconds) == 2
    assert methods.kind(case.method) == "gauss_newton"


def test_an_hvp_in_bfloat16_is_timed_with_its_error_and_without_a_warning_of_it(tmp_path):
    site = worker.Site(tmp_path / "log", preparing_cores=1, gpu=None, programs=tmp_path)
    outcome = worker.measure([msgspec.structs.replace(CASE, method="bfloat16")], site)[0]
    assert (outcome.status, outcome.reason) == ("done", "")
    assert 1e-4 < outcome.relative_difference < 0.1
    assert not any("differs" in warning for warning in outcome.warnings)


def test_plan_beyond_accounts_for_what_it_cannot_time_at_the_batch_of_the_articles_bars():
    accounted = accounted_cases("beyond")
    sizes = {(case.model, case.batch_size) for case in accounted}
    assert sizes == {("resnet34", 64), ("vit", 64), ("bert", 64), ("gpt2", 32), ("llama", 32)}
    assert {case.method for case in accounted} >= {*CHECKPOINTED, *GAUSS_NEWTON}
    assert {case.quantity for case in cases("beyond")} == {"time"}
