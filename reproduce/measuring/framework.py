"""The interface of a framework: its methods, and modules that build, compute, wait and count.

``reproduce.in_jax`` and ``reproduce.in_torch`` have these modules under the same names, and mypy
checks them against this interface. A tree holds parameters with d scalars in all, a vector
like them, or a batch: nested dictionaries of arrays in JAX, a dictionary of tensors by name in
PyTorch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from reproduce.machine.target import Target
from reproduce.plan import LayerNorm, Mode, Normalisation
from reproduce.problems.loss import Logits, LossByParts
from reproduce.problems.problem import Problem

Tree = Any
Scalar = Any
LossOfBatch = Callable[[Tree, Tree], Scalar]
# A user's own logits(model or params, batch), and the loss of (logits, batch).
Parts = tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Scalar]]
# A function of a loss (for a Gauss-Newton product, by its parts), its parameters and a vector like
# them. It returns a tree like both, or a scalar.
Method = Callable[[Any, Tree, Tree], Any]
# A method in two functions: of parameters and batch, computed once, and of its result and a vector.
Divided = tuple[Callable[[Tree, Tree], Any], Callable[[Any, Tree], Tree]]


class ManyVectors(Protocol):
    """Many vectors at one point: one after another, or several at once."""

    @property
    def METHODS(self) -> Mapping[str, Callable[[LossOfBatch, Tree, Tree, Tree], Divided]]:
        """By name, the functions of (loss, params, v, batch) that divide an HVP in two."""

    def at_once(self, hvp: Method) -> Method:
        """``hvp`` for n vectors: each leaf of ``v`` and of the result has a first axis of n."""

    def stacked(self, vectors: list[Tree]) -> Tree:
        """All n ``vectors`` as one tree, each leaf with a first axis of n."""


class Models(Protocol):
    """The article's losses."""

    def build(
        self,
        problem: Problem,
        weights: dict[str, np.ndarray],
        normalisation: Normalisation = ...,
        layer_norm: LayerNorm = ...,
        recorded: bool = ...,
    ) -> tuple[LossByParts, Tree]:
        """``loss(params, batch)`` and its ``params`` on the device, made from ``weights`` by name.

        The shapes of ``weights`` are those of ``problems.weight_shapes``.
        """

    def to_device(self, batch: dict[str, np.ndarray]) -> Tree:
        """``batch`` on the device; its images are (batch, side, side, 3)."""


class Device(Protocol):
    """A framework's device: it compiles, waits, counts bytes, and names failures."""

    def compile(
        self, function: Callable[..., Tree], mode: Mode, *arguments: Tree
    ) -> tuple[Callable[..., Tree], dict[str, int], float]:
        """``function`` for arguments like these, its program's bytes, and seconds of compiling."""

    def wait(self, tree: Tree) -> Tree:
        """``tree``, once it is computed."""

    def to_numpy(self, tree: Tree) -> list[np.ndarray]:
        """The leaves of ``tree``, in an order that trees like it share."""

    def platform(self) -> str:
        """``gpu`` or ``cpu``."""

    def use_cores(self, count: int) -> None:
        """Compute with ``count`` cores of the CPU from now on."""

    def use_deterministic_algorithms(self) -> None:
        """Compute the same bits every time, or fail. To be called before anything is computed."""

    def compile_unoptimised(self) -> None:
        """Compile fast, for slower programs. To be called before anything is computed."""

    def share_programs(self, folder: Path) -> None:
        """Keep compiled programs in ``folder``, and reuse those that are there."""

    def count_call(self, call: Callable[[], Tree], counters: dict[str, int]) -> None:
        """Add the allocator's bytes in one more ``call`` to ``counters``, if it reports any."""

    def allocator_peak(self, counters: dict[str, int]) -> AbstractContextManager[None]:
        """Add the allocator's bytes before the block, and their peak in it, to ``counters``."""

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The matrix product (m, n) of ``a`` (m, k) and ``b`` (k, n), computed on this device."""

    def precision(self) -> dict[str, str | bool | None]:
        """The options that decide how products are rounded, by name."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether ``error`` says that the device ran out of memory."""

    def is_unsupported(self, error: Exception) -> bool:
        """Whether ``error`` says that the framework cannot compute this."""


class Accounting(Protocol):
    """The bytes and operations that a function needs on a GPU that is not there."""

    def memory(
        self,
        function: Callable[..., Tree],
        mode: Mode,
        target: Target,
        cache: Path,
        *arguments: Tree,
    ) -> tuple[int, dict[str, int], float]:
        """All bytes on ``target``, the same bytes by counter, and the seconds of compiling."""

    def flops(self, function: Callable[..., Tree], *arguments: Tree) -> float:
        """The floating-point operations of one call."""


