"""A loss of the user's own in JAX: ``loss(params, batch)`` of those parameters that vary."""

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from reproduce.errors import UserError
from reproduce.in_jax.device import compile
from reproduce.in_jax.hvp import Tree
from reproduce.in_jax.many_vectors import LossOfBatch
from reproduce.plan import Mode

DIRECT = (
    "forward_over_reverse",
    "reverse_over_forward",
    "reverse_over_reverse",
    "checkpointed",
)
AT_A_POINT = ("linearized",)
AT_ONCE = DIRECT[:3]
MODE: Mode = "jit"
Parts = tuple[Callable[..., Any], Callable[..., Any]]
CAN_BE_REPAIRED = False
Program = tuple[Callable[..., Tree], dict[str, int], float]
PROGRAMS: MutableMapping[Callable[..., Tree], Program] = WeakKeyDictionary()


class Own:
    """A loss with the parameters that vary, by path, and all its other inputs.

    ``samples`` are the arrays of the user's batch; ``batch`` has the constant parameters, too.
    """

    # What PyTorch's twin has of a model, and no loss in JAX.
    contexts: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {}
    calls: set[str] = set()

    def __init__(
        self,
        loss: Callable[..., Any],
        params: Tree,
        batch: Tree,
        names: set[str],
        parts: Parts | None,
    ) -> None:
        self.users_loss, self.users_parts, self.given = loss, parts, (params, batch)
        self.leaves, self.structure = by_path(params)
        self.params = {name: leaf for name, leaf in self.leaves.items() if name in names}
        constants = {name: leaf for name, leaf in self.leaves.items() if name not in names}
        self.batch_leaves, self.batch_structure = by_path(batch)
        self.samples = _arrays({f"batch{name}": x for name, x in self.batch_leaves.items()})
        self.batch = self.samples | _arrays(constants)

    def loss(self, params: Tree, batch: Tree) -> jax.Array:
        """The loss, a scalar.

        Raises:
            UserError: if it is not a scalar.
        """
        return _scalar("loss(params, batch)", self._called(self.users_loss, params, batch))

    def logits(self, params: Tree, batch: Tree) -> jax.Array:
        """The logits, if the user's file has them.

        Raises:
            UserError: if they are no array of floating-point numbers.
        """
        assert self.users_parts is not None
        return _logits(self._called(self.users_parts[0], params, batch))

    def of_logits(self, logits: jax.Array, batch: Tree) -> jax.Array:
        """The loss of ``logits``, a scalar.

        Raises:
            UserError: if it is not a scalar.
        """
        assert self.users_parts is not None
        found = self.users_parts[1](logits, self.users_batch(batch))
        return _scalar("loss_of_logits(logits, batch)", found)

    def _called(self, function: Callable[..., Any], params: Tree, batch: Tree) -> Any:
        leaves = [batch.get(name, params.get(name, leaf)) for name, leaf in self.leaves.items()]
        return function(jax.tree.unflatten(self.structure, leaves), self.users_batch(batch))

    def users_batch(self, batch: Tree) -> Tree:
        """``batch`` as the user's functions take it."""
        leaves = [batch.get(f"batch{name}", leaf) for name, leaf in self.batch_leaves.items()]
        return jax.tree.unflatten(self.batch_structure, leaves)

    def value_and_gradient(self, params: Tree) -> tuple[float, Tree]:
        """f(params) and ∇f(params), as ``jax.grad`` computes it."""
        value, gradient = self._compiled(params, self.batch)
        return float(value), gradient

    @cached_property
    def _compiled(self) -> Callable[[Tree, Tree], tuple[jax.Array, Tree]]:
        return jax.jit(jax.value_and_grad(self.loss))

    def in_float64(self) -> "Own":
        """The same loss with all floating-point numbers in float64, where that is allowed."""
        params, batch = jax.tree.map(_double, self.given)
        return Own(self.users_loss, params, batch, set(self.params), self.users_parts)


