"""Rows are summarised as the article does: overheads, medians, 20 % and 80 % quantiles."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from reproduce.results import counters, published, summary
from reproduce.results.rows import read_rows

SAMPLE = Path(__file__).parent / "rows_sample.jsonl"
CELL = ("resnet34", 2, "reverse_over_forward")


@pytest.fixture(scope="module")
def hvp_row():
    """A finished row whose numbers are easy to work out by hand."""
    model, batch_size, method = CELL
    return msgspec.structs.replace(
        read_rows(SAMPLE)[0],
        framework="jax",
        mode="jit",
        model=model,
        batch_size=batch_size,
        method=method,
        quantity="time",
        status="done",
        device="device A",
        started="2026-01-02T00:00:00Z",
        seconds=(5.0, 3.0, 9.0),
        gradient_seconds=(1.0, 2.0, 1.5),
        memory_bytes={},
    )


def changed(row, **fields):
    return msgspec.structs.replace(row, **fields)


def test_an_hvp_time_is_what_it_takes_on_top_of_the_gradient_of_the_same_repetition(hvp_row):
    assert summary.overhead_seconds(hvp_row) == [4.0, 1.0, 7.5]


def test_a_gradient_time_is_its_own(hvp_row):
    gradient = changed(hvp_row, method="gradient", gradient_seconds=())
    assert summary.overhead_seconds(gradient) == [5.0, 3.0, 9.0]


def test_an_hvp_without_a_gradient_time_for_each_repetition_is_refused(hvp_row):
    with pytest.raises(ValueError, match="shorter"):
        summary.overhead_seconds(changed(hvp_row, gradient_seconds=(1.0,)))


def test_a_cell_holds_the_median_and_the_20_and_80_percent_quantiles(hvp_row):
    gradient = changed(hvp_row, method="gradient", seconds=tuple(range(10, -1, -1)))
    cell = summary.summarise([gradient], summary.overhead_seconds).iloc[0]
    assert (cell["low"], cell["median"], cell["high"]) == (2, 5, 8)


def test_a_failed_row_keeps_its_status_and_has_no_numbers(hvp_row):
    failed = changed(hvp_row, status="out_of_memory", reason="too large")
    cell = summary.summarise([failed], summary.overhead_seconds).loc[CELL]
    assert cell["status"] == "out_of_memory"
    assert np.isnan([cell["low"], cell["median"], cell["high"]]).all()


def test_a_cell_without_a_row_is_not_measured(hvp_row):
    frame = summary.summarise([hvp_row], summary.overhead_seconds)
    full = summary.with_gaps(frame, [CELL, ("bert", 2, "gradient")])
    assert list(full["status"]) == ["done", "not_measured"]
    assert full.loc[CELL, "median"] == 4.0


def test_the_last_row_of_a_case_replaces_the_earlier_ones(hvp_row):
    again = changed(hvp_row, seconds=(1.0,), started="2026-01-03T00:00:00Z")
    assert summary.last_of_each_case([hvp_row, again]) == [again]
    assert summary.last_of_each_case([again, hvp_row]) == [hvp_row]


@pytest.mark.parametrize(
    "other",
    [
        {"plan": "another"},
        {"framework": "torch"},
        {"mode": "eager"},
        {"model": "vit"},
        {"batch_size": 4},
        {"method": "gradient"},
        {"quantity": "memory"},
        {"vector": "seeded"},
        {"normalisation": "matched"},
        {"seed": 1},
        {"device": "device B"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_rows_that_differ_in_their_case_or_device_are_both_kept(hvp_row, other):
    rows = [hvp_row, changed(hvp_row, **other)]
    assert summary.last_of_each_case(rows) == rows


@pytest.mark.parametrize(
    "other",
    [
        {"device": "device B"},
        {"plan": "another"},
        {"device": "device B", "plan": "another"},
        {"vector": "seeded"},
        {"normalisation": "matched"},
        {"recorded": True},
        {"layer_norm": "native"},
        {"seed": 1},
    ],
    ids=str,
)
def test_rows_of_other_settings_than_the_newest_are_left_out_with_a_sentence(hvp_row, other):
    newer = changed(hvp_row, **other)
    older, wanted = (
        ", ".join(f"{field} {getattr(row, field)!r}" for field in other) for row in (hvp_row, newer)
    )
    for clock in ("2000", "2026-01-03T00:00:00Z"):  # which may have been set back
        newer = changed(newer, started=clock)
        kept, sentence = summary.newest([hvp_row, hvp_row, newer])
        assert kept == [newer]
        assert sentence == f"Left out 2 rows of {older}: drawn are the newest, {wanted}."


def test_nothing_is_said_where_all_rows_have_the_same_settings(hvp_row):
    assert summary.newest([hvp_row, hvp_row]) == ([hvp_row, hvp_row], "")
    assert summary.newest([]) == ([], "")


RESIDENT = {"resident_before_bytes": 100, "resident_peak_bytes": 150}
ALLOCATOR = {"jax_bytes_in_use_before": 10, "jax_peak_bytes_in_use": 40}


def memory_rows(hvp_row, *recorded, **fields):
    return [
        changed(hvp_row, quantity="memory", memory_bytes=counters, **fields)
        for counters in recorded
    ]


def test_the_first_counter_is_drawn_where_all_rows_have_it(hvp_row):
    rows = memory_rows(hvp_row, RESIDENT | ALLOCATOR, RESIDENT | ALLOCATOR, mode="eager")
    counter = counters.shared(rows)
    assert counter.name == "jax_allocator"
    assert counter.bytes_of(rows[0]) == 30


def test_one_row_without_the_first_counter_moves_all_to_the_next(hvp_row):
    rows = memory_rows(hvp_row, RESIDENT | ALLOCATOR, RESIDENT, mode="eager")
    counter = counters.shared(rows)
    assert counter.name == "resident_set"
    assert [counter.bytes_of(row) for row in rows] == [50, 50]


def test_a_failed_row_has_no_say_in_the_counter(hvp_row):
    rows = memory_rows(hvp_row, RESIDENT | ALLOCATOR, mode="eager")
    rows += memory_rows(hvp_row, {}, mode="eager", status="error", reason="made up")
    assert counters.shared(rows).name == "jax_allocator"


def test_the_compiled_program_counts_temporary_and_output_bytes(hvp_row):
    rows = memory_rows(hvp_row, {"xla_temp_bytes": 5, "xla_output_bytes": 2} | RESIDENT)
    counter = counters.shared(rows)
    assert (counter.name, counter.bytes_of(rows[0])) == ("xla_program", 7)


def test_pytorch_counts_its_peak_over_what_was_allocated_before(hvp_row):
    recorded = {"torch_peak_allocated_bytes": 9, "torch_allocated_before_bytes": 4} | RESIDENT
    rows = memory_rows(hvp_row, recorded, framework="torch", mode="eager")
    counter = counters.shared(rows)
    assert (counter.name, counter.bytes_of(rows[0])) == ("torch_allocator", 5)


def test_there_is_no_counter_where_the_rows_have_none_in_common(hvp_row):
    rows = memory_rows(hvp_row, RESIDENT)
    assert counters.shared(rows) is None


@pytest.mark.parametrize(
    ("framework", "name", "counted"),
    [("jax", "live_arrays", 9), ("torch", "simulated_reserve", 12)],
)
def test_accounted_rows_count_what_is_alive_and_in_pytorch_the_reserve(
    hvp_row, framework, name, counted
):
    recorded = {"live_argument_bytes": 4, "live_peak_bytes": 9}
    if framework == "torch":
        recorded["simulated_reserved_bytes"] = 12
    rows = memory_rows(hvp_row, recorded, framework=framework, mode="eager")
    counter = counters.shared(rows)
    assert (counter.name, counter.bytes_of(rows[0])) == (name, counted)


def test_published_memory_is_in_bytes_and_of_one_framework_and_mode():
    table = published.memory()
    found = summary.published_bytes("jax", "eager")
    of_run = table[(table["framework"] == "jax") & (table["mode"] == "eager")]
    assert len(found) == len(of_run)
    for line in of_run.itertuples():
        cell = line.model, line.batch_size, line.method
        assert found[cell] == 2**30 * line.memory_gib


@pytest.mark.parametrize(
    ("difference", "product_error", "is_wrong"),
    [
        (None, 2e-7, False),
        (float("nan"), 2e-7, True),
        (2e-5, 2e-7, False),
        (6e-4, 2e-7, True),
        (6e-4, 3e-4, False),  # in TF32
        (6e-3, 3e-4, True),
        (6e-4, None, True),  # a row from before the error was noted
    ],
)
def test_how_far_right_hvps_differ_depends_on_the_precision_in_force(
    hvp_row, difference, product_error, is_wrong
):
    precision = {} if product_error is None else {"jax_product_error": product_error}
    row = changed(hvp_row, relative_difference=difference, environment={"precision": precision})
    assert summary.is_wrong(row) == is_wrong


XLA_BYTES = {"xla_temp_bytes": 3 << 30, "xla_output_bytes": 1 << 30}


def test_a_timed_row_that_counted_memory_is_a_memory_row_as_well(hvp_row):
    timed = changed(hvp_row, memory_bytes=XLA_BYTES)
    kind = ("memory", timed.framework, timed.mode)
    (memory,) = summary.of_kind([timed], kind)
    assert counters.shared([memory]).bytes_of(memory) == 4 << 30
    assert summary.of_kind([timed], ("time", *kind[1:])) == [timed]
    failed = changed(timed, status="out_of_memory", reason="too large", memory_bytes={})
    found = summary.of_kind([timed, failed], kind)
    assert [row.status for row in found] == ["done", "out_of_memory"]
    assert summary.of_kind([failed], kind) == []


def test_memory_that_has_rows_of_its_own_is_not_taken_from_timed_ones(hvp_row):
    timed = changed(hvp_row, memory_bytes=XLA_BYTES)
    own = changed(timed, quantity="memory", vector="params", method="gradient")
    kind = ("memory", timed.framework, timed.mode)
    assert summary.of_kind([timed, own], kind) == [own]
    elsewhere = changed(own, device="device B")
    assert len(summary.of_kind([timed, elsewhere], kind)) == 2


def test_without_jit_a_timed_row_tells_no_memory(hvp_row):
    timed = changed(hvp_row, mode="eager")
    assert summary.of_kind([timed], ("memory", timed.framework, timed.mode)) == []
