"""Operators of PyTorch in float64, to find out through which of them an HVP is right.

Each is a function of one tensor w that is given by its shape; other tensors are constants.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from reproduce.in_torch.hvp import METHODS as OF_ARTICLE
from reproduce.in_torch.hvp import Loss, Tree
from reproduce.in_torch.peers import autograd_grad
from reproduce.plan import HVPS

METHODS: Mapping[str, Callable[..., Any]] = {
    **{name: OF_ARTICLE[name] for name in HVPS},
    "autograd_grad": autograd_grad,
}
STEP, LIMIT = 1e-5, 1e-4


class Operator(NamedTuple):
    """A function of w, and the shape of w."""

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


ROWS, IMAGES, SEQUENCE = _normal(3, 8), _normal(2, 4, 6, 6), _normal(2, 5, 8)
LABELS, TOKENS = torch.tensor([1, 5, 2]), torch.arange(10).reshape(2, 5)
HEADS = _normal(3, 2, 2, 5, 4)
ONES = torch.ones(3, 8).double()


def of_rows(function: Callable[[Tensor], Tensor]) -> Operator:
    """``function`` of rows (3, 8) that are linear in w (8, 8)."""
    return Operator(lambda w: function(ROWS @ w), (8, 8))


def of_images(function: Callable[[Tensor], Tensor]) -> Operator:
    """``function`` of images (2, 4, 6, 6) that are a convolution with w."""
    return Operator(lambda w: function(F.conv2d(IMAGES, w, padding=1)), (4, 4, 3, 3))


def of_heads(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Operator:
    """``function`` of queries, keys and values, each (2, 2, 5, 4), that are scaled by w."""
    return Operator(lambda w: function(*(HEADS * w)), (3, 2, 2, 5, 4))


def _plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415 - PyTorch 2.1 has none

    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _multi_head_attention(w: Tensor) -> Tensor:
    x = SEQUENCE.transpose(0, 1)
    into, no_bias_nor_dropout = torch.cat([w, w, w]), (None, None, None, False, 0.0)
    return F.multi_head_attention_forward(
        x, x, x, 8, 2, into, *no_bias_nor_dropout, w, None, need_weights=False
    )[0]


def _recurrent(name: str, gates: int) -> Operator:
    """An LSTM or a GRU of ``gates``, whose weights are both halves of w."""

    def function(w: Tensor) -> Tensor:
        start = torch.zeros(1, 2, 8).double()
        state = (start, start) if name == "lstm" else start
        weights = [half.contiguous() for half in w.chunk(2, 1)]
        sizes = (False, 1, 0.0, False, False, True)
        return getattr(torch, name)(SEQUENCE, state, weights, *sizes)[0]

    return Operator(function, (8 * gates, 16))


def _ctc(w: Tensor) -> Tensor:
    logits = F.log_softmax((SEQUENCE @ w).transpose(0, 1), -1)
    targets, lengths = torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 5])
    return F.ctc_loss(logits, targets, lengths, torch.tensor([2, 2]))


OPERATORS: Mapping[str, Operator] = {
    "layer_norm": of_rows(lambda x: F.layer_norm(x, (8,))),
    "rms_norm": of_rows(lambda x: F.rms_norm(x, (8,))),
    "group_norm": of_images(lambda x: F.group_norm(x, 2)),
    "instance_norm": of_images(F.instance_norm),
    "batch_norm (training)": of_images(lambda x: F.batch_norm(x, None, None, training=True)),
    "batch_norm (inference)": of_images(
        lambda x: F.batch_norm(x, torch.zeros(4).double(), torch.ones(4).double())
    ),
    "weight_norm": Operator(
        lambda w: ROWS @ torch._weight_norm(w, torch.ones(8, 1).double(), 0).T, (8, 8)
    ),
    "normalize": of_rows(F.normalize),
    "softmax": of_rows(lambda x: F.softmax(x, -1)),
    "log_softmax": of_rows(lambda x: F.log_softmax(x, -1)),
    "masked softmax": of_rows(
        lambda x: F.softmax(x.masked_fill(torch.eye(3, 8).bool(), -torch.inf), -1)
    ),
    "gelu": of_rows(F.gelu),
    "gelu (tanh)": of_rows(lambda x: F.gelu(x, approximate="tanh")),
    "silu": of_rows(F.silu),
    "mish": of_rows(F.mish),
    "elu": of_rows(F.elu),
    "selu": of_rows(F.selu),
    "softplus": of_rows(F.softplus),
    "glu": of_rows(F.glu),
    "sigmoid": of_rows(torch.sigmoid),
    "tanh": of_rows(torch.tanh),
    "logsigmoid": of_rows(F.logsigmoid),
    "hardswish": of_rows(F.hardswish),
    "hardsigmoid": of_rows(F.hardsigmoid),
    "prelu": of_rows(lambda x: F.prelu(x, torch.full((1,), 0.25).double())),
    "leaky_relu": of_rows(F.leaky_relu),
    "relu": of_rows(F.relu),
    "erf": of_rows(torch.erf),
    "cross_entropy": of_rows(lambda x: F.cross_entropy(x, LABELS)),
    "cross_entropy (smoothed)": of_rows(lambda x: F.cross_entropy(x, LABELS, label_smoothing=0.1)),
    "binary_cross_entropy_with_logits": of_rows(
        lambda x: F.binary_cross_entropy_with_logits(x, ONES / 3)
    ),
    "mse_loss": of_rows(lambda x: F.mse_loss(x, ONES)),
    "huber_loss": of_rows(lambda x: F.huber_loss(x, ONES)),
    "smooth_l1_loss": of_rows(lambda x: F.smooth_l1_loss(x, ONES)),
    "kl_div": of_rows(lambda x: F.kl_div(F.log_softmax(x, -1), ONES / 8, reduction="sum")),
    "cosine_similarity": of_rows(lambda x: F.cosine_similarity(x, ONES)),
    "ctc_loss": Operator(_ctc, (8, 8)),
    "conv2d": of_images(lambda x: x),
    "conv_transpose2d": Operator(lambda w: F.conv_transpose2d(IMAGES, w), (4, 3, 3, 3)),
    "max_pool2d": of_images(lambda x: F.max_pool2d(x, 2)),
    "avg_pool2d": of_images(lambda x: F.avg_pool2d(x, 2)),
    "adaptive_avg_pool2d": of_images(lambda x: F.adaptive_avg_pool2d(x, 2)),
    "interpolate (bilinear)": of_images(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")
    ),
    "interpolate (bicubic)": of_images(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    "grid_sample": of_images(
        lambda x: F.grid_sample(x, torch.full((2, 4, 4, 2), 0.3).double(), align_corners=False)
    ),
    "pixel_shuffle": of_images(lambda x: F.pixel_shuffle(x, 2)),
    "scaled_dot_product_attention": of_heads(F.scaled_dot_product_attention),
    "scaled_dot_product_attention (MATH)": of_heads(_plain_attention),
    "multi_head_attention_forward": Operator(_multi_head_attention, (8, 8)),
    "embedding": Operator(lambda w: F.embedding(TOKENS, w), (20, 8)),
    "embedding_bag": Operator(lambda w: F.embedding_bag(TOKENS, w, mode="sum"), (20, 8)),
    "lstm": _recurrent("lstm", 4),
    "gru": _recurrent("gru", 3),
    "linear": of_rows(lambda x: x),
    "einsum": Operator(lambda w: torch.einsum("bsd,de->bse", SEQUENCE, w), (8, 8)),
    "vector_norm": of_rows(lambda x: torch.linalg.vector_norm(x, dim=-1)),
    "slogdet": Operator(lambda w: torch.linalg.slogdet(w @ w.T + torch.eye(8).double())[1], (8, 8)),
    "svdvals": Operator(torch.linalg.svdvals, (8, 6)),
    "inv": Operator(lambda w: torch.linalg.inv(w + 5 * torch.eye(8).double()), (8, 8)),
    "cdist": of_rows(lambda x: torch.cdist(x, ROWS + 1)),
    "rfft": of_rows(lambda x: torch.fft.rfft(x).abs()),
    "dropout (inference)": of_rows(lambda x: F.dropout(x, 0.1, training=False)),
    "checkpoint": Operator(
        lambda w: checkpoint(lambda x: torch.tanh(x @ w), ROWS, use_reentrant=False), (8, 8)
    ),
    "in-place add_": of_rows(lambda x: x.clone().add_(torch.sin(x))),
    "cumsum": of_rows(lambda x: x.cumsum(-1)),
    "logsumexp": of_rows(lambda x: x.logsumexp(-1)),
    "gather": of_rows(lambda x: x.gather(1, LABELS[:, None])),
    "scatter_add": of_rows(
        lambda x: torch.zeros(3, 8).double().scatter_add(1, torch.arange(8).repeat(3, 1) % 4, x)
    ),
    "sort": of_rows(lambda x: x.sort(-1).values),
    "topk": of_rows(lambda x: x.topk(3).values),
    "std": of_rows(lambda x: x.std(-1)),
    "var": of_rows(lambda x: x.var(-1)),
    "where": of_rows(lambda x: torch.where(x > 0, x**2, torch.sin(x))),
    "nan_to_num": of_rows(torch.nan_to_num),
    "unfold": of_rows(lambda x: x.unfold(-1, 4, 2)),
}


def verdicts(operator: Operator) -> dict[str, str]:
    """By method: ``right``, ``wrong``, or ``refused``, against central differences.

    Or ``absent``, where this version of PyTorch has no such operator.
    """
    loss, w, v = _problem(operator)
    try:
        expected = (_gradient(loss, w + STEP * v) - _gradient(loss, w - STEP * v)) / (2 * STEP)
    except (AttributeError, ImportError):
        return dict.fromkeys(METHODS, "absent")
    return {name: _verdict(hvp, loss, w, v, expected) for name, hvp in METHODS.items()}


def repaired_verdicts(operator: Operator) -> dict[str, str]:
    """The same inside `repair.repaired`."""
    from reproduce.in_torch import repair  # noqa: PLC0415 - it needs a newer PyTorch than 2.1

    with repair.repaired():
        return verdicts(operator)


def _verdict(hvp: Callable[..., Any], loss: Loss, w: Tensor, v: Tensor, expected: Tensor) -> str:
    try:
        found = hvp(loss, {"w": w}, {"w": v})["w"].detach()
    except (RuntimeError, NotImplementedError):
        return "refused"
    is_right = (found - expected).norm() <= LIMIT * expected.norm()
    return "right" if is_right else "wrong"


def _problem(operator: Operator) -> tuple[Loss, Tensor, Tensor]:
    """A loss through the operator whose HVPs depend on its second derivative, w, and v."""
    generator = torch.Generator().manual_seed(1)
    w, v = (torch.randn(operator.shape, generator=generator).double() for _ in range(2))

    def loss(params: Tree) -> Tensor:
        values = operator.function(torch.sin(params["w"]))
        weights = torch.cos(torch.arange(values.numel()).double()).reshape(values.shape)
        return (values * weights).sum() + (values**2).sum() / 10

    return loss, w / 2, v


def _gradient(loss: Loss, w: Tensor) -> Tensor:
    w = w.detach().requires_grad_()
    return torch.autograd.grad(loss({"w": w}), w)[0]
