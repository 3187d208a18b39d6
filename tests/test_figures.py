"""The measured figures show the rows: heights, labels, units, gaps, machine and counter."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import matplotlib
import msgspec
import numpy as np
import pytest
import refusals
from commands import write_rows
from drawn import assert_nothing_is_cut_off, texts
from typer.testing import CliRunner

import paper_figures.__main__ as drawing
from paper_figures import figures, style, tables
from paper_figures.__main__ import NAMES, OF_ARTICLE, app
from reproduce import methods, problems
from reproduce.plan import METHODS, cases
from reproduce.results import counters, summary
from reproduce.results.rows import read_rows

pytestmark = pytest.mark.usefixtures("figure_settings")
ROOT = Path(__file__).parent.parent
SAMPLE = Path(__file__).parent / "rows_sample.jsonl"
ROWS = summary.last_of_each_case(read_rows(SAMPLE))
MEASURED = [name for name, bench in figures.BENCHES.items() if not bench.only_this_size]
WITH_CURVE = [name for name in MEASURED if figures.BENCHES[name].has_curve]
MEMORY = [name for name in MEASURED if figures.BENCHES[name].quantity == "memory"]
UNIT_SIZES = {"s": 1, "ms": 1e-3, "GiB": 2**30, "MiB": 2**20}


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """The sentence on which drawing ``names`` into the test's folder ended."""
    return lambda *names: refusals.refused(
        capsys, monkeypatch, tmp_path, [str(tmp_path), *names], drawing
    )


def rows_of(name):
    """The sample's rows for one figure, as of a plan that ``plan.py`` has not.

    Only models and batch sizes at which all methods have finished: no gaps.
    """
    rows = [
        msgspec.structs.replace(row, plan="sample")
        for row in figures.select(name, ROWS)[0]
        if row.status == "done"
    ]
    finished = Counter((row.model, row.batch_size) for row in rows)
    return [row for row in rows if finished[row.model, row.batch_size] == len(METHODS)]


def one_failed(name, status):
    """The figure's rows with one HVP at the bars' batch size that failed, and that row."""
    rows = rows_of(name)
    size = bar_batch_size(rows, name)
    models = sorted({row.model for row in rows}, key=problems.order)
    at = next(
        place
        for place, row in enumerate(rows)
        if (row.model, row.batch_size) == (models[0], size) and row.method != "gradient"
    )
    failed = msgspec.structs.replace(rows[at], status=status, reason="made up", seconds=())
    return [*rows[:at], failed, *rows[at + 1 :]], failed


def bar_batch_size(rows, name):
    sizes = [{row.batch_size for row in rows if row.model == m} for m in {r.model for r in rows}]
    common = set.intersection(*sizes)
    wanted = figures.BENCHES[name].batch_size
    return wanted if wanted in common else max(common)


def expected(row, quantile=0.5):
    """The height of a row's bar, in seconds or bytes."""
    if row.quantity == "memory":
        return counters.shared([row]).bytes_of(row)
    gradient = np.array(row.gradient_seconds) if row.method != "gradient" else 0
    return np.quantile(np.array(row.seconds) - gradient, quantile)


def unit_of(axes):
    return axes.get_ylabel().split("[")[1].split("]")[0]


def bar_heights(figure):
    """For each method, the drawn bars' (x, height in seconds or bytes)."""
    axes = figure.axes[0]
    size = UNIT_SIZES[unit_of(axes)]
    containers = [box for box in axes.containers if hasattr(box, "patches")]
    return {
        method: [(bar.get_center()[0], bar.get_height() * size) for bar in container.patches]
        for method, container in zip(METHODS, containers, strict=True)
    }


@pytest.mark.parametrize("name", MEASURED)
def test_bars_are_as_high_as_the_medians_of_their_rows(name):
    rows = rows_of(name)
    size = bar_batch_size(rows, name)
    figure = figures.draw(name, rows)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    drawn = {
        (labels[round(x)], method): height
        for method, bars in bar_heights(figure).items()
        for x, height in bars
    }
    wanted = {
        (problems.label(row.model), row.method): expected(row)
        for row in rows
        if row.batch_size == size
    }
    assert drawn == pytest.approx(wanted)
    assert len(drawn) == len(METHODS) * len(labels)
    assert labels == [problems.label(m) for m in problems.LABELS if problems.label(m) in labels]


