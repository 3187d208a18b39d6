"""The article's losses in JAX, on transformers' Flax models, built without a download."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from transformers import (
    BertConfig,
    FlaxBertForSequenceClassification,
    FlaxResNetForImageClassification,
    FlaxViTForImageClassification,
    ResNetConfig,
    ViTConfig,
)

from reproduce.in_jax.hvp import Tree
from reproduce.plan import LayerNorm, Normalisation
from reproduce.problems.problem import Problem

MODELS: dict[str, tuple[Any, Any]] = {
    "resnet": (ResNetConfig, FlaxResNetForImageClassification),
    "vit": (ViTConfig, FlaxViTForImageClassification),
    "bert": (BertConfig, FlaxBertForSequenceClassification),
}
WEIGHT_DECAY = 0.5e-4


def build(
    problem: Problem,
    weights: dict[str, np.ndarray],
    normalisation: Normalisation = "article",
    layer_norm: LayerNorm = "repaired",
    recorded: bool = False,
) -> tuple[Callable[[Tree, Tree], jax.Array], Tree]:
    """``loss(params, batch)`` and its ``params``: a tree with d scalars.

    The loss is the mean cross-entropy plus 0.5e-4 times the squared norm of every
    parameter with more than one axis. Dropout is off and batch normalisation in
    inference mode; its running statistics are among the parameters under the ``article``
    normalisation, and constants under ``matched``. Flax has one kind of ``layer_norm``, and
    nothing is ever ``recorded``.
    """
    configuration, model = MODELS[problem.family]
    dtype = next(iter(weights.values())).dtype
    # The module alone: the model around it would trace its own initialisation first.
    module = model.module_class(config=configuration(**problem.config), dtype=dtype)
    variables = to_flax(problem, weights)
    constants = {}
    if normalisation == "matched" and "batch_stats" in variables:
        constants = {"batch_stats": variables.pop("batch_stats")}

    def loss(params: Tree, batch: Tree) -> jax.Array:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if "input_ids" in inputs:  # the model around the module would add what is not in the batch
            positions = jnp.arange(inputs["input_ids"].shape[1])
            positions = jnp.broadcast_to(positions, inputs["input_ids"].shape)
            inputs |= {"position_ids": positions, "head_mask": None}
        logits = module.apply(params | constants, **inputs).logits
        labels = jax.nn.one_hot(batch["labels"], logits.shape[-1], dtype=logits.dtype)
        cross_entropy = -(labels * jax.nn.log_softmax(logits)).sum(axis=-1).mean()
        weights = [leaf for leaf in jax.tree_util.tree_leaves(params) if leaf.ndim > 1]
        return cross_entropy + WEIGHT_DECAY * sum(jnp.sum(w**2) for w in weights)

    return loss, variables


def to_flax(problem: Problem, weights: dict[str, np.ndarray]) -> Tree:
    """``weights`` as Flax's trees: ``params``, and ``batch_stats`` where there are statistics."""
    leaves = {}
    for name, value in weights.items():
        path = _flax_path(problem, name)
        leaves[path] = _flax_layout(path, value)
    return jax.device_put(unflatten_dict(leaves))


def from_flax(problem: Problem, params: Tree, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``params``-like trees by PyTorch name and layout: the inverse of ``to_flax``.

    The names are those of ``like``, without running statistics that are constants.
    """
    leaves = flatten_dict(params)
    named = {name: _flax_path(problem, name) for name in like}
    return {
        name: _torch_layout(path, np.asarray(leaves[path]))
        for name, path in named.items()
        if path in leaves
    }


def to_device(batch: dict[str, np.ndarray]) -> Tree:
    """``batch`` on the device, laid out as Flax takes it: images (batch, side, side, 3)."""
    return jax.device_put(batch)


def _flax_path(problem: Problem, name: str) -> tuple[str, ...]:
    if problem.config.get("layer_type") == "basic":
        name = re.sub(r"\.layer\.(\d)", r".layer.layer_\1", name)
    *parents, leaf = name.split(".")
    if leaf.startswith("running_"):
        return ("batch_stats", *parents, leaf.removeprefix("running_"))
    if leaf == "weight":
        is_norm = "norm" in parents[-1].lower()
        is_embedding = parents[-1].endswith("_embeddings")
        leaf = "scale" if is_norm else "embedding" if is_embedding else "kernel"
    return ("params", *parents, leaf)


def _flax_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
