"""The figure and the table of products say what their rows say: memory against operations."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from drawn import assert_nothing_is_cut_off, texts

from paper_figures import figures, fronts, tables
from reproduce.plan import CHECKPOINTED, accounted_cases
from reproduce.results.rows import Row, read_rows

pytestmark = pytest.mark.usefixtures("figure_settings")
ROOT = Path(__file__).parent.parent
RECORDED = read_rows(ROOT / "docs/recorded/cpu-amd-epyc/beyond/a100/rows.jsonl")
GIB = 1 << 30


def row_of(case, place):
    """A made-up row: the n-th case needs n GiB of temporaries, and n operations."""
    is_memory = case.quantity == "memory"
    jax = {"xla_temp_bytes": place * GIB, "xla_output_bytes": GIB}
    return Row(
        **msgspec.structs.asdict(case),
        status="done",
        device="a made-up GPU" if is_memory else "",
        how=("compiled" if case.mode == "jit" else "accounted") if is_memory else "counted",
        memory_bytes=(jax if case.framework == "jax" else {"live_peak_bytes": place * GIB})
        if is_memory
        else {},
        flops=None if is_memory else float(place),
        code_hash="",
        started="2026-11-24T00:00:00+00:00",
    )


ROWS = [row_of(case, place) for place, case in enumerate(accounted_cases("beyond"), start=1)]


def drawn(rows):
    return figures.draw("beyond_front", figures.select("beyond_front", rows)[0])


def test_a_point_has_the_operations_and_the_memory_of_its_rows():
    axes = drawn(ROWS).axes[1]
    found = {
        tuple(np.concatenate(line.get_xydata()))
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    flops = {(r.framework, r.method): r.flops for r in ROWS if r.model == "vit" and r.flops}
    for row in ROWS:
        if (row.model, row.quantity) == ("vit", "memory"):
            counted = row.memory_bytes
            size = sum(counted.values()) / GIB
            cost = flops[row.framework, row.method] / flops[row.framework, "gradient"]
            assert min(abs(x - cost) + abs(y - size) for x, y in found) < 1e-9
    assert len(found) == len(flops)


def test_the_front_has_the_hvps_than_which_no_other_is_smaller_and_cheaper():
    row = ROWS[0]
    points = [fronts.Point(row, *at) for at in ((3, 1), (2, 4), (2, 2), (3.5, 1.5))]
    assert [point[1:] for point in fronts._front(points)] == [(2, 2), (3, 1)]


def test_no_gradient_and_no_gauss_newton_product_is_on_the_front():
    for axes in drawn(RECORDED).axes:
        lines = [line for line in axes.lines if line.get_linestyle() == ":"]
        marks = {
            tuple(np.concatenate(line.get_xydata()))
            for line in axes.lines
            if line.get_marker() in ("x", "*")
        }
        assert len(lines) == 2
        assert not {tuple(at) for line in lines for at in line.get_xydata()} & marks


def test_timed_products_without_a_marker_are_left_out_with_a_sentence():
    timed = read_rows(ROOT / "docs/recorded/cpu-amd-epyc/beyond/rows.jsonl")
    shown, left_out = figures.select("beyond_front", timed)
    assert {row.method for row in shown} <= fronts.MARKERS.keys()
    *of_others, last = left_out.removesuffix(".").split("; ")
    assert of_others[:2] == ["Left out, without a marker: JAX, linearised once", "PyTorch compiled"]
    assert last == "PyTorch, graph kept (PyHessian)"


def test_nothing_that_is_written_leaves_the_figure():
    figure = drawn(RECORDED)
    assert_nothing_is_cut_off(figure)
    assert any("not run" in text for text in texts(figure))


def test_the_docs_have_the_table_and_the_figure_of_the_recorded_rows(tmp_path):
    _, text = tables.products(tables.select("products", RECORDED)[0])
    of_jax, of_torch = (part for part in text.split("\n\n") if part.startswith("| Model"))
    docs = (ROOT / "docs" / "which_hvp.md").read_text()
    assert of_jax.strip() in docs
    assert of_torch.strip() in docs
    png, _ = figures.write("beyond_front", figures.select("beyond_front", RECORDED)[0], tmp_path)
    assert png.read_bytes() == (ROOT / "docs" / "beyond_front.png").read_bytes()


def test_on_the_a100_what_computes_again_and_gauss_newton_need_less_than_an_hvp():
    table, _ = tables.products(tables.select("products", RECORDED)[0])
    of_jax = table[table["framework"] == "jax"].pivot_table("needed_gib", "model", "method")
    for method in (*CHECKPOINTED, "gauss_newton"):
        assert (of_jax[method] < 0.9 * of_jax["forward_over_reverse"]).all()
