"""A loss of the user's own in PyTorch: ``loss(model, batch)`` as a function of named parameters."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from reproduce.errors import UserError
from reproduce.in_torch import repair
from reproduce.in_torch.accounting import live_tensors
from reproduce.in_torch.device import compile
from reproduce.in_torch.hvp import Tree
from reproduce.in_torch.many_vectors import LossOfBatch, recorded_vjp
from reproduce.plan import Mode
from reproduce.problems.loss import LossByParts

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
HALF = (torch.float16, torch.bfloat16)
# Around a model, and the name of the model in it.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


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
    and buffers, too.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[..., Any],
        batch: Any,
        names: list[str],
        parts: Parts | None,
    ) -> None:
        self.model, self.whole, self.users_parts = model, Whole(model, loss), parts
        detached = {name: value.detach() for name, value in model.named_parameters()}
        self.params = {name: detached.pop(name) for name in names}
        self.constants = {name: detached[name] for name in sorted(detached)}
        self.buffers = dict(model.named_buffers())
        leaves, self.structure = tree_flatten(dict(batch) if _is_mapping(batch) else batch)
        self.leaves = dict(enumerate(leaves))
        self.samples = {
            str(place): leaf for place, leaf in self.leaves.items() if torch.is_tensor(leaf)
        }
        self.batch = self.samples | self.constants | self.buffers
        self.without_dropout = False
        self.calls: set[str] = set()

    def loss(self, params: Tree, batch: Tree) -> torch.Tensor:
        """The loss, a scalar; the model's own statistics do not change.

        Raises:
            UserError: if it is not a scalar.
        """
        return _scalar("loss(model, batch)", self._called(self.whole, params, batch))

    @property
    def parts(self) -> LossByParts | None:
        """The loss by its logits, without a penalty, if the user's file has them."""
        if self.users_parts is None:
            return None
        logits, of_logits = self.users_parts
        whole = Whole(self.model, logits)
        return LossByParts(
            lambda params, batch: _logits(self._called(whole, params, batch)),
            lambda z, batch: _scalar(
                "loss_of_logits(logits, batch)", of_logits(z, self.users_batch(batch))
            ),
            lambda params: torch.zeros(()),
        )

    def _called(self, whole: Whole, params: Tree, batch: Tree) -> Any:
        constants = {name: batch[name] for name in self.constants}
        buffers = {name: batch[name].clone() for name in self.buffers}
        values = {f"model.{name}": x for name, x in (constants | buffers | params).items()}
        with repair.without_dropout() if self.without_dropout else nullcontext():
            return functional_call(whole, values, (self.users_batch(batch),))

    def users_batch(self, batch: Tree) -> Any:
        """``batch`` as the user's functions take it."""
        leaves = [batch.get(str(place), leaf) for place, leaf in self.leaves.items()]
        return tree_unflatten(leaves, self.structure)

    def value_and_gradient(self, params: Tree) -> tuple[float, Tree]:
        """f(params) and ∇f(params), by autograd, as ``loss.backward()`` computes it."""
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        loss = self.loss(leaves, self.batch)
        gradients = recorded_vjp([loss], list(leaves.values()))
        return loss.item(), dict(zip(leaves, gradients, strict=True))

    def in_float64(self) -> "Own":
        """The same loss with all floating-point numbers in float64."""
        batch = [_double(leaf) for leaf in self.leaves.values()]
        model = copy.deepcopy(self.model).double()
        loss, names = self.whole.loss, list(self.params)
        found = Own(model, loss, tree_unflatten(batch, self.structure), names, self.users_parts)
        found.without_dropout, found.calls = self.without_dropout, self.calls
        return found


def own(problem: Any, pattern: str | None, parts: Parts | None = None) -> tuple[Own, list[str]]:
    """The user's loss, of the parameters that ``pattern`` finds, and what was seen of the model.

    Raises:
        UserError: if there is no such parameter, none that varies, or no scalar loss of them.
    """
    model, loss, batch = problem
    findings: list[str] = []
    while type(model).__name__ in WRAPPERS:
        findings.append(f"The model is in a {type(model).__name__}: what is in it was taken.")
        model = getattr(model, WRAPPERS[type(model).__name__])
    if any("FullyShardedDataParallel" in type(each).__name__ for each in model.modules()):
        raise UserError(
            "the model is sharded by FSDP, which PyTorch's transforms do not see through; "
            "return the model as it is before it is sharded"
        )
    checkpointed = [
        each for each in model.modules() if getattr(each, "gradient_checkpointing", False)
    ]
    for each in checkpointed:
        each.gradient_checkpointing = False
    if checkpointed:
        findings.append(
            "Checkpointing is on: it is switched off, which changes no value, since torch.func "
            "refuses it; call model.gradient_checkpointing_disable() for the code to paste."
        )
    half = {str(each.dtype) for each in model.parameters() if each.dtype in HALF}
    if half:
        findings.append(f"It is in {' and '.join(half)}; what follows is of a copy in float32.")
        model, batch = copy.deepcopy(model).float(), _float(batch)
    found = Own(model, loss, batch, _varying(model, pattern), parts)
    return found, findings + _sizes(model, found) + _seen(found)


