"""Bytes and operations that a computation in PyTorch needs on a GPU that is not there.

It runs on fake tensors, which have a shape and a lifetime but no numbers. Every storage
counts once, however many views it has, from its allocation until it is freed.
"""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from reproduce.in_torch.caching_allocator import CachingAllocator
from reproduce.in_torch.hvp import Tree
from reproduce.machine.target import Target
from reproduce.plan import Mode


def memory(
    function: Callable[..., Tree], mode: Mode, target: Target, cache: Path, *arguments: Tree
) -> tuple[int, dict[str, int], float]:
    """The bytes that ``function`` needs, the same by counter, and 0 seconds of compiling.

    ``live_peak_bytes`` is the peak of the live bytes beyond the arguments'
    ``live_argument_bytes``, both rounded as the allocator does.
    ``simulated_reserved_bytes`` is the rise of the allocator's reserve. If the parameters
    require gradients, autograd records the whole HVP in addition to the transforms;
    ``unrecorded_live_peak_bytes`` is the peak without this record. Nothing depends on ``mode`` or
    ``target``, and there is no program to keep in ``cache``.
    """
    live = live_tensors(function, *arguments)
    found = {
        "live_argument_bytes": live.argument_bytes,
        "live_peak_bytes": live.peak_bytes,
        "simulated_reserved_bytes": live.reserved_bytes,
    }
    if any(leaf.requires_grad for leaf in tree_leaves(arguments)):
        unrecorded = tree_map_only(torch.Tensor, torch.Tensor.detach, arguments)
        found["unrecorded_live_peak_bytes"] = live_tensors(function, *unrecorded).peak_bytes
    return live.argument_bytes + live.peak_bytes, found, 0.0


def live_tensors(function: Callable[..., Tree], *arguments: Tree) -> "LiveTensors":
    """The live bytes during a call of ``function`` without arithmetic."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fake.cache_enabled = False  # the cache may return an ordinary tensor for a symbolic zero
    arguments = tree_map_only(torch.Tensor, fake.from_tensor, arguments)
    live = LiveTensors(arguments)
    with fake, live:
        result = function(*arguments)
    del result
    return live


def flops(function: Callable[..., Tree], *arguments: Tree) -> float:
    """The floating-point operations of ``function``: two per multiplication in its products.

    Source: PyTorch's FlopCounterMode, which counts products and convolutions, and no elementwise
    operations.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    arguments = tree_map_only(torch.Tensor, fake.from_tensor, arguments)
    with fake, FlopCounterMode(display=False) as counter:
        function(*arguments)
    return float(counter.get_total_flops())


def _has_memory(tensor: torch.Tensor) -> bool:
    # Symbolic zeros have a shape and no memory on any device, and compute on "meta".
    return tensor.device.type != "meta" and not torch._is_zerotensor(tensor)


class LiveTensors(TorchDispatchMode):
    """Follows every operation and allocates and frees its tensors in a simulated allocator."""

    def __init__(self, arguments: tuple[Tree, ...]) -> None:
        """Allocates ``arguments``, which stay alive."""
        super().__init__()
        self.allocator = CachingAllocator()
        self.storages: dict[int, Any] = {}
        # Kept in a variable, since a storage's id can be reused once the storage is gone.
        self.of_arguments = [leaf.untyped_storage() for leaf in tree_leaves(arguments)]
        for storage in self.of_arguments:
            self._alive(storage)
        self.argument_bytes = self.allocator.allocated_bytes
        self.reserved_for_arguments_bytes = self.allocator.reserved_bytes

    @property
    def peak_bytes(self) -> int:
        """The peak of the allocated bytes beyond the arguments."""
        return self.allocator.peak_allocated_bytes - self.argument_bytes

    @property
    def reserved_bytes(self) -> int:
        """The rise of the reserve beyond that of the arguments."""
        return self.allocator.peak_reserved_bytes - self.reserved_for_arguments_bytes

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and _has_memory(leaf):
                self._alive(leaf.untyped_storage())
        return result

    def _alive(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self.storages or not storage.nbytes():
            return
        block = self.allocator.allocate(storage.nbytes())

        def dead(_: weakref.ref[torch.UntypedStorage]) -> None:
            self.allocator.free(block)
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, dead)
