"""The article's listings: right in our words, and shown to fail as printed where they do."""

from functools import cache

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from reproduce.algorithms.ending import Ending
from reproduce.algorithms.lanczos import lanczos
from reproduce.algorithms.solve import solve
from reproduce.article import listings
from reproduce.in_jax import hvp
from reproduce.plan import HVPS

jax.config.update("jax_enable_x64", True)

# (outputs m, hidden n, inputs d): scalars, the article's own, one output, and matrices.
SIZES = [(1, 1, 1), (1, 2, 2), (3, 4, 5), (3, 3, 3)]
TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}


def example(sizes):
    """``(x, U, W, vu, vw)`` of the given sizes, drawn from a seed."""
    m, n, d = sizes
    rng = np.random.default_rng(0)
    shapes = [(d,), (m, n), (n, d), (m, n), (n, d)]
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


@cache
def by_automatic_differentiation(sizes):
    """``(f, directional derivative, gradient, HVP)`` of the example, through the Hessian."""

    @jax.jit
    def all_at(x, U, W, vu, vw):
        f = lambda U, W: jnp.sum((U @ W @ x) ** 2) / 2  # noqa: E731
        gradient, blocks = jax.grad(f, (0, 1))(U, W), jax.hessian(f, (0, 1))(U, W)
        product = [jnp.tensordot(a, vu, 2) + jnp.tensordot(b, vw, 2) for a, b in blocks]
        slope = jnp.vdot(gradient[0], vu) + jnp.vdot(gradient[1], vw)
        return f(U, W), slope, gradient, product

    return all_at(*example(sizes))


def assert_pairs_equal(pair, expected):
    for one, other in zip(pair, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, **TOLERANCE)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_handwritten_loss_and_its_first_derivatives_are_right(sizes):
    x, U, W, vu, vw = example(sizes)
    value, slope, gradient, _ = by_automatic_differentiation(sizes)
    np.testing.assert_allclose(listings.loss(x, U, W), value, **TOLERANCE)
    np.testing.assert_allclose(listings.jvp(x, U, W, vu, vw), slope, **TOLERANCE)
    assert_pairs_equal(listings.gradient(x, U, W), gradient)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("method", HVPS)
def test_every_handwritten_hvp_is_the_hessian_times_the_vector(method, sizes):
    *_, product = by_automatic_differentiation(sizes)
    assert_pairs_equal(getattr(listings, method)(*example(sizes)), product)


def reverse_over_reverse_as_printed(x, U, W, vu, vw):
    """The derivative in W by the printed ``dz1 += dz2 * U``, in place of the transpose."""
    hidden = W @ x
    output = U @ hidden
    output_cotangent = vu @ hidden + U @ (vw @ x)
    return jnp.outer(vu.T @ output + output_cotangent * U, x)


@pytest.mark.erratum("reverse-over-reverse-transpose")
def test_reverse_over_reverse_needs_the_transpose_that_its_listing_lacks():
    for sizes in [(3, 3, 3), (1, 3, 2)]:
        arguments = example(sizes)
        right = listings.reverse_over_reverse(*arguments)[1]
        printed = reverse_over_reverse_as_printed(*arguments)
        if sizes[0] == 1:  # with one output, broadcasting happens to give the same numbers
            np.testing.assert_allclose(printed, right, **TOLERANCE)
        else:
            assert printed.shape != right.shape
    with pytest.raises((TypeError, ValueError), match="Incompatible shapes"):
        reverse_over_reverse_as_printed(*example((3, 4, 5)))


def cubic(x):
    return jnp.sum(x**3) * jnp.sum(x)


X, V = jnp.array([0.5, -1.5, 2.0]), jnp.array([1.0, 2.0, -0.5])


@pytest.mark.erratum("reverse-over-reverse-call")
def test_reverse_over_reverse_returns_a_function_as_printed_and_an_hvp_when_called():
    def printed(f, x, v):
        return jax.grad(lambda x: jnp.vdot(jax.grad(f)(x), v))

    result, right = printed(cubic, X, V), hvp.forward_over_reverse(cubic, X, V)
    assert callable(result)
    assert not isinstance(result, jax.Array)
    np.testing.assert_allclose(result(X), right, **TOLERANCE)
    np.testing.assert_allclose(hvp.reverse_over_reverse(cubic, X, V), right, **TOLERANCE)


@pytest.mark.parametrize("method", HVPS)
def test_the_jax_listings_of_hvps_are_right_for_one_array(method):
    dense = jax.hessian(cubic)(X) @ V
    np.testing.assert_allclose(hvp.METHODS[method](cubic, X, V), dense, **TOLERANCE)


