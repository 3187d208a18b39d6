"""The article's problems without a framework: one family of networks per file.

Everything here is NumPy, so that both frameworks get the same numbers.
Weights have the names and layout of transformers' PyTorch models; ``in_jax.models`` maps them to
Flax.

A family is a module with these four names: ``NETWORKS``, label and problem of each network
by its name; ``shapes`` of a configuration, in the order in which weights are drawn; ``NEAR_ONE``,
how the names end of the weights that are near one; and ``inputs``, a batch without its labels, or
with them where they are more than a class for each sample.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reproduce.problems import bert, gpt2, llama, resnet, vit
from reproduce.problems.problem import Array, Dtype, Problem, Shape

FAMILIES = {"resnet": resnet, "vit": vit, "bert": bert, "gpt2": gpt2, "llama": llama}
# Family by family, and the tiny networks last.
_NETWORKS = sorted(
    (network for family in FAMILIES.values() for network in family.NETWORKS.items()),
    key=lambda network: network[0].startswith("tiny_"),
)
PROBLEMS: dict[str, Problem] = {name: problem for name, (_, problem) in _NETWORKS}
LABELS: dict[str, str] = {name: label for name, (label, _) in _NETWORKS}


def label(model: str) -> str:
    """The name of ``model`` in figures and tables."""
    return LABELS.get(model, model)


def order(model: str) -> tuple[int, str]:
    """A sort key: the models above in their order, then any other by name."""
    names = list(LABELS)
    return (names.index(model) if model in LABELS else len(names), model)


def weight_shapes(problem: Problem) -> dict[str, Shape]:
    """The shape of every weight by its PyTorch name, running statistics included.

    Convolutions are (out, in, height, width), dense layers (out, in).
    """
    return dict(FAMILIES[problem.family].shapes(problem.config))


def weights(problem: Problem, seed: int = 0, dtype: Dtype = "float32") -> dict[str, Array]:
    """Seeded weights of ``problem`` by PyTorch name, shaped as ``weight_shapes`` says.

    They are uniform, which is faster to draw than normal, with a standard deviation of
    He's for convolutions, as in transformers' ResNet, and of 0.02 for the rest, as in its
    BERT. Weights that transformers sets to 0 or 1 are near 0 or 1, so that no two are equal.
    """
    shapes, near_one = weight_shapes(problem), FAMILIES[problem.family].NEAR_ONE

    def draw(index: int, name: str, shape: Shape) -> Array:
        values = np.random.default_rng([seed, index]).random(shape, dtype)
        half_width = np.sqrt(3) * _standard_deviation(shape)
        values -= 0.5
        values *= 2 * half_width
        if name.endswith(near_one):
            values += 1
        return values

    with ThreadPoolExecutor() as pool:
        drawn = pool.map(draw, range(len(shapes)), shapes, shapes.values())
        return dict(zip(shapes, drawn, strict=True))


def batch(
    problem: Problem, batch_size: int, seed: int = 0, dtype: Dtype = "float32"
) -> dict[str, Array]:
    """Inputs and labels as in the article: a dictionary by argument name.

    The ``inputs`` of the family, and ``labels``: (batch,), uniform integers, if it has no others.
    """
    rng = np.random.default_rng([seed, batch_size])
    labels = rng.integers(0, problem.labels, batch_size, dtype="int32")
    inputs = FAMILIES[problem.family].inputs(problem, batch_size, rng, dtype)
    inputs.setdefault("labels", labels)
    return inputs


def seeded_vector(weights: dict[str, Array], seed: int = 0) -> dict[str, Array]:
    """A standard normal vector with the names, shapes and dtypes of ``weights``."""
    rng = np.random.default_rng([seed, len(weights)])
    return {name: rng.standard_normal(w.shape, w.dtype) for name, w in weights.items()}


def _standard_deviation(shape: Shape) -> float:
    is_convolution = len(shape) == 4
    return np.sqrt(2 / (shape[0] * shape[2] * shape[3])) if is_convolution else 0.02
