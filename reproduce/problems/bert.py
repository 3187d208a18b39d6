"""BERT: a transformer on tokens; the article uses the size called base."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from reproduce.problems.problem import BASE, TINY, Array, Dtype, Problem, Shape, dense, norm

LARGEST_TOKEN = 10_000


def _bert(size: dict[str, int], vocabulary: int, positions: int, tokens: int) -> Problem:
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": positions, "num_labels": 2}
    return Problem("bert", size | sizes, tokens, 2)


NETWORKS = {
    "bert": ("BERT", _bert(BASE, vocabulary=30_522, positions=512, tokens=32)),
    "tiny_bert": ("tiny BERT", _bert(TINY, vocabulary=100, positions=16, tokens=8)),
}
NEAR_ONE = (".LayerNorm.weight",)


def inputs(
    problem: Problem, batch_size: int, rng: np.random.Generator, dtype: Dtype
) -> dict[str, Array]:
    """``input_ids``, ``attention_mask``, ``token_type_ids``: (batch, tokens), uniform integers.

    They are 32-bit integers, whatever ``dtype`` the weights have.
    """
    tokens = (batch_size, problem.input_size)
    largest = min(LARGEST_TOKEN, problem.config["vocab_size"])
    return {
        "input_ids": rng.integers(0, largest, tokens, dtype="int32"),
        "attention_mask": rng.integers(0, 2, tokens, dtype="int32"),
        "token_type_ids": rng.integers(0, 2, tokens, dtype="int32"),
    }


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The weights: the embeddings, layer by layer, the pooler and the classifier.

    Yields:
        The name of each, and its shape.
    """
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "bert.embeddings.word_embeddings.weight", (config["vocab_size"], width)
    yield "bert.embeddings.position_embeddings.weight", (config["max_position_embeddings"], width)
    yield "bert.embeddings.token_type_embeddings.weight", (2, width)
    yield from norm("bert.embeddings.LayerNorm", width)
    for layer in range(config["num_hidden_layers"]):
        name = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            yield from dense(f"{name}.attention.self.{part}", width, width)
        yield from dense(f"{name}.attention.output.dense", width, width)
        yield from norm(f"{name}.attention.output.LayerNorm", width)
        yield from dense(f"{name}.intermediate.dense", width, inner)
        yield from dense(f"{name}.output.dense", inner, width)
        yield from norm(f"{name}.output.LayerNorm", width)
    yield from dense("bert.pooler.dense", width, width)
    yield from dense("classifier", width, config["num_labels"])
