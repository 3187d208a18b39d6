"""The figures and the answer of plan ``beyond`` say what its rows say."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import write_rows
from drawn import assert_nothing_is_cut_off, texts
from typer.testing import CliRunner

from paper_figures import beyond, figures
from paper_figures.__main__ import app
from reproduce import methods
from reproduce.__main__ import app as verbs
from reproduce.article import sources
from reproduce.beyond.advice import advice
from reproduce.drawing import BEYOND_FROM_ROWS
from reproduce.plan import AMORTISED, METHODS, cases
from reproduce.results import summary
from reproduce.results.rows import Row, read_rows

pytestmark = pytest.mark.usefixtures("figure_settings")
GRADIENT = 2.0


def row_of(case, place):
    """A made-up row: the n-th case's HVP takes 1 + n/10 gradients."""
    is_time, ratio = case.quantity == "time", 1 + place / 10
    repetitions = range(case.repetitions)
    return Row(
        **msgspec.structs.asdict(case),
        status="done",
        device="CPU: made up, 2 cores",
        seconds=tuple(case.vectors * ratio * GRADIENT * (1 + n / 100) for n in repetitions)
        if is_time
        else (),
        gradient_seconds=(GRADIENT,) * case.repetitions if is_time else (),
        point_seconds=(GRADIENT / 2,) if case.method in AMORTISED and is_time else (),
        memory_bytes=memory_bytes(case, (place + 1) << 30),
        relative_difference=1e-6,
        compile_seconds={case.method: 60.0} if case.mode != "eager" else {},
        code_hash="",
        started="2026-11-24T00:00:00+00:00",
    )


def memory_bytes(case, needed):
    """Counters of a call: ``needed`` temporaries; in JAX a GiB of output, two kept at a point."""
    if case.framework == "jax":
        return {
            "xla_temp_bytes": needed,
            "xla_output_bytes": 1 << 30,
            "xla_argument_bytes": 3 << 30,
        }
    return {"torch_allocated_before_bytes": 0, "torch_peak_allocated_bytes": needed}


ROWS = [row_of(case, place) for place, case in enumerate(sorted(cases("beyond"), key=str))]
TIMED = beyond.select("beyond_ratios", ROWS)[0]


def changed(rows, wanted, **fields):
    return [msgspec.structs.replace(row, **fields) if wanted(row) else row for row in rows]


def of(framework, mode, method, model="vit"):
    return lambda row: (
        (row.framework, row.mode, row.method, row.model, row.vectors)
        == (framework, mode, method, model, 1)
    )


def test_a_bar_is_as_long_as_the_median_of_its_ratios():
    figure = beyond.beyond_ratios(TIMED)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    hvps = [row for row in TIMED if row.method != "gradient"]
    assert len(labels) == len({(row.framework, row.mode, row.method) for row in hvps})
    for axes, model in zip(figure.axes, ("resnet34", "vit", "bert"), strict=True):
        bars = {labels[round(b.get_y() + b.get_height() / 2)]: b.get_width() for b in axes.patches}
        wanted = {
            methods.name(row.framework, row.mode, row.method): summary.ratio(row)[1]
            for row in hvps
            if row.model == model
        }
        assert bars == pytest.approx(wanted)


def test_every_bar_has_its_operation_count_and_its_seconds():
    figure = beyond.beyond_ratios(TIMED)
    axes = figure.axes[1]
    size = beyond.OPERATION_MARK["markersize"]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_markersize() == size]
    of_vit = {(row.framework, row.mode, row.method) for row in TIMED if row.model == "vit"}
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    counts = {
        methods.name(framework, mode, method): methods.OPERATIONS[framework, mode][method]
        for framework, mode, method in of_vit
        if method != "gradient"
    }
    assert marks == [counts[label] for label in labels if label in counts]
    row = next(filter(of("jax", "jit", "linearized"), TIMED))
    assert f"{summary.ratio(row)[1]:.2f} · {np.median(row.seconds):.2g} s" in texts(figure)


