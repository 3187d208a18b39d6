"""The article's losses in JAX, on transformers' Flax models, built without a download."""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from flax.traverse_util import unflatten_dict
from transformers import (
    BertConfig,
    FlaxBertForSequenceClassification,
    FlaxGPT2LMHeadModel,
    FlaxLlamaForCausalLM,
    FlaxResNetForImageClassification,
    FlaxViTForImageClassification,
    GPT2Config,
    LlamaConfig,
    ResNetConfig,
    ViTConfig,
)
from transformers.models.bert.modeling_flax_bert import FlaxBertLayer
from transformers.models.gpt2.modeling_flax_gpt2 import FlaxGPT2Block
from transformers.models.llama.modeling_flax_llama import FlaxLlamaDecoderLayer
from transformers.models.resnet.modeling_flax_resnet import (
    FlaxResNetBasicLayer,
    FlaxResNetBottleNeckLayer,
)
from transformers.models.vit.modeling_flax_vit import FlaxViTLayer

from reproduce.in_jax.hvp import Tree
from reproduce.plan import LayerNorm, Normalisation
from reproduce.problems.loss import LossByParts
from reproduce.problems.problem import Problem

MODELS: dict[str, tuple[Any, Any]] = {
    "resnet": (ResNetConfig, FlaxResNetForImageClassification),
    "vit": (ViTConfig, FlaxViTForImageClassification),
    "bert": (BertConfig, FlaxBertForSequenceClassification),
    "gpt2": (GPT2Config, FlaxGPT2LMHeadModel),
    "llama": (LlamaConfig, FlaxLlamaForCausalLM),
}
# The layers that a network is a chain of.
LAYERS = (
    FlaxResNetBasicLayer,
    FlaxResNetBottleNeckLayer,
    FlaxViTLayer,
    FlaxBertLayer,
    FlaxGPT2Block,
    FlaxLlamaDecoderLayer,
)
WEIGHT_DECAY = 0.5e-4
# The number format of activations; None stands for that of the parameters.
ACTIVATIONS: ContextVar[Any] = ContextVar("ACTIVATIONS", default=None)
NORM = re.compile(r"norm|^ln_", re.IGNORECASE)
# Llama's, which Flax names as PyTorch does.
ROOT_MEAN_SQUARE = re.compile(r"^norm$|_layernorm$")
EMBEDDING = re.compile(r"_embeddings$|^wte$|^wpe$|^embed_tokens$")


def build(
    problem: Problem,
    weights: dict[str, np.ndarray],
    normalisation: Normalisation = "article",
    layer_norm: LayerNorm = "repaired",
    recorded: bool = False,
) -> tuple[LossByParts, Tree]:
    """``loss(params, batch)`` and its ``params``: a tree with d scalars.

    The loss is the mean cross-entropy plus 0.5e-4 times the squared norm of every
    parameter with more than one axis. Dropout is off, and batch normalisation is in
    inference mode. Its running statistics are parameters if ``normalisation`` is ``article``, and
    constants if it is ``matched``. ``layer_norm`` and ``recorded`` mean nothing in JAX.
    """
    configuration, model = MODELS[problem.family]
    dtype = next(iter(weights.values())).dtype
    # Only the module, because the model around it would first trace its own initialisation.
    module = model.module_class(config=configuration(**problem.config), dtype=dtype)
    variables = to_flax(problem, weights)
    constants = {}
    if normalisation == "matched" and "batch_stats" in variables:
        constants = {"batch_stats": variables.pop("batch_stats")}

    def logits(params: Tree, batch: Tree) -> jax.Array:
        network = module.clone(dtype=ACTIVATIONS.get() or dtype)
        return network.apply(params | constants, **_inputs(module, batch)).logits.astype(dtype)

    return LossByParts(logits, _cross_entropy, _penalty), variables


def _inputs(module: linen.Module, batch: Tree) -> Tree:
    """The inputs of ``module``: ``batch``, and what the model around it would add to tokens."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if "input_ids" not in inputs:
        return inputs
    tokens = inputs["input_ids"]
    added = {
        "attention_mask": jnp.ones_like(tokens),
        "position_ids": jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
        "head_mask": None,
    }
    taken = inspect.signature(module.__call__).parameters
    return {name: value for name, value in added.items() if name in taken} | inputs


def _cross_entropy(logits: jax.Array, batch: Tree) -> jax.Array:
    labels = jax.nn.one_hot(batch["labels"], logits.shape[-1], dtype=logits.dtype)
    return -(labels * jax.nn.log_softmax(logits)).sum(axis=-1).mean()


def _penalty(params: Tree) -> jax.Array:
    weights = [leaf for leaf in jax.tree_util.tree_leaves(params) if leaf.ndim > 1]
    squares = sum(jnp.sum(w**2) for w in weights)
    return WEIGHT_DECAY * squares  # type: ignore[return-value]  # no network is without


@contextmanager
def activations_in(dtype: Any) -> Iterator[None]:
    """Inside the block, networks compute with activations of ``dtype``; logits are cast back."""
    before = ACTIVATIONS.set(dtype)
    try:
        yield
    finally:
        ACTIVATIONS.reset(before)


def layers_computed_again() -> AbstractContextManager[None]:
    """Inside the block, backward passes compute each of ``LAYERS`` again from its inputs."""
    return linen.intercept_methods(_computed_again)


def _computed_again(
    call: Callable[..., Any],
    arguments: Any,
    keywords: Any,
    context: linen.module.InterceptorContext,
) -> Any:
    if context.method_name != "__call__" or not isinstance(context.module, LAYERS):
        return call(*arguments, **keywords)
    bound: Any = context.orig_method  # to a module, which inside is another

    def layer(module: linen.Module, *arguments: Any) -> Any:
        return bound.func(module, *arguments, **keywords)

    fixed = tuple(
        place for place, each in enumerate(arguments, start=1) if not isinstance(each, jax.Array)
    )
    return linen.remat(layer, static_argnums=fixed)(context.module, *arguments)


def to_flax(problem: Problem, weights: dict[str, np.ndarray]) -> Tree:
    """``weights`` as Flax's trees: ``params``, and ``batch_stats`` if there are statistics."""
    leaves = {}
    for name, value in weights.items():
        path = _flax_path(problem, name)
        leaves[path] = _flax_layout(path, value)
    return jax.device_put(unflatten_dict(leaves))


def to_device(batch: dict[str, np.ndarray]) -> Tree:
    """``batch`` on the device in Flax's layout: images are (batch, side, side, 3)."""
    return jax.device_put(batch)


def _flax_path(problem: Problem, name: str) -> tuple[str, ...]:
    if problem.config.get("layer_type") == "basic":
        name = re.sub(r"\.layer\.(\d)", r".layer.layer_\1", name)
    *parents, leaf = name.split(".")
    if leaf.startswith("running_"):
        return ("batch_stats", *parents, leaf.removeprefix("running_"))
    if leaf == "weight" and not ROOT_MEAN_SQUARE.search(parents[-1]):
        is_norm, is_embedding = (kind.search(parents[-1]) for kind in (NORM, EMBEDDING))
        leaf = "scale" if is_norm else "embedding" if is_embedding else "kernel"
    return ("params", *parents, leaf)


def _flax_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
