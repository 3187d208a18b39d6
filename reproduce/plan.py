"""The experiments: which cases each plan measures.

A plan is a tuple of grids; a grid is one panel's worth of cases. All plans run
through the same code, only the numbers here differ. The numbers of ``article``
are those of the article's section "Benchmark with deep learning architectures".
Cases that differ only in method and number of vectors form a setting: one process
prepares them, side by side with other settings, and times them in turn.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from reproduce.errors import UserError

Framework = Literal["jax", "torch"]
Mode = Literal["jit", "eager", "compile"]
Run = tuple[Framework, Mode]
ArticleMethod = Literal[
    "evaluation",
    "jvp",
    "gradient",
    "forward_over_reverse",
    "reverse_over_forward",
    "reverse_over_reverse",
]
# What is computed at a point once serves every HVP at that point.
AmortisedMethod = Literal["linearized", "graph_kept"]
Peer = Literal["autograd_grad", "autograd_hvp", "autograd_vhp", "curvlinops"]
# For a network with PyTorch's own layer normalisation, through which reverse-over-forward is wrong.
Repaired = Literal["repaired_reverse_over_forward"]
# HVPs that keep less of the forward pass and compute it again.
Checkpointed = Literal["checkpointed", "checkpointed_layers"]
# Not an HVP, but a product that can replace it.
GaussNewton = Literal["gauss_newton"]
# HVPs with a smaller number format, and its error.
LowPrecision = Literal["bfloat16"]
Method = Literal[
    ArticleMethod, AmortisedMethod, Peer, Repaired, Checkpointed, GaussNewton, LowPrecision
]
Quantity = Literal["time", "memory", "nvml", "operations"]
Vector = Literal["gradient", "params", "seeded"]
Normalisation = Literal["article", "matched"]
LayerNorm = Literal["native", "repaired"]
Count = Annotated[int, Meta(ge=1)]

# Counted and not measured: the article's figures have neither.
COUNTED = ("evaluation", "jvp")
METHODS: tuple[Method, ...] = tuple(each for each in get_args(ArticleMethod) if each not in COUNTED)
HVPS = METHODS[1:]
AMORTISED: tuple[Method, ...] = get_args(AmortisedMethod)
PEERS: tuple[Method, ...] = get_args(Peer)
REPAIRED: tuple[Method, ...] = get_args(Repaired)
CHECKPOINTED: tuple[Method, ...] = get_args(Checkpointed)
GAUSS_NEWTON: tuple[Method, ...] = get_args(GaussNewton)
LOW_PRECISION: tuple[Method, ...] = get_args(LowPrecision)
POWERS_OF_TWO = (1, 2, 4, 8, 16, 32, 64, 128)
# The batch sizes of the article's bars: 64 in its images, 128 in its text.
BARS = (64, 128)
REFERENCE: Method = "forward_over_reverse"
JAX_JIT: Run = ("jax", "jit")
JAX_EAGER: Run = ("jax", "eager")
TORCH: Run = ("torch", "eager")
NEEDING_A_GPU = ("article", "quick")
BEYOND = "beyond"
SMOKE = "smoke"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: what is computed, how, and how often.

    A ``quantity`` of ``time`` has seconds, and the memory that a program or an allocator
    reports for the same call. ``memory`` is for memory that needs a run of its own, and ``nvml``
    for the used memory of the whole GPU, which the article's figures show. ``warmup`` counts the
    calls before the first of the ``repetitions``, except one whose memory is counted.
    ``vector`` is the vector that the Hessian is multiplied by: the gradient, as in the
    article's timings, the parameters, as in its memory runs (so that nothing is
    computed before the measured call), or a seeded normal vector. ``normalisation`` is how batch
    normalisation is treated: ``article`` (inference mode in JAX, whose running statistics are
    differentiated, too; the identity in PyTorch) or ``matched`` (inference mode in both).
    ``vectors`` is the number of vectors that one call multiplies by. For PyTorch only: ``recorded``
    says whether the parameters require gradients, so that autograd also records every call, and
    ``layer_norm`` is the layer normalisation: PyTorch's own, through which
    reverse-over-forward is wrong, or an equal function through which it is right.
    """

    plan: str
    framework: Framework
    mode: Mode
    model: str
    batch_size: Count
    method: Method
    quantity: Quantity
    warmup: Annotated[int, Meta(ge=0)]
    repetitions: Count
    vector: Vector = "gradient"
    normalisation: Normalisation = "article"
    seed: int = 0
    vectors: Count = 1
    recorded: bool = False
    layer_norm: LayerNorm = "repaired"

    @property
    def setting_name(self) -> str:
        """The name of this case's setting; each NVML case is a setting of its own."""
        alone = f" {self.computed}" if self.quantity == "nvml" else ""
        place = f"{self.framework} {self.mode} {self.model} batch {self.batch_size}"
        return f"{self.quantity} {place}{alone}"

    @property
    def is_reference(self) -> bool:
        """Whether other cases are compared with its result."""
        is_compared_with = self.method in {"gradient", REFERENCE}
        return is_compared_with and self.mode != "compile" and self.vectors == 1

    @property
    def computed(self) -> str:
        """The method and its number of vectors: the name of this case within its setting."""
        at_once = f", {self.vectors} vectors at once" if self.vectors > 1 else ""
        return f"{self.method}{at_once}"

    @property
    def key(self) -> "Case":
        """The case without its repetitions and warm-ups, which do not tell two cases apart."""
        return msgspec.structs.replace(self, warmup=0, repetitions=1)

    @property
    def unusual(self) -> str:
        """The options of this case that are not the usual ones; empty if all are."""
        found = [
            f"vector {self.vector}" if self.vector == "seeded" else "",
            f"{self.normalisation} normalisation" if self.normalisation != "article" else "",
            f"seed {self.seed}" if self.seed else "",
            "recorded" if self.recorded else "",
            "native layer norm" if self.layer_norm == "native" else "",
        ]
        return ", ".join(filter(None, found))

    def __str__(self) -> str:
        alone = self.quantity == "nvml"
        name = self.setting_name if alone else f"{self.setting_name} {self.computed}"
        return ", ".join(filter(None, [name, self.unusual]))


