"""The modules of a framework that compute a product of the user's own loss."""

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
from reproduce.mine.found import Product
from reproduce.plan import Framework
from reproduce.problems.loss import LossByParts

Function = Callable[[Tree, Tree, Tree], Tree]


class Kit(NamedTuple):
    """The modules that compute in one framework."""

    framework: Framework
    methods: Mapping[str, Method]
    many_vectors: ManyVectors
    device: Device
    own: OfTheUser

    def product(self, product: Product, found: Own, batch: Tree = None) -> Function:
        """The function of parameters, vector and batch that computes ``product``.

        The batch is like the user's, or like ``batch`` if it is given.
        """
        method, loss = product.method, self.loss(product, found)
        if method in self.methods:
            return of_batch(self.methods[method], loss)
        like, params = batch or found.batch, found.params
        at_point, after = self.many_vectors.METHODS[method](loss, params, params, like)
        return lambda params, v, batch: after(at_point(params, batch), v)

    def program(self, function: Callable[..., Tree], *arguments: Tree) -> Callable[..., Tree]:
        """``function`` as the framework computes it, for arguments like these."""
        return self.device.compile(function, self.own.MODE, *arguments)[0]

    def loss(self, product: Product, found: Own) -> LossOfBatch:
        """The user's loss, in parts for a Gauss-Newton product; repaired if ``product`` is."""
        repair = self.own.repaired_loss if product.is_repaired else lambda loss: loss
        if product.is_hvp:
            return repair(found.loss)
        return LossByParts(repair(found.logits), repair(found.of_logits))


def load(framework: Framework) -> Kit:
    """The modules of ``framework``."""
    hvp, peers, products, many_vectors, device, own = (
        cast(Any, import_module(f"reproduce.in_{framework}.{name}"))
        for name in ("hvp", "peers", "products", "many_vectors", "device", "own")
    )
    methods = hvp.METHODS | peers.METHODS | products.METHODS
    return Kit(framework, methods, many_vectors, device, own)


def of_batch(method: Method, loss: LossOfBatch) -> Function:
    """The function of parameters, vector and batch that computes ``method`` of ``loss``."""

    def computed(params: Tree, v: Tree, batch: Tree) -> Tree:
        if isinstance(loss, LossByParts):
            return method(loss.at(batch), params, v)
        return method(lambda params: loss(params, batch), params, v)

    return computed