def test_an_hvp_that_failed_or_disagrees_says_so_in_place_of_or_beside_its_bar():
    failed = of("torch", "compile", "linearized")
    rows = changed(TIMED, failed, status="unsupported", seconds=(), gradient_seconds=())
    figure = beyond.beyond_ratios(rows)
    assert "unsupported" in texts(figure)
    rows = changed(TIMED, of("torch", "eager", "curvlinops"), relative_difference=0.006)
    marked = [text for text in texts(beyond.beyond_ratios(rows)) if text.endswith("s ≠")]
    assert len(marked) == 1


def test_the_total_time_starts_with_the_point_and_rises_by_one_hvp_each():
    figure = beyond.beyond_amortised(TIMED)
    keys = list(beyond.AMORTISED_LINES)
    axes = figure.axes[1]
    assert len(axes.lines) == len(keys)
    totals = {round(line.get_ydata()[0], 9): line.get_ydata() for line in axes.lines}
    for key in keys:
        row = next(filter(of(*key), TIMED))
        each, point = np.median(row.seconds), 1.0 if row.point_seconds else 0.0
        np.testing.assert_allclose(
            totals[round(point + each, 9)], point + each * np.arange(1, 17), rtol=1e-9
        )


def test_no_line_leaves_its_panel():
    several, _ = summary.of_beyond(ROWS, several_vectors=True)
    for figure in (beyond.beyond_amortised(TIMED), beyond.beyond_vectors(several)):
        for axes in figure.axes:
            low, high = axes.get_ylim()
            assert low == 0
            assert all(line.get_ydata().max() <= high for line in axes.lines)


def test_what_compiling_hardly_saves_is_not_advised():
    rows = changed(ROWS, of("torch", "compile", "forward_over_reverse"), seconds=(1.0,) * 3)
    for method in ("linearized", "gradient"):
        rows = changed(rows, of("torch", "compile", method), seconds=(9.0,) * 3)
    rows = changed(rows, of("torch", "eager", "reverse_over_forward"), seconds=(1.04,) * 3)
    cell = table_of(advice(rows), "PyTorch")["many HVPs, each at a new point"]["ViT"]
    assert cell.startswith("reverse-over-forward: 1.04 s")


def test_the_docs_have_the_answer_of_the_recorded_rows():
    root = Path(__file__).parent.parent
    recorded = root / "docs" / "recorded" / "cpu-amd-epyc" / "beyond" / "rows.jsonl"
    answer = advice(read_rows(recorded))
    assert answer in (root / "docs" / "which_hvp.md").read_text()


def test_the_time_for_several_vectors_is_divided_by_their_number():
    rows, _ = summary.of_beyond(ROWS, several_vectors=True)
    figure = beyond.beyond_vectors(rows)
    assert [axes.get_title() for axes in figure.axes] == ["JAX", "PyTorch"]
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 2, 4, 8]
    wanted = {
        row.vectors: summary.ratio(row)[1] / row.vectors
        for row in rows
        if (row.framework, row.model) == ("jax", "resnet34")
    }
    np.testing.assert_allclose(line.get_ydata(), [wanted[k] for k in (1, 2, 4, 8)])


def test_the_memory_of_several_vectors_stands_at_their_time():
    rows, _ = summary.of_beyond(ROWS, several_vectors=True)
    figure = beyond.beyond_vectors(rows)
    for axes, framework in zip(figure.axes, ("jax", "torch"), strict=True):
        times = dict(zip(*axes.lines[0].get_data(), strict=True))
        memory = {
            row.vectors: f"{made_up_gib(row)}.0 GiB" for row in rows if row.framework == framework
        }
        assert memory.keys() == {1, 2, 4, 8}
        assert {text.xy: text.get_text() for text in axes.texts} == {
            (count, times[count]): size for count, size in memory.items()
        }


def made_up_gib(row):
    """The GiB of a call, by what ``memory_bytes`` made up."""
    if row.framework == "torch":
        return row.memory_bytes["torch_peak_allocated_bytes"] >> 30
    temporary = row.memory_bytes["xla_temp_bytes"] >> 30
    return temporary + (3 if row.method == "linearized" else 1)


