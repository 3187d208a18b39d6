"""Beyond the article: HVPs that share a point, several vectors at once, compiled, by others."""

import os
from functools import cache, partial
from importlib.util import find_spec

import jax
import msgspec
import numpy as np
import pytest
import torch
from cases import FRAMEWORKS, build, flat, mapped, module, random_like
from torch.utils.flop_counter import FlopCounterMode

from reproduce import problems
from reproduce.measuring import comparing, worker
from reproduce.plan import AMORTISED, METHODS, PEERS, Case, cases

# In JAX, compiling a dense Hessian takes longest.
NAMES = {"jax": ("mlp", "bert"), "torch": ("mlp", "resnet", "bert")}
DIVIDED = [(framework, name) for framework in FRAMEWORKS for name in AMORTISED]
DIVIDED.remove(("jax", "graph_kept"))
needs_curvlinops = pytest.mark.skipif(
    find_spec("curvlinops") is None, reason="curvlinops is not installed: requirements-peers.lock"
)
CASE = Case(
    plan="beyond",
    framework="torch",
    mode="eager",
    model="tiny_bert",
    batch_size=2,
    method="forward_over_reverse",
    quantity="time",
    warmup=1,
    repetitions=3,
)


def slow_to_compile(framework, name):
    return [pytest.mark.slow] * ((framework, name) == ("jax", "bert"))


@pytest.fixture
def find(tmp_path):
    def find(wait_for_turn=lambda: None, preparing_cores=None, **changes):
        cores = preparing_cores or len(os.sched_getaffinity(0))
        site = worker.Site(tmp_path / "log", preparing_cores=cores, gpu=None, programs=tmp_path)
        return worker.measure([msgspec.structs.replace(CASE, **changes)], site, wait_for_turn)[0]

    return find


@pytest.fixture(autouse=True)
def softmax_of_vit_in_float64(monkeypatch):
    # In PyTorch, transformers' ViT takes this softmax in float32, whatever it is given.
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, **_: x.softmax(dim))


@cache
def problem(framework, name, seed=1):
    """Loss, parameters, a vector, and the dense Hessian times it."""
    loss, params = build(framework, name)
    v = random_like(framework, params, seed)
    return loss, params, v, dense_product(framework, loss, params, v)


def dense_product(framework, loss, params, v):
    product = partial(module(framework, "hvp").dense_hessian_product, loss)
    return flat((jax.jit(product) if framework == "jax" else product)(params, v))


def detached(tree):
    return {k: x.detach() if isinstance(x, torch.Tensor) else x for k, x in tree.items()}


def assert_equal(result, expected, tolerance=1e-10):
    assert comparing.relative_difference([flat(detached(result))], [expected]) <= tolerance


def divided(framework, method, loss, params):
    """``at_point(params)`` and ``product(state, v)`` of a loss that has its batch inside."""
    divide = module(framework, "many_vectors").METHODS[method]
    at_point, product = divide(lambda params, batch: loss(params), params, params, {})
    return tuple(as_run(framework, each) for each in (lambda p: at_point(p, {}), product))


def as_run(framework, function):
    """With jit in JAX, where an operation alone takes as long to compile as the whole."""
    return jax.jit(function) if framework == "jax" else function


@pytest.mark.parametrize(
    ("framework", "method", "name"),
    [
        pytest.param(framework, method, name, marks=slow_to_compile(framework, name))
        for framework, method in DIVIDED
        for name in NAMES[framework]
    ],
)
def test_every_hvp_at_one_point_is_the_dense_hessian_times_its_vector(framework, method, name):
    loss, params, *_ = problem(framework, name)
    at_point, product = divided(framework, method, loss, params)
    state = at_point(params)
    for seed in (1, 2):
        *_, v, expected = problem(framework, name, seed)
        assert_equal(product(state, v), expected)


@pytest.mark.parametrize(("framework", "method"), DIVIDED)
def test_what_was_divided_at_one_point_is_right_at_another(framework, method):
    loss, params = build(framework, "mlp")
    at_point, product = divided(framework, method, loss, params)
    other = mapped(lambda p, d: p + d, params, random_like(framework, params, 3))
    v = random_like(framework, params)
    expected = dense_product(framework, loss, other, v)
    assert_equal(product(at_point(other), v), expected)
    assert (
        comparing.relative_difference([flat(detached(product(at_point(params), v)))], [expected])
        > 0.1
    )


