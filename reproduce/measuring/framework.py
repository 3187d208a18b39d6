"""The interface of a framework: its methods, and modules that build, compute, wait and count.

``reproduce.in_jax`` and ``reproduce.in_torch`` have these modules under the same names, and mypy
holds them to what is said here. A tree is what a framework has for parameters with d scalars in
all, for vectors like them and for batches: nested dictionaries of arrays in JAX, a dictionary of
tensors by name in PyTorch.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from reproduce.machine.target import Target
from reproduce.plan import LayerNorm, Mode, Normalisation
from reproduce.problems.loss import LossOfBatch, LossOfLogits, Tree
from reproduce.problems.problem import Problem

# Of a loss, its parameters and a vector like them: a tree like both, or a scalar.
Method = Callable[[LossOfLogits, Tree, Tree], Any]
# What a method computes once at parameters and batch, and what it then does with a vector.
Divided = tuple[Callable[[Tree, Tree], Any], Callable[[Any, Tree], Tree]]


class ManyVectors(Protocol):
    """Many vectors at one point: one after another, or several at once."""

    @property
    def METHODS(self) -> Mapping[str, Callable[[LossOfBatch, Tree, Tree, Tree], Divided]]:
        """The functions that divide an HVP of (loss, params, v, batch) at its point, by name."""

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
    ) -> tuple[LossOfBatch, Tree]:
        """``loss(params, batch)`` and its ``params`` on the device, of ``weights`` by name.

        They are shaped as ``problems.weight_shapes`` says.
        """

    def to_device(self, batch: dict[str, np.ndarray]) -> Tree:
        """``batch`` on the device; its images are (batch, side, side, 3)."""


class Device(Protocol):
    """A framework's device: it compiles, waits, counts bytes, and names failures."""

    def compile(
        self, function: Callable[..., Tree], mode: Mode, *arguments: Tree
    ) -> tuple[Callable[..., Tree], dict[str, int], float]:
        """``function`` for arguments like these, its program's bytes by counter, and seconds."""

    def wait(self, tree: Tree) -> Tree:
        """``tree``, once it is computed."""

    def to_numpy(self, tree: Tree) -> list[np.ndarray]:
        """The leaves of ``tree``, in an order that trees like it share."""

    def platform(self) -> str:
        """``gpu`` or ``cpu``."""

    def use_cores(self, count: int) -> None:
        """Compute with ``count`` cores of the CPU from now on."""

    def use_deterministic_algorithms(self) -> None:
        """Give the same bits again, or fail; before anything is computed."""

    def compile_unoptimised(self) -> None:
        """Compile quickly what need not be fast; before anything is computed."""

    def share_programs(self, folder: Path) -> None:
        """Keep compiled programs in ``folder`` and take equal ones from there."""

    def count_call(self, call: Callable[[], Tree], counters: dict[str, int]) -> None:
        """Add to ``counters`` the allocator's bytes in one more ``call``, if it can be asked."""

    def allocator_peak(self, counters: dict[str, int]) -> AbstractContextManager[None]:
        """Add to ``counters`` the allocator's bytes before the block, and their peak in it."""

    def product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The matrix product (m, n) of ``a`` (m, k) and ``b`` (k, n), as it is computed here."""

    def precision(self) -> dict[str, str | bool | None]:
        """The settings that decide how products are rounded, by name."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether ``error`` says that the device's memory did not suffice."""

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
        """All bytes on ``target``, the same by counter, and the seconds that compiling took."""

    def flops(self, function: Callable[..., Tree], *arguments: Tree) -> float:
        """Floating-point operations of one call."""


class Tools(NamedTuple):
    """A framework's methods by name, those of other libraries among them, and its modules."""

    methods: Mapping[str, Method]
    many_vectors: ManyVectors
    models: Models
    device: Device


if TYPE_CHECKING:  # here mypy holds the twins to it
    from reproduce.in_jax import accounting as jax_accounting
    from reproduce.in_jax import device as jax_device
    from reproduce.in_jax import hvp as jax_hvp
    from reproduce.in_jax import many_vectors as jax_many_vectors
    from reproduce.in_jax import models as jax_models
    from reproduce.in_jax import peers as jax_peers
    from reproduce.in_jax import products as jax_products
    from reproduce.in_torch import accounting as torch_accounting
    from reproduce.in_torch import device as torch_device
    from reproduce.in_torch import hvp as torch_hvp
    from reproduce.in_torch import many_vectors as torch_many_vectors
    from reproduce.in_torch import models as torch_models
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
