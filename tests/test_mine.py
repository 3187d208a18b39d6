"""A loss of the user's own: what is said of it, what is repaired, and which mistakes are found."""

import importlib.util
import json
import re
import textwrap
import types

import jax
import msgspec
import numpy as np
import pytest
import torch
from commands import ROOT, reproduce

from reproduce.errors import UserError
from reproduce.in_jax import products
from reproduce.machine.target import load
from reproduce.measuring import comparing
from reproduce.mine import (
    answer,
    correct,
    differences,
    kit,
    measure,
    page,
    pasted,
    stages,
    user_file,
)
from reproduce.mine.found import Found, Product

EXAMPLES = ROOT / "examples"
TORCH = """
import torch
from torch import nn

def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), {layer}, nn.Linear(4, 2))
    return model, loss, torch.randn(5, 3)

def loss(model, batch):
    return {loss}
"""
JAX = """
import jax
import jax.numpy as jnp

def problem():
    x = jax.random.normal(jax.random.key(0), (5, 3))
    return loss, {{"w": jnp.ones((3, 2)), "steps": jnp.arange(2)}}, x

def loss(params, batch):
    return {loss}
"""


@pytest.fixture
def find(tmp_path, monkeypatch):
    """Runs the steps in this process, with few rounds, on a file of the given text."""
    monkeypatch.setattr(measure, "TIMING_SECONDS", 0)
    monkeypatch.setattr(measure, "POINT_SECONDS", 0)
    monkeypatch.syspath_prepend(str(tmp_path))

    def found(text, repairs=True, target=None):
        path = tmp_path / "own.py"
        path.write_text(textwrap.dedent(text))
        say = lambda step, sentence: None  # noqa: E731
        with jax.enable_x64(False):  # other tests enable it for all of their process
            return stages.find(say, path, tmp_path, repairs, on_gpu=False, target=target)

    return found


def in_torch(layer="nn.Tanh()", loss="model(batch).pow(2).mean()", further=""):
    return TORCH.format(layer=layer, loss=loss) + further


def in_jax(loss="(jnp.tanh(batch @ params['w']) ** 2).mean()", further=""):
    return JAX.format(loss=loss) + further


# Losses whose logits the file gives, too.
IN_PARTS = {
    "torch": in_torch(
        "nn.LayerNorm(4)",
        "nn.functional.mse_loss(model(batch), batch[:, :2])",
        """
def logits(model, batch):
    return model(batch)

def loss_of_logits(logits, batch):
    return nn.functional.mse_loss(logits, batch[:, :2])
""",
    ),
    "jax": in_jax(
        "loss_of_logits(logits(params, batch), batch)",
        """
def logits(params, batch):
    return jnp.tanh(batch @ params['w'])

def loss_of_logits(logits, batch):
    return -jax.nn.log_softmax(logits)[:, 0].mean()
""",
    ),
}


def verdicts(found):
    return {(each.method, each.is_repaired): each.verdict for each in found.products}


def said(found):
    return " ".join(sentence for sentences in found.said.values() for sentence in sentences)


@pytest.mark.parametrize("text", [in_torch(), in_jax()])
def test_where_all_is_well_every_hvp_is_right_and_the_pasted_code_agrees(find, text):
    found = find(text)
    assert {each.verdict for each in found.products} == {"right"}
    assert found.code_difference < 1e-5
    assert "import reproduce" not in found.code
    assert len(found.timed) > 4
    assert all(each.error < 1e-5 for each in found.timed)
    assert "WRONG" not in said(found)


@pytest.mark.parametrize(
    ("framework", "method"),
    [(name, method) for name in IN_PARTS for method in kit.load(name).own.DIRECT],
)
def test_the_code_to_paste_of_every_method_gives_its_hvp(tmp_path, framework, method):
    path, code = tmp_path / "own.py", tmp_path / "hvp.py"
    path.write_text(IN_PARTS[framework])
    user, of = user_file.read(path), kit.load(framework)
    found, _ = of.own.own(user.problem, user.parameters)
    hvp = Product(method=method, is_repaired=of.own.CAN_BE_REPAIRED)
    code.write_text(pasted.code(of, found, hvp))
    v = of.own.from_numpy(correct.vector(of.device.to_numpy(found.params)), found.params)
    right = of.device.to_numpy(of.product(hvp, found)(found.params, v, found.batch))
    assert f"return {of.methods[method].__name__}(of_params" in code.read_text()
    assert pasted.difference(of, found, user, code, right) < 1e-6


