"""The article's losses in PyTorch, on transformers' models, built without a download."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, group_norm, layer_norm
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from reproduce.in_torch.device import default_device
from reproduce.in_torch.hvp import Tree
from reproduce.plan import Normalisation
from reproduce.problems import Problem

MODELS = {
    "resnet": (ResNetConfig, ResNetForImageClassification),
    "vit": (ViTConfig, ViTForImageClassification),
    "bert": (BertConfig, BertForSequenceClassification),
}
WEIGHT_DECAY = 0.5e-4


class LayerNorm(torch.nn.Module):
    """Layer normalisation as group normalisation with one group: the same function.

    PyTorch's own layer normalisation has a forward mode that cannot be differentiated
    again: it takes the mean and the deviation for constants, without a warning, and
    reverse-over-forward HVPs through it are wrong (in 2.10 as in the article's 2.1).
    Group normalisation has not got that fault. Source: pytorch/pytorch issue 196700.
    """

    is_native = False

    def __init__(self, native: torch.nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = native.weight, native.bias, native.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (…, width), normalised over its last axis."""
        if self.is_native:
            return layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        rows = x.reshape(-1, x.shape[-1])
        return group_norm(rows, 1, self.weight, self.bias, self.eps).view_as(x)


@contextmanager
def native_layer_norm() -> Iterator[None]:
    """PyTorch's own layer normalisation inside the block: right for forward-over-reverse.

    Where gradients are taken with grad mode off, as in curvlinops, group normalisation's
    has no forward mode.
    """
    LayerNorm.is_native = True
    try:
        yield
    finally:
        LayerNorm.is_native = False


def build(
    problem: Problem, weights: dict[str, np.ndarray], normalisation: Normalisation
) -> tuple[Callable[[Tree, Tree], torch.Tensor], Tree]:
    """``loss(params, batch)`` and its ``params``: a dictionary with d scalars.

    The loss is the mean cross-entropy plus 0.5e-4 times the squared norm of every
    parameter with more than one axis. Dropout is off. Batch normalisation is the
    identity under the ``article`` normalisation (it has no parameters then), and in
    inference mode under ``matched``. Attention is the plain one: the fused kernels
    have neither a forward mode nor a second derivative. Layer normalisation is a
    ``LayerNorm`` of our own, a departure from the article, whose HVPs it makes right.
    """
    configuration, model = MODELS[problem.family]
    with torch.device("meta"):
        module = model(configuration(**problem.config, attn_implementation="eager")).eval()
    _replace(module, torch.nn.LayerNorm, LayerNorm)
    if normalisation == "article":
        _replace(module, torch.nn.BatchNorm2d, torch.nn.Identity)
    params = {name: _tensor(weights[name]) for name, _ in module.named_parameters()}
    buffers = {name: _buffer(name, meta, weights) for name, meta in module.named_buffers()}
    return _Loss(module, buffers), params


class _Loss:
    """The loss of parameters and batch; an object, so that programs made of it can be saved."""

    def __init__(self, module: torch.nn.Module, buffers: Tree) -> None:
        self.module, self.buffers = module, buffers

    def __call__(self, params: Tree, batch: Tree) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = functional_call(self.module, params | self.buffers, kwargs=inputs).logits
        weights = [value for value in params.values() if value.ndim > 1]
        return cross_entropy(logits, batch["labels"]) + WEIGHT_DECAY * sum(
            (w**2).sum() for w in weights
        )


def to_device(batch: dict[str, np.ndarray]) -> Tree:
    """``batch`` on the device, laid out as PyTorch takes it: images (batch, 3, side, side)."""
    return {
        name: _tensor(value.transpose(0, 3, 1, 2) if name == "pixel_values" else value)
        for name, value in batch.items()
    }


def _replace(module: torch.nn.Module, old: type, new: Callable) -> None:
    for name, child in module.named_children():
        if isinstance(child, old):
            setattr(module, name, new(child))
        else:
            _replace(child, old, new)


def _tensor(value: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(value))
    dtype = torch.int64 if value.dtype == np.int32 else None
    return tensor.to(device=default_device(), dtype=dtype)


def _buffer(name: str, meta: torch.Tensor, weights: dict[str, np.ndarray]) -> torch.Tensor:
    if name in weights:
        return _tensor(weights[name])
    if name.endswith("position_ids"):
        return torch.arange(meta.shape[-1], device=default_device()).expand(meta.shape)
    return torch.zeros(meta.shape, dtype=meta.dtype, device=default_device())
