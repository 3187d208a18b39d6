"""The NVIDIA GPU to measure on, and what NVML reports about it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pynvml

from reproduce.machine.memory import polled

OLDEST_DRIVER = 525
SAMPLING_SECONDS = 0.2
IDLE = pynvml.nvmlClocksThrottleReasonGpuIdle
REASONS = {
    pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting: "application clocks",
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSyncBoost: "sync boost",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal slowdown by the driver",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal slowdown by the hardware",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksThrottleReasonDisplayClockSetting: "display clocks",
}
# The reasons that make timings depend on heat and load, and what to do about each.
REMEDIES = {
    "power cap": "lock a lower clock with 'nvidia-smi --lock-gpu-clocks'",
    "hardware slowdown": "look after its cooling and power supply",
    "thermal slowdown by the driver": "cool it",
    "thermal slowdown by the hardware": "cool it",
    "power brake": "look after its power supply",
}


class Device(msgspec.Struct, frozen=True):
    """A GPU, or a MIG instance: a part of a GPU in NVIDIA's Multi-Instance GPU mode.

    ``index`` is the GPU's number in NVML's order, by PCI bus; it is empty for an instance.
    ``handle`` is NVML's name for it, and ``whole`` for the GPU. On a GPU in MIG mode
    (``is_divided``), CUDA computes in one of the instances.
    """

    index: str
    uuid: str
    name: str
    handle: Any
    whole: Any
    is_divided: bool

    def __str__(self) -> str:
        return f"{self.index or 'in it'}: {self.name} {self.uuid}"


class Sample(NamedTuple):
    """A GPU at one moment: clocks, power, temperature, reasons to slow down; None if unknown."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_watts: float | None
    temperature_celsius: int | None
    reasons: int | None


class Gpu:
    """The GPU or MIG instance that GPU or CUDA_VISIBLE_DEVICES names, else the first.

    Both variables name it by its index or by the beginning of its UUID. If a GPU has MIG
    instances, CUDA computes on the first one unless another is named.
    """

    def __init__(self) -> None:
        """Opens NVML.

        Raises:
            LookupError: if there is no usable GPU; the message says why, and what to do.
        """
        variable, asked = _asked()
        if asked in {"", "-1"}:
            raise LookupError(f"{variable} hides every GPU; unset {variable}")
        try:
            pynvml.nvmlInit()
            self.driver = pynvml.nvmlSystemGetDriverVersion()
            if int(self.driver.split(".")[0]) < OLDEST_DRIVER:
                raise LookupError(
                    f"driver {self.driver} is older than {OLDEST_DRIVER}, which CUDA 12 needs; "
                    f"{how_to_get_one()}"
                )
            device = _chosen(variable, asked)
            self.handle, self.whole = device.handle, device.whole
            self.name, self.uuid = device.name, device.uuid
        except pynvml.NVMLError as error:
            raise LookupError(f"NVML found no GPU ({error}); {how_to_get_one()}") from None

    def free_bytes(self) -> int | None:
        """Its free memory, in bytes; None if it has none of its own."""
        memory = self._ask("MemoryInfo", of=self.handle)
        return memory and memory.free

    def sm_clocks_mhz(self) -> tuple[int | None, int | None]:
        """The present and the highest clock of the multiprocessors, in MHz."""
        sm = pynvml.NVML_CLOCK_SM
        return self._ask("ClockInfo", sm), self._ask("MaxClockInfo", sm)

    def processes(self) -> int | None:
        """The number of processes that compute on it."""
        found = self._ask("ComputeRunningProcesses", of=self.handle)
        return None if found is None else len(found)

    def is_for_one_process(self) -> bool:
        """Whether its compute mode lets only one process at a time compute on it."""
        return self._ask("ComputeMode") == pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS

    def facts(self) -> dict[str, Any]:
        """Facts that are recorded with its name: UUID, driver, memory and limits."""
        memory = self._ask("MemoryInfo", of=self.handle)
        return {
            "gpu_uuid": self.uuid,
            "driver": self.driver,
            "driver_cuda": _answer(pynvml.nvmlSystemGetCudaDriverVersion),
            "gpu_memory_bytes": memory and memory.total,
            "gpu_power_limit_watts": self._ask("PowerManagementLimit", scale=1e-3),
            "gpu_ecc": self._ask("EccMode"),
        }

    @contextmanager
    def watched(self, seconds: float = SAMPLING_SECONDS) -> Iterator[dict[str, Any]]:
        """Sample it every ``seconds`` while the block runs.

        Yields:
            A dictionary that is empty inside the block and filled at its end: lowest and highest
            clocks in MHz and power in watts, the highest temperature, and the names of all reasons
            for which the clocks were held back.
        """
        found: dict[str, Any] = {}
        samples: list[Sample] = []
        try:
            with polled(lambda: samples.append(self._sample()), seconds):
                yield found
        finally:
            found |= _in_short(samples)

    def _sample(self) -> Sample:
        return Sample(
            self._ask("ClockInfo", pynvml.NVML_CLOCK_SM),
            self._ask("ClockInfo", pynvml.NVML_CLOCK_MEM),
            self._ask("PowerUsage", scale=1e-3),
            self._ask("Temperature", pynvml.NVML_TEMPERATURE_GPU),
            self._ask("CurrentClocksThrottleReasons"),
        )

    def _ask(self, what: str, *arguments: int, scale: float = 1, of: Any = None) -> Any:
        question = getattr(pynvml, f"nvmlDeviceGet{what}")
        answer = _answer(question, of or self.whole, *arguments)
        return answer if answer is None or scale == 1 else answer * scale


