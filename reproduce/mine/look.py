"""What a call of the user's loss and its gradient show, in either framework."""

import math
from collections.abc import Callable

import numpy as np

from reproduce.errors import UserError
from reproduce.measuring.framework import Own, Tree
from reproduce.mine.kit import Kit
from reproduce.problems.loss import LossByParts

# Relative differences at most: of two calls, and of the loss from that of its logits.
REPEATED, SAME_LOSS = 1e-5, 1e-3


def look(kit: Kit, found: Own) -> list[str]:
    """Sentences on the gradient, of a loss that HVPs can be taken of.

    Raises:
        UserError: if the loss is random, is not that of its logits, or has no gradient.
    """
    value = _value(kit, found, found.loss)
    if not math.isfinite(value):
        raise UserError(
            f"the loss was to be a finite number, and it is {value}; have problem() return "
            "parameters and a batch at which it is finite"
        )
    again = _value(kit, found, found.loss)
    if not math.isclose(value, again, rel_tol=REPEATED):
        raise UserError(
            f"the loss is random, or it changes what it is given: two calls at the same parameters "
            f"gave {value:.6g} and {again:.6g}; draw what is random once, in problem(), and return "
            "it in the batch, or put the model into eval mode"
        )
    if found.users_parts:
        _check_parts(value, _value(kit, found, LossByParts(found.logits, found.of_logits)))
    return _of_gradient(kit, found)


def _value(kit: Kit, found: Own, loss: Callable[[Tree, Tree], Tree]) -> float:
    def anew(params: Tree, batch: Tree) -> Tree:  # which JAX traces again, as each HVP will be
        return loss(params, batch)

    arguments = found.params, found.batch
    (value,) = kit.device.to_numpy({"loss": kit.program(anew, *arguments)(*arguments)})
    return float(value)


def _check_parts(whole: float, of_logits: float) -> None:
    if not math.isclose(whole, of_logits, rel_tol=SAME_LOSS):
        raise UserError(
            f"loss_of_logits(logits, batch) was to give all of the loss, {whole:.6g}, and it gave "
            f"{of_logits:.6g}; have loss return that of the logits, without a penalty"
        )


def _of_gradient(kit: Kit, found: Own) -> list[str]:
    gradient = {
        name: kit.device.to_numpy({name: leaf})[0]
        for name, leaf in found.value_and_gradient(found.params)[1].items()
    }
    for name, leaf in gradient.items():
        if not np.isfinite(leaf).all():
            raise UserError(
                f"the gradient was to be finite, and it is not in {name}; look for a square root, "
                "a logarithm, a norm or a division at zero"
            )
    unused = [name for name, leaf in gradient.items() if not leaf.any()]
    if len(unused) == len(gradient):
        raise UserError(
            "the gradient of the loss is zero in every parameter that varies; look for a detach(), "
            "a no_grad(), a stop_gradient or an argmax between them and the loss, or for a loss "
            "that uses another model than the one that it is given"
        )
    if not unused:
        return []
    return [f"The gradient is zero in {len(unused)} of these {len(gradient)}, such as {unused[0]}."]
