"""A text is printed as it is, whatever is in it and wherever it goes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from commands import ROOT, altered, program
from rich.table import Table
from runs import case

from reproduce import printing
from reproduce.measuring.progress import Progress
from reproduce.plan import by_setting, cases
from reproduce.results.rows import read_rows

SAMPLE = Path(__file__).parent / "rows_sample.jsonl"
BEYOND = Path(__file__).parent.parent / "docs/recorded/cpu-amd-epyc/beyond/rows.jsonl"
ODD_NAMES = ["m[old]", "[/]", "[red]x[/red]", ":smile:", "a [link=x]b", "[bold]:warning:"]


def run(command, **settings):
    environment = os.environ | settings
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, check=False
    )


def in_shell(redirected, *command):
    """How a command ends whose shell has ``redirected`` its streams."""
    everything = ["sh", "-c", f'"$@" {redirected}', "sh", *map(str, command)]
    return subprocess.run(everything, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def results(tmp_path):
    shutil.copy(SAMPLE, tmp_path / "rows.jsonl")
    return tmp_path


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_is_called_by_its_name_in_progress(capsys, name):
    settings = by_setting([case()])
    with Progress(3, settings, 1, Path(name)) as progress:
        progress.report_aside(Path(name))
    with Progress(3, [], 1, Path(name)):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if f" in {name}" in line]) == 3


def test_a_table_holds_what_is_put_into_it(capsys):
    table = Table(*ODD_NAMES)
    table.add_row(*reversed(ODD_NAMES))
    console = printing.console_of_tables()
    console.print(table)
    console.print(*ODD_NAMES)
    out = capsys.readouterr().out
    assert all(out.count(name) >= 3 for name in ODD_NAMES)


def test_devices_and_cases_are_compared_by_their_names(results):
    (row, *_) = read_rows(SAMPLE)
    for name, device in (("m[old]", "CPU :smile:"), ("m[new]", "CPU [bold]")):
        changed = msgspec.structs.replace(row, device=device, model="[red]" + row.model)
        (results / name).mkdir()
        (results / name / "rows.jsonl").write_bytes(msgspec.json.encode(changed) + b"\n")
    folders = results / "m[old]", results / "m[new]"
    found = run(program("reproduce", "compare", *folders, "--force"))
    assert f" [red]{row.model} batch" in found.stdout.decode()
    assert (
        "'CPU [bold]' instead of 'CPU :smile:'"
        in run(program("reproduce", "compare", *folders)).stderr.decode()
    )


@pytest.mark.parametrize(
    "encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow), "utf-16"]
)
def test_json_is_utf_8_whatever_the_locale(results, encoding):
    found = run(program("reproduce", "claims", results, "--json"), PYTHONIOENCODING=encoding)
    assert found.returncode == 0, found.stderr
    assert "²" in found.stdout.decode()
    assert len(json.loads(found.stdout)) > 10


def test_json_has_an_escape_for_what_is_no_text(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff"
    found = run([*program("reproduce", "doctor", "smoke"), os.fsdecode(odd), "--json"])
    assert found.returncode == 0, found.stderr
    (writable,) = [
        each["found"]
        for each in json.loads(found.stdout)[0]["findings"]
        if each["check"] == "results folder"
    ]
    assert writable == f"{tmp_path}/\\udcff can be written"


COMMANDS = {
    "advise": program("reproduce", "advise"),
    "check --json": [*program("reproduce", "check", "--json")],
    "plan": program("reproduce", "plan", "smoke", "--cases"),
    "figures": program("paper_figures"),
    "measure": altered("fake_worker", "measure", "smoke"),
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] * (name in {"advise", "check --json", "figures"})
        )
        for name in COMMANDS
    ],
)
def test_a_full_output_is_named_as_such_and_a_closed_one_leads_nowhere(results, command):
    arguments = [] if command == "plan" else [results]
    if command == "figures":
        arguments.append("hess_eig")
    shutil.copy(BEYOND, results / "rows.jsonl")
    if command == "measure":
        (results / "rows.jsonl").unlink()
    full = in_shell(">/dev/full", *COMMANDS[command], *arguments)
    assert full.returncode == 2
    (sentence,) = full.stderr.splitlines()
    assert sentence.startswith("error: standard output cannot be written (No space left on device)")
    for closed in (">&-", "<&- >&- 2>&-"):
        found = in_shell(closed, *COMMANDS[command], *arguments)
        assert (found.returncode, found.stdout, found.stderr) == (0, "", ""), closed
    if command == "measure":
        assert len(read_rows(results / "rows.jsonl")) == len(cases("smoke"))


def test_a_reader_that_has_enough_ends_a_command_quietly():
    found = in_shell("| head -n 1", *program("reproduce", "plan", "smoke"))
    assert found.stderr == ""


def test_what_the_system_refuses_is_not_blamed_on_the_results():
    assert printing.unusable(BlockingIOError(11, "Resource temporarily unavailable")).startswith(
        "the system refused what a run needs (Resource temporarily unavailable); end other"
    )
    of_disk = printing.unusable(OSError(28, "No space left on device"))
    assert of_disk.startswith("the results folder could")


def test_what_a_plan_prints_goes_to_standard_output_alone():
    found = in_shell("2>&-", *program("reproduce", "default-plan"))
    assert found.stdout in {"cpu\n", "article\n"}
