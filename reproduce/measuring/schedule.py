"""Settings that are prepared side by side, and the time that a run is expected to take."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from reproduce.machine import environment, limits
from reproduce.machine.target import Target
from reproduce.measuring import cost
from reproduce.plan import Setting

# A run that is killed loses the settings that wait to be timed.
WAITING_PER_CORE = 3
# The part of free memory that may be planned for, since a setting's expected memory is a guess.
USABLE_MEMORY = 0.9


class Machine(NamedTuple):
    """The cores and free bytes that settings share: the host's and the GPU's (None without one).

    ``is_for_one`` says that the GPU lets only one process at a time compute on it.
    """

    cores: int
    host_bytes: int
    gpu_bytes: int | None = None
    is_for_one: bool = False


MACHINE_WITH_A100 = Machine(16, 128 * cost.GIB, 39 * cost.GIB)


def here(on_gpu: bool) -> Machine:
    """This machine in its present state."""
    of_cpu = limits.cores(), limits.free_memory().bytes
    if not on_gpu:
        return Machine(*of_cpu)
    is_for_one = environment.chosen_gpu().is_for_one_process()
    return Machine(*of_cpu, environment.free_bytes(on_gpu=True), is_for_one)


def planned(on_gpu: bool) -> Machine:
    """The machine to plan for: this one, or one with an A100 if a GPU is needed and missing."""
    return MACHINE_WITH_A100 if on_gpu and environment.gpu()[0] is None else here(on_gpu)


def waves(
    settings: Iterable[Setting], machine: Machine, target: Target | None = None
) -> Iterator[list[Setting]]:
    """``settings``, divided into groups that are in memory at the same time.

    Yields:
        The next group: as many as the cores and the memory of ``machine`` allow, at least one.
    """
    left = list(settings)
    while left:
        wave = [left.pop(0)]
        while (
            left
            and not machine.is_for_one
            and len(wave) < WAITING_PER_CORE * machine.cores
            and not _needs_the_whole_gpu(wave[0], left[0])
            and _fit([*wave, left[0]], machine, target)
        ):
            wave.append(left.pop(0))
        yield wave


def at_once(settings: Iterable[Setting], machine: Machine, target: Target | None = None) -> int:
    """How many of ``settings`` are prepared side by side, at least 1."""
    first = next(waves(settings, machine, target), ())
    return max(1, min(machine.cores, len(first)))


def expected_seconds(settings: Iterable[Setting], machine: Machine) -> float:
    """The seconds that ``settings`` are expected to take if nothing is measured yet."""
    found = 0.0
    for wave in waves(settings, machine):
        preparing = list(map(cost.preparing_seconds, wave))
        side_by_side = min(machine.cores, len(wave))
        found += max(*preparing, sum(preparing) / side_by_side)
        found += sum(map(cost.timing_seconds, wave))
    return found


def _fit(wave: list[Setting], machine: Machine, target: Target | None) -> bool:
    """Whether all of ``wave`` fits into the free memory of the host and of the GPU."""
    host, gpu = USABLE_MEMORY * machine.host_bytes, machine.gpu_bytes
    if target is not None:
        return cost.ACCOUNTING_BYTES * len(wave) <= host
    needed = sum(map(cost.memory_bytes, wave))
    if gpu is None:
        return needed <= host
    return needed <= USABLE_MEMORY * gpu and sum(map(cost.host_bytes, wave)) <= host


def _needs_the_whole_gpu(*settings: Setting) -> bool:
    """Whether one of ``settings`` counts the GPU memory of all processes."""
    return any(setting[0].quantity == "nvml" for setting in settings)
