"""A verdict is right on planted data, on the published numbers, and says what it rests on."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import typer
from commands import write_rows
from scipy import stats
from typer.testing import CliRunner

from reproduce import problems
from reproduce.article import claims, judge, sources
from reproduce.cli import judging
from reproduce.errors import UserError
from reproduce.plan import ARTICLE_MODELS, HVPS, METHODS
from reproduce.report.evidence import COMPILED
from reproduce.results import origin, per_case
from reproduce.results.published import time as published_times
from reproduce.results.rows import Row, read_rows

A100 = origin.ARTICLE_DEVICE
NOISE = np.linspace(-0.002, 0.002, 21)
COSTS_OF_HVPS = {"forward_over_reverse": 2.5, "reverse_over_forward": 2.5}
BY_ID = {claim.id: claim for claim in claims.CLAIMS}
PUBLISHED = {
    "dense_hessian_out_of_reach": "reproduced",
    "jvp_costs_two_evaluations": "not tested here",
    "gradient_costs_two_evaluations": "not tested here",
    "hvp_costs_four_evaluations": "not tested here",
    "reverse_over_forward_costs_as_forward_over_reverse": "not tested here",
    "reverse_over_forward_needs_less_than_reverse_over_reverse": "consistent",
    "reverse_over_reverse_has_more_operations": "not tested here",
    "all_methods_compute_the_same": "not tested here",
    "torch_transformers_scale_otherwise": "consistent",
    "jax_hvp_costs_two_to_three_gradients": "consistent",
    "jax_reverse_over_reverse_slowest": "consistent",
    "jax_time_linear_in_batch_size": "consistent",
    "torch_resnet34_order_as_in_jax": "consistent",
    "torch_resnet34_scales_as_in_jax": "consistent",
    "torch_forward_over_reverse_slower": "consistent",
    "torch_hvp_costs_four_to_five_gradients": "inconsistent",
    "jit_memory_same_for_all_methods": "consistent",
    "eager_reverse_over_reverse_needs_most": "consistent",
    "eager_memory_linear_in_batch_size": "consistent",
    "jit_memory_not_linear_at_small_batch_sizes": "consistent",
    "torch_forward_over_reverse_needs_more": "consistent",
    "torch_memory_linear_in_batch_size": "consistent",
}


def row(quantity, run, model, batch_size, method, **fields):
    """A finished row of the article's plan on the article's device."""
    case = {
        "plan": "article",
        "framework": run[0],
        "mode": run[1],
        "model": model,
        "batch_size": batch_size,
        "method": method,
        "quantity": quantity,
        "warmup": 0,
        "repetitions": 1,
    }
    given = {"status": "done", "device": A100, "code_hash": "", "started": "2026-01-01"}
    return Row(**(case | given | fields))


def time_row(run, model, batch_size, method, seconds, noise=NOISE, **fields):
    """Every gradient takes 1 s; ``seconds`` is the whole of an HVP, or the gradient's own."""
    values = tuple((seconds * (1 + np.asarray(noise))).tolist())
    beside = () if method == "gradient" else (1.0,) * len(values)
    timed = {"seconds": values, "gradient_seconds": beside, "repetitions": len(values)}
    return row("time", run, model, batch_size, method, **timed, **fields)


def times(cost, run=claims.JAX_JIT, models=ARTICLE_MODELS, batch_size=128, **fields):
    """All methods of all models; ``cost`` is an HVP's in gradients, a number or by method."""
    costs = cost if isinstance(cost, dict) else dict.fromkeys(HVPS, cost)
    return [
        time_row(run, model, batch_size, method, seconds, **fields)
        for model in models
        for method, seconds in {"gradient": 1.0, **costs}.items()
    ]


def memory(run, counters_of, batch_sizes=(64,), models=ARTICLE_MODELS, quantity="memory", **fields):
    """``counters_of(batch size, method)`` gives the recorded bytes."""
    return [
        row(quantity, run, model, size, method, memory_bytes=counters_of(size, method), **fields)
        for model in models
        for size in batch_sizes
        for method in METHODS
    ]


def xla(function):
    return lambda size, method: {
        "xla_temp_bytes": round(function(size, method)),
        "xla_output_bytes": 0,
    }


