"""Settings that hold for every test, made before any framework is imported."""

import gc
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NVML = Path(__file__).parent / "nvml.c"
READS_THIS = [sys.executable, "-c", f"open({__file__!r})"]

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "",
    "GPU": "",
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cpu",
    "MPLBACKEND": "agg",
    # Threads that wait for work sleep: on as many cores as there are tests at once, what spins
    # in one test takes the core from another, and small networks took ten times as long.
    "OMP_WAIT_POLICY": "passive",
    "TRANSFORMERS_VERBOSITY": "error",
    # Compiling takes most of the time here, and running hardly any.
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share what their file makes once go to one process, or each would make it.

    This is for pytest-xdist's ``--dist loadgroup``, which reads the groups in this same hook; a
    file may name a group of its own.
    """
    for item in items:
        if _shares_what_is_made_once(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish():
    """What the imports made stays, and no collection of garbage need look at it again.

    Each measurement collects, which takes a third of a second with both frameworks loaded.
    """
    gc.collect()
    gc.freeze()


def _shares_what_is_made_once(item):
    fixtures = itertools.chain.from_iterable(item._fixtureinfo.name2fixturedefs.values())
    return any(fixture.scope == "module" for fixture in fixtures)


LET_INTERRUPTS_THROUGH = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def start_interruptible(command, **options):
    """A process that SIGINT reaches, also where the tests themselves run with it ignored."""
    return subprocess.Popen([sys.executable, "-c", LET_INTERRUPTS_THROUGH, *command], **options)


@pytest.fixture
def ordinary_user():
    """What to put before a command so that it runs without root's rights and without an account.

    It may read whatever root may, since the environment can be root's, and write nothing of it.
    """
    if os.geteuid() != 0:
        return []
    as_user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    may_read = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    for command in ([*as_user, *may_read], as_user):
        if shutil.which("setpriv") and subprocess.call([*command, *READS_THIS]) == 0:
            return command
    pytest.skip("needs setpriv, and an environment that another user may read")


@pytest.fixture
def mounted(tmp_path):
    """What runs commands where a file system can be mounted on ``tmp_path / "disk"``.

    They share a mount namespace of their own, so that nothing is left mounted.

    Yields:
        A function of a command that returns how it ended, as `subprocess.run` does.
    """
    mounts = ["unshare", "-rm", "sh", "-c", "echo ready; exec sleep 600"]
    if not shutil.which("unshare") or subprocess.call([*mounts[:2], *READS_THIS]) != 0:
        pytest.skip("needs user namespaces, or root, to mount; and an environment readable there")
    (tmp_path / "disk").mkdir()
    shell = subprocess.Popen(mounts, stdout=subprocess.PIPE)
    shell.stdout.readline()
    inside = ["nsenter", f"--user=/proc/{shell.pid}/ns/user", f"--mount=/proc/{shell.pid}/ns/mnt"]
    inside += ["--preserve-credentials", f"--wd={ROOT}"]

    def run(*command):
        everything = [*inside, *map(str, command)]
        return subprocess.run(everything, capture_output=True, text=True, timeout=120, check=False)

    yield run
    shell.kill()
    shell.communicate()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The report of the sample, with its figures; tests leave it as it is."""
    from sample_report import written  # noqa: PLC0415, after the settings above

    return written(tmp_path_factory.mktemp("results"), with_figures=True)


@pytest.fixture
def fake_workers(monkeypatch):
    """Workers load no framework, and end as the batch size of their case says."""
    import fake_worker  # noqa: PLC0415, after the settings above

    monkeypatch.setattr("reproduce.worker.run", fake_worker.run)
    monkeypatch.setattr("reproduce.worker.modules", lambda framework: [])


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Settings under which NVML answers as a GPU's driver does: there is no GPU to ask here."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler is needed to build a library in NVML's place")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", NVML, "-o", library], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "CUDA_VISIBLE_DEVICES": "0"}
