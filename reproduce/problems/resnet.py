"""ResNet: ResNet34, which the article measures, and ResNet50, which its authors also timed."""

from collections.abc import Iterator
from typing import Any

from reproduce.problems.problem import Problem, Shape, dense, images, norm


def _resnet(layer: str, depths: list[int], widths: list[int], side: int, labels: int) -> Problem:
    stem = min(64, widths[0])
    sizes = {"embedding_size": stem, "hidden_sizes": widths, "depths": depths}
    return Problem("resnet", sizes | {"layer_type": layer, "num_labels": labels}, side, labels)


DEPTHS = [3, 4, 6, 3]
NETWORKS = {
    "resnet34": ("ResNet34", _resnet("basic", DEPTHS, [64, 128, 256, 512], 224, 1000)),
    "resnet50": ("ResNet50", _resnet("bottleneck", DEPTHS, [256, 512, 1024, 2048], 224, 1000)),
    "tiny_resnet": ("tiny ResNet", _resnet("basic", [1, 1], [8, 16], side=32, labels=10)),
}
NEAR_ONE = (".normalization.weight", ".normalization.running_var")
inputs = images


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The weights: the stem, stage by stage, the classifier.

    Yields:
        The name of each, and its shape.
    """
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
    yield from dense("classifier.1", width_in, config["num_labels"])


def _convolution(name: str, size: int, width_in: int, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.convolution.weight", (width, width_in, size, size)
    yield from norm(f"{name}.normalization", width)
    yield f"{name}.normalization.running_mean", (width,)
    yield f"{name}.normalization.running_var", (width,)
