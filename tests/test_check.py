"""Every fault of a results folder or a bundle is found and named, and nothing else is."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from commands import ACCOUNTED, write_rows
from typer.testing import CliRunner

from paper_figures import figures, tables
from reproduce.__main__ import app
from reproduce.errors import UserError
from reproduce.evidence import bundle
from reproduce.evidence.check import check
from reproduce.plan import cases
from reproduce.results.coverage import coverage
from reproduce.results.rows import read_rows

TESTS = Path(__file__).parent
FIGURE = "figures/bench_hvp_time_jax_without_jit.png"
TABLE = "a100/tables/operations.csv"


def rows_of_plan_cpu():
    """Those, and what plan cpu once measured of the figure that is looked at here."""
    wanted = {str(case) for case in cases("cpu")}
    rows = read_rows(TESTS / "rows_sample.jsonl")
    return [
        row for row in rows if row.plan == "cpu" and (str(row.case) in wanted or is_of_figure(row))
    ]


def is_of_figure(row):
    return (row.quantity, row.framework, row.mode) == ("time", "jax", "eager")


def draw(maker, name, rows, folder):
    own, _ = maker.select(name, rows)
    maker.write(name, own, folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of plan cpu with a figure, and in them what was accounted for, with a table."""
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder, rows_of_plan_cpu())
    draw(figures, Path(FIGURE).stem, rows_of_plan_cpu(), folder / "figures")
    (folder / "a100").mkdir()
    shutil.copy(ACCOUNTED, folder / "a100" / "rows.jsonl")
    draw(tables, Path(TABLE).stem, read_rows(ACCOUNTED), folder / "a100" / "tables")
    return folder


@pytest.fixture
def results(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "results"))