def whole_gpu(function):
    return lambda size, method: {
        "nvml_used_before_bytes": 100,
        "nvml_used_peak_bytes": 100 + round(function(size, method)),
    }


def judged(claim, rows):
    return judge.judge(BY_ID[claim], sources.of_rows("rows", rows, "there are none"))


def changed(rows, **fields):
    return [msgspec.structs.replace(each, **fields) for each in rows]


@pytest.fixture(scope="module")
def published():
    source = sources.of_article()
    return {claim: judge.judge(BY_ID[claim], source) for claim in BY_ID}


def test_the_docs_have_the_verdicts_on_the_published_numbers_and_on_the_recorded_accounting():
    root = Path(__file__).parent.parent
    recorded = read_rows(root / "docs" / "recorded" / "cpu-amd-epyc" / "a100" / "rows.jsonl")
    of_recorded = sources.of_rows(COMPILED, recorded, "not run")
    table = judge.claims_table(judge.judgements([sources.of_article(), of_recorded]))
    assert table in (root / "docs" / "claims.md").read_text()


def test_every_claim_has_its_verdict_on_the_published_numbers(published):
    assert {claim: found.verdict for claim, found in published.items()} == PUBLISHED


@pytest.mark.parametrize(
    ("claim", "number"),
    [
        ("jax_hvp_costs_two_to_three_gradients", 1 + 53.71 / 41.20),
        ("torch_hvp_costs_four_to_five_gradients", 1 + 386.88 / 189.84),
        ("jit_memory_same_for_all_methods", 3.818 / 3.514),
        ("torch_forward_over_reverse_needs_more", 11.768 / 10.414),
    ],
)
def test_the_figure_behind_a_published_verdict_is_the_one_worked_out_by_hand(
    published, claim, number
):
    assert published[claim].deciding.number == pytest.approx(number, rel=1e-3)


def test_reverse_over_reverse_is_not_the_slowest_at_the_batch_size_of_the_published_image(
    published,
):
    reason = published["jax_reverse_over_reverse_slowest"].reason
    assert "at batch size 64, which the image shows, inconsistent: 0.978" in reason


def test_the_raw_timings_settle_that_the_gradient_at_batch_4_is_on_the_line(published):
    """Its 90 values have two modes, a third of them above 11 ms, and the median is in the lower."""
    figures = published["jax_time_linear_in_batch_size"].figures
    found = next(figure for figure in figures if figure.of == "ResNet34, batch 4, gradient")
    assert (found.low, found.number, found.high) == pytest.approx((1.01, 1.015, 1.019), abs=2e-3)


def test_with_batch_sizes_1_and_2_the_published_times_are_barely_off_the_line():
    draws = sources.of_article().draws
    values = draws.xs(("time", "jax", "jit", "resnet34"), drop_level=False)
    farthest = (claims.over_line(values)[0] - 1).abs().idxmax()
    assert farthest[-2:] == (8, "reverse_over_reverse")
    assert claims.over_line(values)[0][farthest] == pytest.approx(1.104, abs=5e-4)


@pytest.mark.parametrize(
    ("cost", "verdict"), [(2.5, "reproduced"), (3.6, "not reproduced"), (1.5, "not reproduced")]
)
def test_what_an_hvp_costs_is_judged_with_the_gradient_included(cost, verdict):
    found = judged("jax_hvp_costs_two_to_three_gradients", times(cost))
    assert found.verdict == verdict
    assert found.deciding.number == pytest.approx(cost)


def test_one_model_out_of_the_range_is_enough():
    rows = times(2.5, models=("resnet34", "vit")) + times(3.6, models=("bert",))
    found = judged("jax_hvp_costs_two_to_three_gradients", rows)
    assert found.verdict == "not reproduced"
    assert found.deciding.of.startswith("BERT")
    assert "6 of 9 intervals" in found.reason


def test_an_interval_across_the_end_of_the_range_is_inconclusive():
    wide = np.linspace(-0.4, 0.4, 21)
    found = judged("jax_hvp_costs_two_to_three_gradients", times(3.1, noise=wide))
    assert found.verdict == "inconclusive"
    assert found.deciding.low < 3.15 < found.deciding.high