def test_layer_norm_is_found_wrong_by_reverse_over_forward_and_repaired(find):
    found = find(in_torch("nn.Sequential(nn.Tanh(), nn.LayerNorm(4))"))
    assert verdicts(found)["reverse_over_forward", False] == "wrong"
    assert verdicts(found)["reverse_over_forward", True] == "right"
    assert "Do not use: reverse-over-forward (off by" in " ".join(answer.advice(found))


def test_as_is_repairs_nothing(find):
    found = find(in_torch("nn.LayerNorm(4)"), repairs=False)
    assert not any(each.is_repaired for each in found.products)
    assert verdicts(found)["reverse_over_forward", False] == "wrong"


def test_a_model_in_half_precision_is_looked_at_in_float32(find):
    text = in_torch("nn.LayerNorm(4)").replace("nn.Linear(4, 2))", "nn.Linear(4, 2)).bfloat16()")
    found = find(text.replace("randn(5, 3)", "randn(5, 3).bfloat16()"))
    assert "in torch.bfloat16; what follows is of a copy in float32" in said(found)
    assert verdicts(found)["reverse_over_forward", True] == "right"
    assert found.best.error < 1e-5
    assert found.code_difference < 1e-5


def test_parameters_in_half_precision_in_jax_are_said_and_not_blamed(find):
    found = find(in_jax().replace("ones((3, 2))", "ones((3, 2), 'bfloat16')"))
    assert "Parameters are in bfloat16" in said(found)
    assert set(verdicts(found).values()) == {"right"}
    assert found.best.error > 1e-4


def test_checkpointing_as_that_of_transformers_is_switched_off(find):
    further = """
class Checkpointed(nn.Module):
    gradient_checkpointing = True

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        if self.gradient_checkpointing:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False).tanh()
        return self.inner(x).tanh()
"""
    found = find("import torch.utils.checkpoint\n" + in_torch("Checkpointed()", further=further))
    assert "Checkpointing is on: it is switched off" in said(found)
    assert set(verdicts(found).values()) == {"right"}
    assert found.code_difference < 1e-5


@pytest.fixture
def loopback(monkeypatch):
    """Processes of PyTorch reach each other on this machine alone, and part at the end."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    yield
    torch.distributed.destroy_process_group()


def test_a_model_that_is_distributed_is_taken_out_of_it(find, loopback):
    distributed = """
torch.distributed.init_process_group(
    "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
)
alone = problem

def problem():
    model, loss, batch = alone()
    return nn.parallel.DistributedDataParallel(model), loss, batch
"""
    found = find(in_torch("nn.LayerNorm(4)", further=distributed))
    assert "The model is in a DistributedDataParallel: what is in it was taken" in said(found)
    assert verdicts(found)["reverse_over_forward", True] == "right"
    assert found.code_difference < 1e-5


@pytest.mark.slow
def test_the_best_hvp_is_compiled_with_its_repair_and_still_right(find, tmp_path):
    find(in_torch("nn.LayerNorm(4)"))
    repaired = Product(method="reverse_over_forward", is_repaired=True)
    for each in (Product(method="autograd_grad"), repaired):
        product = stages.compile_best(tmp_path / "own.py", each)
        assert product.label == f"compiled, {each.label}"
        assert product.error < 1e-5
        assert product.compile_seconds > 0
        assert len(product.seconds) == len(product.gradient_seconds) > 2


def test_statistics_that_training_updates_stay_as_they_are(find, tmp_path):
    found = find(in_torch("nn.BatchNorm1d(4)"))
    assert "Each call changes 3 buffers" in said(found)
    assert verdicts(found)["reverse_over_forward", True] == "right"
    assert found.code_difference < 1e-5


def test_changes_in_place_are_counted(find):
    text = in_torch("nn.ReLU(inplace=True)", loss="model(batch).add_(1).pow(2).mean()")
    found = find(text)
    assert "It changes tensors in place (2 calls)" in said(found)
    assert set(verdicts(found).values()) == {"right"}
    assert "in place" not in said(find(in_torch()))


def test_dropout_is_switched_off_and_said_so(find):
    found = find(in_torch("nn.Dropout(0.5)"))
    assert "Dropout is on" in said(found)
    assert set(verdicts(found).values()) == {"right"}


NOISY = {
    "torch": in_torch(loss="noisy(model(batch)).pow(2).sum()").replace("5, 3", "50, 3")
    + """
