"""Lanczos' algorithm and the spectra from it: against dense eigenvalues and SciPy."""

import math

import numpy as np
import pytest
from cases import FRAMEWORKS, array, mapped, random_like
from hessians import failing_after, network, normal, symmetric
from scipy.sparse.linalg import LinearOperator, eigsh

from reproduce.algorithms.ending import Ending
from reproduce.algorithms.lanczos import lanczos
from reproduce.algorithms.spectrum import density, quadrature

EIGENVALUES = [-2.0, -0.1, 0.0, 0.5, 1.0, 3.0]


def of_matrix(matrix, k, seed=1, **settings):
    return lanczos(lambda v: matrix @ v, normal(len(matrix), seed), k, **settings)


def test_as_many_steps_as_dimensions_find_every_eigenvalue():
    hessian = symmetric(EIGENVALUES)
    found = of_matrix(hessian, 6, reorthogonalise=True)
    np.testing.assert_allclose(found.ritz_values, EIGENVALUES, atol=1e-12)
    V = np.array(found.V).T
    np.testing.assert_allclose(V.T @ V, np.eye(6), atol=1e-13)
    np.testing.assert_allclose(V.T @ hessian @ V, found.T, atol=1e-12)
    assert (found.ending, found.hvps) == (Ending.CONVERGED, 6)


@pytest.mark.parametrize("reorthogonalise", [False, True])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_outer_eigenvalues_of_a_networks_hessian_come_first(framework, reorthogonalise):
    hvp, params, dense = network(framework)
    start = random_like(framework, params)
    found = lanczos(hvp, start, 12, reorthogonalise=reorthogonalise)
    expected = np.linalg.eigvalsh(dense)
    assert (len(expected), found.hvps, found.ending) == (20, 12, Ending.LIMIT)
    np.testing.assert_allclose(found.ritz_values[[0, -1]], expected[[0, -1]], rtol=1e-6)
    assert list(found.ritz_vector(0)) == list(params)


def test_residuals_are_those_of_the_ritz_vectors_and_bound_the_error():
    eigenvalues = np.linspace(-1, 1, 40)
    hessian = symmetric(eigenvalues)
    found = of_matrix(hessian, 15, reorthogonalise=True)
    for index, (value, residual) in enumerate(zip(found.ritz_values, found.residuals, strict=True)):
        vector = found.ritz_vector(index)
        assert np.linalg.norm(vector) == pytest.approx(1)
        off = np.linalg.norm(hessian @ vector - value * vector)
        assert residual == pytest.approx(off, rel=1e-8)
        assert np.abs(eigenvalues - value).min() <= residual


def test_extreme_eigenvalues_are_those_that_scipy_finds():
    hessian = symmetric(normal(200, seed=2))
    operator = LinearOperator(hessian.shape, matvec=lambda v: hessian @ v, dtype=float)
    theirs = eigsh(operator, k=4, which="BE", return_eigenvectors=False, v0=normal(200))
    found = of_matrix(hessian, 60, reorthogonalise=True)
    ours = found.ritz_values[[0, 1, -2, -1]]
    np.testing.assert_allclose(ours, np.sort(theirs), rtol=1e-9)
    assert found.residuals[[0, 1, -2, -1]].max() < 1e-6


@pytest.mark.parametrize("reorthogonalise", [False, True])
def test_eigenvalues_appear_again_unless_vectors_are_made_orthogonal_anew(reorthogonalise):
    hessian = symmetric([*np.linspace(0, 1, 99), 50.0])
    found = of_matrix(hessian, 40, reorthogonalise=reorthogonalise)
    V, copies = np.array(found.V), (np.abs(found.ritz_values - 50) < 1e-6).sum()
    overlap = np.abs(V @ V.T - np.eye(40)).max()
    if reorthogonalise:
        assert copies == 1
        assert overlap < 1e-12
    else:
        assert copies > 1
        assert overlap > 0.1


def test_it_ends_with_the_eigenvalues_to_which_its_start_leads():
    hessian = symmetric([1.0] * 4 + [2.0] * 3 + [5.0])
    found = of_matrix(hessian, 8)
    assert (found.ending, found.hvps) == (Ending.CONVERGED, 3)
    np.testing.assert_allclose(found.ritz_values, [1, 2, 5], rtol=1e-10)
    assert found.residuals.max() < 1e-10


def test_a_start_of_any_length_gives_the_same():
    hessian, start = symmetric(EIGENVALUES), normal(6)
    one, other = (lanczos(lambda v: hessian @ v, scale * start, 4) for scale in (1, 1000))
    np.testing.assert_allclose(one.T, other.T, atol=1e-12)


