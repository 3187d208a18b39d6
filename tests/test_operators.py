"""The table of operators is what the locked versions give, and equal functions are equal."""

import numpy as np
import pytest
import torch
from cases import module
from commands import ROOT
from torch.nn import functional

from reproduce.in_torch import repair, users_model
from reproduce.in_torch.hvp import reverse_over_forward, reverse_over_reverse
from reproduce.mine import operators

TABLE = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
NORMS = ("layer_norm", "instance_norm", "batch_norm (training)")


def recorded(name):
    """What the page says of PyTorch's operator ``name``, by method."""
    (line,) = (line for line in TABLE.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip(" *") for cell in line.split("|")[2:6]]


@pytest.mark.parametrize("name", NORMS)
def test_pytorchs_normalisations_are_wrong_by_reverse_over_forward_alone_and_mended(name):
    of_torch = module("torch", "operators")
    operator = of_torch.OPERATORS[name]
    assert list(of_torch.verdicts(operator).values()) == recorded(name)
    assert recorded(name) == ["right", "wrong", "right", "right"]
    assert set(of_torch.repaired_verdicts(operator).values()) == {"right"}


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_page_of_operators_is_what_the_locked_versions_give(framework):
    (section,) = operators.page([framework]).removeprefix(operators.HEAD).strip().split("\n## ")
    assert TABLE.startswith(operators.HEAD)
    assert section.strip() in TABLE


def test_an_operator_with_a_planted_wrong_derivative_is_found_wrong_in_jax():
    of_jax = module("jax", "operators")
    jax = pytest.importorskip("jax")

    @jax.custom_jvp
    def sine(x):
        return jax.numpy.sin(x)

    sine.defjvp(lambda x, t: (sine(*x), t[0] * jax.lax.stop_gradient(jax.numpy.cos(x[0]))))
    assert set(of_jax.verdicts(of_jax.of_rows(sine)).values()) == {"wrong"}
    assert set(of_jax.verdicts(of_jax.of_rows(jax.numpy.sin)).values()) == {"right"}


def normal(*shape):
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape))


CALLS = {
    functional.layer_norm: [
        ((normal(3, 4, 5), (5,)), {}),
        ((normal(3, 4, 5), (4, 5), normal(4, 5), normal(4, 5), 1e-3), {}),
    ],
    functional.batch_norm: [
        ((normal(3, 4, 5), None, None, normal(4), normal(4), True), {"eps": 1e-3}),
        ((normal(3, 4), normal(4), normal(4) ** 2), {"training": True}),
        ((normal(3, 4, 2, 2), normal(4), normal(4) ** 2, normal(4), normal(4)), {}),
    ],
    functional.instance_norm: [
        ((normal(3, 4, 5),), {"weight": normal(4), "bias": normal(4)}),
        ((normal(3, 4, 5), normal(4), normal(4) ** 2), {"use_input_stats": False}),
    ],
    functional.mse_loss: [
        ((normal(3, 4), normal(3, 4)), {}),
        ((normal(3), normal(3)), {"reduction": "sum"}),
        ((normal(3), normal(3)), {"reduction": "none"}),
    ],
    functional.huber_loss: [((3 * normal(9), normal(9)), {"delta": 0.7, "reduction": "sum"})],
    functional.hardsigmoid: [((5 * normal(50),), {})],
    functional.glu: [((normal(4, 6),), {}), ((normal(4, 6), 0), {})],
    torch._weight_norm: [
        ((normal(3, 4, 5), normal(3, 1, 1)), {}),
        ((normal(3, 4), normal(1, 4), 1), {}),
    ],
}


def test_what_takes_the_place_of_a_function_gives_its_values():
    assert CALLS.keys() == repair.EQUAL.keys()
    for function, calls in CALLS.items():
        for arguments, settings in calls:
            expected = function(*arguments, **settings)
            with repair.repaired():
                found = function(*arguments, **settings)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_repair_is_for_what_is_called_inside_the_block_alone():
    def loss(p):
        return functional.layer_norm(p["x"] * normal(6), (6,)).pow(3).sum()

    params, v = {"x": normal(3, 6) + 1}, {"x": normal(3, 6)}
    right = reverse_over_reverse(loss, params, v)["x"]
    with repair.repaired():
        assert torch.allclose(reverse_over_forward(loss, params, v)["x"], right)
    assert not torch.allclose(reverse_over_forward(loss, params, v)["x"], right, rtol=1e-2)


def test_without_dropout_a_loss_is_repeated():
    x = normal(100)
    with repair.WithoutDropout():
        assert functional.dropout(x, 0.5).equal(x)
        assert functional.dropout(input=x, p=0.5, training=True).equal(x)
    assert not functional.dropout(x, 0.5).equal(x)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: torch.nn.TransformerEncoderLayer(4, 2, 4, 0.5),
        lambda: torch.nn.LSTM(4, 4, 2, dropout=0.5),
    ],
)
def test_dropout_inside_attention_and_recurrent_layers_is_seen_and_switched_off(layer):
    model, x = layer().double(), normal(3, 2, 4)

    def output():
        found = model(x)
        return found if torch.is_tensor(found) else found[0]

    assert not output().equal(output())
    with repair.WithoutDropout():
        assert output().equal(output())
    assert users_model.called(output, {})[0].dropped
    model.eval()
    assert not users_model.called(output, {})[0].dropped


def test_what_is_not_the_same_in_other_versions_is_a_table():
    old = operators.Verdicts("2.1.1", {"a": {"autograd_grad": "wrong"}, "b": {"jvp": "right"}})
    new = operators.Verdicts("2.10.0", {"a": {"autograd_grad": "right"}, "b": {"jvp": "right"}})
    lines = operators.differences(new, [old]).removeprefix(operators.IN_OTHERS).strip().splitlines()
    assert lines == [
        *("1 of 2 verdicts are the same in all.", ""),
        *("| operator | HVP | 2.10.0 | 2.1.1 |", "| --- | --- | --- | --- |"),
        "| a | autograd.grad twice | right | **wrong** |",
    ]


def test_what_differs_in_other_versions_is_on_the_page_and_the_layer_normalisation_does_not():
    section = TABLE.split(operators.IN_OTHERS)[1]
    assert "| layer_norm |" not in section
    assert "| slogdet | reverse-over-forward | **wrong** | **wrong** | right |" in section