def noisy(x):
    torch.manual_seed(0)
    return (x + torch.randn_like(x)).tanh()
""",
    "jax": in_jax(
        "(jnp.tanh(batch @ params['w'] + jax.random.normal(jax.random.key(0), (5, 2))) ** 2).sum()"
    ),
}


@pytest.mark.parametrize("framework", NOISY)
def test_right_hvps_of_a_loss_with_other_seeded_noise_in_float64_are_not_blamed(find, framework):
    found = find(NOISY[framework])
    assert "In your precision it is another loss" in said(found)
    by_method = {each.method: each for each in found.products if each.vectors == 1}
    recorded = by_method.pop("linearized", None) if framework == "torch" else None
    assert {each.verdict for each in by_method.values()} == {"right"}
    assert recorded is None or recorded.verdict == "wrong"  # its noise is that of no seed
    assert found.code_difference < 1e-5


def test_a_loss_in_mixed_precision_has_right_hvps_with_an_error(find):
    loss = "nn.functional.cross_entropy(half(model, batch), torch.arange(5) % 2)"
    further = """
def half(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return model(batch).float()
"""
    found = find(in_torch(loss=loss, further=further))
    assert {each.verdict for each in found.products} == {"right"}
    assert found.best.difference < 1e-3
    assert found.best.error > 1e-4


def test_a_loss_with_derivatives_inside_has_hvps(find):
    loss = "inner(model, batch.clone().requires_grad_()).pow(2).mean()"
    further = """
def inner(model, x):
    return torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]
"""
    found = find(in_torch(loss=loss, further=further))
    assert verdicts(found)["autograd_grad", False] == "right"
    assert found.code_difference < 1e-5


def test_an_hvp_that_is_wrong_in_one_small_tensor_is_found_out():
    right = [np.full(9, 1e6), np.ones(3)]
    for factor, verdict in ((1 + 1e-4, "right"), (1.1, "wrong")):
        judged = Product(method="autograd_grad")
        leaves = [right[0], right[1] * factor]
        correct._judged([(judged, leaves)], right, 1e-9, "float64")
        assert judged.verdict == verdict, judged.reason
        assert judged.difference < 1e-6


def test_a_wrong_program_is_not_timed():
    of = kit.load("torch")
    params, hvp = {"x": torch.ones(3)}, Product(method="autograd_grad", is_compiled=True)
    found = types.SimpleNamespace(params=params, batch={})
    right = correct.Right([np.ones(3, "float32")])
    subject = measure.Subject(of, found, params, right, {})
    measure.time_one(subject, hvp, lambda *_: {"x": 1.5 * params["x"]})
    assert (hvp.verdict, hvp.reason, hvp.seconds) == ("wrong", "off by 50 %", [])


@pytest.mark.slow
def test_what_the_user_has_compiled_is_called_as_it_was(find):
    loss = "model(batch).pow(2).mean()"
    text = in_torch("torch.compile(nn.LayerNorm(4))", loss, "loss = torch.compile(loss)")
    found = find(text)
    assert "torch.compile has compiled some of it" in said(found)
    assert verdicts(found)["reverse_over_forward", True] == "right"
    assert found.code_difference < 1e-5


def test_a_batch_of_a_mapping_of_its_own_stays_one(find):
    further = """
from collections import UserDict

class Batch(UserDict):
    @property
    def inputs(self):
        return self.data["x"]
"""
    text = in_torch(loss="model(batch.inputs).pow(2).mean()", further=further)
    found = find(text.replace("torch.randn(5, 3)", "Batch(x=torch.randn(5, 3))"))
    assert set(verdicts(found).values()) == {"right"}
    assert "float32" not in said(found)


def test_a_tied_parameter_is_found_by_any_of_its_names(find):
    further = """
untied, parameters = problem, "^2.weight"

def problem():
    model, loss, batch = untied()
    model[2].weight = model[0].weight
    return model, loss, batch
