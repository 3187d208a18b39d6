"""The methods: their labels, and the operations that theory counts for each, in gradients.

The count is of products of a layer's input and weight. An evaluation has one of them, a JVP or the
gradient 3, and an HVP 8. Without jit, the methods that differentiate the gradient compute it as
well, which makes 9. A further vector at the same point takes 6. An HVP that computes every layer
again computes the JVP again, which adds 3. A Gauss-Newton product has a JVP and a VJP of the
logits, which share one evaluation: 5.
"""

from reproduce.plan import AMORTISED, GAUSS_NEWTON, LOW_PRECISION, PEERS, Framework, Mode, Run

GRADIENT, HVP, HVP_AND_GRADIENT, FURTHER_HVP, VJP_OF_VJP = 1, 8 / 3, 9 / 3, 6 / 3, 15 / 3
HVP_AND_JVP, JVP_AND_VJP = 11 / 3, 5 / 3

# The label of each method, and the time of a call in gradients that an estimate expects: about what
# two cores took. What is counted and not measured has none.
_METHODS: dict[str, tuple[str, float | None]] = {
    "evaluation": ("Evaluation", None),
    "jvp": ("JVP", None),
    "gradient": ("Gradient", 1),
    "forward_over_reverse": ("forward-over-reverse", 2.7),
    "reverse_over_forward": ("reverse-over-forward", 2.7),
    "reverse_over_reverse": ("reverse-over-reverse", 3.5),
    "repaired_reverse_over_forward": ("reverse-over-forward, repaired", 2.7),
    "linearized": ("linearised once", 2),
    "graph_kept": ("graph kept (PyHessian)", 2.2),
    "autograd_grad": ("autograd.grad twice", 3.5),
    "autograd_vhp": ("autograd.functional.vhp", 3.5),
    "autograd_hvp": ("autograd.functional.hvp", 5.5),
    "curvlinops": ("curvlinops", 3.7),
    "checkpointed": ("checkpointed, keeping products", 3),
    "checkpointed_layers": ("checkpointed by layer", 4),
    "gauss_newton": ("Gauss-Newton", 1.8),
    "bfloat16": ("activations in bfloat16", 3.2),
}
LABELS = {name: label for name, (label, _) in _METHODS.items()}
EXPECTED_GRADIENTS = {name: time for name, (_, time) in _METHODS.items() if time is not None}
FRAMEWORKS: dict[str, str] = {"jax": "JAX", "torch": "PyTorch"}
RUNS: dict[Run, str] = {
    ("jax", "jit"): "JAX with jit",
    ("jax", "eager"): "JAX without jit",
    ("torch", "compile"): "PyTorch compiled",
    ("torch", "eager"): "PyTorch",
}
_COMPILED: dict[str, float] = {
    "evaluation": 1 / 3,
    "jvp": 1,
    "gradient": GRADIENT,
    "forward_over_reverse": HVP,
    "reverse_over_forward": HVP,
    "reverse_over_reverse": HVP,
    "linearized": FURTHER_HVP,
    "gauss_newton": JVP_AND_VJP,
}
_NOT_COMPILED = _COMPILED | {
    "forward_over_reverse": HVP_AND_GRADIENT,
    "reverse_over_reverse": HVP_AND_GRADIENT,
}
OPERATIONS: dict[Run, dict[str, float]] = {
    ("jax", "jit"): _COMPILED
    | {"checkpointed": HVP, "checkpointed_layers": HVP_AND_JVP, "bfloat16": HVP},
    ("jax", "eager"): _NOT_COMPILED,
    ("torch", "compile"): _COMPILED,
    ("torch", "eager"): _NOT_COMPILED
    | {
        "repaired_reverse_over_forward": HVP,
        "graph_kept": FURTHER_HVP,
        "autograd_grad": HVP_AND_GRADIENT,
        "autograd_vhp": HVP_AND_GRADIENT,
        "autograd_hvp": VJP_OF_VJP,
        "curvlinops": HVP_AND_GRADIENT,
    },
}


def name(framework: Framework, mode: Mode, method: str) -> str:
    """The name of ``method`` together with its framework and mode."""
    run = "JAX" if mode == "jit" else RUNS[framework, mode]
    return f"{run}, {LABELS[method]}"


def kind(method: str) -> str:
    """The kind of ``method``: ``direct``, ``amortised``, ``peer``, ``gauss_newton``, ``bfloat16``.

    An amortised method computes something once for all HVPs at a point. A peer is a method of
    another library. The Gauss-Newton product is no HVP.
    """
    if method in PEERS:
        return "peer"
    if method in (*GAUSS_NEWTON, *LOW_PRECISION):
        return method
    return "amortised" if method in AMORTISED else "direct"


def operations_per_vector(framework: Framework, mode: Mode, vectors: int) -> float:
    """The gradients that theory counts for each of ``vectors`` multiplied in one call."""
    shared = OPERATIONS[framework, mode]["forward_over_reverse"] - FURTHER_HVP
    return FURTHER_HVP + shared / vectors
