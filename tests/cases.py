"""The problems on which the mathematics is tested: float64, and small enough for a dense Hessian.

Each is built in one framework as ``(loss, params)``, with the same numbers in both.
"""

import importlib

import jax
import numpy as np
import torch

from reproduce import problems

jax.config.update("jax_enable_x64", True)

FRAMEWORKS = ("jax", "torch")
FAMILIES = {
    "resnet": problems.Problem(
        "resnet",
        {
            "embedding_size": 3,
            "hidden_sizes": [3, 4],
            "depths": [1, 1],
            "layer_type": "basic",
            "num_labels": 3,
        },
        input_size=32,
        labels=3,
    ),
    "bottleneck": problems.Problem(
        "resnet",
        {
            "embedding_size": 3,
            "hidden_sizes": [4, 8],
            "depths": [1, 1],
            "layer_type": "bottleneck",
            "num_labels": 3,
        },
        input_size=32,
        labels=3,
    ),
    "vit": problems.Problem(
        "vit",
        {
            "hidden_size": 4,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 6,
            "image_size": 8,
            "patch_size": 4,
            "num_labels": 3,
        },
        input_size=8,
        labels=3,
    ),
    "bert": problems.Problem(
        "bert",
        {
            "hidden_size": 4,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 6,
            "vocab_size": 20,
            "max_position_embeddings": 8,
            "num_labels": 2,
        },
        input_size=5,
        labels=2,
    ),
    "gpt2": problems.Problem(
        "gpt2",
        {
            "n_embd": 4,
            "n_layer": 1,
            "n_head": 1,
            "n_positions": 8,
            "vocab_size": 7,
            "use_cache": False,
        },
        input_size=5,
        labels=7,
    ),
    "llama": problems.Problem(
        "llama",
        {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 6,
            "max_position_embeddings": 8,
            "vocab_size": 7,
            "use_cache": False,
        },
        input_size=5,
        labels=7,
    ),
}
NAMES = ("quadratic", "mlp", *FAMILIES)


def module(framework, name):
    return importlib.import_module(f"reproduce.in_{framework}.{name}")


def tolerance(name, of_float64):
    """How far apart two computations of a product of the problem ``name`` may be, in its norm.

    Of Llama, transformers takes normalisation, angles and softmax in float32, whatever it is given:
    each of them is off by up to 6e-8, and a product by some of these.
    """
    return 16 * np.finfo("float32").epsneg if name == "llama" else of_float64


def build(framework, name, *kind):
    """``(loss, params)`` of the problem ``name``, with its batch inside the loss.

    ``kind`` is what ``models.build`` takes beside: normalisation, layer normalisation, recording.
    """
    if name in FAMILIES:
        models = module(framework, "models")
        weights = problems.weights(FAMILIES[name], dtype="float64")
        loss, params = models.build(FAMILIES[name], weights, *kind)
        batch = models.to_device(problems.batch(FAMILIES[name], 3, dtype="float64"))
        return loss.at(batch), params
    return {"quadratic": _quadratic, "mlp": _mlp}[name](framework)


def random_like(framework, params, seed=1):
    """A normal vector shaped like ``params``."""
    rng = np.random.default_rng(seed)
    return mapped(lambda leaf: array(framework, rng.standard_normal(leaf.shape)), params)


def mapped(function, *trees):
    """``function`` of the leaves; the order of a dictionary stays, as PyTorch requires."""
    if isinstance(trees[0], dict):
        return {name: mapped(function, *(tree[name] for tree in trees)) for name in trees[0]}
    return function(*trees)


def array(framework, value):
    return torch.from_numpy(value) if framework == "torch" else jax.numpy.asarray(value)


def flat(tree):
    """All scalars of ``tree`` in one NumPy vector."""
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def flax_tree(problem, tree):
    """PyTorch's ``tree`` of a network in Flax's names and layout."""
    weights = {name: value.numpy() for name, value in tree.items()}
    return module("jax", "models").to_flax(problem, weights)


def _quadratic(framework):
    rng = np.random.default_rng(0)
    half, offset = rng.standard_normal((9, 9)), rng.standard_normal(9)
    matrix, offset = array(framework, half + half.T), array(framework, offset)
    x = array(framework, rng.standard_normal(9))
    return (lambda p: p["x"] @ matrix @ p["x"] / 2 + offset @ p["x"]), {"x": x}


def _mlp(framework):
    rng = np.random.default_rng(0)
    tanh = torch.tanh if framework == "torch" else jax.numpy.tanh
    shapes = {"U": (1, 4), "W": (4, 3), "b": (4,)}
    params = {name: array(framework, rng.standard_normal(s)) for name, s in shapes.items()}
    inputs = array(framework, rng.standard_normal((3, 5)))

    def loss(p):
        return ((p["U"] @ tanh(p["W"] @ inputs + p["b"][:, None])) ** 2).mean()

    return loss, params
