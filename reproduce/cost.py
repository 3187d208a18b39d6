"""What a case is expected to cost before it runs: seconds and bytes, for planning only.

Nothing measured uses these constants. Those of ``cpu``, ``smoke`` and ``beyond`` were fitted
to runs on two cores; of those of ``article``, only the gradients of its three models are based on
measurements, the article's own: the rest are guesses until a GPU has run it.
"""

from reproduce.plan import Case, Method

GIB = 1 << 30

# Seconds of one gradient, fixed and per sample of the batch.
GRADIENT_SECONDS = {
    ("article", "jax"): {
        "resnet34": (0.006, 0.00046),
        "resnet50": (0.01, 0.0009),
        "vit": (0.006, 0.0004),
        "bert": (0.006, 0.00028),
    },
    ("article", "torch"): {
        "resnet34": (0.018, 0.00036),
        "resnet50": (0.025, 0.0008),
        "vit": (0.048, 0.0011),
        "bert": (0.05, 0.0009),
    },
    ("cpu", "jax"): {"resnet34": (0.05, 0.15), "vit": (0.2, 0.08), "bert": (0.2, 0.06)},
    ("cpu", "torch"): {"resnet34": (0.06, 0.13), "vit": (0.36, 0.1), "bert": (0.4, 0.1)},
    ("beyond", "jax"): {"resnet34": (0.2, 0.16), "vit": (0.3, 0.12), "bert": (0.3, 0.1)},
    ("beyond", "torch"): {"resnet34": (0.2, 0.16), "vit": (0.4, 0.12), "bert": (0.4, 0.1)},
}
GRADIENT_SECONDS_OF_OTHERS = (0.005, 0.0)
GRADIENTS_IN: dict[Method, float] = {
    "gradient": 1,
    "forward_over_reverse": 2.7,
    "reverse_over_forward": 2.7,
    "reverse_over_reverse": 3.5,
    "linearized": 2,
    "graph_kept": 2.2,
    "autograd_grad": 3.5,
    "autograd_hvp": 5.5,
    "autograd_vhp": 3.5,
    "curvlinops": 3.7,
}
# Without jit, JAX compiles single operations and then spends its time between them.
WITHOUT_JIT_GRADIENT_SECONDS = {"article": 0.8, "cpu": 1.4, "smoke": 0.25}
# In JAX, compiling a program for the first time in a memory case, and taking an equal one from
# the shared folder. Plan ``beyond`` has no such cases: its programs are compiled when timed.
COMPILING_SECONDS = {"article": 20, "cpu": 12, "smoke": 2.5}
SHARED_COMPILING_SECONDS = {"article": 4, "cpu": 2.2, "smoke": 0.3, "beyond": 2.5}
STARTING_SECONDS = {"article": 1.5, "cpu": 0.6, "smoke": 0.2, "beyond": 1}
# The same for torch.compile, whatever the plan; it compiles before anything is measured.
TORCH_COMPILING_GRADIENT_SECONDS = 40
TORCH_COMPILING_HVP_SECONDS = 110
TORCH_SHARED_COMPILING_SECONDS = 0.5

# Accounting for a case on one core: compiled for a GPU, run without arithmetic, counted.
ACCOUNTING_SECONDS = {("jax", "jit"): 7, ("jax", "eager"): 4.5, ("torch", "eager"): 3.5}
COUNTING_SECONDS = 2
ACCOUNTING_BYTES = 3 * GIB

# Bytes of the activations per sample of the batch, and of one copy of the weights.
SAMPLE_BYTES = {"resnet34": 0.12 * GIB, "resnet50": 0.3 * GIB, "vit": 0.2 * GIB, "bert": 0.2 * GIB}
WEIGHT_BYTES = {"resnet34": 0.1 * GIB, "resnet50": 0.1 * GIB, "vit": 0.35 * GIB, "bert": 0.45 * GIB}
LOADED_FRAMEWORKS_BYTES = 1 * GIB


def seconds(case: Case) -> float:
    """The expected seconds of ``case`` as a whole, on the device that its plan is for."""
    is_gradient = case.method == "gradient"
    if case.quantity == "compilation":
        return TORCH_COMPILING_GRADIENT_SECONDS if is_gradient else TORCH_COMPILING_HVP_SECONDS
    is_time = case.quantity == "time"
    gradient = _gradient_seconds(case)
    hvp = GRADIENTS_IN[case.method] * gradient * case.vectors
    calls = hvp * (case.warmup + case.repetitions if is_time else 2)
    if is_time and not is_gradient and not case.in_turn:
        # The gradient beside each call, and the HVP that the first is compared with.
        calls += gradient * (case.warmup + case.repetitions + 2.7)
    return STARTING_SECONDS[case.plan] + _compiling_seconds(case) + calls


def accounting_seconds(case: Case) -> float:
    """The expected seconds of accounting for ``case`` at full size on one core."""
    if case.quantity == "operations":
        return COUNTING_SECONDS
    return ACCOUNTING_SECONDS[case.framework, case.mode]


def _gradient_seconds(case: Case) -> float:
    if case.framework == "jax" and case.mode == "eager":
        return WITHOUT_JIT_GRADIENT_SECONDS[case.plan]
    of_plan = GRADIENT_SECONDS.get((case.plan, case.framework), {})
    fixed, per_sample = of_plan.get(case.model, GRADIENT_SECONDS_OF_OTHERS)
    return fixed + per_sample * case.batch_size


def _compiling_seconds(case: Case) -> float:
    is_torch = case.framework == "torch"
    if is_torch and case.mode == "eager":
        return 0
    if case.quantity == "memory" and not is_torch:
        return COMPILING_SECONDS[case.plan]
    programs = 1 if case.method == "gradient" or case.in_turn else 2.7
    once = TORCH_SHARED_COMPILING_SECONDS if is_torch else SHARED_COMPILING_SECONDS[case.plan]
    return once * programs


def memory_bytes(case: Case) -> int:
    """The expected peak of ``case`` in bytes, the loaded framework included."""
    more = case.vectors - 1
    activations = SAMPLE_BYTES.get(case.model, 0) * case.batch_size * (1 + 0.2 * more)
    # Timed in turn, what each method holds is there at once.
    copies = (6 + 2.5 * more + (3 + more) * case.in_turn) * WEIGHT_BYTES.get(case.model, 0)
    return int(LOADED_FRAMEWORKS_BYTES + activations + copies)


def host_bytes(case: Case) -> int:
    """The expected bytes of the host's memory while ``case`` runs on a GPU: a guess."""
    return int(LOADED_FRAMEWORKS_BYTES + 2 * WEIGHT_BYTES.get(case.model, 0))


def readable_seconds(seconds: float) -> str:
    """``seconds`` for a person: ``40 s``, ``8 min``, ``1 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def readable_bytes(count: float) -> str:
    """``count`` bytes for a person: ``1.5 GiB``, ``12 MiB``, ``85 KiB``."""
    if count > GIB / 10:
        return f"{count / GIB:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count > 2**20 else f"{count / 2**10:.0f} KiB"
