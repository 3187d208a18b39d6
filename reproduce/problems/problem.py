"""A problem, and what more than one family has: sizes, shapes of layers, images, tokens."""

from typing import Any, Literal

import msgspec
import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]
Dtype = Literal["float32", "float64"]


class Problem(msgspec.Struct, frozen=True):
    """An architecture and the size of its inputs.

    ``family`` is the name of a module here, and ``config`` is passed to transformers'
    configuration of the family as it is; ``input_size`` is the side of the images in pixels
    or the number of tokens.
    """

    family: str
    config: dict[str, Any]
    input_size: int
    labels: int


def transformer(width: int, inner: int, depth: int, heads: int) -> dict[str, int]:
    """The sizes of a transformer, as transformers' configurations name them."""
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


BASE = transformer(width=768, inner=3072, depth=12, heads=12)
TINY = transformer(width=32, inner=32, depth=1, heads=2)


def norm(name: str, width: int) -> list[tuple[str, Shape]]:
    """The weights of a normalisation, scale and shift, each with its shape."""
    return [(f"{name}.weight", (width,)), (f"{name}.bias", (width,))]


def dense(name: str, width_in: int, width_out: int) -> list[tuple[str, Shape]]:
    """The weights of a dense layer, matrix and bias, each with its shape."""
    return [(f"{name}.weight", (width_out, width_in)), (f"{name}.bias", (width_out,))]


def images(
    problem: Problem, batch_size: int, rng: np.random.Generator, dtype: Dtype
) -> dict[str, Array]:
    """``pixel_values``: (batch, side, side, 3), standard normal, as in the article."""
    shape = (batch_size, problem.input_size, problem.input_size, 3)
    return {"pixel_values": rng.standard_normal(shape, dtype)}


def next_tokens(
    problem: Problem, batch_size: int, rng: np.random.Generator, dtype: Dtype
) -> dict[str, Array]:
    """``input_ids`` and ``labels``, which are the next token of each: (batch, tokens).

    They are uniform 32-bit integers, whatever ``dtype`` the weights have.
    """
    size = (batch_size, problem.input_size + 1)
    tokens = rng.integers(0, problem.labels, size, dtype="int32")
    return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}
