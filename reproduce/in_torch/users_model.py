"""A model of the user's own in PyTorch: what it is in, which parameters vary, what a call shows."""

import copy
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from reproduce.errors import UserError
from reproduce.in_torch import repair

HALF = (torch.float16, torch.bfloat16)
# Around a model, and the name of the model in it.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
SUSPECTS = {
    *repair.EQUAL,
    functional.scaled_dot_product_attention,
    functional.multi_head_attention_forward,
}


def usable(model: torch.nn.Module, batch: Any) -> tuple[torch.nn.Module, Any, list[str]]:
    """The model out of its wrappers, in float32, its batch, and sentences on what was done.

    Raises:
        UserError: if the model is sharded.
    """
    said: list[str] = []
    while type(model).__name__ in WRAPPERS:
        wrapper, inside = type(model).__name__, WRAPPERS[type(model).__name__]
        said.append(
            f"The model is in a {wrapper}: what is in it was taken; give the code to paste "
            f"model.{inside}."
        )
        model = getattr(model, inside)
    if any("FullyShardedDataParallel" in type(each).__name__ for each in model.modules()):
        raise UserError(
            "the model is sharded by FSDP, which PyTorch's transforms do not see through; "
            "return the model as it is before it is sharded"
        )
    checkpointed = [
        each for each in model.modules() if getattr(each, "gradient_checkpointing", False)
    ]
    for each in checkpointed:
        each.gradient_checkpointing = False  # type: ignore[assignment]  # no submodule
    if checkpointed:
        said.append(
            "Checkpointing is on: it is switched off, which changes no value, since torch.func "
            "refuses it; call model.gradient_checkpointing_disable() for the code to paste."
        )
    half = {str(each.dtype) for each in model.parameters() if each.dtype in HALF}
    if half:
        said.append(
            f"It is in {' and '.join(sorted(half))}; what follows is of a copy in float32: give "
            "the code to paste model.float(), and the batch in float32."
        )
        model, batch = copy.deepcopy(model).float(), converted(batch, torch.float32, HALF)
    return model, batch, said


def is_compiled(model: torch.nn.Module, loss: Callable[..., Any]) -> bool:
    """Whether ``torch.compile`` has compiled ``loss``, or a part of ``model``."""
    return hasattr(loss, "_torchdynamo_orig_callable") or any(
        type(each).__name__ == "OptimizedModule" or each._compiled_call_impl is not None
        for each in model.modules()
    )


def converted(batch: Any, dtype: torch.dtype, those: Sequence[torch.dtype]) -> Any:
    """``batch`` with the tensors of the types ``those`` in ``dtype``."""
    leaves, rebuilt = flattened(batch)
    return rebuilt(
        tree_map_only(torch.Tensor, lambda x: x.to(dtype) if x.dtype in those else x, leaves)
    )


def flattened(batch: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of ``batch``, and the function that makes one like it of such leaves."""
    leaves, structure = tree_flatten(batch)
    if isinstance(batch, Mapping) and structure.is_leaf():  # such as transformers' BatchEncoding
        leaves, structure = tree_flatten(dict(batch))
        kind: Any = type(batch)
        return leaves, lambda leaves: kind(tree_unflatten(leaves, structure))
    return leaves, lambda leaves: tree_unflatten(leaves, structure)


def varying(model: torch.nn.Module, pattern: str | None) -> list[str]:
    """The names of the parameters that require a gradient and match ``pattern`` by any name.

    Raises:
        UserError: if there is none, or one is complex.
    """
    every = dict(model.named_parameters())
    first = {value: name for name, value in every.items()}
    tied = list(model.named_parameters(remove_duplicate=False))
    matching = dict.fromkeys(
        first[value] for name, value in tied if pattern is None or re.search(pattern, name)
    )
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
    for name in names:
        if every[name].is_complex():
            raise UserError(
                f"parameter {name!r} is complex, and an HVP is of real numbers; keep it in a real "
                "parameter, and have the model call torch.view_as_complex, or leave it out by "
                "parameters"
            )
    return names


def sizes(model: torch.nn.Module, names: list[str]) -> list[str]:
    """Sentences on how many numbers vary, in the parameters ``names``, are constant or are tied."""
    every = {name: value.numel() for name, value in model.named_parameters()}
    count = sum(every[name] for name in names)
    said = [f"{count:,} parameters in {len(names)} tensors vary."]
    if constants := len(every) - len(names):
        others = sum(every.values()) - count
        said.append(f"{others:,} in {constants} tensors are constants.")
    if tied := len(list(model.named_parameters(remove_duplicate=False))) - len(every):
        said.append(f"{tied} more name(s) stand for tied parameters: each counts once.")
    return said


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
        if function in SUSPECTS:
            self.suspects[function.__name__] += 1
        self.dropped += repair.drops(function, args, kwargs)
        self.in_place += _is_in_place(getattr(function, "__name__", ""), kwargs)
        return function(*args, **kwargs)


def _is_in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    if name in {"__setitem__", "requires_grad_"}:
        return name == "__setitem__"
    return (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))


def called(call: Callable[[], Any], buffers: Mapping[str, torch.Tensor]) -> tuple[Calls, list[str]]:
    """The calls of PyTorch's functions in ``call``, and sentences; ``buffers`` stay as they are."""
    before = {name: value.clone() for name, value in buffers.items()}
    with Calls() as calls:
        call()
    changed = [name for name, value in before.items() if not value.equal(buffers[name])]
    for name in changed:
        buffers[name].data.copy_(before[name])
    said = []
    if changed:
        said.append(f"Each call changes {len(changed)} buffers (statistics): HVPs use copies.")
    if calls.dropped:
        said.append(
            f"Dropout is on ({calls.dropped} calls): the HVPs are of the loss without it, as "
            "model.eval() has it."
        )
    if calls.suspects:
        names = ", ".join(f"{name} ({count})" for name, count in calls.suspects.items())
        said.append(f"It calls what PyTorch may differentiate wrongly or not at all: {names}.")
    if calls.in_place:
        said.append(
            f"It changes tensors in place ({calls.in_place} calls): a method for which PyTorch "
            "refuses that is refused below."
        )
    return calls, said
