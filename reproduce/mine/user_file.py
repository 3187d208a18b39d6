"""The user's file: what must be in it, and where an exception in it comes from."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from reproduce.errors import UserError
from reproduce.measuring.framework import Parts
from reproduce.plan import Framework

SHAPE = "def problem(): return model, loss, batch (PyTorch) or loss, params, batch (JAX)"
PARTS = ("logits", "loss_of_logits")


class UserFile(NamedTuple):
    """The result of ``problem()``, its framework, and the pattern of parameters that vary.

    ``parts`` are the functions ``logits`` and ``loss_of_logits``, if the file has them.
    """

    framework: Framework
    problem: tuple[Any, Any, Any]
    parameters: str | None
    parts: Parts | None


def read(path: Path) -> UserFile:
    """The contents of the file at ``path``, whose code is run.

    Raises:
        UserError: if it lacks a ``problem`` of three parts, or raises an exception.
    """
    with blamed(path):
        module = _imported(path)
    if not callable(getattr(module, "problem", None)):
        raise UserError(f"{path} was to have a function 'problem', and has none; write {SHAPE}")
    with blamed(path):
        problem = module.problem()
    if not isinstance(problem, tuple) or len(problem) != 3:
        count = f" of {len(problem)}" if isinstance(problem, tuple) else ""
        found = f"{type(problem).__name__}{count}"
        raise UserError(
            f"problem() in {path} must return three things, and returned a {found}: {SHAPE}"
        )
    parameters, parts = _parameters(path, module), _parts(path, module)
    return UserFile(_framework(path, problem), problem, parameters, parts)


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Turns an exception of the user's code in the block into a sentence with its place.

    Raises:
        UserError: for any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_blame(path, error)) from error


def _blame(path: Path, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [place for place, frame in enumerate(frames) if frame.filename == str(path)]
    shown = frames[own[0] :] if own else frames[-1:]
    if isinstance(error, SyntaxError):
        where, shown = f"line {error.lineno} of {path}", []
    else:
        where = f"line {frames[own[-1]].lineno} of {path}" if own else f"the code of {path}"
    sentence = f"{where} raised {type(error).__name__}: {error}; mend it there"
    return "\n".join([sentence, *traceback.format_list(shown)]).rstrip()


def _imported(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; give one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _framework(path: Path, problem: tuple[Any, Any, Any]) -> Framework:
    first, second, _ = problem
    torch = sys.modules.get("torch")
    module = torch.nn.Module if torch else ()
    if isinstance(first, module):
        if callable(second):
            return "torch"
    # A module of Flax or Equinox holds parameters, although it can be called.
    elif callable(first) and not (isinstance(second, module) or inspect.isroutine(second)):
        if torch and any(map(torch.is_tensor, torch.utils._pytree.tree_leaves(second))):
            raise UserError(
                f"problem() in {path} returned parameters that are PyTorch's tensors; put them "
                "into a torch.nn.Module, and return model, loss, batch"
            )
        return "jax"
    kinds = ", ".join(type(each).__name__ for each in problem)
    raise UserError(f"problem() in {path} returned {kinds}, of which no loss can be made: {SHAPE}")


def _parameters(path: Path, module: Any) -> str | None:
    found = getattr(module, "parameters", None)
    if found is not None and not isinstance(found, str):
        kind = type(found).__name__
        raise UserError(
            f"parameters in {path} was to be a regular expression in quotes, and is a {kind}; "
            'write, for example, parameters = r"lora_|classifier"'
        )
    return found


def _parts(path: Path, module: Any) -> Parts | None:
    logits, of_logits = (getattr(module, name, None) for name in PARTS)
    if callable(logits) and callable(of_logits):
        return logits, of_logits
    if logits is None and of_logits is None:
        return None
    raise UserError(
        f"Gauss-Newton products take two functions of {path}, {' and '.join(PARTS)}, and it has "
        "but one of them; write the other, or give that one another name"
    )
