"""A loss of the user's own in PyTorch: ``loss(model, batch)`` as a function of named parameters."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from reproduce.errors import UserError
from reproduce.in_torch import repair, users_model
from reproduce.in_torch.accounting import live_tensors
from reproduce.in_torch.device import compile
from reproduce.in_torch.hvp import Tree
from reproduce.in_torch.many_vectors import LossOfBatch, recorded_vjp
from reproduce.plan import Mode

DIRECT = (
    "forward_over_reverse",
    "reverse_over_forward",
    "reverse_over_reverse",
    "autograd_grad",
)
AT_A_POINT = ("graph_kept", "linearized")
# Those that are defined for several vectors at once: the transforms.
AT_ONCE = DIRECT[:3]
MODE: Mode = "eager"
CAN_BE_REPAIRED = True
Parts = tuple[Callable[..., Any], Callable[..., Any]]
Contexts = Mapping[str, Callable[[], AbstractContextManager[Any]]]
WITHOUT_DROPOUT: Contexts = {"WithoutDropout()": repair.WithoutDropout}
UNCOMPILED: Contexts = {
    'torch.compiler.set_stance("force_eager")': lambda: torch.compiler.set_stance("force_eager")
}
FLOATING = (torch.float16, torch.bfloat16, torch.float32)


class Whole(torch.nn.Module):
    """``loss(model, batch)`` as a module, so that all parameters can be passed as arguments."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Any:
        """The loss of ``batch``."""
        return self.loss(self.model, batch)


class Own:
    """A loss with its parameters, by name, and all its other inputs.

    ``samples`` are the tensors of the user's batch, by number; ``batch`` has the model's constants
    and buffers, too. The user's functions are called in ``contexts``, named by their code.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[..., Any],
        batch: Any,
        names: list[str],
        parts: Parts | None,
    ) -> None:
        self.model, self.users_loss, self.users_parts = model, loss, parts
        detached = {name: value.detach() for name, value in model.named_parameters()}
        self.params = {name: detached.pop(name) for name in names}
        self.constants = {name: detached[name] for name in sorted(detached)}
        self.buffers = dict(model.named_buffers())
        leaves, self.rebuilt = users_model.flattened(batch)
        self.leaves = {str(place): leaf for place, leaf in enumerate(leaves)}
        self.samples = {place: leaf for place, leaf in self.leaves.items() if torch.is_tensor(leaf)}
        self.batch = self.samples | self.constants | self.buffers
        self.contexts: Contexts = {}
        self.calls: set[str] = set()

    def loss(self, params: Tree, batch: Tree) -> torch.Tensor:
        """The loss, a scalar; the model's own statistics do not change.

        Raises:
            UserError: if it is not a scalar.
        """
        return _scalar("loss(model, batch)", self._called(self.users_loss, params, batch))

    def logits(self, params: Tree, batch: Tree) -> torch.Tensor:
        """The logits, if the user's file has them; the model's own statistics do not change.

        Raises:
            UserError: if they are no tensor of floating-point numbers.
        """
        assert self.users_parts is not None
        return _logits(self._called(self.users_parts[0], params, batch))

    def of_logits(self, logits: torch.Tensor, batch: Tree) -> torch.Tensor:
        """The loss of ``logits``, a scalar.

        Raises:
            UserError: if it is not a scalar.
        """
        assert self.users_parts is not None
        found = self.users_parts[1](logits, self.users_batch(batch))
        return _scalar("loss_of_logits(logits, batch)", found)

    def _called(self, function: Callable[..., Any], params: Tree, batch: Tree) -> Any:
        constants = {name: batch[name] for name in self.constants}
        buffers = {name: batch[name].clone() for name in self.buffers}
        values = {f"model.{name}": x for name, x in (constants | buffers | params).items()}
        whole = Whole(self.model, function)
        with self.inside():
            return functional_call(whole, values, (self.users_batch(batch),))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """All ``contexts``, entered."""
        with ExitStack() as stack:
            for context in self.contexts.values():
                stack.enter_context(context())
            yield

    def users_batch(self, batch: Tree) -> Any:
        """``batch`` as the user's functions take it."""
        return self.rebuilt([batch.get(place, leaf) for place, leaf in self.leaves.items()])

    def value_and_gradient(self, params: Tree) -> tuple[float, Tree]:
        """f(params) and ∇f(params), by autograd, as ``loss.backward()`` computes it."""
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        loss = self.loss(leaves, self.batch)
        gradients = recorded_vjp([loss], list(leaves.values()))
        return loss.item(), dict(zip(leaves, gradients, strict=True))

    def in_float64(self) -> "Own":
        """The same loss with all floating-point numbers in float64."""
        batch = users_model.converted(self.users_batch(self.batch), torch.float64, FLOATING)
        model = copy.deepcopy(self.model).double()
        found = Own(model, self.users_loss, batch, list(self.params), self.users_parts)
        found.contexts, found.calls = self.contexts, self.calls
        return found


