"""The five steps, in a separate process that runs the user's file."""

import time
from collections.abc import Callable
from pathlib import Path

from reproduce.machine import environment
from reproduce.machine.limits import cores
from reproduce.machine.target import Target
from reproduce.measuring.framework import Own
from reproduce.mine import correct, fits, kit, look, measure, pasted, user_file
from reproduce.mine.found import Found, Product
from reproduce.mine.kit import Kit
from reproduce.mine.user_file import UserFile

Say = Callable[[str, str], None]
CODE = "hvp.py"


def find(
    say: Say,
    path: Path,
    folder: Path,
    repairs: bool,
    on_gpu: bool,
    target: Target | None = None,
) -> Found:
    """All five steps but ``torch.compile``; ``say`` takes a step and a sentence.

    With a ``target``, memory is also found for that GPU.

    Raises:
        UserError: if the file, its loss or its parameters cannot be used.
    """
    user, of, found, seen = _opened(path)
    device, packages = environment.device(on_gpu), environment.installed()
    name = "torch" if user.framework == "torch" else "jax"
    result = Found(
        file=path.name, framework=user.framework, device=device, versions=f"{name} {packages[name]}"
    )
    elsewhere = fits.of_target(of, target, folder / "programs") if target else None

    def told(step: str) -> Callable[[str], None]:
        def tell(sentence: str) -> None:
            result.said.setdefault(step, []).append(sentence)
            say(step, sentence)

        return tell

    for sentence in seen:
        told("Look")(sentence)
    checked = correct.check(of, found, repairs, told("Correct"))
    result.products = checked.products
    subject = measure.subject(of, found, checked.right)
    if elsewhere and target:  # first, since what does not fit here may fit there
        result.target, result.target_memory_bytes = target.name, target.memory_bytes
        fits.elsewhere(subject, result.products, elsewhere, told("Fits?"))
    here = fits.Room("Here", environment.free_bytes(on_gpu), of.own.needed_bytes)
    fits.here(subject, result.products, here, told("Fits?"))
    result.gradient_seconds, result.gradient_bytes = measure.time_all(
        subject, result.products, told("Time")
    )
    result.code = pasted.code(of, found, result.best)
    code_path = folder / CODE
    code_path.write_text(result.code, encoding="utf-8")
    try:
        result.code_difference = pasted.difference(of, found, user, code_path, checked.right.hvp)
    except Exception as error:  # whatever the user's code does outside its wrappers
        result.code_failure = correct.first_line(error)
    else:
        if not result.code_difference <= checked.right.rounding:  # nor if it is not a number
            result.code_failure = f"its HVP is off by {correct.percent(result.code_difference)}"
    return result


def compile_best(path: Path, best: Product) -> Product:
    """``best`` by ``torch.compile``, compared with ``best`` and timed in turn with the gradient."""
    _, of, found, _ = _opened(path)
    product = Product(method=best.method, is_repaired=best.is_repaired, is_compiled=True)
    subject = measure.subject(of, found, correct.Right([]))
    function = subject.function(best)
    rounding = max(correct.ROUNDING, correct.ALLOWED_ERRORS * (best.error or 0))
    result = of.device.to_numpy(function(*subject.arguments))
    right = correct.Right(result, rounding=rounding)
    start = time.perf_counter()
    program = of.own.compiled(function, *subject.arguments)
    product.compile_seconds = time.perf_counter() - start
    measure.time_one(subject._replace(right=right), product, program)
    return product


def _opened(path: Path) -> tuple[UserFile, Kit, Own, list[str]]:
    """The user's file, its framework, its loss, and sentences on what was seen."""
    user = user_file.read(path)
    of = kit.load(user.framework)
    of.device.use_cores(cores())
    with user_file.blamed(path):
        found, seen = of.own.own(user.problem, user.parameters, user.parts)
        seen += look.look(of, found)
    return user, of, found, seen