def test_the_products_of_an_hvp_are_divided_two_to_six():
    loss, params = build("torch", "bert")
    at_point, product = divided("torch", "linearized", loss, params)
    state = at_point(params)
    of_gradient = operations(lambda: module("torch", "hvp").gradient(loss, params, params))
    assert operations(lambda: at_point(params)) == pytest.approx(2 / 3 * of_gradient, rel=0.15)
    assert operations(lambda: product(state, params)) == pytest.approx(2 * of_gradient, rel=0.05)


def operations(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        pytest.param(framework, name, marks=slow_to_compile(framework, name))
        for framework in FRAMEWORKS
        for name in ("mlp", "bert")
    ],
)
def test_several_vectors_at_once_give_what_each_gives_alone(framework, name):
    loss, params = build(framework, name)
    many_vectors, hvp = module(framework, "many_vectors"), module(framework, "hvp")
    vectors = [random_like(framework, params, seed) for seed in (1, 2, 3)]
    for method in METHODS[1:3]:
        one = as_run(framework, partial(hvp.METHODS[method], loss))
        several = as_run(framework, partial(many_vectors.at_once(hvp.METHODS[method]), loss))
        together = several(params, many_vectors.stacked(vectors))
        for place, v in enumerate(vectors):
            assert_equal(mapped(lambda leaf: leaf[place], together), flat(one(params, v)), 1e-12)  # noqa: B023


@pytest.mark.parametrize("name", NAMES["torch"])
@pytest.mark.parametrize("method", [name for name in PEERS if name != "curvlinops"])
def test_other_libraries_compute_the_dense_hessian_times_the_vector(method, name):
    loss, params, v, expected = problem("torch", name)
    result = module("torch", "peers").METHODS[method](loss, params, v)
    assert_equal(result, expected)


@needs_curvlinops
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_curvlinops_computes_the_dense_hessian_times_the_vector(name):
    loss, params, v, expected = problem("torch", name)
    result = module("torch", "peers").curvlinops(loss, params, v)
    assert_equal(result, expected)


TORCHS_OWN = [*PEERS, *AMORTISED]


def product_of(method, loss, params, v):
    """∇²f(params) v by a method of another library, or by one that divides it, in PyTorch."""
    if method == "curvlinops":
        pytest.importorskip("curvlinops")
    if method in PEERS:
        return module("torch", "peers").METHODS[method](loss, params, v)
    at_point, product = divided("torch", method, loss, params)
    return product(at_point(params), v)


X = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 5)))
LOSSES = {
    "does not use": lambda p: (torch.tanh(X @ p["W"]) ** 2).sum() + p["c"] ** 3,
    "uses linearly": lambda p: (torch.tanh(X @ p["W"]) ** 2).sum() + p["c"] ** 3 + 3 * p["b"].sum(),
    "multiplies with another": lambda p: (X @ p["W"] + p["b"]).sum() * p["b"].sum() * p["c"],
    "has alone, linearly": lambda p: (X @ p["W"]).sum() + 3 * p["b"].sum(),
    "is not there at all for": lambda p: (X**2).sum(),
}


@pytest.mark.parametrize("method", TORCHS_OWN)
@pytest.mark.parametrize("use", LOSSES)
def test_a_parameter_that_the_loss_hardly_uses_has_zeros(method, use):
    shapes = {"W": (5, 3), "b": (3,), "c": ()}
    params, v = (
        {
            name: torch.from_numpy(np.asarray(rng.standard_normal(shape)))
            for name, shape in shapes.items()
        }
        for rng in map(np.random.default_rng, (1, 2))
    )
    expected = module("torch", "hvp").forward_over_reverse(LOSSES[use], params, v)
    result = product_of(method, LOSSES[use], params, v)
    for name, value in expected.items():
        torch.testing.assert_close(result[name].detach(), value.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [*METHODS[1:], *TORCHS_OWN])
def test_a_vector_in_another_order_is_taken_by_name_or_refused(method):
    # All of one shape, so that a wrong order has no other sign than wrong numbers.
    rng = np.random.default_rng(0)
    params, v = (
        {name: torch.from_numpy(rng.standard_normal((3, 3))) for name in "UVW"} for _ in "pv"
    )
    flipped = {name: v[name] for name in "WUV"}
    loss = lambda p: (p["U"] @ torch.tanh(p["V"] @ torch.sin(p["W"]))).square().sum()  # noqa: E731
    hvp = module("torch", "hvp")
    expected = hvp.reverse_over_reverse(loss, params, v)
    if method in ("forward_over_reverse", "reverse_over_forward"):
        with pytest.raises(RuntimeError, match="same python structure"):
            hvp.METHODS[method](loss, params, flipped)
        return
    product = hvp.METHODS[method] if method in METHODS else partial(product_of, method)
    result = product(loss, params, flipped)
    assert list(result) == list(params)
    assert_equal(result, flat(expected))


