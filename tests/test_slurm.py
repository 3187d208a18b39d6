"""A plan on a real SLURM, started here: two nodes on loopback, with two stand-in GPUs each.

A node is a PID namespace: where its first process ends, all end that run there, as without power.
"""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from typing import NamedTuple

import psutil
import pytest
from commands import altered, altered_everywhere, run
from runs import until

from reproduce.plan import cases
from reproduce.results.rows import read_rows, rows_in

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "unshare")
AS_A_NODE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=5
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Gres=gpu:2
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=60 State=UP
"""


class Cluster(NamedTuple):
    """A SLURM: the settings under which commands speak to it, and what started each node."""

    settings: dict[str, str]
    nodes: dict[str, subprocess.Popen]

    def said(self, *command):
        """What ``command`` prints."""
        return subprocess.check_output(command, env=os.environ | self.settings, text=True)

    def tasks(self, array, field):
        """What squeue has in ``field`` for each task of ``array``, by its number."""
        wanted = ["--noheader", "--states=all", f"--jobs={array}", "--array"]
        lines = self.said("squeue", *wanted, f"--format=%K {field}").splitlines()
        return {int(number): found for number, found in map(str.split, lines)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A SLURM with two nodes, for these tests alone.

    Yields:
        A `Cluster`.
    """
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or subprocess.call([*AS_A_NODE, "true"]) != 0:
        lacks = ", ".join(missing) or "one of the former"
        pytest.skip(f"needs root, PID namespaces and Debian's slurm-wlm, and lacks {lacks}")
    folder = tmp_path_factory.mktemp("slurm")
    write_configuration(folder)
    settings = {"SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / "log").open("w") as log:
        *daemons, first, second = [
            subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
            for command in programs(folder)
        ]
        nodes = {"n1": first, "n2": second}
        yield Cluster(settings, nodes)
        for node in nodes.values():
            power_off(node)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def write_configuration(folder):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    text = CONF.format(host=socket.gethostname().split(".")[0], folder=folder, ports=ports)
    (folder / "slurm.conf").write_text(text)
    devices = [folder / f"nvidia{index}" for index in (0, 1)]
    for device in devices:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null is
    gpus = f"Name=gpu File={folder}/nvidia[0-1] Flags=nvidia_gpu_env\n"
    (folder / "gres.conf").write_text(f"NodeName=n[1-2] {gpus}")
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)


def programs(folder):
    own = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    files = [f"--{option}={folder}/munge.{suffix}" for option, suffix in own.items()]
    yield ["munged", "--foreground", "--force", f"--seed-file={folder}/munge.seed", *files]
    until((folder / "munge.socket").exists)
    yield ["slurmctld", "-D"]
    for name in ("n1", "n2"):
        yield [*AS_A_NODE, "slurmd", "-D", "-N", name]


def power_off(node):
    psutil.Process(node.pid).children()[0].kill()
    node.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The results folder of plan smoke, measured without a cluster by the same workers."""
    folder = tmp_path_factory.mktemp("alone") / "smoke"
    result = run(*altered("fake_worker", "all", "--plan", "smoke", "--results", folder))
    assert result.returncode == 0, result.stderr
    return folder


def submitted(folder, cluster, **settings):
    """What was printed where plan smoke was submitted in four shares, and the jobs' numbers."""
    given = {"PLAN": "smoke", "RESULTS": folder, "JOBS": 4, "SBATCH": "--gres=gpu:1 --no-requeue"}
    variables = [f"{name}={value}" for name, value in given.items()]
    own = cluster.settings | altered_everywhere("fake_worker") | settings
    result = run("make", "slurm", f"VENV={sys.prefix}", *variables, env=os.environ | own)
    assert result.returncode == 0, result.stderr
    return result.stdout, re.findall(r"as job (\d+)", result.stdout)


def ended(cluster):
    """Waits for the end of all jobs."""
    until(lambda: not cluster.said("squeue", "--noheader"), seconds=170)


def drawn(folder):
    """What was made of the rows of ``folder``: figures, tables and verdicts, byte for byte."""
    made = [path for kind in ("figures", "tables") for path in (folder / kind).glob("*.*")]
    made += [folder / "claims.md", folder / "summary.csv"]
    return {path.name: path.read_bytes() for path in made if not path.name.startswith(".")}


def status(folder):
    return run(sys.executable, "-m", "reproduce", "status", folder)


@pytest.mark.slow
def test_a_plan_on_a_cluster_loses_jobs_is_submitted_again_and_drawn_as_on_one_machine(
    cluster, alone, tmp_path
):
    folder, held = tmp_path / "it's smoke", tmp_path / "held"
    held.touch()
    printed, (array, collector) = submitted(folder, cluster, FAKE_HELD=str(held))
    assert "#SBATCH --array=1,2,3,4%4" in printed
    begun = [folder / "rows.d" / f"{number}.jsonl" for number in (2, 3, 4)]  # 1 is held as a whole
    until(lambda: all(map(read_rows, begun)))

    node = cluster.tasks(array, "%N")
    killed, segfaulted, lost = sorted((2, 3, 4), key=lambda number: node[number] != node[1])
    cluster.said("scancel", "--full", "--signal=KILL", f"{array}_{killed}")
    cluster.said("scancel", "--batch", "--signal=11", f"{array}_{segfaulted}")
    fates = {killed: "CANCELLED", segfaulted: "FAILED"}
    until(lambda: cluster.tasks(array, "%T").items() >= fates.items())
    power_off(cluster.nodes.pop(node[lost]))
    held.unlink()
    ended(cluster)
    assert cluster.tasks(array, "%T") == fates | {1: "COMPLETED", lost: "NODE_FAIL"}
    gpus = [(folder / f"slurm-{array}_{n}.out").read_text().splitlines()[0] for n in range(1, 5)]
    assert sorted(gpus) == ["n1 GPU 0", "n1 GPU 1", "n2 GPU 0", "n2 GPU 1"]

    kept = len(rows_in(folder))
    assert 0 < kept < len(cases("smoke"))
    result = status(folder)
    assert result.returncode == 1
    missing = len(cases("smoke")) - kept
    assert result.stdout.count("missing: ") == missing
    assert f"{kept} of {len(cases('smoke'))} cases are done, 0 failed, {missing} are missing" in (
        result.stdout
    )
    assert (folder / f"slurm-{collector}.out").read_text().splitlines()[-1].endswith("report.html")

    printed, _ = submitted(folder, cluster)
    assert "#SBATCH --array=2,3,4%4" in printed
    ended(cluster)
    assert status(folder).returncode == 0
    assert len(rows_in(folder)) == len(cases("smoke"))
    assert drawn(folder) == drawn(alone)


@pytest.mark.slow
def test_what_sbatch_refuses_is_a_sentence(cluster, tmp_path):
    given = [f"VENV={sys.prefix}", f"RESULTS={tmp_path}", "PLAN=smoke", "SBATCH=-p nowhere"]
    sentence = "slurm-measure.sh was submitted, and sbatch refused it (sbatch: error: invalid"
    assert sentence in run("make", "slurm", *given, env=os.environ | cluster.settings).stderr
