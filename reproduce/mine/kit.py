"""The modules of a framework that compute an HVP of the user's own loss."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, cast

from reproduce.measuring.framework import (
    Device,
    LossOfBatch,
    ManyVectors,
    Method,
    OfTheUser,
    Own,
    Tree,
)
from reproduce.plan import Framework


class Kit(NamedTuple):
    """What computes in one framework."""

    framework: Framework
    methods: Mapping[str, Method]
    many_vectors: ManyVectors
    device: Device
    own: OfTheUser

    def product(self, method: str, loss: LossOfBatch) -> Callable[[Tree, Tree, Tree], Tree]:
        """The HVP of ``method`` as a function of parameters, vector and batch."""
        if method in self.methods:
            hvp = self.methods[method]
            return lambda params, v, batch: hvp(lambda params: loss(params, batch), params, v)

        def at_point_and_after(params: Tree, v: Tree, batch: Tree) -> Tree:
            at_point, product = self.many_vectors.METHODS[method](loss, params, v, batch)
            return product(at_point(params, batch), v)

        return at_point_and_after

    def loss(self, found: Own, is_repaired: bool) -> LossOfBatch:
        """The user's loss, as it is or repaired."""
        return self.own.repaired_loss(found.loss) if is_repaired else found.loss


def load(framework: Framework) -> Kit:
    """The modules of ``framework``."""
    hvp, peers, many_vectors, device, own = (
        cast(Any, import_module(f"reproduce.in_{framework}.{name}"))
        for name in ("hvp", "peers", "many_vectors", "device", "own")
    )
    return Kit(framework, hvp.METHODS | peers.METHODS, many_vectors, device, own)
