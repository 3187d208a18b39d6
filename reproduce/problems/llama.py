"""Llama: a transformer of today that predicts the next token, as small as GPT-2 small.

It has RMS normalisation, rotary positions, queries that share keys and values in groups, a gate in
every layer, and no biases.
"""

from collections.abc import Iterator
from typing import Any

from reproduce.problems.problem import TINY, Problem, Shape, next_tokens, transformer


def _llama(size: dict[str, int], keys: int, positions: int, tokens: int, words: int) -> Problem:
    sizes = {"num_key_value_heads": keys, "max_position_embeddings": positions}
    return Problem("llama", size | sizes | {"vocab_size": words, "use_cache": False}, tokens, words)


SMALL = transformer(width=768, inner=2048, depth=12, heads=12)
# In Flax, positions must be at least twice as many as a head is wide.
NETWORKS = {
    "llama": ("Llama", _llama(SMALL, keys=4, positions=1024, tokens=128, words=32_000)),
    "tiny_llama": ("tiny Llama", _llama(TINY, keys=1, positions=32, tokens=8, words=100)),
}
NEAR_ONE = ("norm.weight",)
inputs = next_tokens


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The weights: the embeddings, layer by layer, and the last layer, which has its own.

    Yields:
        The name of each, and its shape.
    """
    width, inner, words = (
        config[size] for size in ("hidden_size", "intermediate_size", "vocab_size")
    )
    of_keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (words, width)
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", (width,)
        yield f"{name}.self_attn.q_proj.weight", (width, width)
        yield f"{name}.self_attn.k_proj.weight", (of_keys, width)
        yield f"{name}.self_attn.v_proj.weight", (of_keys, width)
        yield f"{name}.self_attn.o_proj.weight", (width, width)
        yield f"{name}.post_attention_layernorm.weight", (width,)
        yield f"{name}.mlp.gate_proj.weight", (inner, width)
        yield f"{name}.mlp.up_proj.weight", (inner, width)
        yield f"{name}.mlp.down_proj.weight", (width, inner)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (words, width)