@pytest.mark.parametrize("size", [1e-300, 1e-160, 1e160, 1e200, 1e307])
def test_a_start_of_a_size_near_the_ends_of_the_range_gives_the_same(size):
    hessian, start = symmetric(EIGENVALUES), normal(6)
    one, other = (lanczos(lambda v: hessian @ v, scale * start, 4) for scale in (1, size))
    np.testing.assert_allclose(one.T, other.T, atol=1e-12)
    found = lanczos(lambda v: v, np.full(5, size), 3)
    assert (found.ending, found.ritz_values) == (Ending.CONVERGED, pytest.approx([1]))


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_eigenvalues_near_the_ends_of_the_range_are_found(size):
    hessian = symmetric(EIGENVALUES)
    found = lanczos(lambda v: size * (hessian @ v), normal(6), 6, reorthogonalise=True)
    np.testing.assert_allclose(found.ritz_values / size, EIGENVALUES, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "size"), [("float16", 6e4), ("float16", 1e-6), ("float32", 3e38), ("float32", 1e-37)]
)
def test_a_start_whose_norm_is_beyond_its_type_is_no_zero(dtype, size):
    start = np.full(100, size, dtype)
    found = lanczos(lambda v: 2 * v, start, 3, tolerance=1e-2)
    assert found.V[0].dtype == dtype
    assert np.linalg.norm(found.V[0].astype(float)) == pytest.approx(1, rel=1e-2)
    assert found.ritz_values == pytest.approx([2], rel=1e-2)


def test_after_a_breakdown_the_steps_before_it_are_kept():
    hessian, three = symmetric(EIGENVALUES), of_matrix(symmetric(EIGENVALUES), 3)
    found = lanczos(failing_after(3, hessian), normal(6), 6)
    assert (found.ending, found.hvps) == (Ending.BREAKDOWN, 4)
    for name in ("ritz_values", "residuals", "weights", "V"):
        np.testing.assert_array_equal(getattr(found, name), getattr(three, name))


def test_a_breakdown_at_once_has_no_ritz_values():
    found = lanczos(lambda v: v * np.nan, normal(5), 5)
    assert (found.ending, found.hvps) == (Ending.BREAKDOWN, 1)
    for values in (found.ritz_values, found.residuals, found.weights):
        assert values.shape == (0,)


@pytest.mark.parametrize("k", [0, -1])
def test_no_steps_are_refused(k):
    with pytest.raises(ValueError, match=f"{k} steps of .* take 1 or more"):
        of_matrix(symmetric(EIGENVALUES), k)


@pytest.mark.parametrize("start", [np.zeros(3), np.array([1, np.nan, 0]), np.array([np.inf, 1, 0])])
def test_a_start_without_a_direction_is_refused(start):
    with pytest.raises(ValueError, match=r"start from a vector of norm (0|nan|inf)"):
        lanczos(lambda v: v, start, 2)


def test_a_start_of_integers_is_refused():
    with pytest.raises(TypeError, match="of int64; convert it"):
        lanczos(lambda v: v, np.ones(3, int), 2)


def test_quadrature_is_exact_for_polynomials_of_low_degree():
    hessian, start = symmetric(np.linspace(-1, 2, 30)), normal(30)
    nodes, weights = quadrature([of_matrix(hessian, 4)])
    unit = start / np.linalg.norm(start)
    assert weights.sum() == pytest.approx(1)
    for degree in range(8):
        moment = unit @ np.linalg.matrix_power(hessian, degree) @ unit
        assert weights @ nodes**degree == pytest.approx(moment, rel=1e-10)
    assert weights @ nodes**8 != pytest.approx(unit @ np.linalg.matrix_power(hessian, 8) @ unit)


def basis_like(framework, params, size):
    """``size`` trees like ``params``: one scalar is 1 and the others are 0."""

    def tree_like(row):
        scalars = iter(row)
        return mapped(lambda leaf: leaf_like(leaf, scalars), params)

    def leaf_like(leaf, scalars):
        values = np.fromiter(scalars, float, math.prod(leaf.shape))
        return array(framework, values.reshape(leaf.shape))

    return [tree_like(row) for row in np.eye(size)]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_density_over_a_basis_of_starts_is_that_of_the_dense_eigenvalues(framework):
    hvp, params, dense = network(framework)
    eigenvalues = np.linalg.eigvalsh(dense)
    at, width = np.linspace(eigenvalues[0], eigenvalues[-1], 50), np.ptp(eigenvalues) / 10
    exact = density(at, eigenvalues, np.full(20, 1 / 20), width)
    found = quadrature(
        lanczos(hvp, start, 12, reorthogonalise=True) for start in basis_like(framework, params, 20)
    )
    np.testing.assert_allclose(density(at, *found, width), exact, atol=1e-3 * exact.max())
