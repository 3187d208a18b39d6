"""Memory figures without a GPU show their rows, the published values and where both come from."""

import re
from itertools import pairwise

import msgspec
import pandas as pd
import pytest
from accounted import PUBLISHED, ROWS, ours
from drawn import assert_nothing_is_cut_off
from matplotlib.container import BarContainer

from paper_figures import figures, style
from reproduce.plan import METHODS

pytestmark = pytest.mark.usefixtures("figure_settings")
MEMORY = [name for name, bench in figures.BENCHES.items() if bench.quantity == "memory"]
TORCH = "bench_hvp_memory_torch"
MODELS = ["resnet34", "vit", "bert"]


def rows_of(name, **changes):
    own, _ = figures.select(name, ROWS)
    return [msgspec.structs.replace(row, **changes) for row in own]


def published_of(name):
    """The published GiB of a figure, by model, batch size and method."""
    run = figures.BENCHES[name][1:3]
    return {case[2:]: line.memory_gib for case, line in PUBLISHED.items() if case[:2] == run}


def markers_at_bars(figure):
    """For each method, the lines of markers on the bars: (x, GiB) of each marker."""
    return [list(zip(*line.get_data(), strict=True)) for line in figure.axes[0].lines]


def bars_of(figure):
    """For each method, the bars of the first panel."""
    containers = figure.axes[0].containers
    return [each.patches for each in containers if isinstance(each, BarContainer)]


def legend_texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def notes(figure):
    return [text.get_text().replace("\n", " ") for text in figure.texts]


@pytest.mark.parametrize("name", MEMORY)
def test_bars_are_as_high_as_their_rows(name):
    rows = {(row.model, row.batch_size, row.method): row for row in rows_of(name)}
    drawn = bars_of(figures.draw(name, list(rows.values())))
    for method, bars in zip(METHODS, drawn, strict=True):
        wanted = [ours(rows[model, 64, method]) for model in MODELS]
        assert [bar.get_height() for bar in bars] == pytest.approx(wanted)


@pytest.mark.parametrize("name", MEMORY)
def test_a_marker_on_each_bar_is_at_the_published_value(name):
    figure = figures.draw(name, rows_of(name))
    known = published_of(name)
    bars = bars_of(figure)
    for method, markers, of_method in zip(METHODS, markers_at_bars(figure), bars, strict=True):
        centres = [bar.get_x() + bar.get_width() / 2 for bar in of_method]
        wanted = [known[model, 64, method] for model in MODELS]
        assert [x for x, _ in markers] == pytest.approx(centres)
        assert [y for _, y in markers] == pytest.approx(wanted)


@pytest.mark.parametrize("name", MEMORY)
def test_beside_each_curve_is_the_published_one_in_its_colour_and_shape(name):
    rows = rows_of(name)
    known = published_of(name)
    lines = figures.draw(name, rows).axes[1].lines
    for method, own, beside in zip(METHODS, lines[::2], lines[1::2], strict=True):
        wanted = {
            row.batch_size: ours(row)
            for row in rows
            if (row.model, row.method) == ("resnet34", method)
        }
        assert dict(zip(*own.get_data(), strict=True)) == pytest.approx(wanted)
        assert dict(zip(*beside.get_data(), strict=True)) == pytest.approx(
            {size: known["resnet34", size, method] for size in wanted}
        )
        assert beside.get_color() == own.get_color()
        assert beside.get_marker() == own.get_marker()
        assert beside.get_linestyle() == ":"


@pytest.mark.parametrize("model", ["vit", "bert"])
def test_pytorchs_memory_is_the_published_one_for_transformers_and_in_its_order(model):
    known = published_of(TORCH)
    found = {row.method: ours(row) for row in rows_of(TORCH) if row.model == model}
    for method in METHODS:
        assert found[method] == pytest.approx(known[model, 64, method], rel=0.15)
    in_order = sorted(METHODS, key=lambda method: known[model, 64, method])
    assert sorted(METHODS, key=found.get) == in_order


@pytest.mark.parametrize("name", MEMORY)
def test_all_that_is_drawn_is_within_the_panels(name):
    figure = figures.draw(name, rows_of(name))
    known = published_of(name)
    highest = max(value for (_, size, _), value in known.items() if size == 64)
    assert figure.axes[0].get_ylim()[1] > highest
    assert figure.axes[1].get_ylim()[1] > max(known["resnet34", 128, m] for m in METHODS)


@pytest.mark.parametrize("name", MEMORY)
def test_the_legend_names_what_is_published_once(name):
    found = legend_texts(figures.draw(name, rows_of(name)))
    assert found.count(style.PUBLISHED_LABEL) == 1
    assert [text for text in found if text != style.PUBLISHED_LABEL] == [
        style.method_label(method) for method in METHODS
    ]


