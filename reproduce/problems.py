"""The article's problems without a framework: sizes, seeded weights, inputs, labels.

Everything here is NumPy, so that both frameworks are given the same numbers.
Weights are named and laid out as transformers' PyTorch models name and lay them
out; ``in_jax.models`` maps them to Flax.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import msgspec
import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]
Dtype = Literal["float32", "float64"]

LARGEST_TOKEN = 10_000


class Problem(msgspec.Struct, frozen=True):
    """An architecture and the size of its inputs.

    ``config`` is passed to transformers' configuration of the family as it is;
    ``input_size`` is the side of the images in pixels or the number of tokens.
    """

    family: Literal["resnet", "vit", "bert"]
    config: dict[str, Any]
    input_size: int
    labels: int


def _resnet(layer: str, depths: list[int], widths: list[int], side: int, labels: int) -> Problem:
    stem = min(64, widths[0])
    sizes = {"embedding_size": stem, "hidden_sizes": widths, "depths": depths}
    return Problem("resnet", sizes | {"layer_type": layer, "num_labels": labels}, side, labels)


def _transformer(width: int, inner: int, depth: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


def _vit(size: dict[str, int], side: int, labels: int) -> Problem:
    return Problem(
        "vit", size | {"image_size": side, "patch_size": 16, "num_labels": labels}, side, labels
    )


def _bert(size: dict[str, int], vocabulary: int, positions: int, tokens: int) -> Problem:
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": positions, "num_labels": 2}
    return Problem("bert", size | sizes, tokens, 2)


BASE = _transformer(width=768, inner=3072, depth=12, heads=12)
TINY = _transformer(width=32, inner=32, depth=1, heads=2)

PROBLEMS: dict[str, Problem] = {
    "resnet34": _resnet("basic", [3, 4, 6, 3], [64, 128, 256, 512], side=224, labels=1000),
    "resnet50": _resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048], side=224, labels=1000),
    "vit": _vit(BASE, side=96, labels=1000),
    "bert": _bert(BASE, vocabulary=30_522, positions=512, tokens=32),
    "tiny_resnet": _resnet("basic", [1, 1], [8, 16], side=32, labels=10),
    "tiny_vit": _vit(TINY, side=32, labels=10),
    "tiny_bert": _bert(TINY, vocabulary=100, positions=16, tokens=8),
}


LABELS = {
    "resnet34": "ResNet34",
    "resnet50": "ResNet50",
    "vit": "ViT",
    "bert": "BERT",
    "tiny_resnet": "tiny ResNet",
    "tiny_vit": "tiny ViT",
    "tiny_bert": "tiny BERT",
}


def label(model: str) -> str:
    """The name of ``model`` as figures and tables print it."""
    return LABELS.get(model, model)


def order(model: str) -> tuple[int, str]:
    """A sort key: the models above in their order, then any other by name."""
    names = list(LABELS)
    return (names.index(model) if model in LABELS else len(names), model)


def weight_shapes(problem: Problem) -> dict[str, Shape]:
    """The shape of every weight by its PyTorch name, running statistics included.

    Convolutions are (out, in, height, width), dense layers (out, in).
    """
    return dict(_SHAPES[problem.family](problem.config))


def weights(problem: Problem, seed: int = 0, dtype: Dtype = "float32") -> dict[str, Array]:
    """Seeded weights of ``problem`` by PyTorch name, shaped as ``weight_shapes`` says.

    They are uniform with the standard deviation of transformers' initialisation (He
    for convolutions, 0.02 for the rest; uniform is faster to draw than normal), and
    those that it sets to 0 or 1 are near 0 or 1, so that no two are exchangeable.
    """
    shapes = weight_shapes(problem)

    def draw(index: int, name: str, shape: Shape) -> Array:
        values = np.random.default_rng([seed, index]).random(shape, dtype)
        half_width = np.sqrt(3) * _standard_deviation(shape)
        values -= 0.5
        values *= 2 * half_width
        if _is_near_one(name):
            values += 1
        return values

    with ThreadPoolExecutor() as pool:
        drawn = pool.map(draw, range(len(shapes)), shapes, shapes.values())
        return dict(zip(shapes, drawn, strict=True))


def batch(
    problem: Problem, batch_size: int, seed: int = 0, dtype: Dtype = "float32"
) -> dict[str, Array]:
    """Inputs and labels as in the article: a dictionary by argument name.

    ``pixel_values``: (batch, side, side, 3), standard normal; or ``input_ids``,
    ``attention_mask``, ``token_type_ids``: (batch, tokens), uniform integers;
    and ``labels``: (batch,), uniform integers.
    """
    rng = np.random.default_rng([seed, batch_size])
    labels = rng.integers(0, problem.labels, batch_size, dtype="int32")
    if problem.family != "bert":
        images = (batch_size, problem.input_size, problem.input_size, 3)
        return {"pixel_values": rng.standard_normal(images, dtype), "labels": labels}
    tokens = (batch_size, problem.input_size)
    largest = min(LARGEST_TOKEN, problem.config["vocab_size"])
    return {
        "input_ids": rng.integers(0, largest, tokens, dtype="int32"),
        "attention_mask": rng.integers(0, 2, tokens, dtype="int32"),
        "token_type_ids": rng.integers(0, 2, tokens, dtype="int32"),
        "labels": labels,
    }


def seeded_vector(weights: dict[str, Array], seed: int = 0) -> dict[str, Array]:
    """A standard normal vector with the names, shapes and dtypes of ``weights``."""
    rng = np.random.default_rng([seed, len(weights)])
    return {name: rng.standard_normal(w.shape, w.dtype) for name, w in weights.items()}


def _standard_deviation(shape: Shape) -> float:
    is_convolution = len(shape) == 4
    return np.sqrt(2 / (shape[0] * shape[2] * shape[3])) if is_convolution else 0.02


def _is_near_one(name: str) -> bool:
    is_scale = name.endswith("weight") and "norm" in name.lower()
    return is_scale or name.endswith("running_var")


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _dense(name: str, width_in: int, width_out: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width_out, width_in)
    yield f"{name}.bias", (width_out,)


def _convolution(name: str, size: int, width_in: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.convolution.weight", (width, width_in, size, size)
    yield from _norm(f"{name}.normalization", width)
    yield f"{name}.normalization.running_mean", (width,)
    yield f"{name}.normalization.running_var", (width,)


def _resnet_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width_in = config["embedding_size"]
    yield from _convolution("resnet.embedder.embedder", 7, 3, width_in)
    for stage, (width, depth) in enumerate(
        zip(config["hidden_sizes"], config["depths"], strict=True)
    ):
        for layer in range(depth):
            name = f"resnet.encoder.stages.{stage}.layers.{layer}"
            changes_shape = layer == 0 and (stage > 0 or width_in != width)
            if changes_shape:
                yield from _convolution(f"{name}.shortcut", 1, width_in, width)
            if config["layer_type"] == "basic":
                convolutions = [(3, width_in, width), (3, width, width)]
            else:
                narrow = width // 4
                convolutions = [(1, width_in, narrow), (3, narrow, narrow), (1, narrow, width)]
            for index, sizes in enumerate(convolutions):
                yield from _convolution(f"{name}.layer.{index}", *sizes)
            width_in = width
    yield from _dense("classifier.1", width_in, config["num_labels"])


def _vit_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    patch = config["patch_size"]
    yield "vit.embeddings.cls_token", (1, 1, width)
    patches = (config["image_size"] // patch) ** 2
    yield "vit.embeddings.position_embeddings", (1, patches + 1, width)
    yield "vit.embeddings.patch_embeddings.projection.weight", (width, 3, patch, patch)
    yield "vit.embeddings.patch_embeddings.projection.bias", (width,)
    for layer in range(config["num_hidden_layers"]):
        name = f"vit.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from _dense(f"{name}.attention.attention.{part}", width, width)
        yield from _dense(f"{name}.attention.output.dense", width, width)
        yield from _dense(f"{name}.intermediate.dense", width, inner)
        yield from _dense(f"{name}.output.dense", inner, width)
        yield from _norm(f"{name}.layernorm_before", width)
        yield from _norm(f"{name}.layernorm_after", width)
    yield from _norm("vit.layernorm", width)
    yield from _dense("classifier", width, config["num_labels"])


def _bert_shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "bert.embeddings.word_embeddings.weight", (config["vocab_size"], width)
    yield "bert.embeddings.position_embeddings.weight", (config["max_position_embeddings"], width)
    yield "bert.embeddings.token_type_embeddings.weight", (2, width)
    yield from _norm("bert.embeddings.LayerNorm", width)
    for layer in range(config["num_hidden_layers"]):
        name = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from _dense(f"{name}.attention.self.{part}", width, width)
        yield from _dense(f"{name}.attention.output.dense", width, width)
        yield from _norm(f"{name}.attention.output.LayerNorm", width)
        yield from _dense(f"{name}.intermediate.dense", width, inner)
        yield from _dense(f"{name}.output.dense", inner, width)
        yield from _norm(f"{name}.output.LayerNorm", width)
    yield from _dense("bert.pooler.dense", width, width)
    yield from _dense("classifier", width, config["num_labels"])


_SHAPES = {"resnet": _resnet_shapes, "vit": _vit_shapes, "bert": _bert_shapes}