"""
    text = in_torch(further=further).replace("nn.Linear(4, 2)", "nn.Linear(3, 4)")
    found = find(text.replace("nn.Tanh()", "nn.Linear(4, 3)"))
    assert "12 parameters in 1 tensors vary" in said(found)


ORDINARY_GRADIENT_WRONG = """
class Sine(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return torch.sin(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * {derivative}

    @staticmethod
    def jvp(ctx, t):
        (x,) = ctx.saved_tensors
        return t * torch.cos(x)
"""


def planted_in_torch(derivative):
    function = ORDINARY_GRADIENT_WRONG.format(derivative=derivative)
    return in_torch(loss="Sine.apply(model(batch)).sum()", further=function)


def test_a_wrong_derivative_planted_in_pytorch_is_found_out(find):
    assert "The gradient is WRONG" in said(find(planted_in_torch("1.1 * torch.cos(x)")))


def test_a_second_derivative_that_pytorch_does_not_see_is_found_out(find):
    with pytest.raises(UserError, match="no method gives a right one"):
        find(planted_in_torch("torch.cos(x.detach())"))


def planted_in_jax(derivative):
    function = f"""
@jax.custom_vjp
def sine(x):
    return jnp.sin(x)

sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * {derivative},))
"""
    return in_jax("sine(batch @ params['w']).sum()", function)


def test_a_wrong_derivative_planted_in_jax_is_found_out(find):
    assert "The gradient is WRONG" in said(find(planted_in_jax("1.1 * jnp.cos(x)")))


def test_a_second_derivative_that_jax_does_not_see_is_found_out(find):
    with pytest.raises(UserError, match="forward-over-reverse: off by 1e\\+02 %"):
        find(planted_in_jax("jax.lax.stop_gradient(jnp.cos(x))"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "was to have a function 'problem', and has none"),
        ("def problem(): return 1, 2", "return three things, and returned a tuple of 2"),
        ("def problem(): return 1, 2, 3", "returned int, int, int, of which no loss can be made"),
        ("def problem(:", "line 1 of .*own.py raised SyntaxError"),
        ("import nowhere_to_be_found", "line 1 of .* raised ModuleNotFoundError"),
        (in_torch(loss="model(batch)"), r"a tensor of shape \(5, 2\)"),
        (in_torch(loss="model(batch).mean().item()"), "and it gave float"),
        (in_torch(loss="model(batch).detach().mean()"), "gradient of the loss is zero"),
        (in_torch(loss="model(batch[:, :2]).mean()"), "line 11 of .* raised RuntimeError: mat1"),
        (in_torch(loss="model(batch).mean() * torch.rand(())"), "the loss is random"),
        (in_torch(further="parameters = 'lora_'"), "'lora_' matches none of the model's 4"),
        (in_torch(further="parameters = ['0.weight']"), "a regular expression in quotes"),
        (in_torch(loss="model(batch).log().mean()"), "finite number, and it is nan"),
        (in_torch(loss="(0 * model(batch)).sqrt().sum()"), "not in 0.weight; look for a square"),
        (in_torch(further="logits = torch.sin"), "take two functions of .*, and it has but one"),
        (IN_PARTS["torch"].replace("return model(batch)", "return [0]"), "and it gave list"),
        (IN_PARTS["jax"].replace("h), batch)", "h), batch) + 1"), "was to give all of the loss"),
        (in_jax("batch @ params['w']"), r"an array of shape \(5, 2\)"),
        (in_jax("jnp.argmax(params['w'])"), "and it gave an array of shape"),
        (in_jax("batch.sum()"), "gradient of the loss is zero"),
        (in_jax("params['v'].sum()"), "line 10 of .* raised KeyError: 'v'"),
        (in_jax("jnp.log(-params['w']).sum()"), "finite number, and it is nan"),
        (in_jax("params['w'].sum() * np.random.rand()", "import numpy as np"), "loss is random"),
        ("import torch\n" + in_jax().replace("jnp.ones", "torch.ones"), "PyTorch's tensors; put"),
        (in_jax(further="parameters = 'lora_'"), "'lora_' matches none of the 2 leaves"),
        (in_jax(further="parameters = 'steps'"), "none of the 1 leaves of params has"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(find, text, sentence):
    with pytest.raises(UserError, match=sentence):
        find(text)


def test_the_traceback_of_the_users_exception_begins_in_the_users_file(find):
    with pytest.raises(UserError) as error:
        find(in_torch(loss="broken(batch)", further="def broken(x):\n    return x / None\n"))
    sentence, first, *_ = str(error.value).splitlines()
    assert "line 13" in sentence
    assert "own.py" in first


def test_what_does_not_fit_is_said_with_the_batch_that_does(find, monkeypatch):
    monkeypatch.setattr("reproduce.machine.environment.free_bytes", lambda on_gpu: 20_000)
    text = in_torch().replace("randn(5, 3)", "randn(500, 3)")
    with pytest.raises(UserError, match=r"needs \d+ KiB; the largest batch that fits is about"):
        find(text)


@pytest.mark.parametrize("framework", IN_PARTS)
def test_a_gauss_newton_product_is_held_against_its_own_and_never_the_answer(find, framework):
    found = find(IN_PARTS[framework])
    (timed,) = [each for each in found.timed if not each.is_hvp]
    assert timed.is_repaired == (framework == "torch")  # for mse_loss
    assert timed.difference < 1e-5
    assert timed.error < 1e-5
    timed.seconds = [1e-9] * len(timed.seconds)  # however fast it is
    answers = answer.advice(found)
    assert found.best.is_hvp
    (sentence,) = [each for each in answers if "Gauss-Newton" in each]
    assert sentence.startswith("Where a product that is no HVP will do: ")


def test_the_check_of_gauss_newton_products_is_that_of_the_dense_matrix(tmp_path):
    """By JAX's dense Jacobian and Hessian, in float64."""
    path = tmp_path / "own.py"
    path.write_text(IN_PARTS["jax"])
    user, of = user_file.read(path), kit.load("jax")
    with of.own.float64_by_default():
        found = of.own.own(user.problem, user.parameters, user.parts)[0].in_float64()
        w, batch = found.params["['w']"], user.problem[2]
        v = correct.vector([np.asarray(w)])
        loss = of.loss(Product(method="gauss_newton"), found)
        (product,), error = differences.gauss_newton_differences(
            of, found, loss, v, differences.STEPS["float64"]
        )
        logits, loss_of_logits = user.parts

        def z(flat):
            return logits({"w": flat.reshape(w.shape)}, batch).ravel()

        jacobian = jax.jacobian(z)(w.ravel())
        hessian = jax.hessian(lambda z: loss_of_logits(z.reshape(5, 2), batch))(z(w.ravel()))
        dense = jacobian.T @ hessian @ jacobian @ v[0].ravel()
    assert error < 1e-7
    assert comparing.relative_difference([product.ravel()], [np.asarray(dense)]) < 1e-7