Setting = list[Case]
# Batch sizes by model.
Sizes = dict[str, tuple[int, ...]]


class Grid(msgspec.Struct, frozen=True):
    """Methods of one framework and mode, for each model at its batch sizes.

    Grids that are not in the article (``in_article`` is False) are measured last.
    """

    quantity: Quantity
    framework: Framework
    mode: Mode
    batch_sizes: Sizes
    repetitions: int = 1
    warmup: int = 0
    methods: tuple[Method, ...] = METHODS
    vectors: tuple[int, ...] = (1,)
    in_article: bool = True


ARTICLE_MODELS = ("resnet34", "vit", "bert")
LANGUAGE_MODELS = ("gpt2", "llama")
_ARTICLE: Sizes = dict.fromkeys(ARTICLE_MODELS, POWERS_OF_TWO)
_ARTICLE_MEMORY: Sizes = {"resnet34": POWERS_OF_TWO[2:], "vit": (64,), "bert": (64,)}
_QUICK: Sizes = {"resnet34": (4, 16, 64, 128), "vit": (64,), "bert": (64,)}
_CPU: Sizes = {"resnet34": (1, 2, 4), "vit": (1,), "bert": (1,)}
_SMOKE: Sizes = {"tiny_resnet": (1, 2), "tiny_vit": (2,), "tiny_bert": (2,)}
_FOUR: Sizes = dict.fromkeys(ARTICLE_MODELS, (4,))
_SIXTY_FOUR: Sizes = dict.fromkeys(ARTICLE_MODELS, (64,))
# For the networks with layer normalisation.
_BARS: Sizes = dict.fromkeys(("vit", "bert"), BARS)
_BAR: Sizes = dict.fromkeys(_BARS, (64,))
_ONE_RESNET: Sizes = {"resnet34": (1,)}
_TWO_HVPS = HVPS[:2]
# Compiled, the three HVPs of ViT and of BERT take the same time, and minutes of compiling each.
_COMPILED: tuple[Method, ...] = ("gradient", "forward_over_reverse", "linearized")
_FOUR_WITH_LAYER_NORM: Sizes = dict.fromkeys(_BARS, (4,))
_TINY_WITH_LAYER_NORM: Sizes = dict.fromkeys(("tiny_vit", "tiny_bert"), (2,))
_MORE_OF_JAX: tuple[Method, ...] = ("checkpointed_layers", *GAUSS_NEWTON, *LOW_PRECISION)
_TWO_PEERS: tuple[Method, ...] = ("autograd_grad", "curvlinops")
_TWO_MORE_PEERS: tuple[Method, ...] = ("autograd_hvp", "autograd_vhp")
_VECTORS = (1, 2, 4, 8)