@pytest.mark.parametrize("ratio", [0.9, 1.0, 1.005])
def test_as_slow_as_the_others_is_not_the_slowest(ratio):
    costs = dict.fromkeys(HVPS, 2.5) | {"reverse_over_reverse": 2.5 * ratio}
    rows = times(costs, noise=NOISE / 10)
    assert judged("jax_reverse_over_reverse_slowest", rows).verdict == "not reproduced"


def test_the_slowest_is_the_slowest_next_to_each_other_method():
    costs = dict.fromkeys(HVPS, 2.5) | {"reverse_over_reverse": 2.8}
    assert judged("jax_reverse_over_reverse_slowest", times(costs)).verdict == "reproduced"
    costs["forward_over_reverse"] = 3.0
    found = judged("jax_reverse_over_reverse_slowest", times(costs))
    assert found.verdict == "not reproduced"
    assert "reverse-over-reverse / forward-over-reverse" in found.deciding.of


def test_pytorch_is_judged_next_to_jax_and_not_alone():
    torch = times({**COSTS_OF_HVPS, "reverse_over_reverse": 4.0}, run=claims.TORCH)
    claim = "torch_resnet34_scales_as_in_jax"
    assert judged(claim, torch).verdict == "not tested here"
    found = judged(claim, torch + times({**COSTS_OF_HVPS, "reverse_over_reverse": 3.0}))
    assert found.verdict == "not reproduced"
    assert found.deciding.number == pytest.approx(4 / 3)
    assert judged(claim, torch + times(2.0)).verdict == "not reproduced"
    twice_as_dear = {method: 2 * cost for method, cost in COSTS_OF_HVPS.items()}
    beside = times({**twice_as_dear, "reverse_over_reverse": 8.0})
    assert judged(claim, torch + beside).verdict == "reproduced"


def curve(function, batch_sizes=(4, 8, 16, 32, 64, 128)):
    return [
        each
        for size in batch_sizes
        for each in [
            time_row(claims.JAX_JIT, "resnet34", size, "gradient", function(size)),
            *(
                time_row(claims.JAX_JIT, "resnet34", size, method, 1 + function(size))
                for method in HVPS
            ),
        ]
    ]


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda size: 5 + 0.7 * size, "reproduced"),
        (lambda size: 0.7 * size, "reproduced"),
        (lambda size: max(20.0, 0.7 * size), "not reproduced"),
        (lambda size: size**1.5, "not reproduced"),
        (lambda size: size**0.5, "not reproduced"),
    ],
)
def test_a_straight_line_may_have_an_intercept_and_nothing_else(function, verdict):
    assert judged("jax_time_linear_in_batch_size", curve(function)).verdict == verdict


def test_two_batch_sizes_make_no_line():
    found = judged("jax_time_linear_in_batch_size", curve(float, batch_sizes=(4, 8)))
    assert found.verdict == "not tested here"
    assert "at 2 of the batch sizes, and it takes 4" in found.reason


def frame_of(values, batch_sizes=(4, 8, 16, 32, 64, 128)):
    index = pd.MultiIndex.from_product(
        [["memory"], ["jax"], ["jit"], ["resnet34"], batch_sizes, ["gradient"]], names=sources.CASE
    )
    return pd.DataFrame({0: np.asarray(values, float)}, index)


def test_the_fitted_line_is_that_of_least_relative_squares():
    sizes, values = np.array([4, 8, 16, 32, 64, 128]), np.array([9.0, 11, 16, 29, 47, 95])
    slope, intercept = np.polyfit(sizes, values, 1, w=1 / values)
    found = claims.over_line(frame_of(values))[0]
    assert found.to_numpy() == pytest.approx(values / (intercept + slope * sizes))


