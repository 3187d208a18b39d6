"""HVPs at work: smaller versions of the parts are measured, kept, and drawn."""

import os
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from commands import ROOT, altered, reproduce
from drawn import texts
from typer.testing import CliRunner

from paper_figures import at_work
from paper_figures.__main__ import app as paper_figures
from reproduce import problems
from reproduce.algorithms.spectrum import density
from reproduce.beyond import algorithms, digits, parts
from reproduce.drawing import BEYOND_FROM_TABLES, OF_BEYOND
from reproduce.errors import UserError
from reproduce.machine import environment


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder with every part, of smaller networks and fewer steps."""
    folder = tmp_path_factory.mktemp("beyond")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "HIDDEN", 3)
        patch.setattr(digits, "TRAINING_STEPS", 100)
        patch.setattr(algorithms, "RECORDED", np.arange(1, 61))
        patch.setattr(algorithms, "STRENGTHS", np.geomspace(6e-4, 3e-5, 9))
        patch.setattr(algorithms, "STARTS", {"from strong": 4e-4, "from weak": 5e-5})
        patch.setattr(algorithms, "OUTER_STEPS", 10)
        patch.setattr(algorithms, "OUTER_STEP", 60.0)
        patch.setitem(problems.PROBLEMS, "resnet34", problems.PROBLEMS["tiny_resnet"])
        parts.beyond(folder)
    return folder


@pytest.fixture
def table(results, request):
    return pd.read_csv(results / f"{request.param}.csv")


def of(*names):
    return pytest.mark.parametrize("table", names, indirect=True)


def lines_of(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


@of("inverse_hvp_errors")
def test_conjugate_gradients_are_nearest_to_the_inverse_hvp_after_as_many_hvps(table):
    errors = table.pivot(index="hvps", columns="method", values="error")
    last = errors.loc[60]
    assert last["conjugate_gradient"] < last["gradient_descent"] < last["neumann"] < 1
    assert (errors["neumann"].diff().dropna() < 0).all()
    for _, values in table.groupby("method"):
        assert (values["seconds"].diff().dropna() > 0).all()


@of("spectra")
def test_the_quadrature_of_the_digits_network_is_its_exact_spectrum(table):
    ritz, exact = (table.query("model == 'digits' and kind == @kind") for kind in ("ritz", "exact"))
    for extreme in (min, max):
        assert extreme(ritz["value"]) == pytest.approx(extreme(exact["value"]), abs=1e-6)
    at = np.linspace(exact["value"].min(), exact["value"].max(), 200)
    quadrature, dense = (
        density(at, each["value"].to_numpy(), each["weight"].to_numpy(), 0.1)
        for each in (ritz, exact)
    )
    assert np.abs(quadrature - dense).max() < 0.05 * dense.max()


@of("spectra")
def test_the_weights_of_each_spectrum_sum_to_one(table):
    for _, values in table.groupby(["model", "kind"]):
        assert values["weight"].sum() == pytest.approx(1)


@of("hyperparameter_descent")
def test_both_descents_end_where_the_validation_loss_is_least(table):
    grid = table[table["run"] == "grid"]
    for run in algorithms.STARTS:
        descent = table[table["run"] == run]
        assert descent["validation_loss"].is_monotonic_decreasing
        assert descent["validation_loss"].iloc[-1] <= grid["validation_loss"].min()
        slopes = descent["hypergradient"].abs()
        assert slopes.iloc[-1] < 0.02 * slopes.iloc[0]
        assert (descent["hvps"].diff().dropna() > 0).all()


@of("hyperparameter_descent")
def test_hypergradients_are_the_slopes_of_the_grid(table):
    grid = table[table["run"] == "grid"]
    slopes = np.gradient(grid["validation_loss"], np.log(grid["strength"]))
    np.testing.assert_allclose(slopes[1:-1], grid["hypergradient"][1:-1], atol=5e-4)
    assert grid["hypergradient"].abs().max() > 0.01


@of(*parts.PARTS)
def test_every_line_names_its_device(table):
    assert set(table["device"]) == {environment.device(environment.gpu()[0] is not None)}


def test_a_part_that_is_there_is_left_alone(results):
    before = {path: path.stat().st_mtime_ns for path in results.glob("*.csv")}
    result = reproduce("beyond", str(results))
    assert result.returncode == 0, result.stderr
    assert "0 of 3 parts to measure" in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in results.glob("*.csv")}


def test_a_part_whose_code_has_changed_or_that_is_damaged_is_measured_anew(results):
    path = results / "spectra.csv"
    assert parts._is_current(path)
    text = path.read_text()
    for other in (text.replace(parts._code(), "0" * 12), text[: len(text) // 2], ""):
        path.write_text(other)
        assert not parts._is_current(path), other[-100:]
    path.write_text(text)


def test_a_part_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "free_bytes", lambda on_gpu: 3 << 30)
    with pytest.raises(UserError, match=r"need about 5\.0 GiB of memory, 3\.0 GiB are free"):
        parts.beyond(tmp_path)


def test_an_unknown_part_and_a_folder_that_cannot_be_made_are_refused(tmp_path):
    unknown = reproduce("beyond", str(tmp_path), "spectrum")
    (tmp_path / "file").touch()
    unwritable = reproduce("beyond", str(tmp_path / "file"))
    assert "there are inverse_hvp_errors, spectra" in unknown.stderr
    assert "give another RESULTS" in unwritable.stderr
    for result in (unknown, unwritable):
        assert result.returncode == 2
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", BEYOND_FROM_TABLES)
def test_each_figure_is_drawn_and_the_same_table_gives_the_same_bytes(results, name):
    files = [results / "figures" / f"{name}.{suffix}" for suffix in ("png", "pdf")]
    drawn = []
    for _ in range(2):
        assert CliRunner().invoke(paper_figures, [str(results), name]).exit_code == 0
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]


def test_without_its_table_a_figure_is_not_drawn_and_what_to_run_is_said(tmp_path):
    result = CliRunner().invoke(paper_figures, [str(tmp_path), "spectra"])
    assert result.exit_code == 1
    assert "spectra is not drawn: there is no" in result.output
    assert "python -m reproduce beyond" in result.output


@pytest.mark.parametrize("name", BEYOND_FROM_TABLES)
@pytest.mark.parametrize(
    "table", [b"", b"device,code\n", b"device,x\na,1\n", b"\xff\xfe\0", b"a\n1,2,3"]
)
def test_a_damaged_table_is_named_and_not_drawn(tmp_path, name, table):
    (tmp_path / f"{name}.csv").write_bytes(table)
    result = CliRunner().invoke(paper_figures, [str(tmp_path), name])
    assert result.exit_code == 1
    assert f"{name} is not drawn: {tmp_path / name}.csv is not as it was measured" in result.output
    assert not (tmp_path / "figures").exists()


@of(*BEYOND_FROM_TABLES)
@pytest.mark.usefixtures("figure_settings")
def test_each_figure_names_the_device_and_its_axes(table, request):
    figure = at_work.draw(request.node.callspec.params["table"], table)
    assert any(f"Device: {table['device'][0]}" in text for text in texts(figure))
    for axes in figure.axes:
        assert axes.get_xlabel()
    assert figure.axes[0].get_ylabel()


@of("inverse_hvp_errors")
def test_the_drawn_errors_are_those_of_the_table(table):
    figure = at_work.draw("inverse_hvp_errors", table)
    for axes, cost in zip(figure.axes, ("hvps", "seconds"), strict=True):
        drawn = list(lines_of(axes).values())
        expected = [values for _, values in table.groupby("method")]
        for line, values in zip(drawn, expected, strict=True):
            np.testing.assert_array_equal(line, values[[cost, "error"]])


@of("hyperparameter_descent")
def test_the_drawn_descents_are_those_of_the_table(table):
    along, by_hvps = at_work.draw("hyperparameter_descent", table).axes
    expected = [table[table["run"] == run] for run in ("grid", *algorithms.STARTS)]
    for line, values in zip(along.lines, expected, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), values[["strength", "validation_loss"]])
    for line, values in zip(by_hvps.lines, expected[1:], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values["hypergradient"].abs())


@of("spectra")
def test_the_drawn_extremes_are_the_outermost_ritz_values(table):
    ritz = table[table["kind"] == "ritz"].groupby("model")["value"]
    for axes, (_, values) in zip(at_work.draw("spectra", table).axes, ritz, strict=True):
        (extremes,) = (line for line in axes.lines if "Ritz" in line.get_label())
        np.testing.assert_array_equal(extremes.get_xdata(), [values.min(), values.max()])


@pytest.mark.slow
def test_plan_beyond_is_measured_drawn_and_ends_with_advice(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "beyond")
    result = subprocess.run(
        altered("fake_worker", "all", "--plan", "beyond", "--results", folder),
        cwd=ROOT,
        env=os.environ | {"FAKE_SECONDS": "0"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "0 of 3 parts to measure" in result.stdout
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {*OF_BEYOND}
    assert result.stdout.endswith((folder / "advice.md").read_text())
    assert not (folder / "report.html").exists()