PLANS: dict[str, tuple[Grid, ...]] = {
    "article": (
        Grid("time", "jax", "jit", _ARTICLE, 90, 3),
        Grid("time", "torch", "eager", _ARTICLE, 90, 3),
        Grid("time", "torch", "eager", _BARS, 90, 3, REPAIRED, in_article=False),
        Grid("memory", "jax", "eager", _ARTICLE_MEMORY),
        # One call takes seconds, whatever the GPU.
        Grid("time", "jax", "eager", _SIXTY_FOUR, 5, 1, in_article=False),
    ),
    "quick": (
        Grid("time", "jax", "jit", _QUICK, 20, 3),
        Grid("time", "torch", "eager", _QUICK, 20, 3),
        Grid("time", "torch", "eager", _BAR, 20, 3, REPAIRED, in_article=False),
        Grid("memory", "jax", "eager", _QUICK),
    ),
    # Without the times of JAX without jit, which are not in the article and take minutes here.
    "cpu": (
        Grid("time", "jax", "jit", _CPU, 6, 2),
        Grid("time", "torch", "eager", _CPU, 6, 2),
        Grid("memory", "jax", "eager", dict.fromkeys(_CPU, (1,))),
    ),
    # Its programs are not optimised, since most of the time is spent compiling them.
    SMOKE: (
        Grid("time", "jax", "jit", _SMOKE, 2, 2),
        Grid("time", "torch", "eager", _SMOKE, 2, 2),
        Grid("time", "torch", "eager", _TINY_WITH_LAYER_NORM, 2, 2, REPAIRED, in_article=False),
        Grid("memory", "jax", "eager", dict.fromkeys(_SMOKE, (2,))),
        Grid("time", "jax", "eager", {"tiny_resnet": (2,)}, 2, 1, in_article=False),
    ),
    # What the article did not measure: compiled PyTorch, many vectors, other libraries. It is
    # sparse, since an HVP takes seconds: of methods with the same operation count, one is measured.
    BEYOND: (
        Grid("time", "torch", "compile", {"resnet34": (4,)}, 3, 2, (*METHODS, "linearized")),
        Grid("time", "torch", "compile", _FOUR_WITH_LAYER_NORM, 3, 2, _COMPILED),
        Grid("time", "jax", "jit", _FOUR, 3, 2, (*_TWO_HVPS, "linearized")),
        Grid("time", "jax", "jit", {"resnet34": (4,)}, 3, 2, ("reverse_over_reverse",)),
        Grid("time", "torch", "eager", _FOUR, 3, 2, (*_TWO_HVPS, "graph_kept", *_TWO_PEERS)),
        Grid("time", "torch", "eager", {"bert": (4,)}, 3, 2, (*_TWO_MORE_PEERS, *GAUSS_NEWTON)),
        Grid("time", "jax", "jit", {"bert": (4,)}, 3, 2, _MORE_OF_JAX),
        Grid("time", "jax", "jit", dict.fromkeys(LANGUAGE_MODELS, (1,)), 3, 2, (REFERENCE,)),
        Grid("time", "jax", "jit", _ONE_RESNET, 3, 2, (REFERENCE,), _VECTORS),
        Grid("time", "torch", "eager", _ONE_RESNET, 3, 2, (REFERENCE,), _VECTORS),
    ),
}
# Of a plan without memory cases: what is accounted for on a GPU that is not there.
_OF_JAX: tuple[Method, ...] = ("gradient", *_TWO_HVPS, "checkpointed", *_MORE_OF_JAX)
_OF_TORCH: tuple[Method, ...] = ("gradient", *_TWO_HVPS, "autograd_grad", *GAUSS_NEWTON)
_FIVE: Sizes = _SIXTY_FOUR | dict.fromkeys(LANGUAGE_MODELS, (32,))
ACCOUNTED: dict[str, tuple[Grid, ...]] = {
    BEYOND: (
        Grid("memory", *JAX_JIT, _FIVE, methods=_OF_JAX),
        Grid("memory", *TORCH, _FIVE, methods=_OF_TORCH),
        Grid("operations", *JAX_JIT, _FIVE, methods=_OF_JAX),
        Grid("operations", *TORCH, _FIVE, methods=_OF_TORCH),
    )
}
# The plans in which PyTorch is used as the authors used it: a module's parameters unchanged, so
# that they require gradients, and PyTorch's own layer normalisation.
_AS_THE_AUTHORS = ("article", "quick", SMOKE)
# The article's memory grid, by the counter that it used; added to a plan on demand.
NVML = tuple(Grid("nvml", *run, _ARTICLE_MEMORY) for run in (JAX_JIT, JAX_EAGER, TORCH))


