"""No home, no account, a notebook's settings: it runs to its figures or says what to do."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from commands import ROOT, TESTS, altered, program, refused

from reproduce.__main__ import IMPORTED_WHEN_CALLED
from reproduce.results.rows import read_rows

HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME", "USER", "LOGNAME")


def surroundings(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in HOMES}
    return {name: value for name, value in (kept | changes).items() if value is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"HOME": None}, id="no home"),
        pytest.param(
            {"HOME": "/dev/null/home", "TMPDIR": "/nonexistent", "LC_ALL": "C"},
            id="a home and a temporary folder that are not there",
        ),
    ],
)
def test_without_home_and_account_a_run_goes_to_its_figures_and_report(ordinary_user, changes):
    with tempfile.TemporaryDirectory() as own:  # pytest's own folders are closed to others
        Path(own).chmod(0o777)
        results = Path(own) / "results"
        for command in (
            altered("part", "measure", "smoke", results),
            program("paper_figures", results),
            program("reproduce", "report", results),
        ):
            result = subprocess.run(
                [*ordinary_user, *command],
                cwd=ROOT,
                env=surroundings(**changes),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert result.returncode == 0, result.stderr
            assert "Traceback" not in result.stderr
        assert {row.status for row in read_rows(results / "rows.jsonl")} == {"done"}
        assert (results / "figures" / "bench_hvp_time_torch.png").exists()
        assert (results / "report.html").exists()
    assert not (ROOT / "~").exists()
    assert not (ROOT / "None").exists()


def test_a_temporary_folder_with_a_long_name_is_refused_with_what_to_set(tmp_path):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    command = altered("fake_worker", "measure", "smoke", tmp_path / "results")
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=surroundings(TMPDIR=str(long)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sentence = refused(result)
    assert "path too long" in sentence
    assert sentence.endswith("set TMPDIR to a folder that can be written and has a short name")
    assert not (tmp_path / "results").exists()


REFUSED = {
    "JAX_DISABLE_JIT=1": "JAX compiles nothing",
    "JAX_ENABLE_X64=True": "JAX computes in float64",
    "JAX_DEBUG_NANS=yes": "JAX looks at every result",
    "TORCHDYNAMO_DISABLE=1": "torch.compile compiles nothing",
    "XLA_PYTHON_CLIENT_ALLOCATOR=platform": "XLA may count no memory",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_a_setting_that_makes_of_a_case_another_is_named_before_the_run(tmp_path, setting):
    name, value = setting.split("=")
    sentence = f"the environment has {setting}, with which {REFUSED[setting]}; run 'unset {name}'"
    for verb, code in (("measure smoke", 2), ("doctor smoke", 1), ("beyond", 2)):
        result = subprocess.run(
            [*program("reproduce", *verb.split()), tmp_path / "results"],
            cwd=ROOT,
            env=surroundings(**{name: value}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == code, result.stderr
        assert sentence in result.stdout + result.stderr
    assert not (tmp_path / "results").exists()


def test_a_setting_that_is_switched_off_is_none(tmp_path):
    result = subprocess.run(
        altered("fake_worker", "measure", "smoke", tmp_path / "results"),
        cwd=ROOT,
        env=surroundings(JAX_DISABLE_JIT="0", JAX_ENABLE_X64="False"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def git(folder, *arguments):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    names = ("-c", "user.name=a", "-c", "user.email=b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", folder, *names, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder):
    git(folder, "init", "--quiet")
    (folder / ".gitignore").write_text("__pycache__\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


def revision(source, **changes):
    """The revision of the code in the folder ``source``, as a row has it."""
    told = "from reproduce.machine import environment; print(environment.revision())"
    command = [sys.executable, "-c", told]
    own = surroundings(**changes)
    found = subprocess.run(command, cwd=source, env=own, capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture
def source(tmp_path):
    """A copy of the code, in a folder that can be made a repository."""
    folder = tmp_path / "outer" / "source"
    for name in ("reproduce", "paper_figures"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "requirements.lock", folder)
    return folder


def test_the_revision_is_the_commit_of_this_source_whatever_git_is_told_of_another(source):
    commit = repository(source)
    other = source.parent / "other"
    other.mkdir()
    (other / "file").touch()
    repository(other)
    for changes in (
        {},
        {"GIT_DIR": str(other / ".git")},
        {"GIT_DIR": "/nowhere"},
        {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(source)},
        {"GIT_INDEX_FILE": str(other / ".git" / "index")},
        {"HVP_REPRO_REVISION": "that of an image"},
    ):
        assert revision(source, **changes) == commit
    (source / "notes.txt").write_text("no code")
    assert revision(source) == commit
    (source / "reproduce" / "new.py").touch()
    assert revision(source) == f"{commit}+changes"


def test_inside_another_repository_or_in_none_it_is_a_hash_of_the_source(source):
    in_none = revision(source)
    repository(source.parent)
    assert revision(source) == in_none
    assert in_none.startswith("sources ")
    assert revision(source, PATH="/nowhere") == in_none
    assert revision(source, HVP_REPRO_REVISION="abc") == "abc"
    assert revision(source, HVP_REPRO_REVISION="unknown") == in_none
    with (source / "reproduce" / "plan.py").open("a") as file:
        file.write("# edited\n")
    edited = revision(source)
    (source / "reproduce" / "report" / "page.css").unlink()
    assert len({in_none, edited, revision(source)}) == 3


def test_without_any_temporary_folder_it_is_refused_with_what_to_set(mounted, tmp_path):
    for folder in filter(os.path.isdir, ("/tmp", "/var/tmp", "/usr/tmp")):
        for options in (["--rbind"], ["-o", "remount,bind,ro"]):
            assert mounted("mount", *options, folder, folder).returncode == 0
    elsewhere = ["env", "--chdir=/proc", "--unset=TMPDIR", f"PYTHONPATH={ROOT}"]
    command = program("reproduce", "measure", "smoke", tmp_path / "results")
    sentence = refused(mounted(*elsewhere, *command))
    assert "socket in a temporary folder, which fails (No usable" in sentence
    assert sentence.endswith("set TMPDIR to a folder that can be written and has a short name")


NOTEBOOKS = "module://matplotlib_inline.backend_inline"
BACKENDS = (
    NOTEBOOKS,
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("qtagg", "no backend", "")),
)


def ran(*command, **settings):
    return subprocess.run(
        program(*command),
        cwd=ROOT,
        env=surroundings(**settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_whatever_backend_a_shell_names_it_is_drawn_and_judged(tmp_path, backend):
    shutil.copy(TESTS / "rows_sample.jsonl", tmp_path / "rows.jsonl")
    for command in (
        ("paper_figures", tmp_path, "hess_eig", "bench_hvp_memory_jax"),
        ("reproduce", "report", tmp_path),
        ("reproduce", "bundle", tmp_path),
        ("reproduce", "check", tmp_path / "bundle.zip"),
    ):
        result = ran(*command, MPLBACKEND=backend, MPLCONFIGDIR=str(tmp_path / "matplotlib"))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
    assert (tmp_path / "figures" / "bench_hvp_memory_jax.pdf").stat().st_size > 1000


def test_every_verb_can_be_imported_in_a_notebooks_shell():
    result = ran("reproduce", "--help", MPLBACKEND=NOTEBOOKS)
    assert result.returncode == 0, result.stderr
    described = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert IMPORTED_WHEN_CALLED.keys() <= described
    assert "not installed" not in result.stdout


OF_DRAWING = {"matplotlib", "pandas", "scipy", "jinja2"}
OF_MEASURING = {"jax", "torch", "transformers", "flax"}


@pytest.mark.parametrize(
    ("verb", "unused"),
    [
        ("default-plan", OF_DRAWING | OF_MEASURING | {"numpy"}),
        ("plan smoke", OF_DRAWING | OF_MEASURING),
        ("doctor smoke", OF_DRAWING | OF_MEASURING),
        ("measure smoke {folder} --timeout-seconds 0", OF_DRAWING | OF_MEASURING),
        ("account smoke {folder} --timeout-seconds 0", OF_DRAWING | OF_MEASURING),
        ("claims {folder}", OF_MEASURING),
        ("advise {folder}", OF_MEASURING),
    ],
)
def test_a_verb_imports_what_it_uses(tmp_path, verb, unused):
    watched = (
        "import sys\nfrom reproduce.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    )
    shutil.copy(TESTS / "rows_sample.jsonl", tmp_path / "rows.jsonl")
    command = [sys.executable, "-c", watched, *verb.format(folder=tmp_path).split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {*result.stdout.splitlines()[-1].split()[1:]}
    assert {"reproduce", "typer"} <= loaded
    assert not loaded & unused