@pytest.mark.parametrize("method", AMORTISED)
def test_a_point_in_another_order_is_taken_by_name(method):
    names = {"U": 1.0, "V": 2.0, "W": 3.0}
    params, batch = (
        {name: torch.tensor(x + shift) for name, x in names.items()} for shift in (0, 4)
    )
    loss = lambda p, b: sum(b[n] * p[n] ** k for k, n in enumerate("UVW", start=2))  # noqa: E731
    at_point, product = module("torch", "many_vectors").METHODS[method](loss, params, params, batch)
    turned, v = (dict(reversed(tree.items())) for tree in (batch, params))
    for point in (params, dict(reversed(params.items()))):
        result = product(at_point(point, turned), v)
        expected = module("torch", "hvp").reverse_over_reverse(lambda p: loss(p, batch), params, v)
        assert {name: float(value) for name, value in result.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}
        )


@needs_curvlinops
def test_curvlinops_is_wrong_where_there_are_layer_norms():
    loss, params, v, expected = problem("torch", "bert")
    result = module("torch", "peers").curvlinops(loss, params, v)
    difference = comparing.relative_difference([flat(result)], [expected])
    assert 1e-3 < difference < 1e-1  # mended upstream? then compare it as above


def test_forward_over_jacrev_of_pytorchs_own_layer_norm_is_wrong():
    # What curvlinops and torch.func.hessian compute. Only if its input and its weight both vary.
    rng = np.random.default_rng(0)
    x, at, v = (torch.from_numpy(rng.standard_normal(n)) for n in ((4, 5), 30, 30))

    def loss(p):
        normalised = torch.nn.functional.layer_norm(x @ p[:25].view(5, 5), (5,), p[25:])
        return (normalised**3).sum()

    right = torch.autograd.functional.hessian(loss, at) @ v
    of = lambda gradient: torch.func.jvp(gradient, (at,), (v,))[1]  # noqa: E731
    difference = lambda hvp: float((hvp - right).norm() / right.norm())  # noqa: E731
    assert difference(of(torch.func.grad(loss))) < 1e-12
    assert difference(of(torch.func.jacrev(loss))) > 1e-3
    assert difference(torch.func.hessian(loss)(at) @ v) > 1e-3


@pytest.fixture(scope="module")
def compiled_programs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield
        torch.compiler.reset()


