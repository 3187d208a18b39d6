"""The article's losses in PyTorch, on transformers' models, built without a download."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, group_norm, layer_norm
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from reproduce import plan as kinds
from reproduce.in_torch.device import default_device
from reproduce.in_torch.hvp import Tree
from reproduce.problems.loss import LossByParts
from reproduce.problems.problem import Problem

MODELS = {
    "resnet": (ResNetConfig, ResNetForImageClassification),
    "vit": (ViTConfig, ViTForImageClassification),
    "bert": (BertConfig, BertForSequenceClassification),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
WEIGHT_DECAY = 0.5e-4
# Buffers by the end of their names, made from their shapes: positions; the types of tokens if a
# batch has none; how many batches a normalisation has seen, which only training uses; in GPT-2,
# the causal mask, and a number that its code no longer reads; in Llama, the angles by which the
# entries of queries and keys are rotated from one token to the next.
BUFFERS: dict[str, Callable[[torch.Size], torch.Tensor]] = {
    "position_ids": lambda shape: torch.arange(shape[-1]).expand(shape),
    "token_type_ids": lambda shape: torch.zeros(shape, dtype=torch.int64),
    "num_batches_tracked": lambda shape: torch.zeros(shape, dtype=torch.int64),
    ".attn.bias": lambda shape: torch.ones(shape, dtype=torch.bool).tril(),
    ".attn.masked_bias": lambda shape: torch.full(shape, -1e4),
    ".rotary_emb.inv_freq": lambda shape: 1 / 10_000 ** (torch.arange(shape[0]) / shape[0]),
}


class LayerNorm(torch.nn.Module):
    """Layer normalisation, PyTorch's own or as group normalisation with one group.

    Both are the same function. PyTorch's own has a forward mode that cannot be differentiated
    again: it treats the mean and the deviation as constants, without a warning, and makes
    reverse-over-forward HVPs wrong (in 2.10 as in the article's 2.1). Group normalisation does not
    have this fault. Source: pytorch/pytorch issue 196700.
    """

    kind_in_block: kinds.LayerNorm | None = None

    def __init__(self, native: torch.nn.LayerNorm, kind: kinds.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = native.weight, native.bias, native.eps
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` of shape (…, width), normalised over its last axis."""
        if (self.kind_in_block or self.kind) == "native":
            return layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        rows = x.reshape(-1, x.shape[-1])
        return group_norm(rows, 1, self.weight, self.bias, self.eps).view_as(x)


@contextmanager
def every_layer_norm(kind: kinds.LayerNorm) -> Iterator[None]:
    """Inside the block, every ``LayerNorm`` is of this kind, whatever kind it was built as.

    PyTorch's own is right for forward-over-reverse. It is also the only one that works with grad
    mode off, as in curvlinops, because group normalisation then has no forward mode.
    """
    LayerNorm.kind_in_block = kind
    try:
        yield
    finally:
        LayerNorm.kind_in_block = None


class NoNorm(torch.nn.Module):
    """The identity instead of a batch normalisation, whose unused parameters it keeps."""

    def __init__(self, native: torch.nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = native.weight, native.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``, unchanged."""
        return x


def build(
    problem: Problem,
    weights: dict[str, np.ndarray],
    normalisation: kinds.Normalisation = "article",
    layer_norm: kinds.LayerNorm = "repaired",
    recorded: bool = False,
) -> tuple[LossByParts, Tree]:
    """``loss(params, batch)`` and its ``params``: a dictionary with d scalars.

    The loss is the mean cross-entropy plus 0.5e-4 times the squared norm of every
    parameter with more than one axis. Dropout is off. Batch normalisation is the
    identity under the ``article`` normalisation, and in inference mode under ``matched``.
    Attention is not fused, because the fused kernels have neither a forward mode nor a second
    derivative. If ``recorded``, the parameters require gradients, as the article's do.

    Raises:
        ValueError: if the model has a buffer that is neither a weight nor known.
    """
    configuration, model = MODELS[problem.family]
    with torch.device("meta"):
        module = model(configuration(**problem.config, attn_implementation="eager")).eval()
    _replace(module, torch.nn.LayerNorm, lambda native: LayerNorm(native, layer_norm))
    if normalisation == "article":
        _replace(module, torch.nn.BatchNorm2d, NoNorm)
    params = {
        name: _tensor(weights[name]).requires_grad_(recorded)
        for name, _ in module.named_parameters()
    }
    buffers = {name: _buffer(name, meta, weights) for name, meta in module.named_buffers()}
    return LossByParts(_Logits(module, buffers), _cross_entropy, _penalty), params


class _Logits:
    """The logits of parameters and batch; an object, so that its compiled programs can be saved."""

    def __init__(self, module: torch.nn.Module, buffers: Tree) -> None:
        self.module, self.buffers = module, buffers

    def __call__(self, params: Tree, batch: Tree) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return functional_call(self.module, params | self.buffers, (), inputs).logits


def _cross_entropy(logits: torch.Tensor, batch: Tree) -> torch.Tensor:
    return cross_entropy(logits.flatten(0, -2), batch["labels"].flatten())


def _penalty(params: Tree) -> torch.Tensor:
    weights = [value for value in params.values() if value.ndim > 1]
    return WEIGHT_DECAY * sum(w.norm() ** 2 for w in weights)


def to_device(batch: dict[str, np.ndarray]) -> Tree:
    """``batch`` on the device in PyTorch's layout: images are (batch, 3, side, side)."""
    return {
        name: _tensor(value.transpose(0, 3, 1, 2) if name == "pixel_values" else value)
        for name, value in batch.items()
    }


def _replace(module: torch.nn.Module, old: type, new: Callable[[Any], torch.nn.Module]) -> None:
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
    for end, values in BUFFERS.items():
        if name.endswith(end):
            return values(meta.shape).to(default_device())
    raise ValueError(
        f"the model was to be built from the weights alone, and its buffer {name!r} "
        f"({meta.dtype}, shape {tuple(meta.shape)}) is neither one of them nor known; "
        "say what is in it in BUFFERS (reproduce/in_torch/models.py)"
    )
