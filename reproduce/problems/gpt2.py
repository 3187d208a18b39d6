"""GPT-2: a transformer that predicts the next token, of the size that is called small."""

from collections.abc import Iterator
from typing import Any

from reproduce.problems.problem import Problem, Shape, next_tokens, norm


def _gpt2(width: int, depth: int, heads: int, positions: int, tokens: int, words: int) -> Problem:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": heads, "n_positions": positions}
    return Problem("gpt2", sizes | {"vocab_size": words, "use_cache": False}, tokens, words)


NETWORKS = {
    "gpt2": ("GPT-2", _gpt2(768, 12, 12, positions=1024, tokens=128, words=50_257)),
    "tiny_gpt2": ("tiny GPT-2", _gpt2(32, 1, 2, positions=16, tokens=8, words=100)),
}
NEAR_ONE = (".ln_1.weight", ".ln_2.weight", ".ln_f.weight")
inputs = next_tokens


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, Shape]]:
    """The weights: the embeddings, which are the last layer's, too, and layer by layer.

    Yields:
        The name of each, and its shape; dense layers are (in, out), as GPT-2 alone has them.
    """
    width = config["n_embd"]
    yield "transformer.wte.weight", (config["vocab_size"], width)
    yield "transformer.wpe.weight", (config["n_positions"], width)
    for layer in range(config["n_layer"]):
        name = f"transformer.h.{layer}"
        yield from norm(f"{name}.ln_1", width)
        yield from _dense(f"{name}.attn.c_attn", width, 3 * width)
        yield from _dense(f"{name}.attn.c_proj", width, width)
        yield from norm(f"{name}.ln_2", width)
        yield from _dense(f"{name}.mlp.c_fc", width, 4 * width)
        yield from _dense(f"{name}.mlp.c_proj", 4 * width, width)
    yield from norm("transformer.ln_f", width)


def _dense(name: str, width_in: int, width_out: int) -> list[tuple[str, Shape]]:
    return [(f"{name}.weight", (width_in, width_out)), (f"{name}.bias", (width_out,))]