@pytest.mark.parametrize("name", ["bench_hvp_time_jax", "bench_hvp_time_torch"])
def test_error_bars_reach_from_the_20_to_the_80_percent_quantile(name):
    rows = rows_of(name)
    at_size = [row for row in rows if row.batch_size == bar_batch_size(rows, name)]
    axes = figures.draw(name, rows).axes[0]
    size = UNIT_SIZES[unit_of(axes)]
    drawn = [
        segment[:, 1] * size
        for container in axes.containers
        if hasattr(container, "lines")
        for segment in container.lines[2][0].get_segments()
    ]
    wanted = [(expected(row, 0.2), expected(row, 0.8)) for row in at_size]
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(wanted, axis=0))


@pytest.mark.parametrize("name", WITH_CURVE)
def test_curves_pass_through_the_medians_of_the_first_model_with_several_batch_sizes(name):
    rows = rows_of(name)
    counts = Counter(row.model for row in rows)
    model = next(m for m in problems.LABELS if counts[m] > len(METHODS))
    axes = figures.draw(name, rows).axes[1]
    size = UNIT_SIZES[unit_of(axes)]
    assert problems.label(model) in axes.get_title()
    assert axes.get_xlabel() == "Batch size"
    for method, line in zip(METHODS, axes.lines, strict=True):
        wanted = {
            row.batch_size: expected(row)
            for row in rows
            if (row.model, row.method) == (model, method)
        }
        drawn = dict(zip(line.get_xdata(), line.get_ydata() * size, strict=True))
        assert drawn == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["bench_hvp_time_jax", "bench_hvp_time_torch"])
def test_bands_reach_from_the_20_to_the_80_percent_quantile(name):
    rows = rows_of(name)
    counts = Counter(row.model for row in rows)
    model = next(m for m in problems.LABELS if counts[m] > len(METHODS))
    axes = figures.draw(name, rows).axes[1]
    size = UNIT_SIZES[unit_of(axes)]
    for method, band in zip(METHODS, axes.collections, strict=True):
        drawn = {tuple(point) for path in band.get_paths() for point in path.vertices}
        for row in rows:
            if (row.model, row.method) == (model, method):
                reach = [y * size for x, y in drawn if x == row.batch_size]
                wanted = (expected(row, 0.2), expected(row, 0.8))
                assert (min(reach), max(reach)) == pytest.approx(wanted)


@pytest.mark.parametrize("name", MEASURED)
def test_titles_labels_and_legend_say_what_is_drawn(name):
    rows = rows_of(name)
    bench = figures.BENCHES[name]
    figure = figures.draw(name, rows)
    framework = methods.RUNS[bench.framework, bench.mode]
    size = bar_batch_size(rows, name)
    assert figure.axes[0].get_title() == f"{framework}, batch size {size}"
    assert all(axes.get_title().startswith(framework) for axes in figure.axes)
    assert len(figure.axes) == 1 + bench.has_curve
    for axes in figure.axes:
        is_overhead = "HVP: on top of the gradient" in axes.get_ylabel()
        assert is_overhead == (bench.quantity == "time")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "Gradient",
        "HVP forward-over-reverse",
        "HVP reverse-over-forward",
        "HVP reverse-over-reverse",
    ]


@pytest.mark.parametrize("name", WITH_CURVE)
def test_both_panels_have_one_unit_and_start_at_zero(name):
    figure = figures.draw(name, rows_of(name))
    assert len({unit_of(axes) for axes in figure.axes}) == 1
    assert [axes.get_ylim()[0] for axes in figure.axes] == [0, 0]


@pytest.mark.parametrize(("largest", "unit"), [(0.099, "ms"), (0.101, "s"), (30.0, "s")], ids=str)
def test_times_below_a_tenth_of_a_second_are_in_milliseconds(largest, unit):
    rows = rows_of("bench_hvp_time_jax")
    size = bar_batch_size(rows, "bench_hvp_time_jax")
    rows = [row for row in rows if row.batch_size == size]
    factor = largest / max(map(expected, rows))
    scaled = [
        msgspec.structs.replace(
            row,
            seconds=tuple(factor * t for t in row.seconds),
            gradient_seconds=tuple(factor * t for t in row.gradient_seconds),
        )
        for row in rows
    ]
    shown = figures.draw("bench_hvp_time_jax", scaled)
    assert unit_of(shown.axes[0]) == unit