def test_the_line_is_fitted_in_the_order_of_the_batch_sizes_whatever_the_order_of_the_cases():
    frame = frame_of([20, 20, 22, 32, 64, 128])
    shuffled = claims.small_over_line_of_large(frame.iloc[::-1])
    assert shuffled[0].to_numpy() == pytest.approx([20 / 4])


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda size, _: max(500, 50 * size), "reproduced"),
        (lambda size, _: 100 + 50 * size, "not reproduced"),
    ],
)
def test_a_flat_start_is_told_from_a_line(function, verdict):
    sizes, claim = (4, 8, 16, 32, 64, 128), "jit_memory_not_linear_at_small_batch_sizes"
    rows = memory(claims.JAX_JIT, whole_gpu(function), sizes, quantity="nvml")
    assert judged(claim, rows).verdict == verdict
    of_program = judged(claim, memory(claims.JAX_JIT, xla(function), sizes))
    assert of_program.verdict == "not tested here"
    assert "only NVML's counter can decide this" in of_program.reason


@pytest.mark.parametrize(("more", "verdict"), [(1.08, "reproduced"), (1.2, "not reproduced")])
def test_memory_is_the_same_up_to_a_tenth(more, verdict):
    def function(_, method):
        return 1000 * (more if method == "reverse_over_reverse" else 1)

    found = judged("jit_memory_same_for_all_methods", memory(claims.JAX_JIT, xla(function)))
    assert (found.verdict, found.deciding.number) == (verdict, pytest.approx(more))


@pytest.mark.parametrize(
    ("counters", "verdict"),
    [
        (("jax_peak_bytes_in_use", "jax_bytes_in_use_before"), "reproduced"),
        (("resident_peak_bytes", "resident_before_bytes"), "inconclusive"),
    ],
)
def test_a_small_difference_counts_by_an_exact_counter_and_not_by_the_resident_set(
    counters, verdict
):
    def recorded(_, method):
        peak = 1050 if method == "reverse_over_reverse" else 1000
        return dict(zip(counters, (peak, 0), strict=True))

    rows = memory(claims.JAX_EAGER, recorded)
    assert judged("eager_reverse_over_reverse_needs_most", rows).verdict == verdict


def operations(costs):
    return [
        row("operations", run, model, 64, method, flops=cost, device="no device")
        for run in (claims.JAX_JIT, claims.TORCH)
        for model in ARTICLE_MODELS
        for method, cost in costs.items()
    ]


@pytest.mark.parametrize(
    ("gradient", "hvp", "verdict"), [(2.0, 4.0, "reproduced"), (3.0, 8.0, "not reproduced")]
)
def test_operations_are_counted_in_evaluations(gradient, hvp, verdict):
    costs = {"evaluation": 1.0, "jvp": gradient, "gradient": gradient, **dict.fromkeys(HVPS, hvp)}
    rows = operations(costs)
    assert judged("jvp_costs_two_evaluations", rows).verdict == verdict
    assert judged("gradient_costs_two_evaluations", rows).verdict == verdict
    assert judged("hvp_costs_four_evaluations", rows).verdict == verdict
    assert judged("hvp_costs_four_evaluations", rows).deciding.number == hvp


def test_a_dense_hessian_has_four_bytes_for_each_pair_of_parameters():
    assert claims.scalars("resnet34") == 21_797_672
    found = judged("dense_hessian_out_of_reach", [])
    assert found.verdict == "reproduced"
    assert found.deciding.number * 2**30 == pytest.approx(4 * 21_797_672**2)
    assert len(found.figures) == len(ARTICLE_MODELS)


def test_parameters_and_not_running_statistics_are_counted():
    shapes = problems.weight_shapes(problems.PROBLEMS["tiny_resnet"])
    running = sum(np.prod(shape) for name, shape in shapes.items() if "running_" in name)
    every = sum(np.prod(shape) for shape in shapes.values())
    assert claims.scalars("tiny_resnet") == every - running


def test_what_a_source_has_not_is_not_tested_and_says_why():
    found = judged("jax_hvp_costs_two_to_three_gradients", [])
    assert (found.verdict, found.reason) == (
        "not tested here",
        "no time in gradients: there are none",
    )
    assert found.deciding is None


def test_a_case_that_ran_out_of_memory_is_named_and_no_verdict_drawn_without_it():
    rows = times(2.5)
    nothing = {"seconds": (), "gradient_seconds": ()}
    failed = changed(rows[1:2], status="out_of_memory", reason="too large", **nothing)
    found = judged("jax_hvp_costs_two_to_three_gradients", [rows[0], *failed, *rows[2:]])
    assert found.verdict == "not tested here"
    assert "1 with status 'out_of_memory'" in found.reason


