"""The expected cost of a setting in seconds and bytes, for planning only.

No measurement uses these constants. Those for ``cpu``, ``smoke`` and ``beyond`` were fitted
to runs on two cores. Those for a GPU rest on the article's gradients and on single cases from an
H200: no plan has been run in full on a GPU.
"""

from collections.abc import Sequence

from reproduce.machine.target import Target
from reproduce.methods import EXPECTED_GRADIENTS
from reproduce.plan import AMORTISED, NEEDING_A_GPU, Case

GIB = 1 << 30

# Seconds of one gradient: a fixed part, and a part per sample of the batch.
GPU_GRADIENT_SECONDS = {
    "jax": {
        "resnet34": (0.006, 0.00046),
        "resnet50": (0.01, 0.0009),
        "vit": (0.006, 0.0004),
        "bert": (0.006, 0.00028),
    },
    "torch": {
        "resnet34": (0.018, 0.00036),
        "resnet50": (0.025, 0.0008),
        "vit": (0.048, 0.0011),
        "bert": (0.05, 0.0009),
    },
}
CPU_GRADIENT_SECONDS = {
    "jax": {
        "resnet34": (0.1, 0.16),
        "vit": (0.2, 0.1),
        "bert": (0.2, 0.08),
        "gpt2": (0.4, 0.6),
        "llama": (0.3, 0.4),
    },
    "torch": {"resnet34": (0.1, 0.15), "vit": (0.4, 0.1), "bert": (0.4, 0.1)},
}
GRADIENT_SECONDS_OF_OTHERS = (0.005, 0.0)
# Without jit, JAX compiles single operations, and then most of its time passes between them.
WITHOUT_JIT_GRADIENT_SECONDS = {"resnet34": 1.4, "vit": 2.5, "bert": 2.5}
WITHOUT_JIT_GRADIENT_SECONDS_OF_OTHERS = 0.25
WITHOUT_JIT_COMPILING_SECONDS = 12
# Seconds to compile one program: with XLA for a GPU (where XLA tries algorithms out, and remembers
# what it found for the next program), with XLA on one core, and with torch.compile.
GPU_COMPILING_SECONDS = {"resnet34": 12, "vit": 25, "bert": 25}
CPU_COMPILING_SECONDS = {"resnet34": 6, "vit": 5, "bert": 5, "gpt2": 5, "llama": 5}
COMPILING_SECONDS_OF_OTHERS = 1.5
TORCH_COMPILING_SECONDS = {"resnet34": 100, "vit": 190, "bert": 180}
# A process for a GPU imports its framework and starts CUDA; one for a CPU forks after the import.
GPU_STARTING_SECONDS, CPU_STARTING_SECONDS = 10, 1

# Accounting for a case on one core: compiled for a GPU, run without arithmetic, counted.
ACCOUNTING_SECONDS = {("jax", "jit"): 7, ("jax", "eager"): 4.5, ("torch", "eager"): 3.5}
COUNTING_SECONDS = 2
ACCOUNTING_BYTES = 3 * GIB

# Bytes of the activations per sample of the batch, in a program of XLA and otherwise; bytes of one
# copy of the weights.
PROGRAM_SAMPLE_BYTES = {
    "resnet34": 0.06 * GIB,
    "resnet50": 0.15 * GIB,
    "vit": 0.065 * GIB,
    "bert": 0.065 * GIB,
    "gpt2": 0.5 * GIB,
    "llama": 0.5 * GIB,
}
SAMPLE_BYTES = {"resnet34": 0.12 * GIB, "resnet50": 0.3 * GIB, "vit": 0.2 * GIB, "bert": 0.2 * GIB}
WEIGHT_BYTES = {
    "resnet34": 0.1 * GIB,
    "resnet50": 0.1 * GIB,
    "vit": 0.35 * GIB,
    "bert": 0.45 * GIB,
    "gpt2": 0.5 * GIB,
    "llama": 0.5 * GIB,
}
LOADED_FRAMEWORKS_BYTES = 1 * GIB
# Of torch.compile, which keeps the graphs of what it has compiled.
COMPILER_BYTES = int(1.8 * GIB)
# The address space that the frameworks map; most of it is never touched.
MAPPED_BYTES = 6 * GIB


def parts_seconds(
    setting: Sequence[Case], at_once: int, target: Target | None = None
) -> tuple[float, float]:
    """The seconds that preparing ``setting`` adds to a run, and those that timing it adds.

    ``at_once`` settings are prepared side by side. With a ``target``, the setting is accounted for.
    """
    if target is not None:
        return sum(map(_accounting_seconds, setting)) / at_once, 0.0
    return preparing_seconds(setting) / at_once, timing_seconds(setting)


