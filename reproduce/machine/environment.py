"""The surroundings of a measurement: hardware, driver, versions, variables, revision.

The identity must match for a row to be reused. The state is recorded and need not match, so that
a row stays valid on another machine of the same kind.
"""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from reproduce.machine import limits
from reproduce.machine.gpu import Gpu
from reproduce.results.rows import encodable

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jax", "jaxlib", "flax", "transformers", "torch", "numpy", "triton")
# CUDA's libraries, and JAX's plugins for CUDA 12 and 13.
PACKAGES_OF_CUDA = ("nvidia-", "jax-cuda12-", "jax-cuda13-")
PEERS = ("curvlinops-for-pytorch",)
# Prefixes of environment variables that change the numbers.
VARIABLES = (
    "ATEN_",
    "CUBLAS",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDNN_",
    "DNNL_",
    "GLIBC_TUNABLES",
    "GOMP_",
    "JAX_",
    "KMP_",
    "LD_PRELOAD",
    "MALLOC_",
    "MKL_",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TF_XLA_FLAGS",
    "TORCH",
    "TRITON_",
    "XLA_",
)
# Exceptions: variables that a run sets itself, or that scikit-learn sets when it is loaded.
SET_BY_A_RUN = (
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCHINDUCTOR_COMPILE_THREADS",
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
)
# Variables that would make a row's mode, precision or memory untrue, and why.
REFUSED = {
    "JAX_CHECK_TRACER_LEAKS": "JAX compiles anew for every call",
    "JAX_DEBUG_INFS": "JAX looks at every result",
    "JAX_DEBUG_NANS": "JAX looks at every result",
    "JAX_DISABLE_JIT": "JAX compiles nothing",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "XLA hardly optimises",
    "JAX_ENABLE_CHECKS": "JAX looks at everything that it does",
    "JAX_ENABLE_X64": "JAX computes in float64",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "PyTorch's allocator counts no memory",
    "TORCHDYNAMO_DISABLE": "torch.compile compiles nothing",
    "TORCH_COMPILE_DISABLE": "torch.compile compiles nothing",
    "XLA_PYTHON_CLIENT_ALLOCATOR": "XLA may count no memory",
}
OFF = {"", "0", "f", "false", "n", "no", "off"}
# The files that are hashed if there is no commit.
CODE = (
    "Dockerfile",
    "Makefile",
    "requirements*.lock",
    *(f"{folder}/**/*" for folder in ("paper_figures", "reproduce", "tests")),
)


@cache
def gpu() -> tuple[Gpu | None, str]:
    """The usable GPU or None, and a sentence that says which one it is, or why there is none."""
    try:
        found = Gpu()
    except LookupError as reason:
        return None, f"no usable NVIDIA GPU: {reason}"
    return found, f"a usable NVIDIA GPU: {found.name}"


def chosen_gpu() -> Gpu:
    """The usable GPU, where one is known to exist.

    Raises:
        LookupError: if there is none.
    """
    found, sentence = gpu()
    if found is None:
        raise LookupError(sentence)
    return found


def device(on_gpu: bool) -> str:
    """The name of the device in rows and figures."""
    return chosen_gpu().name if on_gpu else f"CPU: {_cpu_name()}, {limits.cores_of_time():g} cores"


def identity(on_gpu: bool) -> dict[str, Any]:
    """The facts that must match for a row to be reused; its code and case must as well."""
    return {
        "device": device(on_gpu),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": _versions(),
        "settings": variables(),
    }


def variables() -> dict[str, str]:
    """The environment variables that change the numbers, with their values.

    Doubtful variables are included: one too many only costs a new measurement, while one too few
    makes a row wrong.
    """
    return {
        name: encodable(value)
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES) and name not in SET_BY_A_RUN
    }


def refused_variables() -> Iterator[tuple[str, str, str]]:
    """The variables in effect that would make a row untrue.

    Yields:
        The name of each, its value, and why.
    """
    for name, why in REFUSED.items():
        value = os.environ.get(name, "")
        if value.lower() not in OFF:
            yield name, value, why


def state_of_accounting() -> dict[str, Any]:
    """The facts that are recorded with an accounted row and need not match."""
    return {"revision": revision(), "machine": _interpreter()}


def state(on_gpu: bool) -> dict[str, Any]:
    """The facts that are recorded and need not match: load, revision, this machine.

    The versions of the peers, the libraries that are timed beside our methods, are among them.
    """
    return {
        **({"gpu_processes": chosen_gpu().processes()} if on_gpu else {}),
        "load": os.getloadavg()[0],
        "revision": revision(),
        "peers": _peers(),
        "machine": _machine(on_gpu),
    }


def _machine(on_gpu: bool) -> dict[str, Any]:
    of_gpu = chosen_gpu().facts() if on_gpu else {}
    return of_gpu | {"cpu": _cpu_name(), "cores": limits.cores_of_time()} | _interpreter()


def free_bytes(on_gpu: bool) -> int:
    """Free memory of the device, in bytes; the host's, for a GPU without memory of its own."""
    of_gpu = chosen_gpu().free_bytes() if on_gpu else None
    return limits.free_memory().bytes if of_gpu is None else of_gpu


@cache
def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.machine()


def installed() -> dict[str, str]:
    """The version of every installed package, by name.

    If a package is there twice, the first one counts, since it is the one imported; setuptools
    adds copies of packages at the end of the path.
    """
    return {found.name: found.version for found in reversed(list(metadata.distributions()))}


def _versions() -> dict[str, str]:
    """The versions of the frameworks and of the CUDA libraries that came with them."""
    found = installed()
    wanted = [name for name in found if name in PACKAGES or name.startswith(PACKAGES_OF_CUDA)]
    # NVML only answers questions; its version does not matter.
    return {name: found[name] for name in sorted(wanted) if name != "nvidia-ml-py"}


@cache
def _peers() -> dict[str, str]:
    return {name: version for name, version in installed().items() if name in PEERS}


@cache
def revision() -> str:
    """The commit of the source, with ``+changes`` if files differ from it.

    It is never guessed. A repository counts only if this source is the whole of it. Without a
    repository, it is the commit that the image was built from, or a hash of the source.
    """
    try:
        if Path(_git("rev-parse", "--show-toplevel").removesuffix("\n")).resolve() == ROOT:
            commit, status = _git("rev-parse", "HEAD").strip(), _git("status", "--porcelain")
            return commit + ("+changes" if any(map(_is_change, status.splitlines())) else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    of_image = os.environ.get("HVP_REPRO_REVISION", "unknown")
    return f"sources {_hash_of_sources()}" if of_image == "unknown" else of_image


def _git(*arguments: str) -> str:
    """Git's answer about this source, even if the environment names another repository."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout


def _is_change(line: str) -> bool:
    """Whether a line of git's status means changed code; a new file does only in the packages."""
    return not line.startswith("??") or line[3:].startswith(("paper_figures/", "reproduce/"))


def _hash_of_sources() -> str:
    found = hashlib.sha256()
    for path in sorted({path for pattern in CODE for path in ROOT.glob(pattern)}):
        if path.is_file() and path.parent.name != "__pycache__":
            found.update(f"{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def _interpreter() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_bytes()
    return {"python": platform.python_version(), "lock": hashlib.sha256(lock).hexdigest()}