def own(problem: Any, pattern: str | None, parts: Parts | None = None) -> tuple[Own, list[str]]:
    """The user's loss, of the parameters that ``pattern`` finds, and what was seen of it.

    Raises:
        UserError: if there is no such parameter, or no scalar loss of them.
    """
    loss, params, batch = problem
    names = _varying(by_path(params)[0], pattern)
    found = Own(loss, params, batch, names, parts)
    return found, _sizes(found)


def by_path(tree: Tree) -> tuple[dict[str, Any], Any]:
    """The leaves of ``tree`` by path, as ``['dense']['kernel']``, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}, structure


def _varying(leaves: dict[str, Any], pattern: str | None) -> set[str]:
    matching = [name for name in leaves if pattern is None or re.search(pattern, name)]
    if not matching:
        raise UserError(
            f"parameters = {pattern!r} matches none of the {len(leaves)} leaves of params; "
            f"their paths are like {', '.join(list(leaves)[:3])}"
        )
    names = {name for name in matching if _is_real(leaves[name])}
    if not names:
        raise UserError(
            f"none of the {len(matching)} leaves of params has floating-point numbers; "
            "return parameters that a gradient can be taken by"
        )
    return names


def _sizes(found: Own) -> list[str]:
    count = sum(np.size(value) for value in found.params.values())
    said = [f"{count:,} parameters in {len(found.params)} arrays vary."]
    if others := [name for name in found.leaves if name not in found.params]:
        said.append(f"{len(others)} further leaves of params are constants, such as {others[0]}.")
    half = {str(x.dtype) for x in found.params.values() if x.dtype.itemsize < 4}
    if half:
        said.append(f"Parameters are in {' and '.join(half)}: expect errors of that precision.")
    return said


def repaired_loss(loss: LossOfBatch) -> LossOfBatch:
    """``loss``, unchanged: there is no repair for JAX."""
    return loss


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Inside the block, new arrays are in float64 where no type is given."""
    with jax.enable_x64(True):
        yield


def from_numpy(leaves: list[np.ndarray], like: Tree) -> Tree:
    """``leaves`` as a tree of arrays like those of ``like``."""
    values = [
        jnp.asarray(leaf, value.dtype).reshape(value.shape)
        for value, leaf in zip(jax.tree.leaves(like), leaves, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def program(function: Callable[..., Tree], *arguments: Tree) -> Program:
    """``function`` compiled, once as long as it is in use; its bytes, and seconds of compiling."""
    if function not in PROGRAMS:
        PROGRAMS[function] = compile(function, MODE, *arguments)
    return PROGRAMS[function]


def needed_bytes(function: Callable[..., Tree], *arguments: Tree) -> int:
    """The bytes that a call needs, arguments included, according to XLA after compiling."""
    return sum(program(function, *arguments)[1].values())


def compiled(function: Callable[..., Tree], *arguments: Tree) -> Callable[..., Tree]:
    """``function`` compiled by XLA, for arguments like these."""
    return compile(function, MODE, *arguments)[0]


def _arrays(leaves: dict[str, Any]) -> dict[str, Any]:
    return {name: leaf for name, leaf in leaves.items() if hasattr(leaf, "dtype")}


def _is_real(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def _double(leaf: Any) -> Any:
    return jnp.asarray(leaf, "float64") if _is_real(leaf) else leaf


def _scalar(what: str, found: Any) -> jax.Array:
    is_scalar = hasattr(found, "shape") and found.shape in {(), (1,)}
    if not is_scalar or not _is_real(found):
        raise UserError(
            f"{what} was to give a scalar, and it gave {_named(found)}; "
            "have it return the mean or the sum, as jax.grad needs it"
        )
    return found.reshape(())


def _logits(found: Any) -> jax.Array:
    if not _is_real(found):
        raise UserError(
            f"logits(params, batch) was to give an array of numbers, and it gave {_named(found)}; "
            "have it return what loss_of_logits takes"
        )
    return found


def _named(found: Any) -> str:
    if hasattr(found, "shape"):
        return f"an array of shape {found.shape} and {found.dtype}"
    return type(found).__name__