class Own(Protocol):
    """A loss of the user's own, with its parameters as a tree and everything else in ``batch``.

    ``samples`` is the part of ``batch`` that is the user's own batch. ``users_parts`` are the
    logits and their loss, if the user's file has them. ``contexts`` are those in which the user's
    functions are called, by the code that makes each, and ``calls`` names the functions that a
    repair replaces.
    """

    params: Tree
    batch: Tree
    samples: Tree
    users_parts: Parts | None
    contexts: Mapping[str, Callable[[], AbstractContextManager[Any]]]
    calls: set[str]

    def loss(self, params: Tree, batch: Tree) -> Scalar:
        """The loss, a scalar."""

    def logits(self, params: Tree, batch: Tree) -> Logits:
        """The logits, an array of any shape, if there are ``users_parts``."""

    def of_logits(self, logits: Logits, batch: Tree) -> Scalar:
        """The loss of ``logits``, a scalar, if there are ``users_parts``."""

    def users_batch(self, batch: Tree) -> Any:
        """``batch`` as the user's functions take it."""

    def value_and_gradient(self, params: Tree) -> tuple[float, Tree]:
        """The loss and its gradient, computed as users do it."""

    def in_float64(self) -> "Own":
        """The same loss with all floating-point numbers in float64."""


class OfTheUser(Protocol):
    """The functions that read a loss of the user's own and compute its HVPs."""

    @property
    def DIRECT(self) -> Sequence[str]:
        """The methods that compute everything anew for each HVP."""

    @property
    def AT_A_POINT(self) -> Sequence[str]:
        """The methods that compute something once at a point."""

    @property
    def AT_ONCE(self) -> Sequence[str]:
        """Those of ``DIRECT`` that can multiply several vectors at once."""

    @property
    def MODE(self) -> Mode:
        """The mode in which they are computed."""

    @property
    def CAN_BE_REPAIRED(self) -> bool:
        """Whether ``repaired_loss`` does anything."""

    def own(
        self, problem: Any, pattern: str | None, parts: Parts | None = ...
    ) -> tuple[Own, list[str]]:
        """The loss in ``problem``, of the parameters that match ``pattern``, and notes on it."""

    def repaired_loss(self, loss: LossOfBatch) -> LossOfBatch:
        """``loss`` with equal functions instead of those that are differentiated wrongly.

        It may be another function of a tree and a batch.
        """

    def float64_by_default(self) -> AbstractContextManager[None]:
        """A context in which float64 can be computed, and is the type of new arrays."""

    def from_numpy(self, leaves: list[np.ndarray], like: Tree) -> Tree:
        """``leaves`` as a tree like ``like``: the inverse of the device's ``to_numpy``."""

    def program(
        self, function: Callable[..., Tree], *arguments: Tree
    ) -> tuple[Callable[..., Tree], dict[str, int], float]:
        """``function`` ready to be called, its bytes by counter, and seconds of compiling."""

    def compiled(self, function: Callable[..., Tree], *arguments: Tree) -> Callable[..., Tree]:
        """``function`` compiled into one program, for arguments like these."""

    def needed_bytes(self, function: Callable[..., Tree], *arguments: Tree) -> int:
        """The bytes that a call needs, arguments included, found without calling it."""


class Tools(NamedTuple):
    """A framework's methods by name, including those of other libraries, and its modules."""

    methods: Mapping[str, Method]
    many_vectors: ManyVectors
    models: Models
    device: Device


if TYPE_CHECKING:  # mypy checks both frameworks against the interface here
    from reproduce.in_jax import accounting as jax_accounting
    from reproduce.in_jax import device as jax_device
    from reproduce.in_jax import hvp as jax_hvp
    from reproduce.in_jax import many_vectors as jax_many_vectors
    from reproduce.in_jax import models as jax_models
    from reproduce.in_jax import own as jax_own
    from reproduce.in_jax import peers as jax_peers
    from reproduce.in_jax import products as jax_products
    from reproduce.in_torch import accounting as torch_accounting
    from reproduce.in_torch import device as torch_device
    from reproduce.in_torch import hvp as torch_hvp
    from reproduce.in_torch import many_vectors as torch_many_vectors
    from reproduce.in_torch import models as torch_models
    from reproduce.in_torch import own as torch_own
    from reproduce.in_torch import peers as torch_peers
    from reproduce.in_torch import products as torch_products

    JAX: tuple[Tools, Accounting] = (
        Tools(
            {**jax_hvp.METHODS, **jax_peers.METHODS, **jax_products.METHODS},
            jax_many_vectors,
            jax_models,
            jax_device,
        ),
        jax_accounting,
    )
    TORCH: tuple[Tools, Accounting] = (
        Tools(
            {**torch_hvp.METHODS, **torch_peers.METHODS, **torch_products.METHODS},
            torch_many_vectors,
            torch_models,
            torch_device,
        ),
        torch_accounting,
    )
    USERS: tuple[OfTheUser, OfTheUser] = (jax_own, torch_own)