@pytest.mark.parametrize("framework", ["JAX", "PyTorch"])
def test_the_answer_says_least_and_most_memory_of_what_tells_it(framework):
    own = [
        row
        for row in TIMED
        if row.framework == framework.replace("Py", "").lower()
        and (row.model, row.method in ("gradient", "gauss_newton", "bfloat16")) == ("bert", False)
    ]
    least, most = (choose(own, key=made_up_gib) for choose in (min, max))
    of_least, of_most = (
        ("compiled, " if row.mode == "compile" else "") + methods.LABELS[row.method]
        for row in (least, most)
    )
    assert table_of(advice(ROWS), framework)["little memory"]["BERT"] == (
        f"{of_least}: {made_up_gib(least)}.0 GiB (most: {of_most}, {made_up_gib(most)}.0 GiB)"
    )
    untold = changed(ROWS, lambda row: row == least, memory_bytes={})
    assert of_least not in table_of(advice(untold), framework)["little memory"]["BERT"]


def test_several_vectors_at_once_are_no_bar_among_single_ones():
    assert {row.vectors for row in TIMED} == {1}
    assert {row.batch_size for row in TIMED} == {4}


@pytest.mark.parametrize("name", BEYOND_FROM_ROWS)
def test_nothing_that_is_written_leaves_the_figure_and_plan_and_device_are_named(name):
    figure = figures.draw(name, figures.select(name, ROWS)[0])
    assert_nothing_is_cut_off(figure)
    assert any("CPU: made up" in text and "plan: beyond" in text for text in texts(figure))


@pytest.mark.parametrize("count", [1, 5])
def test_every_network_has_a_panel_however_many_there_are(count):
    of_vit = [row for row in TIMED if row.model == "vit"]
    names = [f"network {n}" for n in range(count)]
    rows = [msgspec.structs.replace(row, model=name) for name in names for row in of_vit]
    figure = beyond.beyond_ratios(rows)
    assert [axes.get_title() for axes in figure.axes] == names
    assert_nothing_is_cut_off(figure)


def test_where_no_number_of_vectors_is_done_the_operation_count_stands_alone():
    rows, _ = summary.of_beyond(ROWS, several_vectors=True)
    failed = {"status": "error", "reason": "a crash", "seconds": (), "gradient_seconds": ()}
    figure = beyond.beyond_vectors(changed(rows, lambda row: row.framework == "jax", **failed))
    of_jax, of_torch = (len(axes.get_lines()[0].get_xdata()) for axes in figure.axes)
    assert (of_jax, of_torch) == (0, 4)


def test_without_rows_a_figure_is_not_drawn_and_what_is_the_articles_ignores_plan_beyond(tmp_path):
    for name in BEYOND_FROM_ROWS:
        with pytest.raises(figures.CannotDraw, match="no such rows of plan 'beyond'"):
            figures.draw(name, [])
    assert figures.select("bench_hvp_time_jax", ROWS)[0] == []
    assert sources.of_rows("this run", ROWS, "not measured").cases.empty
    write_rows(tmp_path, ROWS)
    result = CliRunner().invoke(app, [str(tmp_path), *BEYOND_FROM_ROWS])
    assert result.exit_code == 0
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(BEYOND_FROM_ROWS)


def table_of(text, framework):
    """The lines of a framework's table: {need: {model: cell}}."""
    (table,) = [part for part in text.split("\n\n") if part.startswith(f"| {framework}")]
    head, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {need: dict(zip(head[1:], cells, strict=True)) for need, *cells in lines}


def test_without_a_done_hvp_of_plan_beyond_there_is_no_answer_and_no_file(tmp_path):
    gradients = [row for row in ROWS if row.method == "gradient"]
    failed = [
        msgspec.structs.replace(row, status="error", reason="a crash", seconds=()) for row in ROWS
    ]
    of_article = read_rows(Path(__file__).parent / "rows_sample.jsonl")
    for rows in (gradients, failed, of_article):
        write_rows(tmp_path, rows)
        result = CliRunner().invoke(verbs, ["advise", str(tmp_path)])
        assert f"none among {len(rows)} rows; measure them" in str(result.exception)
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_answer_names_the_fastest_for_each_need():
    rows = changed(ROWS, of("jax", "jit", "reverse_over_forward"), seconds=(0.5,) * 3)
    rows = changed(rows, of("jax", "jit", "linearized"), seconds=(0.1,) * 3)
    table = table_of(advice(rows), "JAX")
    assert table["few HVPs"]["ViT"] == "reverse-over-forward: 0.50 s, 0.2 gradients"
    assert table["10 HVPs at one point"]["ViT"].startswith("linearised once: 0.20 s")
    assert not any(need.startswith("many") for need in table)


