"""Two folders are compared case by case, and never across devices by accident."""

import re
import zipfile

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from reproduce.cli import judging
from reproduce.errors import UserError
from reproduce.evidence import bundle
from reproduce.plan import cases
from reproduce.report import comparison
from reproduce.results import compare
from reproduce.results.rows import Row, rows_in

SECONDS = tuple((1 + 0.01 * np.sin(np.arange(30))).tolist())


def row(quantity="time", **changes):
    case = next(
        case
        for case in cases("cpu")
        if case.quantity == "time" and (case.framework, case.mode) == ("jax", "jit")
    )
    case = msgspec.structs.replace(case, quantity=quantity, repetitions=len(SECONDS))
    given = {
        "status": "done",
        "device": "a device",
        "seconds": SECONDS if quantity == "time" else (),
        "gradient_seconds": SECONDS if quantity == "time" else (),
        "code_hash": "",
        "started": "2026-01-01",
    }
    return Row(**(msgspec.structs.asdict(case) | given | changes))


def memory_row(temp_bytes):
    counters = {"xla_temp_bytes": temp_bytes, "xla_output_bytes": 10}
    return row("memory", memory_bytes=counters)


def compared(first, second, **options):
    (found,) = compare.compare([first], [second], **({"tolerance": 0.05} | options))
    return found


def scaled(factor, spread=1.0):
    values = np.asarray(SECONDS)
    return tuple((factor * (values.mean() + spread * (values - values.mean()))).tolist())


@pytest.mark.parametrize(
    ("seconds", "verdict"),
    [
        (scaled(0.8), "faster"),
        (scaled(1.2), "slower"),
        (scaled(1.01), "same"),
        (scaled(1.05), "ambiguous"),
        (scaled(1.0, spread=30), "ambiguous"),
    ],
)
def test_a_time_is_faster_slower_the_same_or_ambiguous(seconds, verdict):
    found = compared(row(), row(seconds=seconds))
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high


def test_the_ratio_is_the_second_median_over_the_first():
    found = compared(row(seconds=(1.0, 2.0, 9.0)), row(seconds=(4.0, 5.0, 6.0)))
    assert found.ratio == 2.5


def test_the_tolerance_decides_what_is_the_same():
    second = row(seconds=scaled(1.1))
    assert compared(row(), second).verdict == "slower"
    assert compared(row(), second, tolerance=0.2).verdict == "same"


def test_one_repetition_is_ambiguous():
    found = compared(row(), row(seconds=(0.5,)))
    assert found.verdict == "ambiguous"
    assert np.isnan(found.low)


@pytest.mark.parametrize(("temp_bytes", "verdict"), [(90, "same"), (91, "more"), (89, "less")])
def test_memory_is_compared_to_the_byte(temp_bytes, verdict):
    found = compared(memory_row(90), memory_row(temp_bytes))
    assert (found.verdict, found.ratio) == (verdict, (temp_bytes + 10) / 100)


def test_of_timed_rows_the_memory_that_they_counted_is_compared_as_well():
    first, second = (
        row(memory_bytes={"xla_temp_bytes": temp, "xla_output_bytes": 10}) for temp in (90, 91)
    )
    found = compare.compare([first], [second], tolerance=0.05)
    assert {each.case.split()[0]: each.verdict for each in found} == {
        "time": "same",
        "memory": "more",
    }


def test_memory_by_unlike_counters_is_not_compared():
    found = compared(memory_row(90), row("memory", memory_bytes={"another": 1}))
    assert found.verdict == "not compared"


def test_operations_are_compared_exactly():
    first, second = (row(quantity="time", flops=flops) for flops in (2.0, 3.0))
    as_operations = [msgspec.structs.replace(r, quantity="operations") for r in (first, second)]
    assert compared(*as_operations).verdict == "more"


def test_an_unfinished_case_is_not_compared_and_says_why():
    found = compared(row(), row(status="timeout", reason="slow"))
    assert (found.verdict, found.reason) == ("not compared", "timeout")


def test_the_newest_row_of_a_case_counts():
    (found,) = compare.compare([row(), row(seconds=scaled(2))], [row()], tolerance=0.05)
    assert found.ratio == pytest.approx(0.5)


def test_another_device_is_refused_unless_forced():
    first, second = row(), row(device="another device", seconds=scaled(0.5))
    with pytest.raises(UserError, match=r"'another device' instead of 'a device'; add --force"):
        compared(first, second)
    assert compared(first, second, forced=True).verdict == "faster"


def test_folders_without_a_common_case_are_refused():
    with pytest.raises(UserError, match="cases in both folders were expected"):
        compared(row(), row(model="another"))