@pytest.mark.erratum("reverse-over-reverse-tree")
def test_reverse_over_reverse_with_vdot_takes_no_tree_of_parameters():
    params, v = {"a": X, "b": V}, {"a": V, "b": X}

    def loss(p):
        return cubic(p["a"] * p["b"])

    with pytest.raises(TypeError):
        jax.grad(lambda p: jnp.vdot(jax.grad(loss)(p), v))(params)
    result = hvp.reverse_over_reverse(loss, params, v)
    right = hvp.forward_over_reverse(loss, params, v)
    assert_pairs_equal(result.values(), right.values())


@pytest.mark.erratum("hessian-call")
def test_the_hessian_is_a_function_and_is_multiplied_only_after_its_call():
    with pytest.raises(TypeError, match="unsupported operand"):
        jax.hessian(cubic) @ V
    right = hvp.forward_over_reverse(cubic, X, V)
    np.testing.assert_allclose(jax.hessian(cubic)(X) @ V, right, **TOLERANCE)
    np.testing.assert_allclose(hvp.dense_hessian_product(cubic, X, V), right, **TOLERANCE)


@pytest.mark.erratum("vjp-in-a-tuple")
def test_the_calls_for_a_jvp_and_a_vjp_are_right_and_a_vjp_comes_in_a_tuple():
    np.testing.assert_allclose(jax.jvp(cubic, (X,), (V,))[1], jax.grad(cubic)(X) @ V, **TOLERANCE)
    (product,) = jax.vjp(cubic, X)[1](2.0)
    np.testing.assert_allclose(product, 2 * jax.grad(cubic)(X), **TOLERANCE)


@pytest.mark.erratum("example-transposed")
def test_the_two_printed_forms_of_the_example_are_two_functions():
    x, U, W, *_ = example((1, 2, 2))
    gradient = listings.gradient(x, U, W)
    of_form = lambda form: jax.grad(lambda U, W: jnp.sum((U @ form(W) @ x) ** 2) / 2, (0, 1))(U, W)  # noqa: E731
    assert_pairs_equal(of_form(lambda W: W), gradient)
    transposed = of_form(lambda W: W.T)
    assert not any(np.allclose(a, b, rtol=1e-3) for a, b in zip(transposed, gradient, strict=True))
    x, U, W, *_ = example((1, 3, 2))  # and with these sizes, one of them is no product
    with pytest.raises(TypeError):
        U @ W.T @ x


@pytest.mark.erratum("example-shapes")
def test_no_shape_of_u_suits_both_the_printed_loss_and_the_printed_gradient():
    x, _, W, *_ = example((1, 2, 2))

    def printed(U):
        return 0.5 * (U @ (W @ x)) ** 2

    vector, matrix = jnp.array([1.0, 2.0]), jnp.array([[1.0, 2.0]])
    assert printed(vector).shape == ()
    with pytest.raises((TypeError, ValueError)):
        vector.T @ (vector @ (W @ x))  # U.T @ dz2
    assert (matrix.T @ (matrix @ (W @ x))).shape == (2,)
    with pytest.raises(TypeError, match="scalar-output"):
        jax.grad(printed)(matrix)
    assert listings.loss(x, matrix, W).shape == ()


def operations(function, *arguments):
    """Floating-point operations of ``function`` as XLA counts them, unused results left out."""
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


@pytest.mark.erratum("jvp-operations")
def test_the_jvp_of_the_example_takes_three_more_products_and_not_two():
    m, n, d = sizes = (30, 40, 50)
    x, *rest = example(sizes)
    loss = operations(listings.loss, x, *rest[:2])
    jvp = operations(listings.jvp, x, *rest)
    assert loss == pytest.approx(2 * (n * d + m * n), rel=0.05)
    assert jvp - loss == pytest.approx(2 * (n * d + 2 * m * n), rel=0.05)


@pytest.mark.erratum("parents-of-a-jvp")
def test_no_elementary_operation_of_the_jvp_has_more_than_two_parents():
    program = jax.make_jaxpr(listings.jvp)(*example((3, 4, 5)))
    constants = jax.extend.core.Literal
    parents = [
        [each for each in operation.invars if not isinstance(each, constants)]
        for operation in program.eqns
    ]
    assert max(map(len, parents)) == 2


@pytest.mark.erratum("reverse-over-reverse-operations")
def test_reverse_over_reverse_takes_the_operations_of_forward_over_reverse():
    arguments = example((30, 40, 50))
    forward, forward_last, reverse = (
        operations(getattr(listings, name), *arguments) for name in HVPS
    )
    assert forward == forward_last == reverse

    def with_the_printed_scalar(x, U, W, vu, vw):
        of_u, of_w = listings.gradient(x, U, W)
        _unused = jnp.sum(vu * of_u) + jnp.sum(vw * of_w)
        return listings.reverse_over_reverse(x, U, W, vu, vw)

    assert operations(with_the_printed_scalar, *arguments) == reverse