def test_a_gauss_newton_product_is_fastest_in_its_own_line_alone():
    rows = changed(ROWS, of("jax", "jit", "gauss_newton", "bert"), seconds=(0.01,) * 3)
    table = table_of(advice(rows), "JAX")
    line = table.pop("no HVP, but Gauss-Newton's product")
    assert line["BERT"] == "Gauss-Newton: 0.01 s, 0.0 gradients"
    assert not any("Gauss-Newton" in cell for cells in table.values() for cell in cells.values())


def test_an_hvp_in_bfloat16_carries_its_error_and_stands_in_its_own_line_alone():
    wanted = of("jax", "jit", "bfloat16", "bert")
    rows = changed(ROWS, wanted, seconds=(0.01,) * 3, relative_difference=0.0123)
    table = table_of(advice(rows), "JAX")
    line = table.pop("an HVP with bfloat16's error")
    assert line["BERT"] == "activations in bfloat16: 0.01 s, 0.0 gradients, error 1.2 %"
    assert not any("bfloat16" in cell for cells in table.values() for cell in cells.values())
    assert "Left out" not in advice(rows)
    figure = beyond.beyond_ratios(beyond.select("beyond_ratios", rows)[0])
    assert [text for text in texts(figure) if "· error" in text] == ["0.01 · 0.01 s · error 1.2 %"]


def test_a_network_of_another_batch_is_in_the_answer_and_in_no_panel():
    _, left_out = beyond.select("beyond_ratios", ROWS)
    assert left_out == "Left out GPT-2 and Llama, of another batch size."
    assert "batch size 4 (ResNet34, ViT, BERT) and 1 (GPT-2, Llama)." in advice(ROWS)


def test_methods_whose_rounds_overlap_share_the_first_place():
    rows = [row for row in ROWS if row.framework == "jax" and row.method in METHODS]
    for method, first in zip(METHODS[1:], (0.5, 0.4, 0.7), strict=True):
        rows = changed(rows, of("jax", "jit", method), seconds=(first, first + 0.1, first + 0.2))
    cell = table_of(advice(rows), "JAX")["few HVPs"]["ViT"]
    assert cell.startswith("reverse-over-forward or forward-over-reverse: 0.50 s")


def test_the_answer_weighs_compiling_against_what_it_gains():
    rows = [row for row in ROWS if row.framework == "torch" and row.method in METHODS]
    rows = changed(rows, of("torch", "compile", "forward_over_reverse"), seconds=(1.0,) * 3)
    for method in METHODS[1:3]:
        rows = changed(rows, of("torch", "eager", method), seconds=(3.0,) * 3)
    cell = table_of(advice(rows), "PyTorch")["many HVPs, each at a new point"]["ViT"]
    assert cell == (
        "compiled, forward-over-reverse: 1.00 s, 0.5 gradients; compiling takes 60 s, 30 HVPs' gain"
    )


def test_what_compiling_costs_is_told_where_many_hvps_are_at_one_point():
    point = {"point_seconds": (1.0,) * 3, "seconds": (1.0,) * 3}
    rows = [row for row in ROWS if (row.model, row.vectors) == ("vit", 1)]
    rows = changed(rows, of("torch", "compile", "linearized"), **point)
    rows = changed(rows, lambda row: row.mode != "compile", seconds=(3.1,) * 3, point_seconds=())
    compiling = next(filter(of("torch", "compile", "linearized"), rows)).compile_seconds
    paid = sum(took for name, took in compiling.items() if name != "gradient") / (3.1 - 1.1)
    cell = table_of(advice(rows), "PyTorch")["many HVPs at one point"]["ViT"]
    assert cell.startswith("compiled, linearised once: 1.10 s")
    assert cell.endswith(f", {paid:.0f} HVPs' gain")


def test_the_answer_leaves_out_what_is_wrong_and_names_it():
    fastest = of("torch", "eager", "curvlinops")
    rows = changed(ROWS, fastest, seconds=(0.01,) * 3, relative_difference=0.006)
    text = advice(rows)
    assert "curvlinops" not in table_of(text, "PyTorch")["few HVPs"]["ViT"]
    assert "PyTorch, curvlinops for ViT (by 0.6 %)" in text
