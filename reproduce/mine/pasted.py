"""The best HVP as code to paste: the package's own functions, and those that they need."""

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from reproduce.measuring import comparing
from reproduce.measuring.framework import Own
from reproduce.mine.correct import vector
from reproduce.mine.differences import Leaves
from reproduce.mine.found import Product
from reproduce.mine.kit import Kit
from reproduce.mine.user_file import UserFile

IMPORTS = {
    "math": "import math",
    "contextmanager": "from contextlib import contextmanager",
    "partial": "from functools import partial",
    "jax": "import jax",
    "jnp": "import jax.numpy as jnp",
    "torch": "import torch",
    "functional": "from torch.nn import functional",
    "functional_call": "from torch.func import functional_call",
    "grad": "from torch.func import grad",
    "jvp": "from torch.func import jvp",
    "SDPBackend": "from torch.nn.attention import SDPBackend",
    "sdpa_kernel": "from torch.nn.attention import sdpa_kernel",
    "TorchFunctionMode": "from torch.overrides import TorchFunctionMode",
}
TORCH = '''\
def hvp(model, loss, batch, v):
    """The Hessian of loss(model, batch) in the parameters that v has by name, times v.

    For example, v = {name: torch.randn_like(x) for name, x in model.named_parameters()}.
    """
    every = {name: value.detach() for name, value in model.named_parameters()}
    params = {name: every.pop(name) for name in v}
    whole = Whole(model, loss)

    def of_params(params):
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        values = {f"model.{name}": value for name, value in (every | buffers | params).items()}
        with WITH:
            return functional_call(whole, values, (batch,))

    return METHOD(of_params, params, v)
'''
JAX = '''\
def hvp(loss, params, batch, v):
    """The Hessian of loss(params, batch) in the leaves that v has by path, times v.

    For example, v = {path: jnp.ones_like(x) for path, x in by_path(params)[0].items()}, and the
    program jax.jit(partial(hvp, loss)) of (params, batch, v).
    """
    leaves, structure = by_path(params)

    def of_params(varying):
        whole = jax.tree.unflatten(structure, (leaves | varying).values())
        return loss(whole, batch)

    return METHOD(of_params, {name: leaves[name] for name in v}, v)
'''


def code(kit: Kit, found: Own, product: Product) -> str:
    """A module with a function ``hvp`` by the method of ``product``, of what the user returned."""
    method = kit.methods[product.method].__name__
    if kit.framework == "torch":
        blocks = ["repaired()"] * product.is_repaired + list(found.contexts)
        body = TORCH.replace("METHOD", method).replace("WITH", ", ".join(blocks))
        if not blocks:
            body = body.replace("        with :\n            return", "        return")
    else:
        body = JAX.replace("METHOD", method)
    scope: dict[str, Any] = {}
    for module in ("repair", "own", "products", "peers", "hvp")[kit.framework == "jax" :]:
        scope |= vars(import_module(f"reproduce.in_{kit.framework}.{module}"))
    sources: dict[str, str] = {}
    imports: set[str] = set()
    for name in _names(body):
        _collect(name, scope, found.calls, sources, imports)
    head = [f'"""HVPs of your own loss, by {product.label}; made by hvp-repro."""']
    in_order = [line for line in IMPORTS.values() if line in imports]
    head += ["from __future__ import annotations", "\n".join(in_order)]
    return "\n\n".join(head) + "\n\n\n" + "\n\n".join([*sources.values(), body])


def difference(kit: Kit, found: Own, user: UserFile, code_path: Path, reference: Leaves) -> float:
    """How far the HVP that the code at ``code_path`` computes is from ``reference``."""
    namespace: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(code_path.read_text(encoding="utf-8"), str(code_path), "exec"), namespace)
    v = kit.own.from_numpy(vector(kit.device.to_numpy(found.params)), found.params)
    first, second, _ = user.problem
    batch = found.users_batch(found.batch)
    product = namespace["hvp"](getattr(found, "model", first), second, batch, v)
    return comparing.relative_difference(kit.device.to_numpy(product), reference)


def _collect(
    name: str, scope: dict[str, Any], calls: set[str], sources: dict[str, str], imports: set[str]
) -> None:
    """Adds the source of ``name``, after the source of everything that it needs."""
    if name in IMPORTS:
        imports.add(IMPORTS[name])
    elif name in scope and name not in sources:
        text = _source(name, scope[name], calls)
        if text is not None:
            for each in _names(text):
                if each != name:
                    _collect(each, scope, calls, sources, imports)
            sources[name] = text


def _source(name: str, value: Any, calls: set[str]) -> str | None:
    """The text that defines ``name``; None if it is not from this package."""
    if name == "EQUAL":
        entries = [
            f"    {_public(native)}: {equal.__name__},\n"
            for native, equal in value.items()
            if native.__name__ in calls
        ]
        return f"EQUAL = {{\n{''.join(entries)}}}\n"
    if name in {"DROPOUTS", "DROPPING"}:
        return f"{name} = ({', '.join(map(_public, value))})\n"
    is_code = inspect.isfunction(value) or inspect.isclass(value)
    is_own = is_code and value.__module__.startswith("reproduce.")
    return inspect.getsource(value) if is_own else None


def _public(function: Any) -> str:
    """The public name of a function of PyTorch, as code."""
    functional = sys.modules["torch.nn.functional"]
    name = function.__name__
    return f"functional.{name}" if getattr(functional, name, None) is function else f"torch.{name}"


def _names(text: str) -> Iterator[str]:
    """The names that ``text`` loads and does not define itself, those in annotations left out.

    Yields:
        Each of them, as often as it is there.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) if name not in defined:
                yield name