def _varying(model: torch.nn.Module, pattern: str | None) -> list[str]:
    every = dict(model.named_parameters())
    matching = [name for name in every if pattern is None or re.search(pattern, name)]
    if not matching:
        raise UserError(
            f"parameters = {pattern!r} matches none of the model's {len(every)} parameters; "
            f"they are called like {', '.join(map(repr, list(every)[:3]))}"
        )
    names = [name for name in matching if every[name].requires_grad]
    if not names:
        raise UserError(
            f"none of the {len(matching)} parameters requires a gradient; "
            "call requires_grad_() for those that vary"
        )
    return names


def _sizes(model: torch.nn.Module, found: Own) -> list[str]:
    count = sum(value.numel() for value in found.params.values())
    said = [f"{count:,} parameters in {len(found.params)} tensors vary."]
    if found.constants:
        others = sum(value.numel() for value in found.constants.values())
        said.append(f"{others:,} in {len(found.constants)} tensors are constants.")
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if tied := len(every) - len(found.params) - len(found.constants):
        said.append(f"{tied} more name(s) stand for tied parameters: each counts once.")
    return said


def _seen(found: Own) -> list[str]:
    """Sentences on what one call of the loss and its gradient show; switches dropout off.

    Raises:
        UserError: if there is no gradient, or the loss is random.
    """
    said = []
    buffers = {name: value.clone() for name, value in found.buffers.items()}
    with Calls() as calls:
        found.whole(tree_unflatten(list(found.leaves.values()), found.structure))
    changed = [name for name, value in buffers.items() if not value.equal(found.buffers[name])]
    for name in changed:
        found.buffers[name].data.copy_(buffers[name])
    if changed:
        said.append(f"Each call changes {len(changed)} buffers (statistics): HVPs use copies.")
    if calls.dropped:
        found.without_dropout = True
        said.append(
            f"Dropout is on ({calls.dropped} calls): the HVPs are of the loss without it, as "
            "model.eval() has it."
        )
    found.calls = set(calls.suspects)
    if calls.suspects:
        names = ", ".join(f"{name} ({count})" for name, count in calls.suspects.items())
        said.append(f"It calls what PyTorch may differentiate wrongly or not at all: {names}.")
    if calls.in_place:
        said.append(
            f"It changes tensors in place ({calls.in_place} calls): a method for which PyTorch "
            "refuses that is refused below."
        )
    _, gradient = found.value_and_gradient(found.params)
    unused = [name for name, value in gradient.items() if not value.any()]
    if len(unused) == len(gradient):
        raise UserError(
            "the gradient of the loss is zero in every parameter that varies; look for a detach(), "
            "a torch.no_grad() or an argmax between them and the loss"
        )
    if unused:
        said.append(f"No gradient comes to {len(unused)} of them, such as {unused[0]!r}.")
    if not _is_repeated(found):
        raise UserError(
            "the loss is random: two calls at the same parameters gave two values; "
            "put the model into eval mode, or seed what is random inside the loss"
        )
    return said


def _is_repeated(found: Own) -> bool:
    with torch.no_grad():
        first, second = (found.loss(found.params, found.batch) for _ in range(2))
    return bool(torch.isclose(first, second, rtol=1e-5))


class Calls(TorchFunctionMode):
    """Counts the calls of what `repair` replaces, attention, dropout, and changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.suspects: Counter[str] = Counter()
        self.dropped = 0
        self.in_place = 0

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in repair.EQUAL or function is functional.scaled_dot_product_attention:
            self.suspects[function.__name__] += 1
            self.dropped += bool(kwargs.get("dropout_p"))
        if function in repair.DROPOUTS:
            given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            self.dropped += bool(given.get("p", 0.5) and given.get("training", True))
        name = getattr(function, "__name__", "")
        is_in_place = name.endswith("_") and not name.endswith("__")
        self.in_place += is_in_place or bool(kwargs.get("inplace"))
        return function(*args, **kwargs)


def repaired_loss(loss: LossOfBatch) -> LossOfBatch:
    """``loss`` with equal functions instead of those that PyTorch differentiates wrongly."""

    def with_equal_functions(*arguments: Any) -> torch.Tensor:
        with repair.repaired():
            return loss(*arguments)

    return with_equal_functions


@contextmanager
def float64_allowed() -> Iterator[None]:
    """A context that does nothing: PyTorch always allows float64."""
    yield


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


def _double(leaf: Any) -> Any:
    return leaf.double() if torch.is_tensor(leaf) and leaf.is_floating_point() else leaf


def _float(batch: Any) -> Any:
    leaves, structure = tree_flatten(dict(batch) if _is_mapping(batch) else batch)
    half = [torch.is_tensor(leaf) and leaf.dtype in HALF for leaf in leaves]
    return tree_unflatten(
        [leaf.float() if is_half else leaf for leaf, is_half in zip(leaves, half, strict=True)],
        structure,
    )


def _is_mapping(batch: Any) -> bool:
    return isinstance(batch, Mapping)


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
