"""The tables hold what the rows hold, beside the published values and the theory."""

import csv
import io

import accounted
import msgspec
import pytest
from accounted import GIB, PUBLISHED, case_of, ours
from commands import ACCOUNTED
from typer.testing import CliRunner

from paper_figures import figures, style, tables
from paper_figures.__main__ import app
from reproduce import methods, problems
from reproduce.drawing import TABLES_OF_ARTICLE
from reproduce.plan import METHODS


def place(row):
    """Where a table has it: by framework and mode, network, batch size and method."""
    run, model = (row.framework, row.mode), ("resnet34", "vit", "bert").index(row.model)
    method = ("evaluation", "jvp", *METHODS).index(row.method)
    return list(methods.RUNS).index(run), model, row.batch_size, method


ROWS = sorted(accounted.ROWS, key=place)
COUNTED = [row for row in ROWS if row.quantity == "operations"]
MEMORY = [row for row in ROWS if row.quantity == "memory"]
AGAINST = "memory_against_published"


def written(name, rows, folder):
    """The table's lines by case, from its CSV, and its Markdown."""
    own, _ = tables.select(name, rows)
    table, text = tables.write(name, own, folder)
    lines = csv.DictReader(io.StringIO(table.read_text()))
    names = ("framework", "mode", "model", "batch_size", "method")
    cases = {
        tuple(int(v) if v.isdigit() else v for v in map(line.get, names)): line for line in lines
    }
    return cases, text.read_text()


def cells(text, title):
    """The cells of the first Markdown table after ``title``: by model, batch size and column."""
    block = text.split(title, 1)[1].split("\n| ", 1)[1].split("\n\n")[0]
    header, _, *lines = [line.strip("| ").split(" | ") for line in block.splitlines()]
    return {
        (line[0], line[1], column): cell
        for line in lines
        for column, cell in zip(header[2:], line[2:], strict=True)
    }


def test_memory_has_one_line_for_each_row_with_its_deviation(tmp_path):
    lines, _ = written(AGAINST, ROWS, tmp_path)
    assert list(lines) == [case_of(row) for row in MEMORY]
    for row in MEMORY:
        line, beside = lines[case_of(row)], PUBLISHED[case_of(row)]
        assert line["device"] == row.place
        assert float(line["ours_gib"]) == pytest.approx(ours(row), abs=1e-5)
        assert float(line["published_gib"]) == beside.memory_gib
        assert float(line["uncertainty_gib"]) == beside.uncertainty_gib
        deviation = 100 * (ours(row) / beside.memory_gib - 1)
        assert float(line["deviation_percent"]) == pytest.approx(deviation, abs=0.01)


def test_memory_of_pytorch_has_its_tensors_beside_and_jax_has_none(tmp_path):
    lines, _ = written(AGAINST, ROWS, tmp_path)
    for row in MEMORY:
        line = lines[case_of(row)]
        if row.framework == "jax":
            assert line["tensors_gib"] == line["unrecorded_deviation_percent"] == ""
            continue
        for column, counter in (("tensors", "live"), ("unrecorded", "unrecorded_live")):
            counted = row.memory_bytes[f"{counter}_peak_bytes"] / GIB
            deviation = 100 * (counted / PUBLISHED[case_of(row)].memory_gib - 1)
            assert float(line[f"{column}_gib"]) == pytest.approx(counted, abs=1e-5)
            found = float(line[f"{column}_deviation_percent"])
            assert found == pytest.approx(deviation, abs=0.01)


@pytest.mark.parametrize(
    ("run", "title"),
    [
        (("jax", "jit"), "## JAX with jit, compiled for A100, not run"),
        (("jax", "eager"), "## JAX without jit, accounted for A100, not run"),
        (("torch", "eager"), "## PyTorch, accounted for A100, not run"),
    ],
)
def test_memory_to_be_read_has_ours_published_and_deviation_in_each_cell(tmp_path, run, title):
    _, text = written(AGAINST, ROWS, tmp_path)
    found = cells(text, title)
    of_run = [row for row in MEMORY if (row.framework, row.mode) == run]
    assert len(found) == len(of_run)
    for row in of_run:
        beside = PUBLISHED[case_of(row)].memory_gib
        deviation = f"{100 * (ours(row) / beside - 1):+.1f}".replace("-", "−")
        place = problems.label(row.model), str(row.batch_size), style.method_label(row.method)
        assert found[place] == f"{ours(row):.2f} / {beside:.2f} ({deviation} %)"
    assert style.DEVIATIONS[run] in text


def test_rows_that_are_missing_are_missing_lines_and_cells(tmp_path):
    kept = [row for row in MEMORY if row.model == "resnet34" and row.batch_size != 8]
    kept.remove(next(row for row in kept if row.mode == "jit"))
    lines, text = written(AGAINST, kept, tmp_path)
    assert set(lines) == {case_of(row) for row in kept}
    found = cells(text, "## JAX with jit")
    assert {size for _, size, _ in found} == {"4", "16", "32", "64", "128"}
    assert [place for place, cell in found.items() if cell == tables.NO_ROW] == [
        ("ResNet34", "4", "Gradient")
    ]