def cases(
    name: str,
    *,
    more_models: tuple[str, ...] = (),
    vector: Vector | None = None,
    normalisation: Normalisation = "article",
    seed: int = 0,
    recorded: bool | None = None,
    layer_norm: LayerNorm | None = None,
    nvml: bool = False,
) -> list[Case]:
    """The cases of the plan ``name``, in an order in which a run that is cut short can be drawn.

    The bars of the figures come first, then the curve of the grid's first model.
    Memory cases multiply by the parameters and time cases by the gradient, unless
    ``vector`` is given. ``recorded`` and ``layer_norm`` are the plan's own, unless given.
    ``more_models`` are measured at the batch sizes of the grid's first model. With ``nvml``,
    the memory of the whole GPU is measured, too, as the article's was.

    Raises:
        UserError: if there is no plan ``name``.
    """
    if name not in PLANS:
        raise UserError(f"plan {name!r} was asked for; there are {', '.join(PLANS)}")
    given = {"vector": vector, "normalisation": normalisation, "seed": seed}
    given_of_torch = given | {"recorded": recorded, "layer_norm": layer_norm}
    found = [
        (_rank(grid, case.model, case.batch_size), case)
        for grid in (*PLANS[name], *(NVML if nvml else ()))
        for case in _of_grid(name, grid, more_models)
    ]
    return [
        _changed(case, given_of_torch if case.framework == "torch" else given)
        for _, case in sorted(found, key=lambda ranked: ranked[0])
    ]


def _of_grid(name: str, grid: Grid, more_models: tuple[str, ...] = ()) -> list[Case]:
    return [
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
            vector="gradient" if grid.quantity == "time" else "params",
            vectors=at_once,
            **_kind(name, grid.framework),
        )
        for model, batch_size in _sizes(grid, more_models)
        for method in grid.methods
        for at_once in grid.vectors
    ]


def _kind(name: str, framework: Framework) -> dict[str, Any]:
    if framework == "torch" and name in _AS_THE_AUTHORS:
        return {"recorded": True, "layer_norm": "native"}
    return {}


def _changed(case: Case, given: dict[str, Any]) -> Case:
    """``case`` with the options that are ``given``; None stands for the case's own."""
    changes = {option: value for option, value in given.items() if value is not None}
    return msgspec.structs.replace(case, **changes)


def by_setting(cases: Iterable[Case]) -> list[Setting]:
    """``cases`` by setting, in the order of their first cases; in each, the reference is first."""
    found: dict[Case, list[Case]] = {}
    for case in cases:
        shared = {} if case.quantity == "nvml" else {"method": REFERENCE, "vectors": 1}
        found.setdefault(msgspec.structs.replace(case, **shared), []).append(case)
    first = {"gradient": 0, REFERENCE: 1}
    return [sorted(each, key=lambda case: first.get(case.method, 2)) for each in found.values()]


def accounted_cases(name: str) -> list[Case]:
    """The cases of the plan ``name`` that can be accounted for on a GPU that is not there.

    These are the memory of JAX with and without jit and of PyTorch, at the sizes of the plan's
    memory cases; and, for every model in both frameworks at the largest batch that all models
    have, the operations of an evaluation, of a JVP and of each method. Plan ``beyond``, which
    has no memory cases, has grids for it.

    Raises:
        UserError: if there is no plan ``name``.
    """
    if name in ACCOUNTED:
        return [case for grid in ACCOUNTED[name] for case in _of_grid(name, grid)]
    of_plan = [case for case in cases(name) if case.quantity == "memory"]
    memory = [
        msgspec.structs.replace(case, framework=framework, mode=mode, **_kind(name, framework))
        for framework, mode in (JAX_JIT, JAX_EAGER, TORCH)
        for case in of_plan
    ]
    models = sorted({case.model for case in of_plan})
    sizes = [{case.batch_size for case in of_plan if case.model == model} for model in models]
    largest = max(set.intersection(*sizes))
    of_all: Sizes = dict.fromkeys(models, (largest,))
    grids = [
        Grid("operations", *run, of_all, methods=get_args(ArticleMethod))
        for run in (JAX_JIT, TORCH)
    ]
    return memory + [case for grid in grids for case in _of_grid(name, grid)]


def _rank(grid: Grid, model: str, batch_size: int) -> int:
    """The place of a setting in the order of measuring, the lowest first.

    First come up to two batch sizes that all models have, the bars' if possible; then the others of
    the first model; then those of the other models.
    """
    if not grid.in_article:
        return len(BARS) + 2
    of_all = set.intersection(*map(set, grid.batch_sizes.values()))
    bars = sorted(of_all, key=lambda size: (size not in BARS, size))[: len(BARS)]
    if batch_size in bars:
        return bars.index(batch_size)
    return len(BARS) + (model != next(iter(grid.batch_sizes)))


def _sizes(grid: Grid, more_models: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    first = next(iter(grid.batch_sizes.values()))
    for model, batch_sizes in (dict.fromkeys(more_models, first) | grid.batch_sizes).items():
        for batch_size in batch_sizes:
            yield model, batch_size
