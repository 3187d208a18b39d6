"""The image on a real engine, as locked down as it goes; ``make image-test`` runs these.

What an engine refuses is tested without one, too.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from commands import ROOT
from docker.errors import APIError
from locks import pins, site_of

from reproduce import container
from reproduce.drawing import BENCHES, DIAGRAMS
from reproduce.plan import cases
from reproduce.results.rows import read_rows

SAMPLE = ROOT / "tests" / "rows_sample.jsonl"
# Nobody's: no line of /etc/passwd has it, inside or outside.
STRANGER = 54_321
engine = pytest.mark.engine
# The tests that a container can fail and its maker's machine pass.
ON_SURROUNDINGS = (
    "test_bad_input.py",
    "test_beyond.py",
    "test_bundle.py",
    "test_command_line.py",
    "test_doctor.py",
    "test_faults_of_disks.py",
    "test_faults_of_processes.py",
    "test_faults_of_rows.py",
    "test_faults_of_surroundings.py",
    "test_measure.py",
    "test_problems.py",
    "test_runner.py",
    "test_supply.py",
    "test_worker.py",
    "test_accounting.py::test_the_compiled_program_has_the_bytes_of_a_hand_count",
    "test_faster.py::test_what_torch_compiles_is_what_it_computes_eagerly",
    "test_figures.py::test_the_same_rows_give_the_same_bytes_whatever_the_surroundings",
)


def lines_of(client, *command, **options):
    """The lines that ``command`` prints in the image, as locked down as in use."""
    options = {**container.LOCKED_DOWN, "user": f"{STRANGER}:{STRANGER}", **options}
    output = client.containers.run(
        container.IMAGE, list(command), stderr=True, remove=True, **options
    )
    return output.decode().splitlines()


@pytest.fixture(scope="module")
def client():
    return container.engine()


@pytest.fixture(scope="module")
def image(client):
    return client.images.get(container.IMAGE)


def let_others_through(folder):
    for parent in (folder, *folder.parents):
        if parent.owner() != "root" or parent == Path("/tmp"):
            break
        parent.chmod(0o755)


@pytest.fixture
def strangers_folder(tmp_path):
    """A folder that only a user without a name may write to."""
    folder = tmp_path / "results"
    folder.mkdir()
    os.chown(folder, STRANGER, STRANGER)
    let_others_through(tmp_path)
    return folder


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The image as a folder, as the ordinary user who unpacked it has it.

    Yields:
        Its path.
    """
    above = tmp_path_factory.mktemp("unpacked")
    let_others_through(above)
    container.unpack(above / "hvp-image")
    subprocess.run(["chown", "--recursive", f"{STRANGER}:{STRANGER}", above], check=True)
    yield above / "hvp-image"
    shutil.rmtree(above)


def code_as_stranger(*command, **environment):
    """What ``command`` ends with as an ordinary user, in that environment alone."""
    drop = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    environment = {"PATH": os.environ["PATH"], "USER": "stranger"} | environment
    return subprocess.call([*drop, *map(str, command)], cwd="/", env=environment, timeout=600)


def assert_smoke_is_whole(image, results):
    rows = read_rows(results / "rows.jsonl")
    assert {row.case for row in rows if row.status == "done"} == set(cases("smoke"))
    assert {row.environment["state"]["revision"] for row in rows} == {
        image.labels[container.REVISION_LABEL]
    }
    drawn = {file.stem for file in (results / "figures").glob("*.png")}
    assert drawn == {name for name in (*BENCHES, *DIAGRAMS) if not name.endswith("_b64")}
    assert (results / "report.html").exists()
    assert {path.stat().st_uid for path in results.rglob("*")} == {STRANGER}


@engine
def test_without_an_argument_the_targets_are_printed(client):
    assert any(line.startswith("all ") for line in lines_of(client))


@engine
def test_the_default_plan_in_a_container_without_a_gpu_says_how_to_pass_one(client):
    plan, why = sorted(lines_of(client, "python", "-m", "reproduce", "default-plan"), key=len)
    assert plan == "cpu"
    assert "docker run --gpus all" in why


@engine
def test_the_smoke_plan_runs_to_its_figures_as_a_stranger_read_only_without_a_network(
    client, image, strangers_folder
):
    user = f"{STRANGER}:{STRANGER}"
    for command in (["make", "smoke"], ["python", "-m", "reproduce", "check", "results/smoke"]):
        assert container.run(client, command, strangers_folder, user, on_gpu=False) == 0
    assert_smoke_is_whole(image, strangers_folder / "smoke")


