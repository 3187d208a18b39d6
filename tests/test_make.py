"""The Makefile: its targets say what is to be run, and nothing of a value is read as a command."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

ODD = ["it's", "co$t", "a  b", '"quoted"', "$(touch made)", "`touch made`", "; touch made", "a#b"]
# What a played interpreter does: it notes its arguments, a line each call, and takes a moment.
# A line is one write, since two may write at once.
PYTHON = """#!/bin/sh
sleep 0.1
case "$*" in *default-plan*) echo cpu ;; esac
line=$(printf '<%s>' "$@")
echo "$line" >>"${0%/*}/../log"
"""
# What a played uv does: an environment has an interpreter after a moment, and is then filled.
UV = """#!/bin/sh
echo "$*" >>"$UV_LOG"
case $1 in
venv) sleep 0.5; for last; do :; done; mkdir -p "$last/bin"; cp "$PLAYED" "$last/bin/python" ;;
pip) sleep 0.5 ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A folder of its own for the Makefile, with nothing beside it but what is looked at."""
    folder = tmp_path / "tree"
    (folder / "reproduce").mkdir(parents=True)
    (folder / "reproduce" / "__main__.py").touch()
    for path in (ROOT / "Makefile", *ROOT.glob("requirements*.lock")):
        shutil.copy(path, folder)
    return folder


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(tree, *arguments, **settings):
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=tree,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def played(folder):
    """An environment, not made from the locks, whose interpreter notes what it is to run."""
    executable(folder / "bin" / "python", PYTHON)
    return folder


def noted(venv):
    log = venv / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line[1:-1].split("><")[1:] for line in lines]  # after -m


def targets(tree):
    lines = make(tree).stdout.splitlines()[1:]
    return [line.split()[0].replace("<name>", "hess_eig") for line in lines if line[:1].islower()]


def test_a_dry_run_of_any_target_prints_and_does_nothing(tree, tmp_path):
    venv = played(tmp_path / "venv")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert len(targets(tree)) > 20
    for target in targets(tree):
        for plan in ("", "smoke", "cpu"):
            result = make(tree, "-n", target, f"PLAN={plan}", f"VENV={venv}")
            assert result.returncode == 0, result.stderr
            assert result.stdout
    assert noted(venv) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("in_environment", [False, True])
@pytest.mark.parametrize("odd", ODD)
def test_a_value_reaches_the_program_as_it_was_given(tree, tmp_path, odd, in_environment):
    venv = played(tmp_path / f"of {odd}")
    given = {"VENV": str(venv), "RESULTS": odd, "PLAN": "smoke", "TARGET": f"{odd}.txtpb"}
    expected = {
        "all": ["reproduce", "all", "--plan", "smoke", "--results", odd],
        "smoke": ["reproduce", "all", "--plan", "smoke", "--results", odd],
        "beyond": ["reproduce", "all", "--plan", "beyond", "--results", f"{odd}/beyond"],
        "measure": ["reproduce", "measure", "smoke", odd],
        "account": ["reproduce", "account", "smoke", odd, "--target", f"{odd}.txtpb"],
        "figures": ["paper_figures", odd],
        "verify": ["reproduce", "verify", odd],
    }
    arguments = [] if in_environment else [f"{name}={value}" for name, value in given.items()]
    result = make(tree, *expected, *arguments, **(given if in_environment else {}))
    assert result.returncode == 0, result.stderr
    assert noted(venv) == [*expected.values()]
    assert not list(tmp_path.rglob("made"))


def test_the_image_is_built_and_run_from_a_small_environment_whatever_else_there_is(tree, tmp_path):
    venv, small = played(tmp_path / "venv"), played(tree / ".venv-container")
    given = ["BASE=it's", "VERSIONS=2023", "PLAN=smoke", "RESULTS=a  b"]
    result = make(tree, "image", "docker-all", "image-folder", f"VENV={venv}", *given)
    assert result.returncode == 0, result.stderr
    assert noted(small) == [
        ["reproduce.container", "build", "--base", "it's", "--versions", "2023"],
        ["reproduce.container", "all", "--plan", "smoke", "--results", "a  b"],
        ["reproduce.container", "unpack", "hvp-image"],
    ]
    assert noted(venv) == []


def test_the_image_is_saved_for_apptainer_which_makes_a_file_of_it_where_it_is(tree, tmp_path):
    said = 'echo "${0##*/} $*" >>"$LOG"; case "$1" in save) touch "$3" ;; esac'
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("make", "sh", "rm", "touch"):
        (programs / name).symlink_to(shutil.which(name))
    settings = {"PATH": str(programs), "LOG": str(tmp_path / "log")}
    executable(programs / "docker", f"#!/bin/sh\n{said}\n")
    refused = make(tree, "sif", **settings)
    assert refused.returncode == 2
    build = "apptainer build hvp.sif docker-archive://hvp-repro.tar"
    assert f"take hvp-repro.tar to where there is one, and run '{build}'" in refused.stderr
    assert (tree / "hvp-repro.tar").exists()
    executable(programs / "apptainer", f"#!/bin/sh\n{said}\n")
    made = make(tree, "sif", **settings)
    assert made.returncode == 0, made.stderr
    save = "docker save --output hvp-repro.tar hvp-repro"
    assert (tmp_path / "log").read_text().splitlines() == [save, save, build]
    assert made.stdout.splitlines()[:2] == [save, build]
    assert not (tree / "hvp-repro.tar").exists()


def test_the_name_of_a_figure_is_no_command(tree, tmp_path):
    venv = played(tmp_path / "venv")
    names = ["hess_eig", "it's", "a b", "$HOME", "`touch made`"]
    result = make(tree, *(f"figures/{name}" for name in names), f"VENV={venv}", "RESULTS=r")
    assert result.returncode == 0, result.stderr
    calls = [call for call in noted(venv) if call[0] == "paper_figures"]
    assert calls == [["paper_figures", "r", name] for name in names]
    assert not list(tmp_path.rglob("made"))


def test_what_is_not_given_is_what_fits(tree, tmp_path):
    venv = played(tmp_path / "venv")
    result = make(tree, "all", "measure", "account", "verify", f"VENV={venv}", "TARGET=h100")
    assert result.returncode == 0, result.stderr
    assert noted(venv) == [
        ["reproduce", "all", "--plan", "", "--results", ""],
        ["reproduce", "default-plan"],
        ["reproduce", "measure", "cpu", "results/cpu"],
        ["reproduce", "account", "article", "results/h100", "--target", "h100"],
        ["reproduce", "verify"],
    ]


def test_several_gpus_and_a_cluster_are_asked_for_as_they_are_given(tree, tmp_path):
    venv = played(tmp_path / "venv")
    given = {"JOBS": "4", "SBATCH": "-p gpu --gres=gpu:1 -J it's", "CONTAINER": "a b.sif"}
    result = make(tree, "slurm", f"VENV={venv}", "DRY=1", **given)
    assert result.returncode == 0, result.stderr
    result = make(tree, "all", "slurm", f"VENV={venv}", "GPUS=4", "PLAN=smoke", "CAP=2")
    assert result.returncode == 0, result.stderr
    to_article = ["article", "results/article", "--jobs", "4"]
    with_options = ["--sbatch", given["SBATCH"], "--container", "a b.sif", "--dry"]
    to_smoke = ["smoke", "results/smoke", "--cap", "2"]
    assert noted(venv) == [
        ["reproduce", "slurm", *to_article, *with_options],
        ["reproduce", "all", "--plan", "smoke", "--results", "", "--gpus", "4"],
        ["reproduce", "slurm", *to_smoke, "--sbatch", "", "--container", ""],
    ]


@pytest.mark.parametrize("plan", ["smoke", "beyond"])
def test_the_articles_memory_is_accounted_for_whatever_plan_is_in_the_environment(
    tree, tmp_path, plan
):
    venv = played(tmp_path / "venv")
    result = make(tree, "a100", f"VENV={venv}", PLAN=plan, TARGET="h100")
    assert result.returncode == 0, result.stderr
    assert noted(venv) == [["reproduce", "account", "article", "results/a100"]]


@pytest.mark.parametrize("jobs", ["-j2", "-j4", "-j"])
def test_targets_follow_each_other_as_they_are_named_with_any_number_of_jobs(tree, tmp_path, jobs):
    venv = played(tmp_path / "venv")
    result = make(tree, jobs, "measure", "figures", "report", f"VENV={venv}", "PLAN=cpu")
    assert result.returncode == 0, result.stderr
    calls = [" ".join(call[:2]) for call in noted(venv)]
    drawn = "paper_figures results/cpu"
    assert calls == ["reproduce measure", drawn, "reproduce report"]


def test_a_report_comes_with_proofs_of_the_errata_only_where_they_are_asked_for(tree, tmp_path):
    for given, verbs in ([], ["report"]), (["PROVE=1"], ["prove", "report"]):
        venv = played(tmp_path / "".join(["venv", *given]))
        result = make(tree, "report", f"VENV={venv}", "RESULTS=r", "PLAN=cpu", *given)
        assert result.returncode == 0, result.stderr
        assert noted(venv) == [["reproduce", verb, "r"] for verb in verbs]


def setting_up(tree, tmp_path, path=""):
    """A make that sets up by a played uv, and what that notes its calls in."""
    uv = executable(tmp_path / "bin" / "uv", UV)
    python = executable(tmp_path / "played", PYTHON)
    log = tmp_path / "uv.log"
    settings = {"PATH": f"{uv.parent}:{path or os.environ['PATH']}", "PLAYED": str(python)}
    command = ["make", "plan", "PLAN=smoke", f"VENV={tmp_path / 'a new' / 'venv'}"]
    started = subprocess.Popen(
        command,
        cwd=tree,
        env=settings | {"UV_LOG": str(log)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return started, log


def syncs(log):
    lines = log.read_text().splitlines()
    return sum(line.startswith("pip sync") for line in lines)


@pytest.mark.parametrize("seconds_apart", [0, 0.3, 0.8])
def test_of_two_makes_at_once_one_sets_up_and_the_other_waits(tree, tmp_path, seconds_apart):
    first, log = setting_up(tree, tmp_path)
    time.sleep(seconds_apart)
    second, _ = setting_up(tree, tmp_path)
    said = [make.communicate(timeout=60) for make in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert syncs(log) == 1
    assert sum("Another make is setting up" in output for output, _ in said) == 1
    assert noted(tmp_path / "a new" / "venv") == [["reproduce", "plan", "smoke"]] * 2
    third, _ = setting_up(tree, tmp_path)
    assert third.communicate(timeout=60) == ("", "")
    assert syncs(log) == 1


def test_each_environment_is_made_from_its_own_locks(tree, tmp_path):
    uv, python = executable(tmp_path / "bin" / "uv", UV), executable(tmp_path / "played", PYTHON)
    log = tmp_path / "uv.log"
    settings = {"PATH": f"{uv.parent}:{os.environ['PATH']}", "PLAYED": str(python)}
    for _ in range(2):
        result = make(tree, "docker-all", "plan", "VENV=v", "PLAN=x", **settings, UV_LOG=str(log))
        assert result.returncode == 0, result.stderr
    of_container, of_all = (line for line in log.read_text().splitlines() if "pip sync" in line)
    assert of_container.split()[-1:] == ["requirements-container.lock"]
    assert "requirements-container.lock" not in of_all
    assert "requirements-peers.lock" in of_all


def test_a_set_up_that_was_broken_off_is_done_again(tree, tmp_path):
    first, log = setting_up(tree, tmp_path)
    while not log.exists():
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert syncs(log) == 0
    second, _ = setting_up(tree, tmp_path)
    said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert syncs(log) == 1
    assert noted(tmp_path / "a new" / "venv") == [["reproduce", "plan", "smoke"]]


def test_without_flock_a_set_up_says_what_must_not_be_done(tree, tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "sh", "cat", "cmp", "mkdir", "cp", "sleep", "echo"):
        (programs / name).symlink_to(shutil.which(name))
    started, log = setting_up(tree, tmp_path, path=str(programs))
    output, errors = started.communicate(timeout=60)
    assert started.returncode == 0, errors
    assert "two makes that set up at once would disturb each other" in output
    assert syncs(log) == 1


@pytest.mark.parametrize("target", ["setup", "smoke", "help", "clean"])
def test_from_elsewhere_nothing_is_set_up_and_the_remedy_is_named(tree, tmp_path, target):
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    result = make(elsewhere, "-f", str(tree / "Makefile"), target)
    assert result.returncode == 2
    (sentence,) = result.stderr.splitlines()
    assert f"in {elsewhere}, which is not its folder; run it as 'make -C FOLDER'" in sentence
    assert list(elsewhere.iterdir()) == []


def test_a_figure_is_drawn_into_a_folder_of_any_name(tmp_path):
    venv = tmp_path / "an environment's"
    venv.symlink_to(sys.prefix)
    folder = tmp_path / "it's $t"
    result = make(ROOT, "figures/hess_eig", f"VENV={venv}", f"RESULTS={folder}", "PLAN=cpu")
    assert result.returncode == 0, result.stderr
    assert (folder / "figures" / "hess_eig.png").exists()