@pytest.mark.parametrize(("largest", "unit"), [(2**26, "MiB"), (2**27, "GiB")])
def test_memory_below_a_tenth_of_a_gib_is_in_mib(largest, unit):
    rows = [
        msgspec.structs.replace(
            row, memory_bytes={"xla_temp_bytes": largest, "xla_output_bytes": 0}
        )
        for row in rows_of("bench_hvp_memory_jax")
    ]
    figure = figures.draw("bench_hvp_memory_jax", rows)
    assert unit_of(figure.axes[0]) == unit


def test_an_overhead_below_zero_is_within_the_panel():
    rows, row = one_failed("bench_hvp_time_jax", "done")
    seconds = tuple(t - 1 for t in row.gradient_seconds)
    rows[rows.index(row)] = msgspec.structs.replace(row, seconds=seconds)
    axes = figures.draw("bench_hvp_time_jax", rows).axes[0]
    assert axes.get_ylim()[0] * UNIT_SIZES[unit_of(axes)] < -1


@pytest.mark.parametrize("status", ["out_of_memory", "timeout", "unsupported", "error"])
@pytest.mark.parametrize("name", ["bench_hvp_time_jax", "bench_hvp_memory_torch"])
def test_a_failed_case_is_a_gap_with_its_reason_in_both_panels(name, status):
    rows, failed = one_failed(name, status)
    figure = figures.draw(name, rows)
    whole = figures.draw(name, rows_of(name))
    assert len(bar_heights(figure)[failed.method]) == len(bar_heights(whole)[failed.method]) - 1
    for axes, complete in zip(figure.axes, whole.axes, strict=True):
        assert [text.get_text() for text in axes.texts] == [style.GAPS[status]]
        assert len(complete.texts) == 0
    assert figure.axes[0].texts[0].xy[0] not in [x for x, _ in bar_heights(figure)[failed.method]]
    assert figure.axes[1].texts[0].xy[0] == failed.batch_size
    curve = figure.axes[1].lines[METHODS.index(failed.method)]
    gap = list(curve.get_xdata()).index(failed.batch_size)
    assert np.flatnonzero(np.isnan(curve.get_ydata())).tolist() == [gap]


def test_a_case_without_a_row_is_a_gap_that_says_not_measured():
    rows, missing = one_failed("bench_hvp_time_jax", "error")
    rows.remove(missing)
    figure = figures.draw("bench_hvp_time_jax", rows)
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["not measured"]


def test_a_model_that_the_plan_has_and_the_rows_have_not_is_shown_as_not_measured():
    name = "bench_hvp_time_jax"
    rows = [
        msgspec.structs.replace(row, plan="article", model="resnet34", batch_size=128)
        for row in rows_of(name)[: len(METHODS)]
    ]
    figure = figures.draw(name, rows)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["ResNet34", "ViT", "BERT"]
    marks = [text.get_text() for text in figure.axes[0].texts]
    assert marks.count("not measured") >= 2 * len(METHODS)


def test_a_figure_of_failures_only_is_drawn_as_gaps():
    rows = [
        msgspec.structs.replace(row, status="timeout", reason="made up", seconds=())
        for row in rows_of("bench_hvp_time_jax")
    ]
    figure = figures.draw("bench_hvp_time_jax", rows)
    assert bar_heights(figure) == {method: [] for method in METHODS}
    assert {text.get_text() for axes in figure.axes for text in axes.texts} == {"timed out"}


@pytest.mark.parametrize(
    ("device", "plan", "note"),
    [
        ("CPU of a kind", "cpu", "not the article's A100 or plan"),
        ("CPU of a kind", "article", "not the article's A100"),
        ("NVIDIA A100-SXM4-40GB", "cpu", "not the article's plan"),
        ("NVIDIA A100-SXM4-40GB", "article", None),
        ("NVIDIA A100-PCIE-40GB", "article", None),
        ("NVIDIA A100-SXM4-80GB", "article", "not the article's A100"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "article", "not the article's A100"),
    ],
)
def test_the_figure_names_device_and_plan_unless_both_are_the_articles(device, plan, note):
    rows = [msgspec.structs.replace(row, device=device, plan=plan) for row in rows_of(MEASURED[0])]
    found = [text for text in texts(figures.draw(MEASURED[0], rows)) if "Device" in text]
    if note is None:
        assert found == []
    else:
        assert found == [f"Device: {device} · plan: {plan} — {note}"]