def preparing_seconds(setting: Sequence[Case]) -> float:
    """The expected seconds of a setting before it is timed, on one core or a GPU."""
    on_gpu = setting[0].plan in NEEDING_A_GPU
    starting = GPU_STARTING_SECONDS if on_gpu else CPU_STARTING_SECONDS
    calls = _call_seconds(setting) * (2 if on_gpu else 3)  # a core is slower than two
    if on_gpu and setting[0].quantity == "memory":
        starting *= 1 + len(setting)  # one process per case, and one for the setting
    return starting + _compiling_seconds(setting) + calls


def timing_seconds(setting: Sequence[Case]) -> float:
    """The expected seconds of timing a setting, alone on the machine."""
    case = setting[0]
    if case.quantity != "time":
        return 0.0
    return _call_seconds(setting) * (case.repetitions + case.warmup - 1)


def _accounting_seconds(case: Case) -> float:
    is_counted = case.quantity == "operations"
    return COUNTING_SECONDS if is_counted else ACCOUNTING_SECONDS[case.framework, case.mode]


def _call_seconds(setting: Sequence[Case]) -> float:
    """The seconds of one call of the gradient and of each HVP."""
    hvps = sum(EXPECTED_GRADIENTS[c.method] * c.vectors for c in setting if c.method != "gradient")
    return _gradient_seconds(setting[0]) * (1 + hvps)


def _gradient_seconds(case: Case) -> float:
    if case.framework == "jax" and case.mode == "eager":
        of_others = WITHOUT_JIT_GRADIENT_SECONDS_OF_OTHERS
        return WITHOUT_JIT_GRADIENT_SECONDS.get(case.model, of_others)
    of_device = GPU_GRADIENT_SECONDS if case.plan in NEEDING_A_GPU else CPU_GRADIENT_SECONDS
    fixed, per_sample = of_device[case.framework].get(case.model, GRADIENT_SECONDS_OF_OTHERS)
    return fixed + per_sample * case.batch_size


def _compiling_seconds(setting: Sequence[Case]) -> float:
    case = setting[0]
    if case.mode == "eager":
        return WITHOUT_JIT_COMPILING_SECONDS if case.framework == "jax" else 0
    seconds = GPU_COMPILING_SECONDS if case.plan in NEEDING_A_GPU else CPU_COMPILING_SECONDS
    if case.mode == "compile":
        seconds = TORCH_COMPILING_SECONDS
    of_one = seconds.get(case.model, COMPILING_SECONDS_OF_OTHERS)
    has_gradient = any(case.method == "gradient" for case in setting)
    return of_one * (len(setting) + (not has_gradient))


def memory_bytes(setting: Sequence[Case]) -> int:
    """The expected peak of a setting's process in bytes, including the loaded framework.

    The bytes are the GPU's for a setting on a GPU, else the host's.
    """
    case = setting[0]
    more = max(case.vectors for case in setting) - 1
    samples = PROGRAM_SAMPLE_BYTES if case.mode == "jit" else SAMPLE_BYTES
    activations = samples.get(case.model, 0) * case.batch_size * (1 + 0.2 * more)
    # The state of all methods is in memory at once, with what autograd records.
    amortised = sum(case.method in AMORTISED for case in setting)
    # A CPU's heap also keeps freed blocks that the next method cannot use.
    copies = (14 if case.recorded else 6 + 0.8 * len(setting)) + 4 * more + amortised
    weights = copies * WEIGHT_BYTES.get(case.model, 0)
    compiler = COMPILER_BYTES if case.mode == "compile" else 0
    return int(LOADED_FRAMEWORKS_BYTES + compiler + activations + weights)


def host_bytes(setting: Sequence[Case]) -> int:
    """The bytes that ``setting`` is guessed to take of the host's memory while it runs on a GPU."""
    return int(3 * GIB + 2 * WEIGHT_BYTES.get(setting[0].model, 0))


def readable_seconds(seconds: float) -> str:
    """``seconds`` as text: ``40 s``, ``8 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def readable_bytes(count: float) -> str:
    """``count`` bytes as text: ``1.5 GiB``, ``12 MiB``, ``85 KiB``."""
    if count > GIB / 10:
        return f"{count / GIB:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count > 2**20 else f"{count / 2**10:.0f} KiB"
