"""A loss in parts, for both frameworks: the logits, the loss of the logits, and a penalty."""

from collections.abc import Callable
from typing import Any

Tree = Any
Scalar = Any
Logits = Any


class LossOfLogits:
    """f(params) = ℓ(z(params)) + r(params) on one batch.

    Its ``logits`` z are a function of the parameters, a tree with d scalars, and give an array
    (…, classes); ``of_logits`` ℓ is a function of that array, and ``penalty`` r of the parameters.
    Without a penalty r is 0.
    """

    def __init__(
        self,
        logits: Callable[[Tree], Logits],
        of_logits: Callable[[Logits], Scalar],
        penalty: Callable[[Tree], Scalar] | None = None,
    ) -> None:
        self.logits, self.of_logits, self.penalty = logits, of_logits, penalty

    def __call__(self, params: Tree) -> Scalar:
        """f(params), a scalar."""
        loss = self.of_logits(self.logits(params))
        return loss + self.penalty(params) if self.penalty else loss


class LossByParts:
    """The same for any batch: the logits and their loss depend on it, the penalty does not."""

    def __init__(
        self,
        logits: Callable[[Tree, Tree], Logits],
        of_logits: Callable[[Logits, Tree], Scalar],
        penalty: Callable[[Tree], Scalar] | None = None,
    ) -> None:
        self.logits, self.of_logits, self.penalty = logits, of_logits, penalty

    def __call__(self, params: Tree, batch: Tree) -> Scalar:
        """The loss of ``params`` on ``batch``, a scalar."""
        return self.at(batch)(params)

    def at(self, batch: Tree) -> LossOfLogits:
        """The loss on ``batch``, as a function of the parameters only."""
        return LossOfLogits(
            lambda params: self.logits(params, batch),
            lambda logits: self.of_logits(logits, batch),
            self.penalty,
        )