@pytest.mark.erratum("gradient-beside-hvp")
def test_reverse_over_forward_gives_the_gradient_at_the_cost_of_the_other_way_round():
    x, U, W, vu, vw = example((30, 40, 50))

    def directional_derivative(params, v):
        return jax.jvp(lambda p: listings.loss(x, *p), (params,), (v,))[1]

    both = jax.grad(directional_derivative, (0, 1))
    product, gradient = both((U, W), (vu, vw))
    np.testing.assert_allclose(gradient[0], listings.gradient(x, U, W)[0], rtol=1e-10)
    np.testing.assert_allclose(gradient[1], listings.gradient(x, U, W)[1], rtol=1e-10)
    np.testing.assert_allclose(
        product[1], listings.forward_over_reverse(x, U, W, vu, vw)[1], rtol=1e-10
    )

    def forward_over_reverse(params, v):
        return jax.jvp(jax.grad(lambda p: listings.loss(x, *p)), (params,), (v,))

    of_forward = operations(forward_over_reverse, (U, W), (vu, vw))
    assert operations(both, (U, W), (vu, vw)) <= 1.05 * of_forward


def symmetric(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues."""
    noise = np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2)
    basis = np.linalg.qr(noise)[0]
    return jnp.asarray(basis @ np.diag(eigenvalues) @ basis.T)


@pytest.mark.erratum("inverse-in-direction")
def test_the_solution_is_the_inverse_in_the_direction_of_the_right_hand_side():
    hessian, b = np.diag([1.0, 4.0]), np.array([1.0, 1.0])
    v = solve(lambda v: hessian @ v, b, tolerance=1e-12).v
    inverse = np.linalg.inv(hessian)
    np.testing.assert_allclose(v, inverse @ b, **TOLERANCE)
    assert not np.allclose(v, inverse @ v)


@pytest.mark.erratum("conjugate-gradient-definite")
def test_conjugate_gradients_break_down_at_a_saddle_and_ours_say_so():
    hessian, b = np.diag([1.0, -1.0]), np.array([1.0, 1.0])
    direction = b  # p₀ = −r₀ = b with v₀ = 0
    assert direction @ hessian @ direction == 0  # and the printed α₀ divides by it
    assert np.linalg.solve(hessian, b) == pytest.approx([1, -1])  # though a solution exists
    assert solve(lambda v: hessian @ v, b).ending is Ending.NEGATIVE_CURVATURE


def lanczos_as_printed(hessian, v, steps):
    """The eigenvalues of the printed coefficients: the start is not scaled."""
    product = hessian @ v
    alphas, betas = [product @ v], []
    rest, before = product - alphas[0] * v, v
    for _ in range(1, steps):
        betas.append(np.linalg.norm(rest))
        v = rest / betas[-1]
        product = hessian @ v
        alphas.append(product @ v)
        rest, before = product - alphas[-1] * v - betas[-1] * before, v
    return np.linalg.eigvalsh(np.diag(alphas) + np.diag(betas, 1) + np.diag(betas, -1))


@pytest.mark.erratum("lanczos-start")
def test_lanczos_needs_a_start_of_norm_one_which_its_box_does_not_ask_for():
    eigenvalues = [-2.0, 0.5, 1.0, 3.0]
    hessian, start = symmetric(eigenvalues), jnp.array([1.0, 2.0, -1.0, 0.5])
    ours = lanczos(lambda v: hessian @ v, start, 4)
    np.testing.assert_allclose(ours.ritz_values, eigenvalues, rtol=1e-10)
    unit = start / np.linalg.norm(start)
    np.testing.assert_allclose(lanczos_as_printed(hessian, unit, 4), eigenvalues, rtol=1e-10)
    assert np.abs(lanczos_as_printed(hessian, start, 4) - eigenvalues).max() > 1


@pytest.mark.erratum("bilevel-gradient")
def test_the_gradient_of_the_bilevel_problem_has_the_outer_function_at_its_end():
    curvature, mixed = symmetric([1.0, 2.0, 5.0]), symmetric([1.0, -1.0, 2.0], seed=1)

    def inner(x, y):
        return y @ curvature @ y / 2 + jnp.sin(x) @ mixed @ y

    def outer(x, y):
        return jnp.sum(x**2 * y) + y @ y

    def solution(x):
        return -jnp.linalg.solve(curvature, mixed.T @ jnp.sin(x))

    x, y = X, solution(X)
    right = jax.grad(lambda x: outer(x, solution(x)))(x)
    cross = jax.jacobian(jax.grad(inner, 0), 1)(x, y)

    def formula(last):
        return jax.grad(outer, 0)(x, y) - cross @ jnp.linalg.solve(curvature, last)

    printed = formula(jax.grad(inner, 1)(x, y))
    np.testing.assert_allclose(formula(jax.grad(outer, 1)(x, y)), right, **TOLERANCE)
    # ∇_y G is zero at the inner minimum, so that the printed correction is nothing at all.
    np.testing.assert_allclose(printed, jax.grad(outer, 0)(x, y), **TOLERANCE)
    assert np.linalg.norm(printed - right) > 0.1 * np.linalg.norm(right)
