"""Settings that hold for every test, made before any framework is imported."""

import gc
import os
import shutil
import subprocess
import sys
from functools import cache
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


def pytest_collection_finish():
    """Keep the objects of all imports out of garbage collection.

    Each measurement collects, which takes a third of a second with both frameworks loaded.
    """
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item):
    """A JUnit file says of each test which errata it proves, for `reproduce.report.proofs`."""
    item.user_properties += [("erratum", *mark.args) for mark in item.iter_markers("erratum")]


# Files of which all tests go to one process, beside those with a fixture of their module, by the
# name of what they share: the report of the sample, and what JAX compiles operation by operation.
TOGETHER = {
    "test_accounting.py": "accounting",
    "test_hvp.py": "hvp",
    "test_report.py": "report",
    "test_report_in_browser.py": "report",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that share what is made once go to one process, or each would make it.

    pytest-xdist's own ``--dist loadgroup`` writes the groups of marks into the names of tests,
    where pytest 9.2 has no place for them: it would spread the tests over all processes.
    """
    from xdist.scheduler import LoadGroupScheduling  # noqa: PLC0415, where it is installed

    class BySharedFixtures(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            path = Path(nodeid.partition("::")[0])
            if path.name in TOGETHER:
                return TOGETHER[path.name]
            return path.name if _has_module_fixture(ROOT / path) else nodeid

    return BySharedFixtures(config, log)


@cache
def _has_module_fixture(path):
    return 'scope="module"' in path.read_text()


LET_INTERRUPTS_THROUGH = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def start_interruptible(command, **options):
    """A process that SIGINT reaches, also where the tests themselves run with it ignored."""
    return subprocess.Popen([sys.executable, "-c", LET_INTERRUPTS_THROUGH, *command], **options)


@pytest.fixture
def ordinary_user():
    """The words before a command that run it without root's rights and without an account.

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
    """Run commands where a file system can be mounted on ``tmp_path / "disk"``.

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
def figure_settings():
    """Figures look as this package draws them."""
    import matplotlib  # noqa: PLC0415, after the settings above

    from paper_figures import style  # noqa: PLC0415

    with matplotlib.rc_context(style.RC):
        yield


@pytest.fixture
def fake_workers(monkeypatch):
    """Workers load no framework, and end as the batch size of their case says."""
    import fake_worker  # noqa: PLC0415, after the settings above

    monkeypatch.setattr("reproduce.measuring.worker.run", fake_worker.run)
    monkeypatch.setattr("reproduce.measuring.worker.modules", lambda framework: [])


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