def test_a_wrong_gauss_newton_product_is_found_out(find, monkeypatch):
    of = kit.load("jax")
    wrong = of.methods["gauss_newton"]
    monkeypatch.setitem(
        products.METHODS,
        "gauss_newton",
        lambda loss, params, v: jax.tree.map(lambda x: 1.01 * x, wrong(loss, params, v)),
    )
    found = find(IN_PARTS["jax"])
    assert verdicts(found)["gauss_newton", False] == "wrong"
    assert "Do not use: Gauss-Newton (off by 1 %)" in " ".join(answer.advice(found))


@pytest.mark.parametrize("framework", IN_PARTS)
def test_memory_of_every_product_is_told_of_a_gpu_that_is_not_there(find, framework):
    found = find(IN_PARTS[framework], target=load("a100"))
    right = [each for each in found.products if each.verdict == "right" and each.vectors == 1]
    assert {each.is_hvp for each in right} == {True, False}
    assert all(each.target_bytes and each.seconds for each in right)
    head, _, *lines = page.table(found)
    assert head[7] == "on a100"
    told = [bool(each.target_bytes) for each in found.timed]
    assert [line[7] != page.NONE for line in lines] == told + [False] * len(found.without_use)


def test_what_does_not_fit_a_gpu_that_is_not_there_is_timed_here(find):
    small = msgspec.structs.replace(load("a100"), memory_bytes=40_000)
    found = find(in_torch().replace("randn(5, 3)", "randn(500, 3)"), target=small)
    told = [each for each in found.said["Fits?"] if "DOES NOT FIT" in each]
    batches = [re.search(r"fits is about (\d+) of 500", each)[1] for each in told]
    assert len(told) == len(found.timed) - 1  # one is of several vectors at once
    assert all(each.startswith("On the NVIDIA A100-SXM4-40GB ") for each in told)
    needed = [each.target_bytes for each in found.timed if each.target_bytes]
    assert max(needed) < 2 * min(needed)  # of one, too, whose recording takes five times as much
    assert all(0 < int(batch) < 500 for batch in batches)
    assert {each.verdict for each in found.timed} == {"right"}
    cells = [line[7] for line in page.table(found) if line[7].endswith("KiB (too large)")]
    assert len(cells) == len(told)