@pytest.mark.parametrize("name", MEMORY)
def test_a_memory_figure_names_the_one_counter_of_all_its_bars(name):
    rows = rows_of(name)
    counter = counters.shared(rows)
    notes = " ".join(texts(figures.draw(name, rows)))
    known = {each for choices in counters.SHOWN.values() for each in choices}
    assert {each.name for each in known if each.meaning in notes} == {counter.name}


def test_memory_without_a_common_counter_is_not_drawn():
    rows = [msgspec.structs.replace(row, memory_bytes={}) for row in rows_of(MEMORY[0])]
    with pytest.raises(figures.CannotDraw, match="no memory counter in common"):
        figures.draw(MEMORY[0], rows)


@pytest.mark.parametrize("repetitions", [2, 7])
def test_a_time_figure_says_how_many_repetitions_and_what_the_error_bars_are(repetitions):
    rows = [
        msgspec.structs.replace(
            row,
            seconds=(row.seconds[0],) * repetitions,
            gradient_seconds=row.gradient_seconds[:1] * repetitions,
        )
        for row in rows_of("bench_hvp_time_jax")
    ]
    notes = texts(figures.draw("bench_hvp_time_jax", rows))
    assert (
        f"Median of {repetitions} repetitions; error bars and bands: 20 % to 80 % quantiles."
    ) in notes


def test_the_figures_at_batch_64_need_that_batch_size_in_all_models():
    rows = rows_of("bench_hvp_time_jax")
    size = bar_batch_size(rows, "bench_hvp_time_jax")
    at_64 = [msgspec.structs.replace(row, batch_size=64) for row in rows if row.batch_size == size]
    figure = figures.draw("bench_hvp_time_jax_b64", at_64)
    assert figure.axes[0].get_title().endswith("batch size 64")
    at_63 = [msgspec.structs.replace(row, batch_size=63) for row in at_64]
    with pytest.raises(figures.CannotDraw, match="no batch size 64"):
        figures.draw("bench_hvp_time_jax_b64", at_63)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"vector": "seeded"}, "Vector: a seeded normal vector"),
        ({"normalisation": "matched"}, "Batch normalisation: inference mode in both"),
        ({"recorded": False}, "Parameters require no gradients"),
        ({"layer_norm": "repaired"}, "Layer normalisation repaired"),
    ],
)
@pytest.mark.parametrize("name", ["bench_hvp_time_torch", "bench_hvp_memory_torch"])
def test_the_figure_names_each_setting_unless_it_is_the_articles(name, other, said):
    bench = figures.BENCHES[name]
    planned = next(case for case in cases("article") if case.framework == "torch")
    settings = {
        "vector": style.ARTICLE_VECTORS[bench.quantity][0],
        "normalisation": planned.normalisation,
        "recorded": planned.recorded,
        "layer_norm": planned.layer_norm,
    }
    rows = [msgspec.structs.replace(row, **settings) for row in rows_of(name)]
    assert "article's settings" not in " ".join(texts(figures.draw(name, rows)))
    rows = [msgspec.structs.replace(row, **other) for row in rows]
    (note,) = [text for text in texts(figures.draw(name, rows)) if "article's settings" in text]
    assert said in note


def test_the_articles_vectors_are_those_of_the_plans():
    planned = {case.quantity: case.vector for case in cases("article")}
    assert planned == {quantity: first for quantity, (first, *_) in style.ARTICLE_VECTORS.items()}


@pytest.mark.parametrize("name", [*MEASURED, *figures.DIAGRAMS])
def test_no_text_is_cut_off_at_the_rim(name):
    rows = [] if name in figures.DIAGRAMS else one_failed(name, "out_of_memory")[0]
    long_name = "CPU: an unusually long name of a processor with 128 cores at 2.45 GHz, 64 GiB"
    rows = [msgspec.structs.replace(row, device=long_name) for row in rows]
    assert_nothing_is_cut_off(figures.draw(name, rows))


def test_the_methods_differ_in_lightness_and_marker():
    def lightness(color):
        channels = np.array(matplotlib.colors.to_rgb(color))
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16

    sorted_lightness = sorted(lightness(style.line(method)["color"]) for method in METHODS)
    assert min(np.diff(sorted_lightness)) > 10
    assert len({style.line(method)["marker"] for method in METHODS}) == len(METHODS)
    assert tuple(style.METHODS) == METHODS