def test_what_would_not_fit_has_its_bytes_and_says_so(tmp_path):
    failed = msgspec.structs.replace(MEMORY[0], status="out_of_memory", reason="made up")
    broken = msgspec.structs.replace(MEMORY[1], status="error", reason="made up", memory_bytes={})
    lines, text = written(AGAINST, [failed, broken, *MEMORY[2:]], tmp_path)
    assert lines[case_of(failed)]["status"] == "out_of_memory"
    assert float(lines[case_of(failed)]["ours_gib"]) == pytest.approx(ours(failed), abs=1e-5)
    assert lines[case_of(broken)]["ours_gib"] == ""
    found = list(cells(text, "## JAX with jit").values())
    assert found[0].endswith(" %), out of memory")
    assert found[1].startswith("error / ")


def test_memory_measured_on_the_articles_device_is_compared_without_explanations(tmp_path):
    rows = [msgspec.structs.replace(row, how="measured") for row in MEMORY]
    lines, text = written(AGAINST, rows, tmp_path)
    assert len(lines) == len(rows)
    assert "not run" not in text
    assert not any(sentence in text for sentence in style.DEVIATIONS.values())


@pytest.mark.parametrize(
    "other",
    [
        {"device": "CPU of a kind", "plan": "cpu"},
        {"device": "NVIDIA H100-SXM5-80GB"},
        {"model": "resnet50"},
    ],
    ids=str,
)
def test_rows_that_the_article_has_not_are_not_compared(tmp_path, other):
    rows = [msgspec.structs.replace(row, **other) for row in MEMORY]
    with pytest.raises(figures.CannotDraw, match="no rows for NVIDIA A100"):
        written(AGAINST, rows, tmp_path)


def test_operations_are_in_units_of_a_milliard_and_of_the_gradient(tmp_path):
    lines, _ = written("operations", ROWS, tmp_path)
    gradients = {case_of(row)[:-1]: row.flops for row in COUNTED if row.method == "gradient"}
    theory = {
        "jax": {"evaluation": 1 / 3, "jvp": 1, "gradient": 1} | dict.fromkeys(METHODS[1:], 8 / 3)
    }
    theory["torch"] = theory["jax"] | dict.fromkeys((METHODS[1], METHODS[3]), 9 / 3)
    assert list(lines) == [case_of(row) for row in COUNTED]
    for row in COUNTED:
        line = lines[case_of(row)]
        multiple = row.flops / gradients[case_of(row)[:-1]]
        assert float(line["gflop"]) == pytest.approx(row.flops / 1e9, abs=1e-3)
        assert float(line["gradients"]) == pytest.approx(multiple, abs=1e-4)
        assert float(line["theory_gradients"]) == pytest.approx(
            theory[row.framework][row.method], abs=1e-4
        )


@pytest.mark.parametrize("run", [("jax", "jit"), ("torch", "eager")], ids=str)
def test_operations_to_be_read_have_both_and_the_theory_below(tmp_path, run):
    _, text = written("operations", ROWS, tmp_path)
    part = text.split(f"## {methods.RUNS[run]}\n")[1].split("## ")[0]
    gflop, gradients = (
        cells(part, title) for title in (tables.GFLOP_TABLE, tables.GRADIENTS_TABLE)
    )
    of_run = [row for row in COUNTED if (row.framework, row.mode) == run]
    assert len(gflop) == len(of_run)
    for row in of_run:
        place = problems.label(row.model), str(row.batch_size), style.method_label(row.method)
        assert gflop[place] == f"{row.flops / 1e9:.1f}"
    theory = [cell for (model, _, _), cell in gradients.items() if model == "Theory"]
    most = "2.67" if run[0] == "jax" else "3.00"  # PyTorch computes the gradient as well
    assert theory == ["0.33", "1.00", "1.00", most, "2.67", most]


def test_operations_without_a_gradient_have_no_multiple(tmp_path):
    rows = [row for row in COUNTED if row.method != "gradient"]
    lines, text = written("operations", rows, tmp_path)
    assert {line["gradients"] for line in lines.values()} == {""}
    assert "nan" not in text


def test_without_operations_there_is_no_table(tmp_path):
    failed = [
        msgspec.structs.replace(row, status="error", reason="made up", flops=None)
        for row in COUNTED
    ]
    for rows in ([], failed):
        with pytest.raises(figures.CannotDraw, match="no rows of operations"):
            tables.write("operations", rows, tmp_path)


def test_rows_left_out_are_said():
    older = [
        msgspec.structs.replace(row, plan="smoke", started="2000")
        for row in MEMORY
        if row.mode == "jit"
    ]
    own, sentence = tables.select(AGAINST, [*older, *ROWS])
    assert own == MEMORY
    assert sentence.startswith(f"Left out {len(older)} rows of plan 'smoke'")


def test_the_command_writes_tables_where_their_rows_are(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(ACCOUNTED.read_bytes())
    result = CliRunner().invoke(app, [str(tmp_path), *TABLES_OF_ARTICLE])
    assert result.exit_code == 0
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {
        f"{name}.{suffix}" for name in TABLES_OF_ARTICLE for suffix in ("csv", "md")
    }
    first = {path: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    CliRunner().invoke(app, [str(tmp_path), *TABLES_OF_ARTICLE])
    assert first == {path: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