@pytest.mark.parametrize(
    ("device", "how", "said"),
    [
        ("NVIDIA A100-SXM4-40GB", "compiled", "compiled for A100, not run"),
        ("NVIDIA H100-SXM5-80GB", "compiled", "compiled for H100, not run"),
        ("NVIDIA A100-SXM4-40GB", "accounted", "accounted for A100, not run"),
        ("NVIDIA GeForce RTX 4090", "accounted", "accounted for GeForce RTX 4090, not run"),
        ("NVIDIA A100-SXM4-40GB", "measured", None),
        ("CPU: of a kind (with two cores)", "measured", None),
    ],
)
def test_the_titles_say_what_was_not_run(device, how, said):
    figure = figures.draw(MEMORY[0], rows_of(MEMORY[0], device=device, how=how))
    lines = [axes.get_title().split("\n") for axes in figure.axes]
    assert [line[0] for line in lines] == ["JAX with jit, batch size 64", "JAX with jit, ResNet34"]
    assert [line[1:] for line in lines] == [[said] if said else []] * 2


@pytest.mark.parametrize("name", MEMORY)
def test_the_articles_device_that_was_not_run_needs_no_warning(name):
    said = notes(figures.draw(name, rows_of(name)))
    assert not any("Device" in note for note in said)
    (deviation,) = [note for note in said if style.DEVIATIONS[figures.BENCHES[name][1:3]] in note]
    end = "[0-9]+ % (below|above)"
    assert re.match(f"HVPs here are from {end} to {end} the published values. ", deviation)


def test_another_plan_or_device_that_was_not_run_is_named():
    other = figures.draw(MEMORY[0], rows_of(MEMORY[0], plan="sample"))
    assert any(note.endswith("not the article's plan") for note in notes(other))
    other = figures.draw(MEMORY[0], rows_of(MEMORY[0], device="NVIDIA H100-SXM5-80GB"))
    place = "NVIDIA H100-SXM5-80GB (compiled, not run)"
    assert f"Device: {place} · plan: article — not the article's A100" in notes(other)


@pytest.mark.parametrize("name", MEMORY)
def test_another_device_than_the_articles_is_drawn_without_published_values(name):
    figure = figures.draw(name, rows_of(name, device="NVIDIA H100-SXM5-80GB"))
    assert markers_at_bars(figure) == []
    assert len(figure.axes[1].lines) == len(METHODS)
    assert style.PUBLISHED_LABEL not in legend_texts(figure)
    assert not any(style.DEVIATIONS[figures.BENCHES[name][1:3]] in note for note in notes(figure))


def test_values_measured_on_the_articles_device_stand_beside_the_published_ones():
    figure = figures.draw(MEMORY[0], rows_of(MEMORY[0], how="measured"))
    assert len(markers_at_bars(figure)) == len(METHODS)
    assert style.PUBLISHED_LABEL in legend_texts(figure)
    assert not any(style.DEVIATIONS["jax", "jit"] in note for note in notes(figure))


def test_how_far_hvps_are_from_the_published_values_is_told_from_the_nearest_to_the_farthest():
    assert style.compared_note(pd.Series([0.584, 1.049, 0.9])) == (
        "HVPs here are from 42 % below to 5 % above the published values."
    )


@pytest.mark.parametrize("name", MEMORY)
def test_what_would_not_fit_is_a_gap_with_the_published_value_above(name):
    rows = rows_of(name)
    at = next(n for n, row in enumerate(rows) if (row.model, row.method) == ("vit", METHODS[-1]))
    failed = {"status": "out_of_memory", "reason": "made up"}
    rows[at] = msgspec.structs.replace(rows[at], **failed)
    figure = figures.draw(name, rows)
    assert [text.get_text() for text in figure.axes[0].texts] == [style.GAPS["out_of_memory"]]
    known = published_of(name)["vit", 64, METHODS[-1]]
    assert any(y == pytest.approx(known) for line in markers_at_bars(figure) for _, y in line)


def test_each_figure_has_rows_of_its_own_device():
    devices = {name: {row.place for row in rows_of(name)} for name in MEMORY}
    assert [len(found) for found in devices.values()] == [1, 1, 1]
    assert len(set.union(*devices.values())) == 2
    assert all(figures.select(name, ROWS)[1] == "" for name in MEMORY)


@pytest.mark.parametrize("name", MEMORY)
def test_no_text_is_cut_off_or_in_another_text(name):
    figure = figures.draw(name, rows_of(name))
    assert_nothing_is_cut_off(figure)
    (legend,) = figure.legends
    above = [axes.title for axes in figure.axes]
    assert all(title.get_window_extent().y1 < legend.get_window_extent().y0 for title in above)
    below = [text.get_window_extent() for text in figure.texts]
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(below))