@engine
@pytest.mark.skipif(not shutil.which("ch-run"), reason="CHARLIECLOUD IS NOT INSTALLED HERE")
def test_the_smoke_plan_runs_to_its_figures_in_charliecloud(image, unpacked, strangers_folder):
    ch_run = ["ch-run", "--private-tmp", "--unset-env=*", "--set-env", "--cd=/hvp"]
    ch_run += [f"--bind={strangers_folder}:{container.RESULTS_INSIDE}", unpacked, "--"]
    if code_as_stranger(*ch_run, "true") != 0:
        pytest.skip("CHARLIECLOUD CANNOT RUN HERE: ITS OWN WORDS ARE ABOVE")
    assert code_as_stranger(*ch_run, "touch", "/hvp/here") != 0
    assert code_as_stranger(*ch_run, "make", "smoke") == 0
    assert_smoke_is_whole(image, strangers_folder / "smoke")


@engine
@pytest.mark.skipif(not shutil.which("podman"), reason="PODMAN IS NOT INSTALLED HERE")
def test_pytorch_is_measured_and_drawn_in_podman_without_root(unpacked, strangers_folder):
    own = {"HOME": str(strangers_folder), "XDG_RUNTIME_DIR": str(strangers_folder)}
    # The other runtime, crun, refuses a machine with both generations of control groups.
    podman = ["podman", "--runtime=runc", "run", "--rm", "--read-only", "--tmpfs=/tmp:exec"]
    podman += ["--network=none", "--cap-drop=all", "--workdir=/hvp"]
    podman += [f"--env-file={unpacked / 'ch' / 'environment'}"]
    podman += [f"--volume={strangers_folder}:{container.RESULTS_INSIDE}", "--rootfs", unpacked]
    if code_as_stranger(*podman, "true", **own) != 0:
        pytest.skip("PODMAN CANNOT RUN WITHOUT ROOT HERE: ITS OWN WORDS ARE ABOVE")
    measured = "python -m reproduce measure smoke results --framework torch"
    drawn = "python -m paper_figures results bench_hvp_time_torch"
    command = f"! touch here && {measured} && {drawn}"
    try:
        assert code_as_stranger(*podman, "sh", "-c", command, **own) == 0
    finally:
        code_as_stranger("podman", "system", "migrate", **own)  # ends what it left running
    rows = read_rows(strangers_folder / "rows.jsonl")
    assert {row.case for row in rows if row.status == "done"} == {
        case for case in cases("smoke") if case.framework == "torch"
    }
    assert (strangers_folder / "figures" / "bench_hvp_time_torch.png").exists()


@engine
def test_what_depends_on_surroundings_passes_in_the_container(client, strangers_folder):
    """Users, rights, folders, processes, memory, system libraries and compilers differ in there.

    So these tests run once more: faults, refusals and the command line; real and fake workers;
    what loads both frameworks, scikit-learn and the bill of materials; what XLA compiles for a GPU
    and PyTorch by g++. The packages are those of the lock, which the doctor's tests hold the
    container to, and give the same numbers wherever they are: tests of mathematics, of rows and of
    texts say nothing new there. ``make smoke`` and ``check`` run there above, and the
    bytes of all figures are compared below.
    """
    user = f"{STRANGER}:{STRANGER}"
    chosen = " ".join(f"tests/{name}" for name in ON_SURROUNDINGS)
    command = ["make", "test-all", f"TESTS={chosen}"]
    assert container.run(client, command, strangers_folder, user, on_gpu=False) == 0


@engine
def test_the_container_draws_the_same_bytes_as_this_machine(client, strangers_folder, tmp_path):
    here, there = tmp_path / "here", strangers_folder
    here.mkdir()
    for folder in (here, there):
        shutil.copy(SAMPLE, folder / "rows.jsonl")
    command = ["python", "-m", "paper_figures", "results"]
    user = f"{STRANGER}:{STRANGER}"
    assert container.run(client, command, there, user, on_gpu=False) == 0
    subprocess.run([sys.executable, "-m", "paper_figures", str(here)], cwd=ROOT, check=True)
    drawn = sorted(path.relative_to(here) for path in here.rglob("*.p*") if path.is_file())
    assert {"bench_hvp_time_jax.png", "bench_hvp_time_jax.pdf"} <= {name.name for name in drawn}
    for name in drawn:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


@engine
def test_results_can_be_copied_out_of_a_container_without_a_mount(client):
    made = client.containers.create(
        container.IMAGE, ["make", "figures/hess_eig", "PLAN=cpu"], network_mode="none"
    )
    try:
        made.start()
        assert made.wait()["StatusCode"] == 0
        archive = io.BytesIO(b"".join(made.get_archive("/hvp/results")[0]))
    finally:
        made.remove(force=True)
    with tarfile.open(fileobj=archive) as copied:
        assert "results/cpu/figures/hess_eig.png" in copied.getnames()


