"""The container image, built and run on a real engine: ``python -m reproduce.container VERB``.

Runs outside of the container. ``docker build`` and ``docker run`` do the same by hand.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import docker
import typer
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import DeviceRequest

from reproduce import printing
from reproduce.errors import UserError
from reproduce.machine import environment, gpu

IMAGE = "hvp-repro"
REVISION_LABEL = "org.opencontainers.image.revision"
RESULTS_INSIDE = "/hvp/results"
COST = "3 minutes on a good line and 10 GB of the engine's disk"
# Messages of an engine, and for each a sentence on what it means and what to do.
MEANINGS = {
    "no space left on device": "the engine's disk is full; 'docker system prune' makes room",
    "could not select device driver": (
        "the engine cannot pass a GPU to a container; install the NVIDIA container toolkit "
        "and restart the engine"
    ),
    "unsatisfied condition": (
        f"the GPU's driver is older than {gpu.OLDEST_DRIVER}, which CUDA 12 needs; "
        "install a newer one"
    ),
    "permission denied": (
        "this user may not speak to the engine; add it to the group 'docker' and log in again"
    ),
    "no such file": "none listens; install and start docker, or name its socket in DOCKER_HOST",
    "connection refused": "none listens; start docker, or name its socket in DOCKER_HOST",
}
# Only what a run needs; the image is tested with the same settings.
LOCKED_DOWN = {
    "read_only": True,
    "tmpfs": {"/tmp": "exec"},  # PyTorch loads compiled code from there
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "init": True,
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def engine() -> docker.DockerClient:
    """The engine that DOCKER_HOST names, or this machine's.

    Raises:
        UserError: if none answers.
    """
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise UserError(f"a docker engine is needed, and {meaning(str(error))}") from None
    return client


def meaning(words: str) -> str:
    """The meaning of an engine's ``words`` and what to do; the words themselves if unknown."""
    found = [sentence for sign, sentence in MEANINGS.items() if sign in words.lower()]
    return found[0] if found else f"it says: {' '.join(words.split())}"


@app.command()
def build(
    base: Annotated[str, typer.Option(help="An own base image.")] = "",
    versions: Annotated[
        Literal["2023"] | None, typer.Option(help="Versions to have beside the locked ones.")
    ] = None,
) -> None:
    """Build the image from this tree, and print the steps.

    Raises:
        UserError: if the engine refuses or a step fails.
    """
    client = engine()
    name = f"{IMAGE}:{versions}" if versions else IMAGE
    more = ", and as much again for the other versions" if versions else ""
    print(f"Building {name}: the first time takes about {COST}{more}.", flush=True)
    start = time.perf_counter()
    options = {"BASE": base, "BASE_DIGEST": client.images.get(base).id} if base else {}
    answers = client.api.build(
        path=str(environment.ROOT),
        tag=name,
        buildargs=options | {"REVISION": environment.revision(), "VERSIONS": versions or ""},
        network_mode="host",  # also where the engine has no bridge
        rm=True,
        forcerm=True,
        decode=True,
    )
    last_words = ""
    for answer in answers:
        if "error" in answer:
            print(last_words, file=sys.stderr)
            raise UserError(f"building {name} failed, and {meaning(answer['error'])}")
        words = answer.get("stream", "")
        last_words = (last_words + words)[-2000:]
        if words.startswith("Step "):
            seconds = time.perf_counter() - start
            print(f"  {seconds:4.0f} s  {' '.join(words.split())[:90]}", flush=True)
    print(f"Built {name} in {time.perf_counter() - start:.0f} s.")


def is_current(client: docker.DockerClient) -> bool:
    """Whether the engine holds the image of exactly this revision."""
    revision = environment.revision()
    try:
        built_from = client.images.get(IMAGE).labels.get(REVISION_LABEL)
    except ImageNotFound:
        return False
    return built_from == revision and not revision.endswith("+changes")


def run(
    client: docker.DockerClient, command: list[str], results: Path, user: str, on_gpu: bool
) -> int:
    """The exit code of ``command`` in the image, its output printed as it comes.

    It runs as ``user`` (``uid:gid``), who must own ``results``, and writes only there.

    Raises:
        UserError: if the engine refuses to run it.
    """
    gpus = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if on_gpu else []
    container = client.containers.create(
        IMAGE,
        command,
        user=user,
        volumes={str(results.resolve()): {"bind": RESULTS_INSIDE, "mode": "rw"}},
        device_requests=gpus,
        environment={"GPU": os.environ.get("GPU", "")},
        **LOCKED_DOWN,
    )
    try:
        container.start()
        for words in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(words)
            sys.stdout.buffer.flush()
        return container.wait()["StatusCode"]
    finally:
        container.remove(force=True)


@app.command()
def unpack(folder: Annotated[Path, typer.Argument(help="A folder to be made.")]) -> None:
    """Unpack the image into a folder, for whatever runs folders, such as Charliecloud.

    The image's environment goes into the file ch/environment in there.

    Raises:
        UserError: if the folder is there, the image is not, or tar fails.
    """
    client = engine()
    if folder.exists():
        raise UserError(f"{folder} was to be made from {IMAGE}, and is there; remove it first")
    try:
        container = client.containers.create(IMAGE)
    except ImageNotFound:
        raise UserError(
            f"{folder} was to be made from {IMAGE}, and it is not built; run 'make image'"
        ) from None
    (folder / "ch").mkdir(parents=True)
    variables = container.attrs["Config"]["Env"]
    (folder / "ch" / "environment").write_text("".join(f"{each}\n" for each in variables))
    # Only root can make devices, and whatever runs the folder has its own.
    command = ["tar", "--extract", "--exclude=dev/*", f"--directory={folder}"]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
            assert tar.stdin
            for piece in container.export():
                tar.stdin.write(piece)
    except BrokenPipeError:
        pass
    finally:
        container.remove(force=True)
    if tar.returncode != 0:
        raise UserError(
            f"{IMAGE} was to be unpacked into {folder}, and tar failed for the reason above; "
            "make room for 10 GB, or name another folder"
        )
    print(folder)


@app.command("all")
def make_all(
    plan: Annotated[str, typer.Option(help="The plan; by default the one that fits.")] = "",
    results: Annotated[Path, typer.Option(help="Where the results go.")] = Path("results"),
) -> None:
    """Run ``make all`` in the image, built if needed, on the GPU if there is one.

    Raises:
        Exit: with the exit code of ``make all``; with 130 if interrupted.
    """
    client = engine()
    if not is_current(client):
        build()
    on_gpu, sentence = environment.gpu()
    print(f"Running make all in {IMAGE}; there is {sentence}. Results: {results}", flush=True)
    results.mkdir(parents=True, exist_ok=True)
    user = f"{os.getuid()}:{os.getgid()}"
    try:
        code = run(client, ["make", "all", f"PLAN={plan}"], results, user, on_gpu is not None)
    except KeyboardInterrupt:
        print("\nStopped. Every finished case is kept; run the same command to go on.")
        code = 130
    raise typer.Exit(code)


if __name__ == "__main__":
    try:
        printing.run(app, "python -m reproduce.container")
    except APIError as error:
        print(f"error: the docker engine refused, and {meaning(str(error))}", file=sys.stderr)
        sys.exit(2)
