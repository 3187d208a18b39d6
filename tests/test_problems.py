"""The problems are the article's: architectures, sizes, inputs; and their numbers are seeded."""

import math
from functools import partial

import jax
import numpy as np
import pytest
import torch
from cases import FAMILIES, FRAMEWORKS, module

from reproduce import problems
from reproduce.measuring import comparing
from reproduce.problems import PROBLEMS

PARAMETERS = {
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vit": 86_444_776,
    "bert": 109_483_778,
    "gpt2": 124_439_808,
    "llama": 124_668_672,
}
# What is differentiated in JAX by the article's normalisation, and is constant by the other.
RUNNING_STATISTICS = {"resnet34": 17_024, "resnet50": 53_120}
# How the digests begin of the weights of seed 0 and of a batch of four.
DRAWN = {
    "tiny_resnet": ("46b810b42f9f4588", "c078f63aca025915"),
    "tiny_vit": ("49b08e7e9c2f61ea", "c078f63aca025915"),
    "tiny_bert": ("f4545d127dfca3f5", "c6b3dd7c2d97f0a5"),
}


def in_flax(problem):
    """Flax's trees of ``problem`` as shapes, without memory for the weights."""
    shapes = problems.weight_shapes(problem)
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    return jax.eval_shape(lambda: module("jax", "models").to_flax(problem, weights))


def differentiated(framework, name, normalisation):
    """How many scalars the loss of ``name`` is a function of."""
    shapes = problems.weight_shapes(PROBLEMS[name])
    weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    build = module(framework, "models").build
    if framework == "torch":
        params = build(PROBLEMS[name], weights, normalisation)[1]
    else:
        params = jax.eval_shape(lambda: build(PROBLEMS[name], weights, normalisation)[1])
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def batch_of(family, size=64):
    return problems.batch(FAMILIES[family], size)


@pytest.mark.parametrize("name", [*PROBLEMS, *FAMILIES])
def test_weights_are_named_and_shaped_as_transformers_does(name):
    problem = (PROBLEMS | FAMILIES)[name]
    configuration, model = module("torch", "models").MODELS[problem.family]
    with torch.device("meta"):
        built = model(configuration(**problem.config))
    state, is_tied = built.state_dict(), built.config.tie_word_embeddings
    tied = (model._tied_weights_keys or ()) if is_tied else ()  # those are others' weights
    again = ("batches_tracked", *tied)
    expected = {n: tuple(t.shape) for n, t in state.items() if not n.endswith(again)}
    assert problems.weight_shapes(problem) == expected