def product(method, seconds, **settings):
    return Product(method=method, seconds=[seconds] * 3, gradient_seconds=[1.0] * 3, **settings)


def found_of(*products):
    return Found(file="own.py", framework="torch", device="", versions="", products=[*products])


def test_the_answer_counts_when_what_is_computed_once_is_won_back():
    once = product("graph_kept", 2.0, point_seconds=5.0)
    compiled = product("autograd_grad", 2.5, is_compiled=True, compile_seconds=10.0)
    answers = answer.advice(found_of(product("autograd_grad", 3.0), once, compiled))
    assert "For 6 HVPs or more at one point: graph kept" in answers[1]
    assert "Compiling pays from 21 HVPs on" in answers[2]


def test_compiling_that_saves_nothing_is_not_recommended():
    compiled = product("autograd_grad", 2.99, is_compiled=True, compile_seconds=10.0)
    answers = answer.advice(found_of(product("autograd_grad", 3.0), compiled))
    assert "the same; nothing is clearly faster" in answers[1]
    assert "Compiling does not pay" in answers[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch_mlp", "torch_lora", "jax_plain", "jax_flax"])
def test_an_example_is_a_problem_with_right_hvps(find, name):
    found = find((EXAMPLES / f"{name}.py").read_text())
    assert found.best.error < 1e-5
    assert found.code_difference < 1e-5
    assert "WRONG (off by" in said(found) or not name.startswith("torch")


@pytest.mark.slow
def test_the_verb_writes_a_page_with_figure_and_code_for_gpt2(tmp_path):
    example = EXAMPLES / "torch_gpt2.py"
    done = reproduce("mine", str(example), str(tmp_path), "--compile-seconds", "0")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "mine.html").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    assert "For one HVP" in done.stdout
    assert "data:image/png;base64" in page
    assert "scaled_dot_product_attention (2)" in page
    assert {each["verdict"] for each in found["products"] if each["is_repaired"]} == {"right"}
    assert (tmp_path / "figures" / "mine.pdf").exists()
    spec = importlib.util.spec_from_file_location("pasted", tmp_path / "hvp.py")
    pasted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pasted)
    assert callable(pasted.hvp)


@pytest.mark.parametrize("name", ["no_such.py", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    done = reproduce("mine", name, str(tmp_path))
    assert done.returncode == 2
    assert "give one of your own" in done.stderr


def test_a_gpu_that_is_not_known_is_refused_before_the_file_is_run(tmp_path):
    (tmp_path / "own.py").write_text("raise RuntimeError")
    done = reproduce("mine", str(tmp_path / "own.py"), str(tmp_path), "--target", "b300")
    assert done.returncode == 2
    assert "target 'b300' was asked for" in done.stderr


def test_the_verb_ends_with_the_workers_sentence(tmp_path):
    (tmp_path / "own.py").write_text("x = 1")
    done = reproduce("mine", str(tmp_path / "own.py"), str(tmp_path / "results"))
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "has none" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.html"))


def test_two_slopes_that_agree_by_chance_do_not_make_a_gradient_wrong(monkeypatch):
    # ResNet34's along a normal vector, in float64; its own slope is -3837.17.
    slopes = iter([-3913.15, -3844.67, -3844.14, -3842.23, -3836.81])
    steps = differences.STEPS["float64"][:5]
    monkeypatch.setattr(differences, "_difference", lambda *_: (next(slopes), [np.ones(1)]))
    monkeypatch.setattr(differences, "_scale", lambda *_: 1.0)
    found = differences.central_differences(None, None, [np.ones(1)], steps)
    assert abs(found.slope + 3837.17) < correct.ALLOWED_ERRORS * found.slope_error
