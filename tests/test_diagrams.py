"""The drawn figures say what the article says: curvatures, edges and factors."""

import matplotlib
import numpy as np
import pytest
from matplotlib.patches import Circle
from matplotlib.text import Annotation

from paper_figures import diagrams
from paper_figures.diagrams import computational_graph, forward_diff, hess_eig, reverse_diff

pytestmark = pytest.mark.usefixtures("figure_settings")
FACETS = 40


def vertices(figure):
    """The name of each circle, by its centre."""
    axes = figure.axes[0]
    centres = {patch.center for patch in axes.patches if isinstance(patch, Circle)}
    return {
        text.get_position(): text.get_text()
        for text in axes.texts
        if text.get_position() in centres
    }


def edges(figure):
    """(from, to) -> (colour, whether dashed, text at the middle) of each arrow."""
    names = vertices(figure)
    labels = {text.get_position(): text for text in figure.axes[0].texts if text.get_text()}

    def nearest(point, places):
        return min(places, key=lambda place: np.hypot(*np.subtract(place, point)))

    found = {}
    for arrow in figure.axes[0].texts:
        if isinstance(arrow, Annotation):
            tail, head = arrow.xyann, arrow.xy
            label = labels[nearest(np.add(tail, head) / 2, labels)]
            ends = names[nearest(tail, names)], names[nearest(head, names)]
            patch = arrow.arrow_patch
            dashed = patch.get_linestyle() not in {"-", "solid"}
            color = matplotlib.colors.to_hex(patch.get_edgecolor())
            found[ends] = (color, dashed, label.get_text(), label.get_color())
    return found


def test_the_surfaces_have_the_curvatures_that_their_titles_name():
    figure = hess_eig()
    step = 2 / FACETS
    assert len(figure.axes) == 4
    for axes, expected in zip(figure.axes, [(1, 1), (1, 0), (1, -1), (-1, -1)], strict=True):
        heights = axes.collections[0].get_array().reshape(FACETS, FACETS)
        along_x, along_y = (np.diff(heights, 2, axis=axis) / step**2 for axis in (1, 0))
        np.testing.assert_allclose(along_x, expected[0], atol=1e-9)
        np.testing.assert_allclose(along_y, expected[1], atol=1e-9)
        title = axes.get_title().replace("−", "-").splitlines()[0]
        assert title.endswith(f" {expected[0]}, {expected[1]}")


def test_the_computational_graph_has_the_edges_of_the_function():
    assert set(edges(computational_graph())) == {
        ("$x$", "$z_1$"),
        ("$W$", "$z_1$"),
        ("$z_1$", "$z_2$"),
        ("$U$", "$z_2$"),
        ("$z_2$", "$z_3$"),
    }


@pytest.mark.parametrize(
    ("vertex", "operation"),
    [("$z_1$", "$Wx$"), ("$z_2$", "$Uz_1$"), ("$z_3$", r"$\frac{1}{2}\,z_2^2$")],
)
def test_each_vertex_has_its_operation_above_it(vertex, operation):
    figure = computational_graph()
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert places[operation][0] == places[vertex][0]
    assert places[operation][1] > places[vertex][1]
    assert places["$f_x(U, W)$"][0] > places["$z_3$"][0]


def derivative(of, by):
    return rf"$\frac{{\partial {of}}}{{\partial {by}}}$"


@pytest.mark.parametrize(
    ("fragment", "path_side"), [(forward_diff, "start"), (reverse_diff, "end")]
)
def test_a_fragment_has_red_operations_and_blue_dashed_paths_with_their_factors(
    fragment, path_side
):
    found = edges(fragment())
    between = [f"z_{{k_{place}}}" for place in (1, 2, 3)]
    path = (diagrams.FACTOR_BLUE, True)
    operation = (diagrams.FACTOR_RED, False)
    first, second = (path, operation) if path_side == "start" else (operation, path)
    expected = {}
    for z_k in between:
        expected["$z_j$", f"${z_k}$"] = (*first, derivative(z_k, "z_j"), first[0])
        expected[f"${z_k}$", "$z_i$"] = (*second, derivative("z_i", z_k), second[0])
    assert found == expected


@pytest.mark.parametrize(
    ("fragment", "caption"),
    [(forward_diff, "parents of $z_i$"), (reverse_diff, "children of $z_j$")],
)
def test_a_fragment_says_what_the_vertices_between_are(fragment, caption):
    assert caption in [text.get_text() for text in fragment().axes[0].texts]