@pytest.mark.parametrize("normalisation", ["article", "matched"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", PARAMETERS)
def test_so_many_parameters_are_differentiated(framework, name, normalisation):
    has_statistics = (framework, normalisation) == ("jax", "article")
    more = RUNNING_STATISTICS.get(name, 0) if has_statistics else 0
    assert differentiated(framework, name, normalisation) == PARAMETERS[name] + more


@pytest.mark.parametrize("name", [*PROBLEMS, *FAMILIES])
def test_flax_initialises_the_same_tree(name):
    problem = (PROBLEMS | FAMILIES)[name]
    configuration, model = module("jax", "models").MODELS[problem.family]
    shape = next(iter(problems.batch(problem, 1).values())).shape  # of the images or the tokens
    flax_model = model(configuration(**problem.config), input_shape=shape, _do_init=False)
    initial = jax.eval_shape(
        lambda: flax_model.init_weights(jax.random.PRNGKey(0), flax_model.input_shape)
    )
    found = in_flax(problem)
    expected = found if "batch_stats" in found else found["params"]
    assert jax.tree.map(lambda leaf: leaf.shape, expected) == jax.tree.map(
        lambda leaf: leaf.shape, initial
    )


def test_a_buffer_of_unknown_values_is_refused_and_not_made_zeros(monkeypatch):
    models, problem = module("torch", "models"), FAMILIES["vit"]
    configuration, model = models.MODELS["vit"]

    class Masked(model):
        def __init__(self, config):
            super().__init__(config)
            mask = torch.ones(1, 4, 4, dtype=torch.bool).tril()
            self.vit.register_buffer("causal_mask", mask, persistent=False)

    monkeypatch.setitem(models.MODELS, "vit", (configuration, Masked))
    found = r"buffer 'vit.causal_mask' \(torch.bool, shape \(1, 4, 4\)\) .*; say what is in it"
    with pytest.raises(ValueError, match=found):
        models.build(problem, problems.weights(problem))


@pytest.mark.parametrize("name", FAMILIES)
def test_buffers_have_the_values_that_transformers_gives_them(name):
    problem, models = FAMILIES[name], module("torch", "models")
    weights = problems.weights(problem)
    configuration, model = models.MODELS[problem.family]
    built = dict(model(configuration(**problem.config)).named_buffers())
    expected = {buffer: value for buffer, value in built.items() if buffer not in weights}
    buffers = models.build(problem, weights, "matched")[0].logits.buffers
    for buffer, value in expected.items():
        torch.testing.assert_close(buffers[buffer], value, rtol=0, atol=0)


def test_a_seed_decides_weights_inputs_and_vector():
    problem = FAMILIES["resnet"]
    for draw in (
        lambda seed: problems.weights(problem, seed),
        lambda seed: problems.batch(problem, 4, seed),
        lambda seed: problems.seeded_vector(problems.weights(problem), seed),
    ):
        first, again, other = draw(0), draw(0), draw(1)
        for name, value in first.items():
            np.testing.assert_array_equal(value, again[name])
        assert any((value != other[name]).any() for name, value in first.items())


@pytest.mark.parametrize("name", DRAWN)
def test_a_seed_gives_the_numbers_that_it_has_always_given(name):
    problem = PROBLEMS[name]
    drawn = problems.weights(problem), problems.batch(problem, 4)
    assert DRAWN[name] == tuple(comparing.digest(each.values())[:16] for each in drawn)


def test_weights_spread_as_transformers_initialises_them():
    weights = problems.weights(PROBLEMS["tiny_resnet"])
    convolution = weights["resnet.encoder.stages.1.layers.0.layer.1.convolution.weight"]
    assert convolution.std() == pytest.approx(math.sqrt(2 / (16 * 9)), rel=0.05)
    assert weights["classifier.1.weight"].std() == pytest.approx(0.02, rel=0.2)
    scale = weights["resnet.embedder.embedder.normalization.weight"]
    assert abs(scale - 1).max() < 0.04


def test_images_are_standard_normal_and_labels_uniform():
    drawn = batch_of("resnet")
    assert drawn["pixel_values"].shape == (64, 32, 32, 3)
    assert drawn["pixel_values"].dtype == np.float32
    assert drawn["pixel_values"].mean() == pytest.approx(0, abs=0.01)
    assert drawn["pixel_values"].std() == pytest.approx(1, abs=0.01)
    assert set(drawn["labels"]) == {0, 1, 2}


def test_tokens_are_uniform_below_10000_and_masks_are_bits():
    drawn = problems.batch(PROBLEMS["bert"], 128)
    assert drawn["input_ids"].shape == (128, 32)
    assert 9_900 < drawn["input_ids"].max() < 10_000
    assert drawn["input_ids"].mean() == pytest.approx(5_000, rel=0.05)
    for name in ("attention_mask", "token_type_ids"):
        assert set(drawn[name].ravel()) == {0, 1}
    assert set(drawn["labels"]) == {0, 1}


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_language_model_is_to_predict_the_next_token_of_each(name):
    drawn, words = problems.batch(PROBLEMS[name], 64), PROBLEMS[name].config["vocab_size"]
    assert drawn.keys() == {"input_ids", "labels"}
    assert drawn["labels"].shape == drawn["input_ids"].shape == (64, 128)
    np.testing.assert_array_equal(drawn["labels"][:, :-1], drawn["input_ids"][:, 1:])
    assert 0.99 * words < drawn["labels"].max() < words
    assert drawn["labels"].mean() == pytest.approx(words / 2, rel=0.05)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_no_token_changes_what_is_predicted_before_it(framework, name):
    models, problem = module(framework, "models"), FAMILIES[name]
    loss, params = models.build(problem, problems.weights(problem, dtype="float64"))
    batch = problems.batch(problem, 2)
    other = batch | {"input_ids": batch["input_ids"].copy()}
    other["input_ids"][:, 3] += 1
    before, after = (
        np.asarray(loss.logits(params, models.to_device(each)).tolist()) for each in (batch, other)
    )
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).all()


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_sequence_that_is_masked_as_a_whole_makes_no_nan(framework):
    models, problem = module(framework, "models"), FAMILIES["bert"]
    loss, params = models.build(problem, problems.weights(problem), "article")
    batch = batch_of("bert", 2) | {"attention_mask": np.zeros((2, 5), dtype="int32")}
    batch = models.to_device(batch)
    hvp = partial(module(framework, "hvp").forward_over_reverse, lambda p: loss(p, batch))
    result = (jax.jit(hvp) if framework == "jax" else hvp)(params, params)
    leaves = module(framework, "device").to_numpy(result)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