@engine
def test_the_image_is_nobodys_in_particular_and_has_no_entry_point(image):
    config = image.attrs["Config"]
    user, group = config["User"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert config["Entrypoint"] is None
    assert config["Cmd"] == ["make"]
    environment = dict(entry.split("=", 1) for entry in config["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "LD_LIBRARY_PATH" not in environment


@engine
def test_the_labels_say_what_the_image_is_made_of(image):
    wanted = ("title", "description", "version", "revision", "licenses", "base.name", "base.digest")
    labels = {name: image.labels[f"org.opencontainers.image.{name}"] for name in wanted}
    assert all(labels.values())
    assert labels["base.digest"].startswith("sha256:")
    assert labels["revision"] != "unknown"


@engine
def test_no_cache_and_nothing_that_was_not_allowed_is_inside(client):
    places = "/root/.cache /var/lib/apt/lists /var/cache/apt /var/log /tmp"
    find = f"find {places} -type f -size +0 2>/dev/null; true"
    assert lines_of(client, "sh", "-c", find, user="0:0", tmpfs={}) == []
    inside = set(lines_of(client, "ls", "-A", "/hvp"))
    assert not inside & {".git", ".ci", ".venv", ".pytest_cache"}
    assert {"Makefile", "reproduce", "paper_figures", "tests", "requirements.lock"} <= inside


@engine
def test_a_change_of_the_code_leaves_the_installed_lock_be(client, image, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(ROOT, changed, ignore=shutil.ignore_patterns(".git", ".venv", "results"))
    plan = changed / "reproduce" / "plan.py"
    plan.write_text(plan.read_text() + "# changed\n")
    labels = image.labels
    arguments = {
        "BASE": labels["org.opencontainers.image.base.name"],
        "BASE_DIGEST": labels["org.opencontainers.image.base.digest"],
    }
    built, _ = client.images.build(
        path=str(changed), buildargs=arguments, network_mode="host", rm=True, forcerm=True
    )
    try:
        ours, theirs = image.attrs["RootFS"]["Layers"], built.attrs["RootFS"]["Layers"]
        same = [mine == other for mine, other in zip(ours, theirs, strict=True)]
        # The code's layer, its compilation, and nothing before them.
        assert same.count(False) == 2
        assert all(same[:-2])
    finally:
        client.images.remove(built.id, force=True)


@engine
def test_a_gpu_that_the_engine_cannot_pass_is_refused_with_what_to_install(
    client, strangers_folder
):
    if "nvidia" in client.info()["Runtimes"]:
        pytest.skip("this engine can pass a GPU")
    with pytest.raises(APIError) as refused:
        container.run(client, ["make"], strangers_folder, "0:0", on_gpu=True)
    assert "NVIDIA container toolkit" in container.meaning(str(refused.value))


def docker_all(engine_socket, *launcher, python=(sys.executable,), **variables):
    return subprocess.run(
        [*launcher, *python, "-m", "reproduce.container", "all"],
        cwd=ROOT,
        env={**os.environ, "DOCKER_HOST": f"unix://{engine_socket}", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_refused_in_one_sentence(result, remedy):
    assert result.returncode == 2
    assert remedy in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


def test_without_an_engine_the_error_says_to_start_one(tmp_path):
    assert_refused_in_one_sentence(docker_all(tmp_path / "none.sock"), "install and start docker")


def test_its_own_lock_has_all_that_the_host_needs_pinned_as_in_the_other_and_no_framework(tmp_path):
    own = pins("requirements-container.lock")
    assert own.items() <= pins("requirements.lock").items()
    assert not own.keys() & {"torch", "jax", "numpy"}
    site = site_of(own, tmp_path)
    alone = {"python": (sys.executable, "-S"), "PYTHONPATH": str(site)}
    refused = docker_all(tmp_path / "none.sock", **alone)
    assert_refused_in_one_sentence(refused, "install and start docker")


def test_an_engine_that_died_is_refused_with_what_to_do(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
        assert_refused_in_one_sentence(docker_all(tmp_path / "dead.sock"), "start docker")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a socket to somebody else")
def test_an_engine_that_one_may_not_speak_to_is_refused_with_the_group_to_join(tmp_path):
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(tmp_path / "theirs.sock"))
        (tmp_path / "theirs.sock").chmod(0o600)
        os.chown(tmp_path / "theirs.sock", STRANGER, STRANGER)
        theirs.listen()
        # Root, but as subject to permissions as others are.
        refused = docker_all(tmp_path / "theirs.sock", "setpriv", "--bounding-set", "-dac_override")
    assert_refused_in_one_sentence(refused, "group 'docker'")


@pytest.mark.parametrize(
    ("engine_says", "remedy"),
    [
        # As NVIDIA's hook words it (NVIDIA/nvidia-container-toolkit issue 152).
        (
            "nvidia-container-cli: requirement error: unsatisfied condition: driver>=525, please "
            "update your driver to a newer version, or use an earlier cuda container: unknown",
            "install a newer one",
        ),
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system prune"),
        ("a thing that nobody foresaw", "it says: a thing that nobody foresaw"),
    ],
)
def test_what_an_engine_says_is_given_with_a_remedy(engine_says, remedy):
    assert remedy in container.meaning(engine_says)
