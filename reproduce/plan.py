"""The experiments: which cases each plan measures.

A plan is a tuple of grids; a grid is one panel's worth of cases. All plans run
through the same code, only the numbers here differ. The numbers of ``article``
are those of the article's section "Benchmark with deep learning architectures".
"""

import random
from collections.abc import Iterator
from typing import Literal

import msgspec

Framework = Literal["jax", "torch"]
Mode = Literal["jit", "eager", "compile"]
ArticleMethod = Literal[
    "evaluation",
    "gradient",
    "forward_over_reverse",
    "reverse_over_forward",
    "reverse_over_reverse",
]
# What is computed at a point once serves every HVP at that point.
AmortisedMethod = Literal["linearized", "graph_kept"]
Peer = Literal["autograd_grad", "autograd_hvp", "autograd_vhp", "curvlinops"]
Method = Literal[ArticleMethod, AmortisedMethod, Peer]
Quantity = Literal["time", "memory", "operations", "compilation"]
Vector = Literal["gradient", "params", "seeded"]
Normalisation = Literal["article", "matched"]

METHODS = tuple(name for name in ArticleMethod.__args__ if name != "evaluation")
AMORTISED = AmortisedMethod.__args__
PEERS = Peer.__args__
POWERS_OF_TWO = (1, 2, 4, 8, 16, 32, 64, 128)
ORDER_SEED = 0
BEYOND = "beyond"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: what is computed, how, and how often.

    ``vector`` is what the Hessian is multiplied with: the gradient, as in the
    article's timings, the parameters, as in its memory runs (so that nothing is
    computed before the measured call), or a seeded normal vector. ``normalisation`` is how batch
    normalisation is treated: ``article`` (inference mode in JAX, the identity in
    PyTorch) or ``matched`` (inference mode in both). ``vectors`` is how many vectors
    one call multiplies with. Cases that differ in method and vectors alone are timed
    ``in_turn``, in one process, or each in a process of its own, as the article's were.
    """

    plan: str
    framework: Framework
    mode: Mode
    model: str
    batch_size: int
    method: Method
    quantity: Quantity
    warmup: int
    repetitions: int
    vector: Vector = "gradient"
    normalisation: Normalisation = "article"
    seed: int = 0
    vectors: int = 1
    in_turn: bool = False

    @property
    def problem(self) -> str:
        """What a program is compiled for, but for the method: a part of a file's name."""
        return f"{self.model}-{self.batch_size}-{self.normalisation}-{self.seed}"

    def __str__(self) -> str:
        at_once = f", {self.vectors} vectors at once" if self.vectors > 1 else ""
        return (
            f"{self.quantity} {self.framework} {self.mode} {self.model} "
            f"batch {self.batch_size} {self.method}{at_once}"
        )


class Grid(msgspec.Struct, frozen=True):
    """Methods of one framework and mode, for each model at its batch sizes."""

    quantity: Quantity
    framework: Framework
    mode: Mode
    batch_sizes: dict[str, tuple[int, ...]]
    repetitions: int = 1
    warmup: int = 0
    methods: tuple[Method, ...] = METHODS
    vectors: tuple[int, ...] = (1,)
    in_turn: bool = False


def _bars_and_curve(model: str, curve: tuple[int, ...], **bars: int) -> dict[str, tuple[int, ...]]:
    return {model: curve} | {name: (size,) for name, size in bars.items()}


def _in_turn(
    framework: Framework,
    mode: Mode,
    batch_sizes: dict[str, tuple[int, ...]],
    methods: tuple[Method, ...],
    vectors: tuple[int, ...] = (1,),
) -> Grid:
    return Grid("time", framework, mode, batch_sizes, 3, 1, methods, vectors, in_turn=True)


ARTICLE_MODELS = ("resnet34", "vit", "bert")
_ARTICLE_MEMORY = _bars_and_curve("resnet34", POWERS_OF_TWO[2:], vit=64, bert=64)
_CPU = _bars_and_curve("resnet34", (1, 2), vit=1, bert=1)
_FOUR = dict.fromkeys(ARTICLE_MODELS, (4,))
_SMOKE = _bars_and_curve("tiny_resnet", (1, 2), tiny_vit=2, tiny_bert=2)
_TWO_HVPS = ("forward_over_reverse", "reverse_over_forward")
_TWO_PEERS = ("autograd_grad", "curvlinops")
_ONE_RESNET = {"resnet34": (1,)}
_VECTORS = (1, 2, 4, 8)