def write_results(folder, rows):
    write_rows(folder, rows)
    return str(folder)


def test_rows_of_another_machine_are_left_out_with_a_sentence(tmp_path):
    rows = rows_of(MEASURED[0])
    older = [msgspec.structs.replace(row, device="another machine", started="2000") for row in rows]
    results = write_results(tmp_path, [*older, *rows])
    result = CliRunner().invoke(app, [results, MEASURED[0]])
    written, sentence = result.output.splitlines()
    left_out = f"Left out {len(rows)} rows of device 'another machine': drawn are the newest"
    assert sentence.startswith(f"{MEASURED[0]}: {left_out}")
    assert written.startswith(str(tmp_path / "figures" / f"{MEASURED[0]}.png"))
    assert result.exit_code == 0


def test_each_figure_is_written_or_its_absence_explained_on_one_line(tmp_path):
    results = write_results(tmp_path, rows_of(MEMORY[0]))
    result = CliRunner().invoke(app, [results])
    lines = result.output.splitlines()
    drawn = {MEMORY[0], *figures.DIAGRAMS}
    assert result.exit_code == 0
    for name, line in zip(OF_ARTICLE, lines, strict=True):
        made = "written" if name in tables.TABLES else "drawn"
        assert name in line
        assert (f"is not {made}: there are no rows" in line) == (name not in drawn)
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert files == {f"{name}.{suffix}" for name in drawn for suffix in ("png", "pdf")}


def test_the_drawn_figures_need_no_rows_file(tmp_path):
    result = CliRunner().invoke(app, [str(tmp_path / "nowhere"), "forward_diff"])
    assert result.exit_code == 0
    assert (tmp_path / "nowhere" / "figures" / "forward_diff.pdf").exists()


def test_a_named_figure_without_rows_ends_with_exit_code_1(tmp_path):
    result = CliRunner().invoke(app, [str(tmp_path), "bench_hvp_time_jax"])
    assert result.exit_code == 1
    assert "bench_hvp_time_jax is not drawn: there are no rows" in result.output


def test_a_wrong_name_ends_with_one_sentence_that_lists_the_right_ones(refused):
    sentence = refused("no_such_figure")
    assert "'no_such_figure'" in sentence
    assert all(name in sentence for name in NAMES)


def test_a_failed_write_leaves_the_earlier_figure_whole(tmp_path, monkeypatch):
    figures.write("forward_diff", [], tmp_path)
    before = (tmp_path / "forward_diff.png").read_bytes()

    def half_a_file(self, content):
        self.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half_a_file)
    with pytest.raises(OSError, match="disk full"):
        figures.write("forward_diff", [], tmp_path)
    assert (tmp_path / "forward_diff.png").read_bytes() == before


def run_in(folder, *command, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True
    )


def test_the_same_rows_give_the_same_bytes_whatever_the_surroundings(tmp_path):
    names = ["bench_hvp_time_jax", "bench_hvp_memory_jax", "hess_eig", "forward_diff"]
    rows = [*rows_of(names[0]), *rows_of(names[1])]
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\npdf.fonttype: 42\n")
    surroundings = [
        {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
        {
            "TZ": "Asia/Tokyo",
            "LC_ALL": "de_DE.UTF-8",
            "PYTHONHASHSEED": "2",
            "SOURCE_DATE_EPOCH": "1",
            "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        },
    ]
    written = []
    for place, variables in enumerate(surroundings):
        folder = tmp_path / str(place)
        folder.mkdir()
        run_in(folder, "-m", "paper_figures", write_results(folder, rows), *names, **variables)
        files = sorted((folder / "figures").iterdir())
        written.append({path.name: path.read_bytes() for path in files})
    assert len(written[0]) == 2 * len(names)
    assert written[0] == written[1]
    for name, content in written[0].items():
        assert b"CreationDate" not in content, name
        assert b"Software" not in content, name


def test_drawing_imports_no_framework_and_no_display(tmp_path):
    code = (
        "import sys, paper_figures.__main__\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    modules, pyplot = run_in(tmp_path, "-c", code).stdout.decode().splitlines()
    assert "paper_figures" in modules.split()
    assert not {"jax", "torch", "transformers", "flax"} & set(modules.split())
    assert pyplot == "False"