def test_where_the_largest_batch_failed_the_next_is_judged_and_named():
    rows = times(2.5, batch_size=64) + times(3.6)[2:]
    found = judged("jax_hvp_costs_two_to_three_gradients", rows)
    assert "ResNet34 at batch size 64 instead of 128" in found.reason
    assert {figure.of for figure in found.figures} >= {"ResNet34, batch 64, reverse-over-forward"}


def test_a_verdict_from_another_device_and_plan_says_so():
    rows = times(2.5, batch_size=1, device="another GPU", plan="cpu")
    found = judged("jax_hvp_costs_two_to_three_gradients", rows)
    assert (found.verdict, found.holds_for) == ("reproduced", "")
    assert "ViT at batch size 1 instead of 128" in found.reason
    assert "another GPU, plan 'cpu' (the article: NVIDIA A100" in found.origin[0]


def test_a_verdict_from_a_cpu_holds_for_that_cpu():
    rows = times(2.5, batch_size=1, device="CPU: some CPU, 2 cores", plan="cpu")
    found = judged("jax_hvp_costs_two_to_three_gradients", rows)
    assert (found.verdict, found.holds_for) == ("reproduced", "on this CPU")
    assert "**reproduced** on this CPU: 2.50" in judge.claims_table([found])
    assert judged("dense_hessian_out_of_reach", rows).holds_for == ""


@pytest.mark.parametrize("cost", [2.5, 3.6])
def test_no_verdict_rests_on_fewer_repetitions_than_an_interval_takes(cost):
    rows = times(cost, noise=NOISE[: judge.FEWEST_REPETITIONS - 1])
    found = judged("jax_hvp_costs_two_to_three_gradients", rows)
    assert found.verdict == "inconclusive"
    assert "a verdict needs 6 repetitions, and there are 5" in found.reason


def test_on_the_articles_own_machine_and_plan_nothing_has_to_be_said():
    for device in (A100, "NVIDIA A100-PCIE-40GB"):
        rows = times(2.5, device=device)
        (origin,) = judged("jax_hvp_costs_two_to_three_gradients", rows).origin
        assert origin == f"time jax jit: {device}, plan 'article'"


def test_the_memory_counter_is_named_next_to_the_articles():
    rows = memory(claims.JAX_JIT, xla(lambda *_: 1000))
    (origin,) = judged("jit_memory_same_for_all_methods", rows).origin
    assert "memory is xla_program (the article: the rise of all used memory, NVML)" in origin


def test_rows_of_two_devices_never_share_a_verdict():
    older = times(5.0, device="older", started="2025-01-01")
    found = judged("jax_hvp_costs_two_to_three_gradients", older + times(2.5))
    assert found.verdict == "reproduced"
    assert "Left out 12 rows" in found.origin[0]


def test_the_published_intervals_are_those_of_the_released_repetitions():
    cell = (
        published_times().set_index(sources.CASE[1:]).loc["torch", "eager", "vit", 64, "gradient"]
    )
    found = sources.of_article().cases.loc["time", "torch", "eager", "vit", 64, "gradient"]
    expected = stats.bootstrap((cell["seconds"],), np.median, method="percentile", rng=1)
    assert (found["low"], found["high"]) == pytest.approx(expected.confidence_interval, rel=1e-3)
    assert found["value"] == np.median(cell["seconds"])
    assert found["repetitions"] == 90


