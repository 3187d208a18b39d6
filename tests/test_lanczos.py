"""Lanczos' algorithm and the spectra from it: against dense eigenvalues and SciPy."""

import math

import numpy as np
import pytest
from cases import FRAMEWORKS, array, mapped, random_like
from scipy.sparse.linalg import LinearOperator, eigsh
from test_algorithms import network, normal, symmetric

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


def test_a_number_that_is_not_finite_breaks_it_down():
    found = lanczos(lambda v: v * np.nan, normal(5), 5)
    assert (found.ending, found.hvps) == (Ending.BREAKDOWN, 1)


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