def own(problem: Any, pattern: str | None, parts: Parts | None = None) -> tuple[Own, list[str]]:
    """The user's loss, of the parameters that ``pattern`` finds, and what was seen of the model.

    Raises:
        UserError: if there is no such parameter, none that varies, or no scalar loss of them.
    """
    model, loss, batch = problem
    model, batch, said = users_model.usable(model, batch)
    names = users_model.varying(model, pattern)
    found = Own(model, loss, batch, names, parts)
    if users_model.is_compiled(model, loss):
        found.contexts = UNCOMPILED
        torch._dynamo.config.error_on_nested_fx_trace = False  # but record what is in it
        said.append(
            "torch.compile has compiled some of it, which PyTorch then differentiates only once: "
            "HVPs call it as it was before."
        )
    with found.inside():
        calls, seen = users_model.called(lambda: loss(model, batch), found.buffers)
    if calls.dropped:
        found.contexts = {**found.contexts, **WITHOUT_DROPOUT}
    found.calls = {*calls.suspects}
    return found, [*said, *users_model.sizes(model, names), *seen]


def repaired_loss(loss: LossOfBatch) -> LossOfBatch:
    """``loss`` with equal functions instead of those that PyTorch differentiates wrongly."""

    def with_equal_functions(*arguments: Any) -> torch.Tensor:
        with repair.repaired():
            return loss(*arguments)

    return with_equal_functions


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Inside the block, new tensors are in float64 where no type is given."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def from_numpy(leaves: list[np.ndarray], like: Tree) -> Tree:
    """``leaves`` as a dictionary of tensors like those of ``like``."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(leaf)).to(value).reshape(value.shape)
        for (name, value), leaf in zip(like.items(), leaves, strict=True)
    }


def program(
    function: Callable[..., Tree], *arguments: Tree
) -> tuple[Callable[..., Tree], dict[str, int], float]:
    """``function`` as it is: there are no bytes to tell, and no seconds of compiling."""
    return compile(function, MODE, *arguments)


def needed_bytes(function: Callable[..., Tree], *arguments: Tree) -> int:
    """The bytes that a call needs, arguments included, found by a call without arithmetic."""
    live = live_tensors(function, *arguments)
    return live.argument_bytes + live.peak_bytes


def compiled(function: Callable[..., Tree], *arguments: Tree) -> Callable[..., Tree]:
    """``function`` by ``torch.compile``, for arguments like these.

    What it calls is recorded first, with the repair if it has one: the compiler sees PyTorch's
    operations alone, and nothing of the model's code; nor autograd's checks, which it refuses.
    """
    recorded = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*arguments)
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    return compile(recorded, "compile", *arguments)[0]


def _scalar(what: str, found: Any) -> torch.Tensor:
    if not torch.is_tensor(found) or found.numel() != 1 or not found.is_floating_point():
        raise UserError(
            f"{what} was to give a scalar tensor, and it gave {_named(found)}; "
            "have it return the mean or the sum, as 'loss.backward()' needs it"
        )
    return found.reshape(())


def _logits(found: Any) -> torch.Tensor:
    if not torch.is_tensor(found) or not found.is_floating_point():
        raise UserError(
            f"logits(model, batch) was to give a tensor of numbers, and it gave {_named(found)}; "
            "have it return what loss_of_logits takes"
        )
    return found


def _named(found: Any) -> str:
    if torch.is_tensor(found):
        return f"a tensor of shape {tuple(found.shape)} and {found.dtype}"
    return f"{type(found).__name__}"