def test_the_interval_of_a_measured_median_is_scipys_bootstrap():
    values = np.random.default_rng(3).lognormal(size=40)
    rows = [time_row(claims.JAX_JIT, "vit", 128, "gradient", 1.0, noise=values - 1)]
    found = sources.of_rows("rows", rows, "").cases.iloc[0]
    expected = stats.bootstrap((values,), np.median, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx(expected, rel=0.1)
    assert found.value == np.median(values)


def test_an_hvps_time_is_drawn_with_the_gradient_beside_it():
    """A drift that both share is no uncertainty of the overhead."""
    drift = np.linspace(1, 3, 20)
    drifting = row(
        "time",
        claims.JAX_JIT,
        "vit",
        128,
        "reverse_over_forward",
        seconds=tuple(1.5 + drift),
        gradient_seconds=tuple(drift),
    )
    found = sources.of_rows("rows", [drifting], "").cases.iloc[0]
    assert (found.low, found.high) == pytest.approx((1.5, 1.5))


def test_one_repetition_has_no_interval_and_is_not_judged():
    found = judged("jax_hvp_costs_two_to_three_gradients", times(2.5, noise=(0.0,)))
    assert found.verdict == "not tested here"
    assert "'no value with an interval'" in found.reason


def test_the_table_has_a_row_a_claim_and_a_column_a_source(published):
    found = judge.judgements([sources.of_article(), sources.of_rows("this run", [], "no rows")])
    lines = judge.claims_table(found).splitlines()
    assert lines[0] == "| claim | published | this run |"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(claims.CLAIMS)
    assert all(len(line.split(" | ")) == 3 for line in table)
    text = judge.claims_markdown(found)
    assert all(f"## {claim.id}\n" in text for claim in claims.CLAIMS)
    assert all(claim.rule_in_words in text for claim in claims.CLAIMS)


def test_the_claims_have_unlike_names_and_ranges_that_a_figure_can_meet():
    assert len(BY_ID) == len(claims.CLAIMS)
    assert all(low < high for low, high in (claim.accepts.ends for claim in claims.CLAIMS))


@pytest.fixture
def folder(tmp_path):
    results = tmp_path / "results" / "mine"
    results.mkdir(parents=True)
    write_rows(results, times(2.5))
    return results


def invoke(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(judging.claims)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_command_prints_json_and_writes_both_files(folder):
    result = invoke(folder, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert len(found) == 3 * len(claims.CLAIMS)
    assert {each["source"] for each in found} == {
        "published",
        "this run",
        "compiled for the A100",
    }
    assert "**not reproduced**" in (folder / "claims.md").read_text()
    assert len(pd.read_csv(folder / "summary.csv")) == 12


def test_what_was_compiled_is_found_beside_the_results(folder):
    compiled = folder.parent / "a100"
    compiled.mkdir()
    write_rows(compiled, memory(claims.JAX_JIT, xla(lambda *_: 1000), how="compiled"))
    verdicts = {
        (each["claim"], each["source"]): each["verdict"]
        for each in json.loads(invoke(folder, "--json").stdout)
    }
    claim = "jit_memory_same_for_all_methods"
    assert verdicts[claim, "compiled for the A100"] == "reproduced"
    assert verdicts[claim, "this run"] == "not tested here"


@pytest.mark.parametrize("arguments", [("{0}/none",), ("{0}", "--compiled", "{0}/none")])
def test_a_folder_without_rows_is_refused_in_one_sentence(folder, arguments):
    result = invoke(*(each.format(folder) for each in arguments))
    assert isinstance(result.exception, UserError)
    assert "none/rows.jsonl" in str(result.exception)


def test_the_summary_has_every_case_with_units_and_the_whole_over_the_gradient():
    rows = times(2.5, models=("vit",)) + memory(
        claims.JAX_JIT, xla(lambda _, method: 2**30 * (1 + (method != "gradient")))
    )
    table = per_case.table(rows).set_index(["quantity", "model", "method"])
    hvp = table.loc["time", "vit", "reverse_over_reverse"]
    assert (hvp.median_seconds, hvp.ratio_to_gradient) == pytest.approx((1.5, 2.5))
    assert hvp.p20_seconds < hvp.median_seconds < hvp.p80_seconds
    bytes_of_hvp = table.loc["memory", "bert", "forward_over_reverse"]
    assert (bytes_of_hvp.memory_gib, bytes_of_hvp.ratio_to_gradient) == (2, 2)
    assert bytes_of_hvp.memory_counter == "xla_program"


def test_a_failed_case_stays_in_the_summary_without_numbers():
    rows = changed(times(2.5, models=("vit",))[1:2], status="timeout", reason="slow", seconds=())
    (found,) = per_case.table(rows).itertuples()
    assert found.status == "timeout"
    assert np.isnan(found.median_seconds)
