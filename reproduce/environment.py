"""What was measured on: hardware, driver, versions, settings, revision.

The identity is what a measurement depends on; the state changes while it runs.
"""

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pynvml

from reproduce.plan import Case
from reproduce.target import Target

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-pjrt",
    "flax",
    "transformers",
    "torch",
    "numpy",
    "triton",
)
PEERS = ("curvlinops-for-pytorch",)
SOURCES = ("problems", "measure", "experiment", "worker")
ACCOUNTING = ("accounting.py", "caching_allocator.py")
SETTINGS = (
    "CUDA_VISIBLE_DEVICES",
    "GLIBC_TUNABLES",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_PLATFORMS",
    "MALLOC_MMAP_THRESHOLD_",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
)
OLDEST_DRIVER = 525


class Gpu:
    """The first NVIDIA GPU that this process may use, through NVML."""

    def __init__(self) -> None:
        """Opens NVML.

        Raises:
            LookupError: if there is no usable GPU; the message says why.
        """
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible in {"", "-1"}:
            raise LookupError("CUDA_VISIBLE_DEVICES hides every GPU")
        try:
            pynvml.nvmlInit()
            self.handle = _handle((visible or "0").split(",")[0])
        except pynvml.NVMLError as error:
            raise LookupError(f"NVML found no GPU ({error})") from None
        driver = pynvml.nvmlSystemGetDriverVersion()
        if int(driver.split(".")[0]) < OLDEST_DRIVER:
            raise LookupError(f"driver {driver} is older than {OLDEST_DRIVER}, which CUDA 12 needs")

    @property
    def name(self) -> str:
        """The GPU's name, for example ``NVIDIA A100-SXM4-40GB``."""
        return pynvml.nvmlDeviceGetName(self.handle)

    @property
    def uuid(self) -> str:
        """The GPU's own identifier."""
        return pynvml.nvmlDeviceGetUUID(self.handle)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and used memory of the whole GPU, in bytes."""
        memory = pynvml.nvmlDeviceGetMemoryInfo(self.handle)
        return memory.free, memory.used

    def sm_clocks_mhz(self) -> tuple[int | None, int | None]:
        """The clock of the multiprocessors, now and at most, in MHz."""
        sm = pynvml.NVML_CLOCK_SM
        return self._ask("ClockInfo", sm), self._ask("MaxClockInfo", sm)

    def identity(self) -> dict[str, Any]:
        """What does not change: driver, CUDA version, memory, limits."""
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "driver_cuda": pynvml.nvmlSystemGetCudaDriverVersion(),
            "gpu_memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(self.handle).total,
            "gpu_power_limit_watts": self._ask("PowerManagementLimit", scale=1e-3),
            "gpu_ecc": self._ask("EccMode"),
        }

    def state(self) -> dict[str, Any]:
        """What changes: clocks in MHz, temperature, and the processes on the GPU."""
        return {
            "gpu_sm_clock_mhz": self._ask("ClockInfo", pynvml.NVML_CLOCK_SM),
            "gpu_memory_clock_mhz": self._ask("ClockInfo", pynvml.NVML_CLOCK_MEM),
            "gpu_temperature_celsius": self._ask("Temperature", pynvml.NVML_TEMPERATURE_GPU),
            "gpu_processes": len(self._ask("ComputeRunningProcesses") or ()),
        }

    def _ask(self, what: str, *arguments: int, scale: float = 1) -> Any:
        with suppress(pynvml.NVMLError):  # a GPU need not support every question
            answer = getattr(pynvml, f"nvmlDeviceGet{what}")(self.handle, *arguments)
            return answer * scale if scale != 1 else answer
        return None


@cache
def gpu() -> tuple[Gpu | None, str]:
    """The usable GPU, or None, and a sentence that says which or why not."""
    try:
        found = Gpu()
    except LookupError as reason:
        return None, f"no usable NVIDIA GPU: {reason}"
    return found, f"a usable NVIDIA GPU: {found.name}"


def in_container() -> bool:
    """Whether this process runs in a container of docker or podman."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def used_bytes_of(uuid: str) -> Callable[[], int]:
    """A function that gives the used memory of the GPU ``uuid``, in bytes."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    return lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used


def device_of_accounting(target: Target, case: Case) -> str:
    """The name of the device that ``case`` is accounted for on, which says that it did not run."""
    if case.quantity == "operations":
        return "no device (counted, not run)"
    how = "compiled" if case.mode == "jit" else "accounted"
    return f"{target.device} ({how}, not run)"


def identity_of_accounting(target: Target) -> dict[str, Any]:
    """What an accounting depends on beside the code and the case: not on this machine."""
    of_machine = ("cpu", "cores", "device")
    found = {name: value for name, value in identity(False).items() if name not in of_machine}
    target_hash = hashlib.sha256(target.description.encode()).hexdigest()
    return found | {"target": target.name, "target_description": target_hash}


def device(on_gpu: bool) -> str:
    """The name of the device as it stands in rows and on figures."""
    return gpu()[0].name if on_gpu else f"CPU: {_cpu_name()}, {_usable_cores()} cores"


def identity(on_gpu: bool) -> dict[str, Any]:
    """What a measurement depends on beside the code and the case; the same run after run."""
    of_gpu = gpu()[0].identity() if on_gpu else {}
    return of_gpu | {
        "device": device(on_gpu),
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "python": platform.python_version(),
        "packages": _versions(),
        "lock": _sha256(ROOT / "requirements.lock"),
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def identity_of_checking(on_gpu: bool) -> dict[str, Any]:
    """As `identity`, of check mode: the device's name says so, that no figure mixes the two."""
    return identity(on_gpu) | {"device": f"{device(on_gpu)} (check mode)"}