def test_the_command_prints_every_case_and_the_counts(tmp_path):
    for name, rows in {"a": [row(), memory_row(90)], "b": [row(), memory_row(91)]}.items():
        (tmp_path / name).mkdir()
        lines = [msgspec.json.encode(each) for each in rows]
        (tmp_path / name / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    app = command_of_compare()
    result = CliRunner().invoke(app, [str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 0
    assert "more: 1, same: 1" in result.stdout
    missing = CliRunner().invoke(app, [str(tmp_path / "a"), str(tmp_path / "c")])
    assert "give a folder that was measured into" in str(missing.exception)


def command_of_compare():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(judging.compare)
    return app


def written(folder, *rows):
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")
    return folder


def test_a_page_has_a_column_for_each_device_and_no_number_of_two(tmp_path):
    a100, h100 = ("NVIDIA A100", "NVIDIA H100")
    slow = row(device=a100, method="reverse_over_reverse", seconds=scaled(3))
    fast = row(device=h100, method="reverse_over_reverse", seconds=scaled(0.5))
    crashed = row(device=h100, model="bert", status="error", reason="it ended", seconds=())
    mine = written(tmp_path / "mine", slow, row(device=h100, model="vit", seconds=scaled(2)))
    theirs = tmp_path / "theirs.zip"
    bundle.write(written(tmp_path / "theirs", fast, crashed), theirs)
    page = tmp_path / "page.html"
    arguments = [str(mine), str(theirs), str(mine), "--page", str(page)]
    result = CliRunner().invoke(command_of_compare(), arguments)
    assert result.exit_code == 0, result.output
    found, lines = columns_and_lines(page)
    assert found == [(a100, str(mine)), (h100, str(mine)), (h100, str(theirs))]
    none = ["–"] * 3
    assert lines[f"cpu: {slow.setting_name}", slow.method] == [
        *("3.00", "3000", "–"),
        *none,
        *("0.50", "500", "–"),
    ]
    assert lines[f"cpu: {crashed.setting_name}", crashed.method] == [
        *none,
        *none,
        "error",
        "–",
        "–",
    ]


def columns_and_lines(page):
    """The device and the run of each column, and the texts of each line by setting and method."""
    text = page.read_text()
    columns = re.findall(r'<th scope="colgroup" colspan="3">.+?<br>(.+?)<br>(.+?)</th>', text)
    lines = {
        (setting, method): re.findall(r'<td class="value.*?">(.+?)</td>', cells)
        for setting, own in re.findall(r'"rowgroup".*?>(.+?)</th>(.+?)</tbody>', text, re.DOTALL)
        for method, cells in re.findall(r"<td>(.+?)</td>(.+?)</tr>", own, re.DOTALL)
    }
    return columns, lines


def test_versions_of_packages_have_columns_of_their_own_and_a_wrong_hvp_says_how_wrong(tmp_path):
    def of(version, difference, **changes):
        packages = {"torch": version, "transformers": "4.57.6"}
        environment = {"identity": {"packages": packages}}
        changes |= {"framework": "torch", "mode": "eager", "method": "reverse_over_forward"}
        return row(environment=environment, relative_difference=difference, **changes)

    old, new = of("2.1.1", 0.51), of("2.15.0", 2e-7)
    in_jax = row(environment={"identity": {"packages": {"jax": "0.4.23"}}})
    page = tmp_path / "page.html"
    both = written(tmp_path / "both", old, in_jax, new)
    page.write_text(comparison.html({"both": rows_in(both)}))
    heads = re.findall(r'<th scope="colgroup" colspan="3">(.+?)<br>', page.read_text())
    assert heads == [
        "JAX 0.4.23, PyTorch 2.1.1, transformers 4.57.6",
        "PyTorch 2.15.0, transformers 4.57.6",
    ]
    texts = columns_and_lines(page)[1][f"cpu: {old.setting_name}", old.method]
    assert texts == ["1.00", "1000", "wrong by 51 %", "1.00", "1000", "2.0e-07"]


def test_runs_in_which_no_number_can_be_compared_are_refused_and_no_page_is_written(tmp_path):
    done, crashed = row(), row(status="error", reason="it ended", seconds=())
    arguments = [
        str(written(tmp_path / name, each)) for name, each in (("a", done), ("b", crashed))
    ]
    result = CliRunner().invoke(command_of_compare(), arguments)
    assert "not compared: 1" in result.stdout
    assert str(result.exception) == (
        "two runs were to be compared, and none of their cases (1) could be, for the reasons "
        "above; compare runs in which the same cases are done"
    )
    page = tmp_path / "page.html"
    result = CliRunner().invoke(command_of_compare(), [*arguments, "--page", str(page)])
    assert str(result.exception).startswith("cases that are done in two columns were expected")
    assert not page.exists()


def test_more_than_two_are_compared_on_a_page_alone(tmp_path):
    folders = [str(written(tmp_path / name, row())) for name in "abc"]
    result = CliRunner().invoke(command_of_compare(), folders)
    assert str(result.exception) == (
        "3 runs were given, and a ratio compares two; "
        "add --page FILE for a page with a column for each"
    )


def test_a_damaged_bundle_is_not_compared(tmp_path):
    folder, path = written(tmp_path / "a", row()), tmp_path / "a.zip"
    bundle.write(folder, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more.txt", "")
    with pytest.raises(UserError, match=r"more.txt is not in the manifest; take a whole copy"):
        bundle.rows_of(path)
