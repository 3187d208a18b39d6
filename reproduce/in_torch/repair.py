"""Equal functions for those that PyTorch differentiates wrongly or not at all.

Inside ``repaired()``, the functions in ``EQUAL`` replace PyTorch's, and attention is not fused,
whichever model calls them; the model itself does not change. Layer normalisation, and
batch and instance normalisation in training, have forward modes that cannot be differentiated
again. Each is replaced by a group normalisation, whose derivatives are right. Source:
`docs/operators.md`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Tensor = torch.Tensor


@contextmanager
def repaired() -> Iterator[None]:
    """Inside the block, equal functions replace those that make HVPs in PyTorch wrong or fail."""
    with sdpa_kernel(SDPBackend.MATH), EqualFunctions():
        yield


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``x`` of shape (…, *normalized_shape), normalised over its last axes."""
    rows = x.reshape(-1, math.prod(normalized_shape))
    scale, shift = (None if each is None else each.flatten() for each in (weight, bias))
    return functional.group_norm(rows, 1, scale, shift, eps).view_as(x)


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``x`` of shape (n, channels, …), normalised over all axes but the second.

    In training it does not update the running statistics.
    """
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    by_channel = x.transpose(0, 1)
    one_sample = by_channel.reshape(1, x.shape[1], -1)
    normalised = functional.group_norm(one_sample, x.shape[1], weight, bias, eps)
    return normalised.reshape(by_channel.shape).transpose(0, 1)


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``x`` of shape (n, channels, …), each channel of a sample normalised by itself.

    It does not update running statistics.
    """
    if not use_input_stats:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    return functional.group_norm(x, x.shape[1], weight, bias, eps)


def mse_loss(x: Tensor, target: Tensor, *_: Any, **options: Any) -> Tensor:
    """The squared difference, with the given ``reduction``; PyTorch's has no second JVP."""
    square = (x - target) ** 2
    reduction = options.get("reduction", "mean")
    return square if reduction == "none" else getattr(square, reduction)()


def huber_loss(
    x: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: None = None
) -> Tensor:
    """Squared up to ``delta`` and linear beyond; PyTorch's gradient has no JVP."""
    off = (x - target).abs()
    loss = torch.where(off <= delta, off**2 / 2, delta * (off - delta / 2))
    return loss if reduction == "none" else getattr(loss, reduction)()


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """``x / 6 + 1 / 2``, cut off at 0 and 1; PyTorch's gradient has no derivative."""
    return functional.relu6(x + 3) / 6


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """One half of ``x`` times the sigmoid of the other; PyTorch's JVP has no derivative."""
    half, gate = x.chunk(2, dim)
    return half * torch.sigmoid(gate)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g * v / ‖v‖``, the norm over all axes but ``dim``; PyTorch's second VJP is wrong."""
    axes = [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))


EQUAL: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.layer_norm: layer_norm,
    functional.batch_norm: batch_norm,
    functional.instance_norm: instance_norm,
    functional.mse_loss: mse_loss,
    functional.huber_loss: huber_loss,
    functional.hardsigmoid: hardsigmoid,
    functional.glu: glu,
    torch._weight_norm: weight_norm,
}
DROPOUTS = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
)
RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
# With dropout inside, whose probability is their one floating-point number without a name.
DROPPING = (
    functional.scaled_dot_product_attention,
    functional.multi_head_attention_forward,
    *RECURRENT,
)


class EqualFunctions(TorchFunctionMode):
    """Inside the block, the functions in ``EQUAL`` are called instead of PyTorch's."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return EQUAL.get(function, function)(*args, **(kwargs or {}))


class WithoutDropout(TorchFunctionMode):
    """Inside the block, dropout is off, also that inside attention and recurrent layers."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if function in DROPPING:
            args = [0.0 if isinstance(each, float) else each for each in args]
            kwargs = kwargs | ({"dropout_p": 0.0} if "dropout_p" in kwargs else {})
        return function(*args, **kwargs)


def drops(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of ``function`` drops values."""
    numbers = [(p, after) for p, after in pairwise((*args, None)) if isinstance(p, float)]
    if function in DROPOUTS:
        given = dict(zip(("input", "p", "training"), args, strict=False)) | {**kwargs}
        return bool(given.get("p", 0.5) and given.get("training", True))
    if function in RECURRENT:
        return any(p and is_training for p, is_training in numbers)
    if function in DROPPING:
        p = numbers[0][0] if numbers else kwargs.get("dropout_p")
        return bool(p and kwargs.get("training", True))
    return False
