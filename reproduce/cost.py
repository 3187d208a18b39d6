"""What a case is expected to cost before it runs: seconds and bytes, for planning only.

The constants were fitted to recorded runs of the plans; nothing measured uses them.
"""

from reproduce.plan import Case, Method

GIB = 1 << 30
STARTING_SECONDS = 0.7

# Seconds of one gradient: fixed, and per sample of the batch.
GRADIENT_SECONDS = {
    "article": {"resnet34": (0.005, 0.0005), "vit": (0.008, 0.0004), "bert": (0.008, 0.0004)},
    "cpu": {"resnet34": (0.05, 0.17), "vit": (0.25, 0.1), "bert": (0.3, 0.1)},
}
GRADIENTS_IN: dict[Method, float] = {
    "gradient": 1,
    "forward_over_reverse": 2.7,
    "reverse_over_forward": 2.7,
    "reverse_over_reverse": 3.8,
}
WITHOUT_JIT_SLOWDOWN = 7
COMPILING_SECONDS = {"article": 20, "cpu": 4, "smoke": 0.7}

# Bytes per parameter of a copy of everything, and per sample of the batch.
SAMPLE_BYTES = {"resnet34": 0.12 * GIB, "resnet50": 0.3 * GIB, "vit": 0.2 * GIB, "bert": 0.2 * GIB}
WEIGHT_BYTES = {"resnet34": 0.1 * GIB, "resnet50": 0.1 * GIB, "vit": 0.35 * GIB, "bert": 0.45 * GIB}
LOADED_FRAMEWORKS_BYTES = 1 * GIB


def seconds(case: Case) -> float:
    """The expected seconds of ``case`` as a whole, on the device that its plan is for."""
    fixed, per_sample = GRADIENT_SECONDS.get(case.plan, {}).get(case.model, (0.002, 0.0))
    gradient = fixed + per_sample * case.batch_size
    if case.framework == "jax" and case.mode == "eager":
        gradient *= WITHOUT_JIT_SLOWDOWN
    method = GRADIENTS_IN[case.method] * gradient
    calls = 1 + case.warmup + case.repetitions if case.quantity == "time" else 1
    pair = method if case.method == "gradient" or case.quantity == "memory" else method + gradient
    programs = 2 if case.quantity == "time" and case.method != "gradient" else 1
    compiling = COMPILING_SECONDS[case.plan] * programs if case.framework == "jax" else 0
    return STARTING_SECONDS + compiling + calls * pair


def memory_bytes(case: Case) -> int:
    """The expected peak of ``case`` in bytes, the loaded framework included."""
    activations = SAMPLE_BYTES.get(case.model, 0) * case.batch_size
    copies = 6 * WEIGHT_BYTES.get(case.model, 0)
    return int(LOADED_FRAMEWORKS_BYTES + activations + copies)


def readable_seconds(seconds: float) -> str:
    """``seconds`` for a person: ``40 s``, ``8 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def readable_bytes(count: float) -> str:
    """``count`` bytes for a person: ``1.5 GiB``, ``12 MiB``."""
    return f"{count / GIB:.1f} GiB" if count > GIB / 10 else f"{count / 2**20:.0f} MiB"
