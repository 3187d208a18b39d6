"""ViT: a transformer on patches of images; the article uses the size called base."""

from collections.abc import Iterator
from typing import Any

from reproduce.problems.problem import BASE, TINY, Problem, Shape, dense, images, norm


def _vit(size: dict[str, int], side: int, labels: int) -> Problem:
    sizes = {"image_size": side, "patch_size": 16, "num_labels": labels}
    return Problem("vit", size | sizes, side, labels)


NETWORKS = {
    "vit": ("ViT", _vit(BASE, side=96, labels=1000)),
    "tiny_vit": ("tiny ViT", _vit(TINY, side=32, labels=10)),
}
NEAR_ONE = (".layernorm.weight", ".layernorm_before.weight", ".layernorm_after.weight")
inputs = images


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The weights: the embeddings, layer by layer, the classifier.

    Yields:
        The name of each, and its shape.
    """
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
            yield from dense(f"{name}.attention.attention.{part}", width, width)
        yield from dense(f"{name}.attention.output.dense", width, width)
        yield from dense(f"{name}.intermediate.dense", width, inner)
        yield from dense(f"{name}.output.dense", inner, width)
        yield from norm(f"{name}.layernorm_before", width)
        yield from norm(f"{name}.layernorm_after", width)
    yield from norm("vit.layernorm", width)
    yield from dense("classifier", width, config["num_labels"])
