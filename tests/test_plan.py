"""The plans: in which order they are measured, and that they keep to their time."""

import shutil
from importlib import import_module
from typing import get_args

import pytest

from paper_figures import figures
from reproduce import methods
from reproduce.machine.target import load
from reproduce.measuring import cost, schedule, ways
from reproduce.measuring.ways import Accounted, Measured
from reproduce.plan import ARTICLE_MODELS, COUNTED, METHODS, PLANS, Method, by_setting, cases
from reproduce.results import summary

H100 = schedule.Machine(16, 128 * cost.GIB, 78 * cost.GIB)


def sizes(settings):
    return [(setting[0].model, setting[0].batch_size) for setting in settings]


@pytest.mark.parametrize("name", ["article", "quick"])
def test_what_the_bars_need_is_measured_first_and_then_the_curve_of_resnet34(name):
    settings = by_setting(cases(name))
    at_64 = [each for each in settings if each[0].batch_size == 64 and each[0].mode != "eager"]
    assert set(sizes(settings[:3])) == {(model, 64) for model in ARTICLE_MODELS}
    assert at_64 == settings[:3]
    others = [model for model, size in sizes(settings) if size not in {64, 128}]
    assert others[0] == "resnet34"
    last_of_resnet34 = max(place for place, model in enumerate(others) if model == "resnet34")
    first_of_others = others.index("vit") if "vit" in others else len(others)
    assert last_of_resnet34 < first_of_others


def test_what_the_article_does_not_show_is_measured_last():
    last = by_setting(cases("article"))[-3:]
    assert {(each[0].quantity, each[0].mode) for each in last} == {("time", "eager")}
    assert {each[0].framework for each in last} == {"jax"}


@pytest.mark.parametrize("name", ["article", "quick", "cpu", "smoke"])
def test_a_plan_has_all_that_the_five_benchmark_figures_are_drawn_from(name):
    measured = {(case.framework, case.mode, case.quantity) for case in cases(name)}
    drawn = {
        (bench.framework, bench.mode, bench.quantity)
        for figure, bench in figures.BENCHES.items()
        if not figure.endswith(("_b64", "time_jax_without_jit"))
    }
    runs = summary.COUNTED_WHILE_TIMED
    counted = {(*run, "memory") for run in runs if (*run, "time") in measured}
    assert drawn <= measured | counted
    of_article = {case.method for case in cases(name)} - {"repaired_reverse_over_forward"}
    assert of_article == set(METHODS)


@pytest.mark.parametrize(
    ("name", "machine", "minutes"),
    [("article", schedule.MACHINE_WITH_A100, 60), ("quick", H100, 8)],
)
def test_a_plan_for_a_gpu_keeps_to_its_time_by_what_is_expected(name, machine, minutes):
    settings = by_setting(cases(name))
    assert schedule.expected_seconds(settings, machine) < 60 * minutes


@pytest.mark.parametrize("way", [Measured(on_gpu=False), Accounted(load("a100"))])
def test_a_case_is_measured_anew_if_code_that_it_uses_changes_and_not_for_a_docstring(
    tmp_path, monkeypatch, way
):
    shutil.copytree(ways.PACKAGE, tmp_path / "reproduce")
    monkeypatch.setattr(ways, "PACKAGE", tmp_path / "reproduce")
    case = next(case for case in cases("smoke") if case.framework == "torch")

    def code_hash():
        ways.hash_of_code.cache_clear()
        return way.code_hash(case)

    hashes = [code_hash()]
    for path in way.sources(case):
        text = path.read_text()
        path.write_text(f'{text}\n\ndef more():\n    """What it says."""\n    return 1\n')
        hashes.append(code_hash())
        path.write_text(path.read_text().replace("What it says", "Otherwise") + "# as well\n")
        assert code_hash() == hashes[-1]
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "reproduce" / "in_torch" / "peers.py").write_text("")  # not used here
    assert code_hash() == hashes[-1]


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_has_a_label_and_where_it_is_timed_operations_and_an_expected_time(method):
    assert methods.LABELS[method]
    assert (method in methods.EXPECTED_GRADIENTS) == (method not in COUNTED)
    runs = {(c.framework, c.mode) for plan in PLANS for c in cases(plan) if c.method == method}
    assert all(method in methods.OPERATIONS[run] for run in runs)


@pytest.mark.parametrize("case", {(c.framework, c.method): c for c in cases("beyond")}.values())
def test_a_row_depends_on_the_file_of_its_method(case):
    of_framework = {
        name: import_module(f"reproduce.in_{case.framework}.{name}").METHODS
        for name in ("hvp", "many_vectors", "peers", "products")
    }
    (home,) = [name for name, found in of_framework.items() if case.method in found]
    names = {path.stem for path in Measured(on_gpu=False).sources(case)}
    assert home in names
    assert not names & {"peers", "products"} - {home}