PLANS: dict[str, tuple[Grid, ...]] = {
    "article": (
        Grid("time", "jax", "jit", dict.fromkeys(ARTICLE_MODELS, POWERS_OF_TWO), 90, 10),
        Grid("time", "torch", "eager", dict.fromkeys(ARTICLE_MODELS, POWERS_OF_TWO), 90, 10),
        Grid("time", "jax", "eager", dict.fromkeys(ARTICLE_MODELS, (64,)), 90, 10),
        Grid("memory", "jax", "jit", _ARTICLE_MEMORY),
        Grid("memory", "jax", "eager", _ARTICLE_MEMORY),
        Grid("memory", "torch", "eager", _ARTICLE_MEMORY),
    ),
    # Fits 10 minutes on two cores: without jit, one call of the transformers takes 3 to 8 s.
    "cpu": (
        Grid("time", "jax", "jit", _CPU, 2, 1),
        Grid("time", "torch", "eager", _CPU, 2, 1),
        Grid("time", "jax", "eager", {"resnet34": (1,)}, 2, 1),
        Grid("memory", "jax", "jit", _CPU),
        Grid("memory", "jax", "eager", dict.fromkeys(_CPU, (1,))),
        Grid("memory", "torch", "eager", _CPU),
    ),
    "smoke": (
        Grid("time", "jax", "jit", _SMOKE, 2, 1),
        Grid("time", "torch", "eager", _SMOKE, 2, 1),
        Grid("time", "jax", "eager", {"tiny_resnet": (2,)}, 2, 1),
        Grid("memory", "jax", "jit", _SMOKE),
        Grid("memory", "jax", "eager", dict.fromkeys(_SMOKE, (2,))),
        Grid("memory", "torch", "eager", _SMOKE),
    ),
    # What the article did not measure: compiled PyTorch, many vectors, other libraries. What is
    # timed tells its memory, too. Sparse, since an HVP takes seconds: what costs the same by its
    # operations stands for its kind.
    BEYOND: (
        _in_turn("jax", "jit", _FOUR, (*_TWO_HVPS, "linearized")),
        _in_turn("jax", "jit", {"resnet34": (4,)}, ("reverse_over_reverse",)),
        _in_turn("torch", "eager", _FOUR, (*_TWO_HVPS, "graph_kept", *_TWO_PEERS)),
        _in_turn("torch", "eager", {"bert": (4,)}, ("autograd_hvp", "autograd_vhp")),
        _in_turn("torch", "compile", _FOUR, (*METHODS, "linearized")),
        _in_turn("jax", "jit", _ONE_RESNET, _TWO_HVPS[:1], _VECTORS),
        _in_turn("torch", "eager", _ONE_RESNET, _TWO_HVPS[:1], _VECTORS),
    ),
}


class PlanError(Exception):
    """A plan that cannot be measured here; the message is one sentence for the user."""


def cases(
    name: str,
    *,
    more_models: tuple[str, ...] = (),
    vector: Vector | None = None,
    normalisation: Normalisation = "article",
    seed: int = 0,
) -> list[Case]:
    """The cases of the plan ``name``, in an order shuffled by a fixed seed.

    Memory cases multiply with the parameters and time cases with the gradient, unless
    ``vector`` is given. ``more_models`` are measured at the batch sizes of the grid's
    first model.

    Raises:
        PlanError: if there is no plan ``name``.
    """
    if name not in PLANS:
        raise PlanError(f"plan {name!r} was asked for; there are {', '.join(PLANS)}")
    vectors = {"time": "gradient", "memory": "params"}
    found = [
        Case(
            plan=name,
            framework=grid.framework,
            mode=grid.mode,
            model=model,
            batch_size=batch_size,
            method=method,
            quantity=grid.quantity,
            warmup=grid.warmup,
            repetitions=grid.repetitions,
            vector=vector or vectors[grid.quantity],
            normalisation=normalisation,
            seed=seed,
            vectors=at_once,
            in_turn=grid.in_turn,
        )
        for grid in PLANS[name]
        for model, batch_size in _sizes(grid, more_models)
        for method in grid.methods
        for at_once in grid.vectors
    ]
    random.Random(ORDER_SEED).shuffle(found)
    return found


def accounted_cases(name: str) -> list[Case]:
    """The cases of the plan ``name`` that can be accounted for on a GPU that is not there.

    These are its memory cases; and, for every model in both frameworks at the largest
    batch that all models have, the operations of an evaluation and of each method.

    Raises:
        PlanError: if there is no plan ``name``.
    """
    memory = [case for case in cases(name) if case.quantity == "memory"]
    sizes = [{case.batch_size for case in memory if case.model == m} for m in _models(memory)]
    operations = [
        Case(
            plan=name,
            framework=framework,
            mode=mode,
            model=model,
            batch_size=max(set.intersection(*sizes)),
            method=method,
            quantity="operations",
            warmup=0,
            repetitions=1,
            vector="params",
        )
        for framework, mode in (("jax", "jit"), ("torch", "eager"))
        for model in _models(memory)
        for method in ArticleMethod.__args__
    ]
    return memory + operations


def _models(cases: list[Case]) -> list[str]:
    return sorted({case.model for case in cases})


def _sizes(grid: Grid, more_models: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    first = next(iter(grid.batch_sizes.values()))
    for model, batch_sizes in (dict.fromkeys(more_models, first) | grid.batch_sizes).items():
        for batch_size in batch_sizes:
            yield model, batch_size