@pytest.fixture
def packed(results, tmp_path):
    bundle.write(results, tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


def repacked(path, changes):
    """The bundle with some of its files changed; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def objections(path, is_strict=False):
    return [str(each) for each in check(path).broken(is_strict)]


def run(*command, **options):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def reproduce(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_whole_results_and_their_bundle_hold(results, packed):
    assert objections(results) == []
    found = check(packed)
    assert found.broken(is_strict=False) == []
    assert (found.checksums, found.drawn_files) == (8, 4)
    assert found.rows == len(rows_of_plan_cpu()) + len(read_rows(ACCOUNTED))


def test_a_byte_of_a_figure_is_found_in_a_folder_and_in_a_bundle(results, packed):
    content = (results / FIGURE).read_bytes()
    middle = len(content) // 2
    damaged = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    (results / FIGURE).write_bytes(damaged)
    differs = f"{FIGURE} differs from what the rows give, from byte {middle} of {len(content)} on"
    (of_folder,) = objections(results)
    assert of_folder.startswith(differs)
    of_checksum, of_drawing = objections(repacked(packed, {FIGURE: damaged}))
    assert of_checksum.startswith(f"{FIGURE} is not the file that the manifest names")
    assert of_drawing.startswith(differs)


def test_a_byte_of_the_archive_itself_is_found(packed):
    archive = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as file:
        archive[file.getinfo(FIGURE).header_offset + 200] ^= 1
    packed.write_bytes(archive)
    assert any(each.startswith(f"{FIGURE} is not the file") for each in objections(packed))


def test_a_changed_number_in_a_row_is_found_by_its_checksum_and_by_drawing(results, packed):
    rows = rows_of_plan_cpu()
    place = next(n for n, row in enumerate(rows) if is_of_figure(row))
    slower = tuple(2 * value for value in rows[place].seconds)
    rows[place] = msgspec.structs.replace(rows[place], seconds=slower)
    changed = write_rows(results, rows)
    assert any(each.startswith(FIGURE) for each in objections(results))
    found = objections(repacked(packed, {"rows.jsonl": changed}))
    assert any(each.startswith("rows.jsonl is not the file") for each in found)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"plan": "cpu"', "expected a row"),
        ('{"version": 1, "plan": "cpu"}', "expected a row"),
        ('{"version": 99}', "a row of version 99"),
    ],
)
def test_a_line_that_is_no_row_is_named_by_its_number(results, line, what):
    with (results / "rows.jsonl").open("a") as file:
        file.write(line)
    (found,) = objections(results)
    assert f"rows.jsonl, line {len(rows_of_plan_cpu()) + 1}: {what}" in found


def test_a_row_that_contradicts_itself_is_found_and_what_cannot_be_drawn_from_it(results):
    rows = rows_of_plan_cpu()
    timed = next(n for n, row in enumerate(rows) if is_of_figure(row))
    counted = next(row for row in rows if row.quantity == "memory")
    rows[timed] = msgspec.structs.replace(rows[timed], seconds=())
    others = [row for n, row in enumerate(rows) if n == timed or not is_of_figure(row)]
    write_rows(results, [*others, msgspec.structs.replace(counted, status="error")])
    first, second, third = objections(results)
    assert first.startswith(f"rows.jsonl, line {others.index(rows[timed]) + 1}: expected a row")
    assert "0 seconds of 1 repetitions" in first
    assert second.startswith(f"{counted.case}: error without a reason")
    name = FIGURE.removesuffix(".png")
    assert third.startswith(f"{name} is there, but cannot be made from the rows")


def test_a_file_that_is_missing_of_a_bundle_is_named(packed):
    found = objections(repacked(packed, {TABLE: None}))
    assert found[0].startswith(f"{TABLE} is missing;")


def test_rows_that_are_missing_of_a_bundle_are_named(packed):
    found = objections(repacked(packed, {"rows.jsonl": None, "a100/rows.jsonl": None}))
    assert found[0].startswith("a100/rows.jsonl is missing")
    assert any(each.startswith("rows.jsonl is missing") for each in found)


def test_a_file_that_the_manifest_does_not_name_is_an_objection(packed):
    (found,) = objections(repacked(packed, {"figures/planted.png": b"planted"}))
    assert found.startswith("figures/planted.png is not in the manifest")


def test_missing_and_failed_cases_and_warnings_are_objections_to_a_strict_check_only(results):
    before = set(objections(results, is_strict=True))
    rows = rows_of_plan_cpu()
    missing, rows[1], rows[2] = (
        rows.pop(),
        msgspec.structs.replace(rows[1], status="timeout", reason="no result within 600 s"),
        msgspec.structs.replace(rows[2], warnings=("the spread is 20%: fix the clocks",)),
    )
    shutil.rmtree(results / "figures")
    write_rows(results, rows)
    assert objections(results) == []
    failed, warned, absent = sorted(set(objections(results, is_strict=True)) - before, key=len)
    found = "\n".join([failed, warned, absent])
    assert f"{missing.case} is missing from plan cpu" in found
    assert f"{rows[1].case} ended with timeout: no result within 600 s" in found
    assert f"{rows[2].case}: the spread is 20%; fix the clocks" in found


@pytest.mark.parametrize(
    ("changes", "is_named"),
    [
        ({"relative_difference": None}, True),
        ({"relative_difference": 1e-6}, False),
        ({"relative_difference": None, "method": "forward_over_reverse"}, False),
        ({"relative_difference": None, "method": "forward_over_reverse", "vectors": 8}, True),
        ({"relative_difference": None, "method": "gradient"}, False),
        ({"relative_difference": None, "method": "gradient", "mode": "compile"}, True),
        ({"relative_difference": None, "status": "error", "reason": "it broke"}, False),
    ],
)
def test_a_result_that_was_not_compared_is_a_strict_objection(tmp_path, changes, is_named):
    row = next(row for row in rows_of_plan_cpu() if row.method == "reverse_over_reverse")
    write_rows(tmp_path, [msgspec.structs.replace(row, quantity="time", **changes)])
    of_it = [each for each in objections(tmp_path, is_strict=True) if "was not compared" in each]
    assert len(of_it) == is_named
    assert not any("was not compared" in each for each in objections(tmp_path))


def test_what_covers_its_plan_holds_strictly(results):
    assert objections(results / "a100", is_strict=True) == []


def test_coverage_counts_the_rows_plans_and_the_articles():
    found = {
        (each.plan, each.is_accounted): each
        for each in coverage([*rows_of_plan_cpu(), *read_rows(ACCOUNTED)])
    }
    cpu, article = found["cpu", False], found["article", False]
    assert (cpu.planned, cpu.done, len(cpu.missing)) == (52, 28, 24)
    assert (article.planned, article.done, len(article.missing)) == (240, 0, 240)
    assert not article.is_begun
    assert found["article", True].done == found["article", True].planned == 132


@pytest.mark.parametrize("other", [{"normalisation": "matched"}, {"seed": 1}], ids=str)
def test_what_was_measured_otherwise_covers_no_plan(other):
    rows = [msgspec.structs.replace(row, **other) for row in rows_of_plan_cpu()]
    (article, _, cpu) = coverage(rows)
    assert (article.plan, cpu.plan, cpu.done) == ("article", "cpu", 0)


def test_a_case_that_was_repeated_counts_by_its_newest_row():
    rows = rows_of_plan_cpu()
    failed = msgspec.structs.replace(rows[0], status="error", reason="a crash")
    of_cpu = {
        name: coverage(each)[-1]
        for name, each in {
            "failed last": [*rows, failed],
            "done last": [failed, *rows],
        }.items()
    }
    assert len(of_cpu["failed last"].failed) == 1
    assert of_cpu["done last"].failed == ()


def test_figures_of_another_matplotlib_are_said_to_be_so_and_not_called_wrong(packed):
    with zipfile.ZipFile(packed) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        damaged = archive.read(FIGURE) + b"as another version draws it"
    manifest["matplotlib"] = "3.0.0"
    manifest["files"][FIGURE] = msgspec.to_builtins(bundle.member(damaged))
    found = check(repacked(packed, {FIGURE: damaged, "manifest.json": json.dumps(manifest)}))
    assert found.objections == tuple(each for each in found.objections if each.is_strict)
    (note,) = found.notes
    assert "matplotlib 3.0.0" in note
    assert "1 of them differ" in note


@pytest.mark.parametrize(
    "environment",
    [
        {"state": {"machine": {"lock": "that of another lock"}}},
        {"identity": {"lock": "that of another lock"}},  # where older rows have it
    ],
)
def test_rows_of_other_versions_than_the_bundled_lock_are_a_strict_objection(
    environment, results, tmp_path
):
    rows = rows_of_plan_cpu()
    write_rows(results, [msgspec.structs.replace(rows[0], environment=environment), *rows])
    bundle.write(results, tmp_path / "bundle.zip")
    assert objections(tmp_path / "bundle.zip") == []
    found = objections(tmp_path / "bundle.zip", is_strict=True)
    assert any("other versions than those of requirements.lock" in each for each in found)


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def archive_of(**files):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return write


WRONG_INPUT = {
    "a truncated archive": (truncated, "it cannot be read"),
    "no archive": (lambda path: path.write_text("a text"), "it cannot be read"),
    "no file": (Path.unlink, "it cannot be read"),
    "no manifest": (archive_of(rows=""), "there is no manifest.json in it"),
    "another manifest": (
        archive_of(**{"manifest.json": "[]"}),
        "its manifest.json is not a manifest",
    ),
    "a file outside": (archive_of(**{"../outside": ""}), "leads outside of any folder"),
}


@pytest.mark.parametrize(("damage", "found"), WRONG_INPUT.values(), ids=WRONG_INPUT)
def test_what_is_no_bundle_is_refused(packed, damage, found):
    damage(packed)
    with pytest.raises(UserError, match=found):
        check(packed)


def test_a_folder_without_rows_is_refused_also_where_others_lie_beside_or_in_it(results):
    (results.parent / "empty").mkdir()
    shutil.copytree(results / "a100", results.parent / "a100")
    (results / "rows.jsonl").unlink()
    for path in (results.parent / "empty", results):
        found = reproduce("check", path, "--strict")
        assert found.exit_code == 1
        assert str(found.exception).startswith(f"rows were expected in {path}, and there are none")


def test_wrong_input_ends_with_code_2_and_one_sentence(packed):
    truncated(packed)
    found = run("-m", "reproduce", "check", packed)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert found.stderr.startswith("error: a bundle was expected in ")


def test_the_command_prints_an_objection_a_line_and_ends_with_code_1(packed):
    holds, strict = reproduce("check", packed), reproduce("check", packed, "--strict")
    assert (holds.exit_code, strict.exit_code) == (0, 1)
    assert "plan cpu, measured: 28 of 52 cases are done, 0 failed, 24 are missing" in holds.stdout
    assert "plan article, measured: 0 of 240 cases are done" in holds.stdout
    # 24 are missing, and 18 were measured before results were compared.
    assert "no objections, 42 more with --strict" in holds.stdout
    assert strict.stdout.count("is missing from plan cpu; measure it with") == 24


def test_a_machine_is_given_the_same_as_json(packed):
    found = reproduce("check", packed, "--strict", "--json")
    report = json.loads(found.stdout)
    assert found.exit_code == 1
    assert (report["holds"], report["is_strict"]) == (False, True)
    assert len(report["objections"]) == 42
    assert report["objections"][0].keys() == {"what", "remedy", "is_strict"}
    assert report["coverage"][0]["planned"] == 240


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_any_user_without_a_home_can_check_what_only_its_owner_may_write(packed):
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    try:
        run("-c", "import reproduce, msgspec", **nobody).check_returncode()
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("other users may read neither this checkout nor its environment")
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        copy = shutil.copy(packed, folder)
        environment = os.environ | {"HOME": "/nonexistent"}
        found = run("-m", "reproduce", "check", copy, env=environment, **nobody)
        assert [file.name for file in Path(folder).iterdir()] == ["bundle.zip"]
    assert (found.returncode, "no objections" in found.stdout) == (0, True)


def test_checking_loads_neither_framework_and_writes_nothing_beside_the_bundle(packed):
    before = sorted(packed.parent.rglob("*"))
    program = (
        "import sys; from pathlib import Path; import reproduce.__main__; "
        f"from reproduce.evidence.check import check; check(Path({str(packed)!r})); "
        "print({'jax', 'torch'} & sys.modules.keys())"
    )
    found = run("-c", program)
    assert (found.returncode, found.stdout) == (0, "set()\n")
    assert sorted(packed.parent.rglob("*")) == before