def used_bytes_of(uuid: str) -> Callable[[], int]:
    """A function that returns the used memory of the GPU or MIG instance ``uuid``, in bytes.

    Raises:
        RuntimeError: if NVML does not report it.
    """
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        raise RuntimeError(
            f"NVML was asked for the used memory of {uuid} and does not report it ({error}); "
            "measure memory on another GPU"
        ) from None
    return lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used


def throttling(reasons: list[str] | None) -> list[str]:
    """A sentence with a remedy, if any of ``reasons`` for slower clocks spoils timings."""
    harmful = [reason for reason in reasons or () if reason in REMEDIES]
    if not harmful:
        return []
    remedies = dict.fromkeys(REMEDIES[reason] for reason in harmful)
    return [
        f"the GPU held its clocks back while it was timed ({', '.join(harmful)}): "
        f"{' and '.join(remedies)}, then measure again"
    ]


def uuids() -> list[str]:
    """The UUIDs of the GPUs that CUDA_VISIBLE_DEVICES names, else of all GPUs.

    For a GPU in MIG mode, they are those of its instances.

    Raises:
        LookupError: if CUDA_VISIBLE_DEVICES names a GPU that does not exist.
        NVMLError: if NVML knows no GPU.
    """
    pynvml.nvmlInit()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [each.uuid for each in _devices() if not each.is_divided]
    return [_chosen("CUDA_VISIBLE_DEVICES", asked).uuid for asked in visible.split(",")]


def name_of(uuid: str) -> str:
    """The name of the GPU or MIG instance ``uuid``, which NVML lists."""
    return pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByUUID(uuid))


def how_to_get_one() -> str:
    """The remedy if there is no usable GPU."""
    driver = f"NVIDIA's driver {OLDEST_DRIVER} or newer"
    if in_container():
        return (
            "start this container with 'docker run --gpus all' on a host that has "
            f"{driver} and the NVIDIA container toolkit"
        )
    return f"install {driver}"


def in_container() -> bool:
    """Whether this process runs in a container of docker or podman."""
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def _asked() -> tuple[str, str]:
    """The variable that chooses the GPU, and its value."""
    if asked := os.environ.get("GPU"):
        return "GPU", asked
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return ("GPU", "0") if visible is None else ("CUDA_VISIBLE_DEVICES", visible.split(",")[0])


def _chosen(variable: str, asked: str) -> Device:
    """The device that ``asked`` names; of a GPU in MIG mode, its first instance.

    Raises:
        LookupError: if it names none, or several, or a GPU in MIG mode without instances.
    """
    known = _devices()
    if not known:
        raise LookupError(f"NVML knows none; {how_to_get_one()}")
    named = [each for each in known if each.index == asked or each.uuid.startswith(asked)]
    if len(named) != 1:
        raise LookupError(
            f"{variable}={asked} names {len(named) or 'none'} of {', '.join(map(str, known))}; "
            f"set {variable} to the index or the UUID of one"
        )
    (device,) = named
    if not device.is_divided:
        return device
    for each in known:
        if each.whole is device.whole and each is not device:
            return each
    raise LookupError(
        f"{device.name} is in MIG mode and has no instance; make one with 'nvidia-smi mig "
        "--create-gpu-instance', or leave that mode with 'nvidia-smi --multi-instance-gpu 0'"
    )


def _devices() -> list[Device]:
    """All GPUs, each followed by its MIG instances, without GPUs that fail.

    Raises:
        NVMLError: if there is only one GPU and it fails.
    """
    count, found = pynvml.nvmlDeviceGetCount(), []
    for index in range(count):
        try:
            found += _divided(index)
        except pynvml.NVMLError:
            if count == 1:
                raise
    return found


def _divided(index: int) -> list[Device]:
    whole = pynvml.nvmlDeviceGetHandleByIndex(index)
    mode = (_answer(pynvml.nvmlDeviceGetMigMode, whole) or [None])[0]
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return [_device(str(index), whole, whole)]
    places = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole))
    handles = [
        _answer(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, place) for place in places
    ]
    instances = [_device("", handle, whole) for handle in handles if handle]
    return [_device(str(index), whole, whole, is_divided=True), *instances]


def _device(index: str, handle: Any, whole: Any, is_divided: bool = False) -> Device:
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Device(index, uuid, name, handle, whole, is_divided)


def _answer(question: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer; None if this GPU does not support the question, or forbids it."""
    with suppress(pynvml.NVMLError):
        return question(*arguments)
    return None


def _in_short(samples: list[Sample]) -> dict[str, Any]:
    """The ranges over ``samples``, without samples of an idle GPU if there are others."""
    busy = [each for each in samples if not (each.reasons or 0) & IDLE] or samples
    temperatures = _range([each.temperature_celsius for each in busy])
    reasons = [each.reasons for each in busy if each.reasons is not None]
    names = [name for bit, name in REASONS.items() if any(each & bit for each in reasons)]
    return {
        "gpu_sm_clock_mhz": _range([each.sm_clock_mhz for each in busy]),
        "gpu_memory_clock_mhz": _range([each.memory_clock_mhz for each in busy]),
        "gpu_power_watts": _range([each.power_watts for each in busy]),
        "gpu_temperature_celsius": temperatures and temperatures[1],
        "gpu_throttle_reasons": names if reasons else None,
    }


def _range(values: list[Any]) -> list[Any] | None:
    """Lowest and highest of ``values``; None if none is known."""
    told = [value for value in values if value is not None]
    return [min(told), max(told)] if told else None