def mlp(dtype):
    """The loss of a small network in ``dtype``, its parameters and a vector."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(dtype))  # noqa: E731
    params, v = ({"U": draw(1, 4), "W": draw(4, 3), "b": draw(4, 1)} for _ in range(2))
    inputs = draw(3, 5)
    return lambda p: ((p["U"] @ torch.tanh(p["W"] @ inputs + p["b"])) ** 2).mean(), params, v


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        *((method, "float64") for method in (*METHODS, "linearized")),
        ("forward_over_reverse", "float32"),
        ("linearized", "float32"),
    ],
)
def test_what_torch_compiles_is_what_it_computes_eagerly(compiled_programs, method, dtype):
    loss, params, v = mlp(dtype)
    compile_, hvp = module("torch", "device").compile, module("torch", "hvp")
    eager = "forward_over_reverse" if method == "linearized" else method
    expected = flat(hvp.METHODS[eager](loss, params, v))
    if method == "linearized":
        at_point, product = divided("torch", method, loss, params)
        first, *_ = compile_(at_point, "compile", params)
        second, *_ = compile_(product, "compile", first(params), v)
        result = second(first(params), v)
    else:
        compute = lambda params, v: hvp.METHODS[method](loss, params, v)  # noqa: E731
        program, *_ = compile_(compute, "compile", params, v)
        result = program(params, v)
    assert flat(result).dtype == dtype
    assert_equal(result, expected, {"float64": 1e-13, "float32": 1e-5}[dtype])


def test_what_cannot_be_compiled_is_unsupported_and_says_why(find, monkeypatch):
    def breaks_the_graph(loss, params, v):
        torch._dynamo.graph_break()
        return params

    for method in ("gradient", "forward_over_reverse"):
        monkeypatch.setitem(module("torch", "hvp").METHODS, method, breaks_the_graph)
    outcome = find(mode="compile")
    assert outcome.status == "unsupported"
    assert "graph_break" in outcome.reason or "graph break" in outcome.reason


@pytest.mark.slow
def test_what_was_compiled_on_one_core_is_not_compiled_again_when_all_cores_time(find):
    graphs = []

    def count():
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    outcome = find(count, preparing_cores=1, mode="compile", method="gradient")
    count()
    assert outcome.status == "done"
    assert graphs[0] == graphs[1] > 0


@pytest.mark.parametrize(("framework", "method"), DIVIDED)
def test_a_case_with_a_point_times_the_point_as_well(find, framework, method):
    mode = {"jax": "jit", "torch": "eager"}[framework]
    outcome = find(framework=framework, mode=mode, method=method)
    assert (outcome.status, outcome.reason) == ("done", "")
    assert len(outcome.point_seconds) == len(outcome.seconds) == len(outcome.gradient_seconds) == 3
    assert outcome.relative_difference < 1e-5


@pytest.mark.parametrize("method", AMORTISED)
def test_the_memory_of_a_case_with_a_point_has_what_is_held_there(find, monkeypatch, method):
    held = 64 << 20
    many_vectors = module("torch", "many_vectors")
    divide = many_vectors.METHODS[method]

    def holding_more(*arguments):
        at_point, product = divide(*arguments)
        more = lambda *start: (torch.ones(held // 4), at_point(*start))  # noqa: E731
        return more, lambda state, v: product(state[1], v)

    plain = find(method=method).memory_bytes
    monkeypatch.setitem(many_vectors.METHODS, method, holding_more)
    outcome = find(method=method)
    assert (outcome.status, outcome.reason) == ("done", "")
    assert rise(outcome.memory_bytes) == rise(plain) + held


def rise(counters):
    return counters["torch_peak_allocated_bytes"] - counters["torch_allocated_before_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"method": "reverse_over_forward"}, {"method": "linearized"}, {"vectors": 3}]
)
def test_what_is_timed_of_xla_tells_its_own_programs_memory(find, changes):
    timed, counted = (
        find(framework="jax", mode="jit", quantity=quantity, **changes).memory_bytes
        for quantity in ("time", "memory")
    )
    assert timed.keys() == {f"xla_{part}_bytes" for part in ("argument", "output", "temp")}
    assert timed.items() <= counted.items()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "reverse_over_reverse"},
        {"method": "graph_kept"},
        {"vectors": 3},
        pytest.param({"mode": "compile", "method": "linearized"}, marks=pytest.mark.slow),
    ],
)
def test_what_is_timed_of_pytorch_tells_what_its_own_call_allocates(find, monkeypatch, changes):
    outcome = find(**changes)
    assert (outcome.status, outcome.reason) == ("done", "")
    assert outcome.relative_difference < 1e-5
    counters = outcome.memory_bytes
    assert counters.keys() == {"torch_allocated_before_bytes", "torch_peak_allocated_bytes"}
    result = sum(4 * leaf.size for leaf in weights().values()) * changes.get("vectors", 1)
    assert result <= rise(counters) < 100 * result


def weights():
    return problems.weights(problems.PROBLEMS[CASE.model])


@pytest.mark.parametrize("framework", [pytest.param("jax", marks=pytest.mark.slow), "torch"])
def test_several_vectors_are_measured_at_once_and_the_last_is_compared(find, framework):
    mode = {"jax": "jit", "torch": "eager"}[framework]
    outcome = find(framework=framework, mode=mode, vectors=3)
    assert (outcome.status, outcome.reason) == ("done", "")
    assert outcome.relative_difference < 1e-5


@pytest.mark.parametrize("method", [m for m in PEERS if m != "curvlinops"])
def test_another_librarys_hvp_is_a_case_like_any_other(find, method):
    outcome = find(method=method)
    assert (outcome.status, outcome.reason) == ("done", "")
    assert outcome.relative_difference < 1e-5
    assert len(outcome.gradient_seconds) == 3


def test_the_articles_plans_have_the_articles_methods_alone():
    for name in ("article", "quick", "cpu", "smoke"):
        found = {case.method for case in cases(name)}
        assert found - {"repaired_reverse_over_forward"} == set(METHODS)
        assert {(case.vectors, case.mode == "compile") for case in cases(name)} == {(1, False)}