def state_of_accounting() -> dict[str, Any]:
    """What changes between accountings: the revision of the source."""
    return {"revision": revision()}


def state(on_gpu: bool) -> dict[str, Any]:
    """What changes between measurements: load, clocks, revision of the source, other libraries.

    The libraries are those that are timed beside ours, and that ours does not depend on.
    """
    of_gpu = gpu()[0].state() if on_gpu else {}
    return of_gpu | {"load": os.getloadavg()[0], "revision": revision(), "peers": _peers()}


def code_hash(framework: str, is_accounted: bool = False) -> str:
    """SHA-256 of the sources that measure in ``framework``, or account for it."""
    package = ROOT / "reproduce"
    shared = [package / f"{name}.py" for name in SOURCES]
    own = sorted((package / f"in_{framework}").glob("*.py"))
    sources = shared + [path for path in own if is_accounted or path.name not in ACCOUNTING]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def free_bytes(on_gpu: bool) -> int:
    """Free memory of the device, in bytes."""
    return gpu()[0].memory_bytes()[0] if on_gpu else psutil.virtual_memory().available


def _handle(visible: str) -> Any:
    if visible.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(visible))
    return pynvml.nvmlDeviceGetHandleByUUID(visible)


@cache
def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.machine()


def installed() -> dict[str, str]:
    """The version of every installed package, by name; of one that is there twice, the imported.

    That is what comes first: setuptools, once loaded, adds copies of its own at the end.
    """
    return {found.name: found.version for found in reversed(list(metadata.distributions()))}


def _versions() -> dict[str, str]:
    """The versions of the frameworks and of the CUDA libraries that came with them."""
    found = installed()
    wanted = [name for name in found if name in PACKAGES or name.startswith("nvidia-")]
    return {name: found[name] for name in sorted(wanted)}


@cache
def _peers() -> dict[str, str]:
    return {name: version for name, version in installed().items() if name in PEERS}


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


@cache
def revision() -> str:
    """The commit of the source, with ``+changes`` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("HVP_REPRO_REVISION", "unknown")
    return commit + ("+changes" if changed else "")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
